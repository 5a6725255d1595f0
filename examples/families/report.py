"""The results as a page of the documentation."""

import datetime
import importlib.metadata
from collections import Counter

import tokenizers
import torch
import transformers

import merges
import vocabularies
from amalgam import Amalgam
from results import DONE, FAILED, PARTLY, REFUSED, Result, table

HEAD = """# Families

Made by `python examples/families --report docs/families.md` on {date} with {amalgam}, transformers {transformers},
tokenizers {tokenizers} and torch {torch}. Each family is a base and two variants with random weights and a few layers,
saved and loaded by transformers itself.

**yes**: the merge loads in the family's own class without a missing, an unexpected or a mismatched tensor and without a
warning; each tensor has the value that the same merge done in torch gives; `config.json` fits the layers taken, the
files beside it are there, and what the model gives is finite. **refused**: Amalgam says that this family's
`config.json` cannot say what the recipe asks for.

{counts}

- *linear*: three models averaged, in bfloat16
- *float32*: the same with `dtype: float32`; what the models give is compared too
- *ties*: two variants on the base
- *layers repeated*, *layers dropped*: `passthrough` with slices of two models
- *modules*: each part of the model from other models
- *modules, layers repeated*: the first part with slices, the others as they were
- *adapter*: `extract_lora` at full rank, loaded by PEFT {peft} on the base: every tensor is the fine-tune's, and so is
  what the model gives. **in part**: all but tensors that the plan says it leaves out, since an adapter carries weights
  and biases of modules alone (experts that are packed in one tensor, `A_log`, scales)

"""
TOKENIZERS = """
## Tokenizers

Two Llama models with a tokenizer each, of one kind or of two, trained on other texts and with other special tokens,
merged by `linear`. **yes**: each token has the row of the model that has it, or the mean of both; the ids of named
tokens agree; and what a parent reads in a text (the base, where the kinds differ), the child reads too: several
scripts, white space, emoji, code, special tokens.

- *union*, *padded*: `source: union`, without and with `pad_to_multiple_of`
- *base*, *model*: the vocabulary of one of the two; every text becomes the same tokens as there
- *tokens*: a union where the recipe gives single tokens the row of another, zeros, or the row of one model alone
- *literal*: text that spells out the pieces of the other model's vocabulary, in a union

"""


def page(amalgam: Amalgam, families: list[Result], kinds: list[Result]) -> str:
    versions = dict(
        date=datetime.date.today().isoformat(),
        amalgam=amalgam.version(),
        transformers=transformers.__version__,
        tokenizers=tokenizers.__version__,
        peft=peft_version(),
        torch=torch.__version__.partition("+")[0],
        counts=counts(families),
    )
    return HEAD.format(**versions) + of_families(families) + "\n" + TOKENIZERS + of_kinds(kinds) + "\n"


def peft_version() -> str:
    try:
        return importlib.metadata.version("peft")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def counts(results: list[Result]) -> str:
    verdicts = Counter(result.verdict for result in results)
    families = len({result.row for result in results})
    found = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in (DONE, PARTLY, REFUSED, FAILED))
    return f"{families} families: {found}."


def tables(families: list[Result], kinds: list[Result]) -> str:
    return "\n\n".join(filter(None, [of_families(families), of_kinds(kinds)]))


def of_families(results: list[Result]) -> str:
    return table("family", list(merges.CHECKS), results) if results else ""


def of_kinds(results: list[Result]) -> str:
    return table("tokenizers", list(vocabularies.CHECKS), results) if results else ""
