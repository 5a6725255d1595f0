"""What a family is, and how tiny checkpoints of one are made."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

LAYERS = 4
VOCABULARY = 96
# Beside weights of this size every tensor of the three models differs, norms and biases too.
NOISE = 0.02
# The three models, one of them in several files.
SHARD_BYTES = {"base": 2**30, "first": 2**30, "second": 2**15}

# Sizes that most decoders share; a family names what it lacks or has beside them.
DECODER = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)


def token_ids(_config) -> dict:
    """Two rows of twelve tokens; those below 8 are kept for images and the like."""
    return {"input_ids": torch.randint(8, VOCABULARY, (2, 12))}


@dataclass(frozen=True)
class Family:
    name: str
    model: str
    """The class in transformers by name, since a version may lack it."""
    settings: dict
    inputs: Callable[[object], dict] = token_ids
    depth: str = "num_hidden_layers"
    """Where its config says how many layers there are."""
    slices: bool = False
    """Whether it is one stack of layers, so that some may be dropped and others doubled."""
    may_refuse: bool = False
    """Whether its config cannot say of which kind each layer is, so that slices are rightly refused."""
    older: dict = field(default_factory=dict)
    """What an older release wrote into config.json; `None` for what it did not write, and is derived from the rest."""
    older_name: Callable[[str], str] | None = None
    """How an older release named a tensor. The base has such names then, and the others those of today."""
    modules: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Its parts by the names that `modules` in a recipe has for them, and how tensors of each begin in transformers.
    Of two parts that fit, the first counts. The first part is the one with the layers at `depth`."""

    @property
    def model_class(self):
        return getattr(transformers, self.model, None)


def decoder(name: str, model: str, /, *, depth="num_hidden_layers", may_refuse=False, older=None, **settings) -> Family:
    settings = {**DECODER, **settings}
    return Family(name, model, settings, depth=depth, slices=True, may_refuse=may_refuse, older=older or {})


@torch.no_grad()
def make(family: Family, folder: Path) -> list[Path]:
    """Saves a base and two variants of it in bfloat16."""
    torch.manual_seed(0)
    model = family.model_class(family.model_class.config_class(**family.settings))
    shake(model)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    paths = [folder / name for name in SHARD_BYTES]
    for path in paths:
        model.float().load_state_dict(kept)
        if path != paths[0]:
            shake(model)
        model.to(torch.bfloat16).save_pretrained(path, max_shard_size=SHARD_BYTES[path.name])
        write_older(path / "config.json", family.older)
    if family.older_name:
        rename(paths[0] / "model.safetensors", family.older_name)
    return paths


def shake(model):
    saved = model.state_dict().keys()
    buffers = [buffer for name, buffer in model.named_buffers() if name in saved and buffer.is_floating_point()]
    for tensor in [*model.parameters(), *buffers]:
        tensor += NOISE * torch.randn_like(tensor)


def write_older(path: Path, older: dict):
    config = {**json.loads(path.read_text()), **older}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}, indent=2))


def rename(path: Path, older_name: Callable[[str], str]):
    tensors = load_file(path)
    save_file({older_name(name): tensor for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
