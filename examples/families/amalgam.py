"""Runs the command line under test."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path


class Refused(Exception):
    """Amalgam says why it will not make this merge."""


class Broken(Exception):
    """Amalgam did not do what it should."""


@dataclass(frozen=True)
class Amalgam:
    binary: str

    def merge(self, recipe: dict, out: Path) -> Path:
        path = out.with_suffix(".yml")
        path.write_text(json.dumps(recipe, indent=1))  # JSON is YAML
        command = [self.binary, "merge", str(path), str(out)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if run.returncode == 2:
            raise Refused("; ".join(line for line in run.stderr.splitlines() if not line.startswith("warning")))
        if run.returncode != 0:
            raise Broken(f"exit {run.returncode}: {run.stderr.strip()}")
        return out

    def version(self) -> str:
        return subprocess.run([self.binary, "--version"], capture_output=True, text=True, check=True).stdout.strip()
