#!/usr/bin/env python3
"""Merges tiny models of many families, loads each result in transformers and compares it with the merge done in torch.

    cargo build
    pip install torch "transformers>=5,<6" peft      # the CPU build of torch is enough; without peft, no adapters
    python examples/families [--amalgam PATH] [--only NAME] [--keep DIR] [--report docs/families.md]

The models have random weights and are made anew each time; nothing is fetched from the network. A tensor that is
missing, unexpected or of another shape or value, a config that does not fit the layers, and a tokenizer that loses text
are failures: each is named on stderr, and the exit status is 1.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

try:
    import transformers
except ImportError as error:
    sys.exit(f'{error}: pip install torch "transformers>=5,<6"')

import merges
import report
import vocabularies
from amalgam import Amalgam
from catalogue import FAMILIES
from family import Family
from pair import Pair
from results import FAILED, Result, verdict
from small_tokenizers import KINDS


def main() -> int:
    arguments = parse_arguments()
    transformers.logging.disable_progress_bar()
    amalgam = Amalgam(arguments.amalgam)
    with working_folder(arguments.keep) as folder:
        chosen = [family for family in FAMILIES if arguments.only in (None, family.name)]
        kinds = [kind for kind in KINDS if arguments.only in (None, kind)]
        of_families = [result for family in chosen for result in check_family(family, amalgam, folder)]
        of_kinds = [result for kind in kinds for result in check_kind(kind, amalgam, folder)]

    print(report.tables(of_families, of_kinds))
    if arguments.report:
        arguments.report.write_text(report.page(amalgam, of_families, of_kinds))
    failures = [result for result in [*of_families, *of_kinds] if result.verdict == FAILED]
    for failure in failures:
        print(f"{failure.row}: {failure.check}: {failure.reason}", file=sys.stderr)
    return 1 if failures or not of_families + of_kinds else 0


def parse_arguments():
    parser = argparse.ArgumentParser(prog="families", description="Merges of many families, loaded in transformers.")
    parser.add_argument("--amalgam", default="target/debug/amalgam", metavar="PATH", help="the binary to run")
    parser.add_argument("--only", metavar="NAME", help="this family or kind of tokenizer alone")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep models, recipes and merges there")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the tables as a page")
    return parser.parse_args()


@contextlib.contextmanager
def working_folder(kept: Path | None):
    if kept:
        yield kept
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def check_family(family: Family, amalgam: Amalgam, folder: Path) -> list[Result]:
    if family.model_class is None:
        print(f"{family.name}: this transformers has no {family.model}", file=sys.stderr)
        return []
    try:
        bench = merges.Bench.make(family, amalgam, new(folder, family.name))
    except Exception as error:  # no fault of ours, but nothing is proven
        return [Result(family.name, "linear", FAILED, f"cannot be made or loaded: {error}")]
    checks = [(name, check) for name, (check, is_for) in merges.CHECKS.items() if is_for(family)]
    return [verdict(family.name, name, partial(check, bench), may_refuse(family, name)) for name, check in checks]


def may_refuse(family: Family, check: str) -> bool:
    return family.may_refuse and "layers" in check


def check_kind(kind: str, amalgam: Amalgam, folder: Path) -> list[Result]:
    pair = Pair.make(kind, amalgam, new(folder, kind))
    return [verdict(kind, name, partial(check, pair)) for name, check in vocabularies.CHECKS.items()]


def new(folder: Path, name: str) -> Path:
    place = folder / "".join(letter if letter.isalnum() else "-" for letter in name)
    place.mkdir(parents=True)
    return place


if __name__ == "__main__":
    sys.exit(main())
