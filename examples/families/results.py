"""What the checks gave, as a table."""

from collections.abc import Callable
from dataclasses import dataclass

from amalgam import Broken, Refused

DONE, PARTLY, REFUSED, FAILED, NOT_FOR_IT = "yes", "in part", "refused", "FAILED", ""


@dataclass(frozen=True)
class Result:
    row: str
    check: str
    verdict: str
    reason: str = ""


def verdict(row: str, check: str, run: Callable[[], str | None], may_refuse: bool = False) -> Result:
    """Runs one check, which says nothing where all is well. Whatever it raises is its reason: transformers and torch raise
    many kinds of errors."""
    try:
        return Result(row, check, run() or DONE)
    except Refused as refusal:
        return Result(row, check, REFUSED if may_refuse else FAILED, str(refusal))
    except Broken as broken:
        return Result(row, check, FAILED, str(broken))
    except Exception as error:
        return Result(row, check, FAILED, f"{type(error).__name__}: {error}")


def table(first: str, checks: list[str], results: list[Result]) -> str:
    """A Markdown table: a row each, a column a check."""
    cells: dict[str, dict[str, str]] = {}
    for result in results:
        cells.setdefault(result.row, {})[result.check] = result.verdict
    rows = [[row, *(found.get(check, NOT_FOR_IT) for check in checks)] for row, found in cells.items()]
    return markdown([first, *checks], rows)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)
