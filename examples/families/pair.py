"""Two models with a tokenizer each, to be merged."""

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from amalgam import Amalgam, Broken
from family import DECODER
from loading import load, tensors
from small_tokenizers import CODE, KINDS, PROSE, SPECIAL_OF_CODE, SPECIAL_OF_PROSE

ROWS = ("model.embed_tokens.weight", "lm_head.weight")
NAMED = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>"}
# As many makers do, one of the two has rows that no token belongs to.
PADDING = 7


@dataclass(frozen=True)
class Model:
    path: Path
    tokenizer: PreTrainedTokenizerFast
    rows: dict[str, torch.Tensor]

    @property
    def vocabulary(self) -> dict[str, int]:
        return self.tokenizer.get_vocab()

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def reads(self, text: str) -> str:
        """What is left of a text that became tokens and then text again."""
        return self.tokenizer.decode(self.encode(text), clean_up_tokenization_spaces=False)

    def knows(self, text: str) -> bool:
        return self.tokenizer.unk_token_id not in self.encode(text)

    def row(self, tensor: str, token: str) -> torch.Tensor:
        return self.rows[tensor][self.vocabulary[token]]


@dataclass(frozen=True)
class Pair:
    amalgam: Amalgam
    folder: Path
    prose: Model
    code: Model
    readers: tuple[Model, ...]
    """Those whose reading of a text a union has: both, or the base where the other one splits texts in another way."""

    @staticmethod
    def make(kinds: str, amalgam: Amalgam, folder: Path) -> "Pair":
        kind, other = KINDS[kinds]
        prose = make(folder / "prose", kind(PROSE, SPECIAL_OF_PROSE), seed=1, padding=0)
        code = make(folder / "code", other(CODE, SPECIAL_OF_CODE), seed=2, padding=PADDING)
        return Pair(amalgam, folder, prose, code, (prose, code) if kind is other else (prose,))

    def merge(self, name: str, tokenizer: dict) -> Model:
        models = [{"model": str(model.path), "parameters": {"weight": 1.0}} for model in (self.prose, self.code)]
        recipe = {"merge_method": "linear", "models": models, "tokenizer": tokenizer, "dtype": "float32"}
        return read(self.amalgam.merge(recipe, self.folder / name))

    def owners(self, token: str) -> list[Model]:
        return [model for model in (self.prose, self.code) if token in model.vocabulary]


def make(path: Path, tokenizer: Tokenizer, seed: int, padding: int) -> Model:
    torch.manual_seed(seed)
    ids = {f"{name}_token_id": tokenizer.token_to_id(token) for name, token in NAMED.items()}
    config = LlamaConfig(**{**DECODER, **ids, "vocab_size": tokenizer.get_vocab_size() + padding})
    LlamaForCausalLM(config).save_pretrained(path)
    named = {f"{name}_token": token for name, token in NAMED.items()}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(path)
    return read(path)


def read(path: Path) -> Model:
    model, tokenizer = load(LlamaForCausalLM, path), AutoTokenizer.from_pretrained(path)
    for name in ("pad", "bos", "eos"):
        says, has = getattr(model.config, f"{name}_token_id"), getattr(tokenizer, f"{name}_token_id")
        if says != has:
            raise Broken(f"config.json says {name}_token_id {says}; the tokenizer has {has}")
    rows = tensors(model)
    return Model(path, tokenizer, {name: rows[name] for name in ROWS})
