"""Two models with a tokenizer each, to be merged."""

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from amalgam import Amalgam, Broken
from family import DECODER
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

    @staticmethod
    def make(kind: str, amalgam: Amalgam, folder: Path) -> "Pair":
        prose = make(folder / "prose", KINDS[kind](PROSE, SPECIAL_OF_PROSE), seed=1, padding=0)
        code = make(folder / "code", KINDS[kind](CODE, SPECIAL_OF_CODE), seed=2, padding=PADDING)
        return Pair(amalgam, folder, prose, code)

    def merge(self, name: str, tokenizer: dict) -> Model:
        models = [{"model": str(model.path), "parameters": {"weight": 1.0}} for model in (self.prose, self.code)]
        recipe = {"merge_method": "linear", "models": models, "tokenizer": tokenizer, "dtype": "float32"}
        return load(self.amalgam.merge(recipe, self.folder / name))

    def owners(self, token: str) -> list[Model]:
        return [model for model in (self.prose, self.code) if token in model.vocabulary]


def make(path: Path, tokenizer: Tokenizer, seed: int, padding: int) -> Model:
    torch.manual_seed(seed)
    ids = {f"{name}_token_id": tokenizer.token_to_id(token) for name, token in NAMED.items()}
    config = LlamaConfig(**{**DECODER, **ids, "vocab_size": tokenizer.get_vocab_size() + padding})
    LlamaForCausalLM(config).save_pretrained(path)
    named = {f"{name}_token": token for name, token in NAMED.items()}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(path)
    return load(path)


def load(path: Path) -> Model:
    model, found = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    if wrong := {what: tensors for what, tensors in found.items() if tensors}:
        raise Broken(str(wrong))
    tokenizer = AutoTokenizer.from_pretrained(path)
    for name in ("pad", "bos", "eos"):
        says, has = getattr(model.config, f"{name}_token_id"), getattr(tokenizer, f"{name}_token_id")
        if says != has:
            raise Broken(f"config.json says {name}_token_id {says}; the tokenizer has {has}")
    tensors = model.state_dict()
    return Model(path, tokenizer, {name: tensors[name].clone() for name in ROWS})
