"""Two models with a tokenizer each, merged: which rows each token got, and whether text survives."""

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from amalgam import Amalgam, Broken
from family import DECODER
from small_tokenizers import CODE, KINDS, PROSE, SPECIAL_OF_CODE, SPECIAL_OF_PROSE

TEXTS = [
    "",
    "The other dogs are averaging.",
    "def jump(fox):\n    return fox.over(dog)\n\n\n# done",
    "  two  spaces,\ttabs\t\tand \n new lines \n",
    "Größe über alles: naïve façade, déjà vu",
    "Быстрая собака прыгает",
    "狐狸和模型 mixed with English",
    "مرحبا بالعالم, שלום עולם, नमस्ते",
    "emoji 👩‍👩‍👧‍👦 🏳️‍🌈 🎉!",
    "1234567890 3.14159 0x7f",
    "Ã© Ġthe ▁the ##ing <0x0A>",
    "<s>a turn<|system|> and<|tool|>another</s>",
]
ROWS = ("model.embed_tokens.weight", "lm_head.weight")
PADDED_TO = 64


@dataclass(frozen=True)
class Parent:
    path: Path
    tokenizer: PreTrainedTokenizerFast
    rows: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Pair:
    """A model of prose and a model of code."""

    amalgam: Amalgam
    folder: Path
    prose: Parent
    code: Parent

    @staticmethod
    def make(kind: str, amalgam: Amalgam, folder: Path) -> "Pair":
        prose = parent(folder / "prose", KINDS[kind](PROSE, SPECIAL_OF_PROSE), seed=1)
        code = parent(folder / "code", KINDS[kind](CODE, SPECIAL_OF_CODE), seed=2)
        return Pair(amalgam, folder, prose, code)

    def merge(self, name: str, tokenizer: dict) -> Parent:
        models = [{"model": str(p.path), "parameters": {"weight": 1.0}} for p in (self.prose, self.code)]
        recipe = {"merge_method": "linear", "models": models, "tokenizer": tokenizer, "dtype": "float32"}
        return loaded(self.amalgam.merge(recipe, self.folder / name))


def parent(path: Path, tokenizer: Tokenizer, seed: int) -> Parent:
    torch.manual_seed(seed)
    ids = {f"{name}_token_id": tokenizer.token_to_id(token) for name, token in NAMED.items()}
    size = tokenizer.get_vocab_size()
    LlamaForCausalLM(LlamaConfig(**{**DECODER, **ids, "vocab_size": size})).save_pretrained(path)
    named = {f"{name}_token": token for name, token in NAMED.items()}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(path)
    return loaded(path)


NAMED = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>"}


def loaded(path: Path) -> Parent:
    model, found = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    wrong = {what: tensors for what, tensors in found.items() if tensors}
    if wrong:
        raise Broken(str(wrong))
    tokenizer = AutoTokenizer.from_pretrained(path)
    expect_named_tokens(model.config, tokenizer)
    tensors = model.state_dict()
    return Parent(path, tokenizer, {name: tensors[name].clone() for name in ROWS})


def union(pair: Pair):
    merged = pair.merge("union", {"source": "union"})
    expect_tokens(merged, pair.prose.tokenizer.get_vocab().keys() | pair.code.tokenizer.get_vocab().keys())
    expect_rows(pair, merged)
    expect_text(pair, merged)


def base(pair: Pair):
    expect_like(pair, pair.merge("base", {"source": "base"}), pair.prose)


def model(pair: Pair):
    expect_like(pair, pair.merge("model", {"source": str(pair.code.path)}), pair.code)


def padded(pair: Pair):
    merged = pair.merge("padded", {"source": "union", "pad_to_multiple_of": PADDED_TO})
    if len(merged.rows[ROWS[0]]) % PADDED_TO:
        raise Broken(f"{len(merged.rows[ROWS[0]])} rows are no multiple of {PADDED_TO}")
    expect_rows(pair, merged)
    expect_text(pair, merged)


def literal(pair: Pair):
    """Text that spells out the tokens of the other model."""
    merged = pair.merge("literal", {"source": "union"})
    foreign = sorted(pair.code.tokenizer.get_vocab().keys() - pair.prose.tokenizer.get_vocab().keys())
    texts = [f"x{token}y {token}" for token in foreign if token not in SPECIAL_OF_CODE]
    wrong = [t for t in texts if survives(pair.prose, t) and not survives(merged, t)]
    if wrong:
        raise Broken(f"{len(wrong)} of {len(texts)} texts do not survive, among them {wrong[:3]}")


def expect_like(pair: Pair, merged: Parent, source: Parent):
    if merged.tokenizer.get_vocab() != source.tokenizer.get_vocab():
        raise Broken("its tokens are not those of its source")
    different = [text for text in TEXTS if encode(merged, text) != encode(source, text)]
    if different:
        raise Broken(f"{different[:2]} are other tokens than in its source")
    expect_rows(pair, merged)


def expect_tokens(merged: Parent, tokens):
    found = merged.tokenizer.get_vocab()
    if found.keys() != tokens:
        raise Broken(f"tokens differ: {sorted(found.keys() ^ tokens)[:5]}")
    if len(set(found.values())) != len(found):
        raise Broken("two tokens have one id")


def expect_rows(pair: Pair, merged: Parent):
    """A token that both models have gets the mean of their rows, another the row of its owner."""
    vocabulary = merged.tokenizer.get_vocab()
    for name in ROWS:
        if len(merged.rows[name]) <= max(vocabulary.values()):
            raise Broken(f"{name} has {len(merged.rows[name])} rows for {max(vocabulary.values()) + 1} tokens")
        wrong = [t for t, row in vocabulary.items() if not torch.allclose(merged.rows[name][row], owed(pair, name, t))]
        if wrong:
            raise Broken(f"{name}: {len(wrong)} tokens have others' rows, among them {sorted(wrong)[:3]}")


def owed(pair: Pair, name: str, token: str) -> torch.Tensor:
    owners = [p for p in (pair.prose, pair.code) if token in p.tokenizer.get_vocab()]
    return torch.stack([p.rows[name][p.tokenizer.get_vocab()[token]] for p in owners]).mean(0)


def expect_text(pair: Pair, merged: Parent):
    """What either parent can read and write again, the child can too."""
    lost = [
        t
        for t in [*TEXTS, *PROSE, *CODE]
        if readings(pair, t) and decode(merged, encode(merged, t)) not in readings(pair, t)
    ]
    if lost:
        raise Broken(
            f"{len(lost)} texts do not survive, among them {lost[0]!r}: {decode(merged, encode(merged, lost[0]))!r}"
        )


def readings(pair: Pair, text: str) -> set[str]:
    """What comes back from each parent that knows all of the text."""
    known = [p for p in (pair.prose, pair.code) if p.tokenizer.unk_token_id not in encode(p, text)]
    return {decode(p, encode(p, text)) for p in known}


def survives(parent: Parent, text: str) -> bool:
    return decode(parent, encode(parent, text)) == text


def encode(parent: Parent, text: str) -> list[int]:
    return parent.tokenizer.encode(text, add_special_tokens=False)


def decode(parent: Parent, ids: list[int]) -> str:
    return parent.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def expect_named_tokens(config, tokenizer):
    """Ids that the config gives by name are those that the tokenizer has."""
    for name in ("pad", "bos", "eos"):
        says, is_ = getattr(config, f"{name}_token_id"), getattr(tokenizer, f"{name}_token_id")
        if says != is_:
            raise Broken(f"config.json says {name}_token_id {says}; the tokenizer says {is_}")


CHECKS = {"union": union, "padded": padded, "base": base, "model": model, "literal": literal}
