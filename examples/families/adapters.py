"""Adapters that are extracted, as PEFT loads them."""

import json
import warnings

import torch

from amalgam import Broken
from expected import expect_output
from loading import load, output, tensors
from results import DONE, PARTLY

try:
    from peft import PeftModel
except ImportError:
    PeftModel = None

# Of sums of 32 products, of numbers below one.
ABSOLUTE = 1e-5
# What files have as tensors of their own and classes as parts of one: names of the one, and of the others.
JOINED = {".experts.": (".experts.", "put_linear."), "conv1d": ("q_conv1d",)}


def extracted(bench) -> str:
    """On its base an adapter of full rank is the fine-tune, but for the tensors that it is said to leave out."""
    base, tuned = bench.paths[:2]
    recipe = {
        "merge_method": "extract_lora",
        "base_model": str(base),
        "models": [{"model": str(tuned)}],
        "parameters": {"rank": 4096},
        "dtype": "float32",
    }
    folder = bench.amalgam.merge(recipe, base.with_name("adapter"))
    should, given = load(bench.family.model_class, tuned), load(bench.family.model_class, base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = PeftModel.from_pretrained(given, folder).merge_and_unload()
    left_out = json.loads((folder / "manifest.json").read_text())["adapter"]["left_out"]
    expect_all_but(left_out, tensors(given), should)
    if left_out:
        return PARTLY
    expect_output(output(bench.family, given), output(bench.family, should))
    return DONE


def expect_all_but(left_out: list[str], given: dict[str, torch.Tensor], should):
    values = should.state_dict()
    for alike in tied(values):
        names = [name for name in alike if not is_left_out(name, left_out)]
        if names and not any(torch.allclose(given[name], values[name], rtol=0, atol=ABSOLUTE) for name in names):
            raise Broken(f"{names[0]} is not the fine-tune's")


def tied(values: dict[str, torch.Tensor]) -> list[list[str]]:
    """The names of tensors, those of one tensor together: PEFT gives new values to one of them."""
    names = {}
    for name, tensor in values.items():
        names.setdefault((tensor.data_ptr(), tensor.shape) if tensor.numel() else name, []).append(name)
    return list(names.values())


def is_left_out(name: str, left_out: list[str]) -> bool:
    """Experts and convolutions that a class has joined are told of one by one, as files have them."""
    parts = [part for joined, parts in JOINED.items() if joined in name for part in parts]
    return name in left_out or any(part in told for part in parts for told in left_out)


def has_peft(_family) -> bool:
    return PeftModel is not None
