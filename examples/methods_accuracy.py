#!/usr/bin/env python3
"""Merges the example models with every method and writes the accuracy of each merge into docs/methods.md.

    cargo build --release
    pip install torch 'transformers>=5,<6'
    python examples/methods_accuracy.py [path of the amalgam binary]

Run it in the repository's root.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

BINARY = sys.argv[1] if len(sys.argv) > 1 else "target/release/amalgam"
BASE = "examples/models/base"
THREE = [f"examples/models/{name}" for name in ("upper", "reverse", "sort")]
PAGE = pathlib.Path("docs/methods.md")
BEGIN, END = "<!-- accuracy: begin -->\n", "<!-- accuracy: end -->\n"


def of(models, **parameters):
    return [{"model": m, "parameters": dict(parameters)} if parameters else {"model": m} for m in models]


def task_vectors(method, shared=None, **each):
    return {"merge_method": method, "base_model": BASE, "models": of(THREE, **each), "parameters": shared or {}}


RECIPES = {
    "linear": {"merge_method": "linear", "models": of(THREE, weight=1.0)},
    "slerp": {"merge_method": "slerp", "models": of(THREE[1:]), "parameters": {"t": 0.5}},
    "slerp, one angle": {"merge_method": "slerp", "models": of(THREE[1:]), "parameters": {"t": 0.5, "angle_scope": "model"}},
    "nuslerp": {"merge_method": "nuslerp", "models": of(THREE[1:], weight=0.5)},
    "nuslerp, base": {"merge_method": "nuslerp", "base_model": BASE, "models": of(THREE[1:], weight=0.5)},
    "multislerp": {"merge_method": "multislerp", "models": of(THREE, weight=1.0)},
    "karcher": {"merge_method": "karcher", "models": of(THREE)},
    "passthrough": {"merge_method": "passthrough", "models": of(THREE[1:2])},
    "task_arithmetic": task_vectors("task_arithmetic", weight=0.4),
    "task_arithmetic, LiNeS": task_vectors("task_arithmetic", {"lines_alpha": 0.7, "lines_beta": 0.6}, weight=0.4),
    "ties": task_vectors("ties", weight=1.0, density=0.5),
    "ties, whole model": task_vectors("ties", {"trim_scope": "model"}, weight=1.0, density=0.5),
    "ties, signs by count": task_vectors("ties", {"sign_method": "count"}, weight=1.0, density=0.5),
    "dare_linear": task_vectors("dare_linear", weight=0.4, density=0.5),
    "dare_linear, expected": task_vectors("dare_linear", {"rescale": "expected"}, weight=0.4, density=0.5),
    "dare_ties": task_vectors("dare_ties", weight=0.5, density=0.5),
    "dare_ties, then trim": task_vectors("dare_ties", weight=0.5, density=0.5, drop_rate=0.3),
    "della": task_vectors("della", weight=1.0, density=0.6),
    "della_linear": task_vectors("della_linear", weight=0.4, density=0.6),
    "breadcrumbs": task_vectors("breadcrumbs", weight=0.4, density=0.9, gamma=0.01),
    "breadcrumbs_ties": task_vectors("breadcrumbs_ties", weight=0.4, density=0.9, gamma=0.01),
    "sce": task_vectors("sce", {"select_topk": 0.5}),
    "ram": task_vectors("ram"),
    "ramplus_tl": task_vectors("ramplus_tl"),
    "model_stock": task_vectors("model_stock"),
    "nearswap": {"merge_method": "nearswap", "base_model": THREE[1], "models": of([THREE[1], THREE[2]]), "parameters": {"t": 0.001}},
    "arcee_fusion": {"merge_method": "arcee_fusion", "base_model": BASE, "models": of([BASE, THREE[1]])},
    "consensus_task_arithmetic": task_vectors("consensus_task_arithmetic", {"mask_lambda": 0.4}, weight=0.4),
    "consensus_ties": task_vectors("consensus_ties", {"mask_lambda": 0.2}, weight=1.0, density=0.5),
    "pcb": task_vectors("pcb", {"density": 0.2}),
    "wise_ft": {"merge_method": "wise_ft", "base_model": BASE, "models": of(THREE[1:2], alpha=0.5)},
    "expo": {"merge_method": "expo", "base_model": BASE, "models": of(THREE[1:2], alpha=0.3)},
    "chat_vector": {"merge_method": "chat_vector", "base_model": BASE, "models": of(THREE[1:], alpha=0.5)},
    "negation": {"merge_method": "negation", "base_model": BASE, "models": of(THREE[2:], alpha=0.5)},
}


def main():
    with tempfile.TemporaryDirectory() as folder:
        outputs = {}
        for name, recipe in RECIPES.items():
            path = pathlib.Path(folder, f"{len(outputs):02}.yml")
            path.write_text(json.dumps({**recipe, "dtype": "bfloat16"}))
            outputs[name] = str(path.with_suffix(""))
            subprocess.run([BINARY, "merge", str(path), outputs[name]], check=True, capture_output=True)
        evaluate = [sys.executable, "-B", "examples/evaluate.py", *outputs.values(), "--json"]
        scores = json.loads(subprocess.run(evaluate, check=True, capture_output=True, text=True).stdout)
    by_path = {entry["model"]: entry for entry in scores["models"]}
    rows = ["| merge | models | copy | upper | reverse | sort | mean |", "|---|---|---|---|---|---|---|"]
    for name, path in outputs.items():
        models = ", ".join(pathlib.Path(m["model"]).name for m in RECIPES[name]["models"])
        accuracy = by_path[path]
        cells = " | ".join(f"{accuracy[task]:.3f}" for task in ("copy", "upper", "reverse", "sort", "mean"))
        rows.append(f"| {name} | {models} | {cells} |")
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(before + BEGIN + "\n".join(rows) + "\n" + END + after)


if __name__ == "__main__":
    main()
