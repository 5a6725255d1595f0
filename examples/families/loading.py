"""Checkpoints as transformers sees them: whole, or not loaded."""

import logging
from pathlib import Path

import torch

from amalgam import Broken
from family import Family


def load(model_class, folder: Path):
    """The model in float32, which holds every stored number. A tensor too few or too many is an error, or a warning."""
    with Warnings() as warnings:
        model, found = model_class.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    wrong = [f"{what}: {sorted(map(str, tensors))}" for what, tensors in found.items() if tensors]
    if wrong or warnings.messages:
        raise Broken("; ".join(wrong or warnings.messages))
    return model.eval()


class Warnings(logging.Handler):
    """What transformers warns of meanwhile."""

    def __enter__(self):
        self.messages = []
        logging.getLogger("transformers").addHandler(self)
        return self

    def __exit__(self, *_):
        logging.getLogger("transformers").removeHandler(self)

    def emit(self, record):
        if record.levelno >= logging.WARNING:
            self.messages.append(record.getMessage())


def tensors(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def output(family: Family, model) -> torch.Tensor:
    """What the model gives for inputs that are the same each time."""
    torch.manual_seed(1)
    given = model(**family.inputs(model.config))
    given = given["logits_per_image"] if "logits_per_image" in given else given[0]
    if not torch.isfinite(given).all():
        raise Broken("its output is not finite")
    return given
