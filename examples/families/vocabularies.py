"""The ways to merge two vocabularies: which row each token gets, and whether text survives."""

from collections.abc import Callable, Set

import torch

from amalgam import Broken
from pair import ROWS, Model, Pair
from small_tokenizers import CODE, PROSE, SPECIAL_OF_CODE, SPECIAL_OF_PROSE

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
    *PROSE,
    *CODE,
]
SPECIAL = {*SPECIAL_OF_PROSE, *SPECIAL_OF_CODE}
MULTIPLE = 64


def union(pair: Pair):
    expect_union(pair, pair.merge("union", {"source": "union"}))


def padded(pair: Pair):
    merged = pair.merge("padded", {"source": "union", "pad_to_multiple_of": MULTIPLE})
    rows = {name: len(tensor) for name, tensor in merged.rows.items()}
    if any(count % MULTIPLE for count in rows.values()):
        raise Broken(f"{rows} are no multiples of {MULTIPLE}")
    expect_union(pair, merged)


def base(pair: Pair):
    expect_alike(pair, pair.merge("base", {"source": "base"}), pair.prose)


def model(pair: Pair):
    expect_alike(pair, pair.merge("model", {"source": str(pair.code.path)}), pair.code)


def tokens(pair: Pair):
    """Rows that the recipe gives to single tokens."""
    end = {"kind": "model_token", "model": str(pair.prose.path), "token": "</s>"}
    wanted = {
        "<|turn|>": {"source": end},
        "<|blank|>": {"source": {"kind": "zero"}},
        "<s>": {"source": str(pair.code.path), "force": True},
    }
    merged = pair.merge("tokens", {"source": "union", "tokens": wanted})
    for name in ROWS:
        blank = torch.zeros_like(merged.row(name, "<|blank|>"))
        owed = {"<|turn|>": pair.prose.row(name, "</s>"), "<|blank|>": blank, "<s>": pair.code.row(name, "<s>")}
        expect_rows(pair, merged, name, owed)


def literal(pair: Pair):
    """Text that spells out the pieces of the other model."""
    merged = pair.merge("literal", {"source": "union"})
    foreign = sorted(pair.code.vocabulary.keys() - pair.prose.vocabulary.keys() - SPECIAL)
    texts = [text for text in (f"x{token}y {token}" for token in foreign) if pair.prose.reads(text) == text]
    if lost := [text for text in texts if merged.reads(text) != text]:
        raise Broken(f"{len(lost)} of {len(texts)} texts do not survive: {lost[:3]}")


def expect_union(pair: Pair, merged: Model):
    expect_tokens(merged, pair.prose.vocabulary.keys() | pair.code.vocabulary.keys())
    if moved := {token for token, id_ in pair.prose.vocabulary.items() if merged.vocabulary[token] != id_}:
        raise Broken(f"tokens of the base have other ids: {sorted(moved)[:5]}")
    for name in ROWS:
        expect_rows(pair, merged, name)
    expect_special(merged)
    expect_text(pair, merged)


def expect_alike(pair: Pair, merged: Model, source: Model):
    if merged.vocabulary != source.vocabulary:
        raise Broken("its tokens are not those of its source")
    if changed := [text for text in TEXTS if merged.encode(text) != source.encode(text)]:
        raise Broken(f"texts are other tokens than in its source: {changed[:2]}")
    for name in ROWS:
        expect_rows(pair, merged, name)


def expect_tokens(merged: Model, wanted: Set[str]):
    if merged.vocabulary.keys() != wanted:
        raise Broken(f"other tokens: {sorted(merged.vocabulary.keys() ^ wanted)[:5]}")
    if len(set(merged.vocabulary.values())) != len(wanted):
        raise Broken("two tokens have one id")


def expect_rows(pair: Pair, merged: Model, name: str, owed: dict[str, torch.Tensor] | None = None):
    """A token has the row that it is owed; else the mean of those models that have it."""
    owed = owed or {}
    rest = {token: mean_row(pair, name, token) for token in merged.vocabulary.keys() - owed.keys()}
    right = {token: torch.allclose(merged.row(name, token), row) for token, row in (rest | owed).items()}
    if wrong := sorted(token for token, is_right in right.items() if not is_right):
        raise Broken(f"{name}: {len(wrong)} tokens have others' rows: {wrong[:3]}")


def mean_row(pair: Pair, name: str, token: str) -> torch.Tensor:
    return torch.stack([owner.row(name, token) for owner in pair.owners(token)]).mean(0)


def expect_special(merged: Model):
    """A special token of either parent is one token in the midst of a text."""
    if missed := [token for token in SPECIAL if merged.vocabulary[token] not in merged.encode(f"fox{token}dog")]:
        raise Broken(f"special tokens are not found in a text: {sorted(missed)}")


def expect_text(pair: Pair, merged: Model):
    """What a parent that knows all of a text reads, the child reads too."""
    parents = {text: {parent.reads(text) for parent in pair.readers if parent.knows(text)} for text in TEXTS}
    lost = [text for text, readings in parents.items() if readings and merged.reads(text) not in readings]
    if lost:
        raise Broken(f"{len(lost)} texts do not survive; {lost[0]!r} becomes {merged.reads(lost[0])!r}")


CHECKS: dict[str, Callable[[Pair], None]] = {
    "union": union,
    "padded": padded,
    "base": base,
    "model": model,
    "tokens": tokens,
    "literal": literal,
}
