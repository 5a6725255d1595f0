"""The families that are tried."""

from . import dense, encoders, experts, hybrids, multimodal, older, two_stacks

FAMILIES = [
    *dense.FAMILIES,
    *experts.FAMILIES,
    *hybrids.FAMILIES,
    *older.FAMILIES,
    *encoders.FAMILIES,
    *two_stacks.FAMILIES,
    *multimodal.FAMILIES,
]
