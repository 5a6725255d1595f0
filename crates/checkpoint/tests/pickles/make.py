"""Makes the files of this folder: small checkpoints as torch writes them, and the same tensors as safetensors.

Run it with torch and safetensors at hand: `python make.py`. The tests read what is committed and need no Python.
"""

from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.uint16,
]


def dtypes():
    """One tensor of each type, one without dimensions, one without elements."""
    tensors = OrderedDict((str(d).removeprefix("torch."), torch.arange(-2, 3).abs().to(d)) for d in DTYPES)
    tensors["scalar"] = torch.tensor(7.5)
    tensors["empty"] = torch.zeros(3, 0, 2)
    return tensors


def views():
    """Views of few storages: transposed, cut out, repeated, permuted, shared."""
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    flat = torch.arange(24, dtype=torch.int16)
    return OrderedDict(
        whole=base,
        transposed=base[0].t(),
        permuted=base.permute(2, 0, 1),
        columns=base[1][:, 1:4],
        every_second=flat[1::2],
        repeated=flat[:3].expand(2, 3),
        offset=flat[5:9],
        same=base,
        parameter=torch.nn.Parameter(base[2]),
    )


def write(name, tensors, saved=None, **options):
    torch.save(tensors if saved is None else saved, HERE / f"{name}.bin", **options)
    plain = {key: value.detach().clone().contiguous() for key, value in tensors.items()}
    save_file(plain, HERE / f"{name}.safetensors")


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(6, 4)
        self.norm = torch.nn.LayerNorm(4)
        self.lm_head = torch.nn.Linear(4, 6, bias=False)
        self.lm_head.weight = self.embed_tokens.weight


if __name__ == "__main__":
    torch.manual_seed(0)
    write("dtypes", dtypes())
    write("views", views())
    write("protocol4", views(), pickle_protocol=4)
    legacy = {name: tensor for name, tensor in dtypes().items() if name != "uint16"}
    write("legacy", {**legacy, **views()}, _use_new_zipfile_serialization=False)
    # a state dictionary has attributes, which the pickle sets by BUILD
    write("tied", Tied().state_dict())
    inner = {"w": torch.ones(2, 2), "steps": 3}
    write("wrapped", {"w": inner["w"]}, saved={"epoch": 1, "loss": 0.5, "model": inner, "optimizer": {"w": torch.zeros(2)}})
