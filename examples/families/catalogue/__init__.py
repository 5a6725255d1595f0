"""The families that are tried."""

from . import dense, encoders, experts, hybrids, older, qwen_vision, sound, two_stacks, vision

FAMILIES = [
    *dense.FAMILIES,
    *experts.FAMILIES,
    *hybrids.FAMILIES,
    *older.FAMILIES,
    *encoders.FAMILIES,
    *two_stacks.FAMILIES,
    *vision.FAMILIES,
    *qwen_vision.FAMILIES,
    *sound.FAMILIES,
]
