"""What a merge should have given, worked out in torch from the loaded models, and the comparing."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from amalgam import Broken
from family import LAYERS, Family

Tensors = dict[str, torch.Tensor]

# An output element is rounded to bfloat16 once, by half of 2^-7 of its power of two at most.
BFLOAT16_STEP = 2.0**-8
# Means are summed in float32 here and there, in another order.
FLOAT32_STEP = 2.0**-21
# What opposite terms leave of each other keeps the error of the terms.
SMALL = 2.0**-24
# Of the largest number of an output, after four layers.
OUTPUT_STEP = 2.0**-12


def mean(models: Sequence[Tensors]) -> Tensors:
    return {name: average([model[name] for model in models]) for name in models[0]}


def average(tensors: list[torch.Tensor]) -> torch.Tensor:
    if not tensors[0].is_floating_point():
        return tensors[0]
    return torch.stack(tensors).double().mean(0).to(tensors[0].dtype)


def ties(base: Tensors, others: Sequence[Tensors]) -> Tensors:
    return {name: elect(tensor, [other[name] for other in others]) for name, tensor in base.items()}


def elect(base: torch.Tensor, others: list[torch.Tensor]) -> torch.Tensor:
    """TIES of equal weights that keeps everything: the mean of the changes whose sign is the sign of their sum."""
    if not base.is_floating_point():
        return base
    changes = torch.stack([other - base for other in others])
    agrees = changes.sign() == torch.where(changes.sum(0) >= 0, 1.0, -1.0)
    return base + (changes * agrees).sum(0) / agrees.sum(0).clamp(min=1)


def stacked(
    model, models: Sequence[Tensors], layers: list[tuple[int, int]], within: tuple[str, ...] = ("",)
) -> Tensors:
    """Output layer `i` is layer `layers[i][1]` of model `layers[i][0]`. What comes before the layers is from the first
    one's model, what comes after from the last one's, and what is not `within` the stack from the first model."""
    embeddings = {tensor.data_ptr() for name, tensor in model.state_dict().items() if is_embedding(name)}

    def owed(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if not name.startswith(within):
            return models[0][name]
        if layer := re.search(r"\.(\d+)\.", name):
            source, index = layers[int(layer[1])]
            return models[source][f"{name[: layer.start(1)]}{index}{name[layer.end(1) :]}"]
        is_first = tensor.data_ptr() in embeddings  # so is a head that is tied to one
        return models[layers[0 if is_first else -1][0]][name]

    return {name: owed(name, tensor) for name, tensor in model.state_dict().items()}


def is_embedding(name: str) -> bool:
    return any(word in name for word in ("embed", "wte", "wpe")) and not name.startswith("embed_out")


def expect_tensors(found: Tensors, expected: Tensors, step: float):
    if found.keys() != expected.keys():
        raise Broken(f"other tensors: {sorted(found.keys() ^ expected.keys())}")
    wrong = [name for name, tensor in expected.items() if not is_near(found[name], tensor, step)]
    if wrong:
        raise Broken(f"{len(wrong)} tensors have other values: {wrong[:3]}")


def is_near(found: torch.Tensor, expected: torch.Tensor, step: float) -> bool:
    small = SMALL if step else 0.0
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=step, atol=small)


def expect_output(found: torch.Tensor, expected: torch.Tensor):
    difference, scale = (found - expected).abs().max(), expected.abs().max()
    if difference > OUTPUT_STEP * scale:
        raise Broken(f"its output is off by {difference:.2g} of {scale:.2g}")


def expect_config(family: Family, before: dict, now: dict, layers: Sequence[int] = range(LAYERS)):
    """The number of layers and lists with an entry for each follow the layers taken; the rest is as it was."""
    place = family.depth.rpartition(".")[0]
    for path, old, new in differences(before, now):
        if path == family.depth:
            old = len(layers)
        elif path.rpartition(".")[0] == place and isinstance(old, list) and len(old) == LAYERS:
            old = [old[layer] for layer in layers]
        elif path.rpartition(".")[2] in INDICES:
            old = [index for index, layer in enumerate(layers) if layer in old]
        if old != new and path.rpartition(".")[2] not in FREE:
            raise Broken(f"config.json gives {path}: {new}, and should give {old}")


def expect_files(before: Path, now: Path):
    """What lies beside the weights is there again."""
    missing = {path.name for path in before.iterdir() if path.suffix != ".safetensors"} - {
        p.name for p in now.iterdir()
    }
    if missing:
        raise Broken(f"files are missing: {sorted(missing)}")


# Keys whose lists name layers by their numbers.
INDICES = ("moe_layers", "attn_layer_indices", "cross_attention_layers")
# Keys that say where a config comes from; those that show when the model is loaded, since wrong ones lose tensors; and
# those that a loader does not read beside a list with an entry a layer.
FREE = (
    "_name_or_path",
    "transformers_version",
    "tie_word_embeddings",
    "block_types",
    "decoder_sparse_step",
    "first_k_dense_replace",
    "mlp_only_layers",
    "moe_layer_end_index",
    "moe_layer_start_index",
    "num_dense_layers",
    "full_attention_interval",
    "sliding_window_pattern",
)


def differences(before: dict, now: dict, prefix: str = ""):
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", old, new
