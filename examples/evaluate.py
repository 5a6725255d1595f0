#!/usr/bin/env python3
"""Measures how many of the example prompts a model answers exactly.

    pip install torch "transformers>=5,<6"      # the CPU build of torch is enough
    python examples/evaluate.py MODEL_DIR [MODEL_DIR ...] [--json | --markdown]

Works on the models in examples/models and on any merge of them. A model whose checkpoint lacks a tensor, or has one too
many, or one of another shape, or holds a NaN, counts as not loaded: it is named on stderr and the exit status is 1.
Nothing is fetched from the network.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

try:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils import logging
except ImportError as error:
    sys.exit(f'{error}: pip install torch "transformers>=5,<6"')

TASKS = {"c": "copy", "u": "upper", "r": "reverse", "s": "sort"}
PAD, BOS, EOS = 0, 1, 2  # <pad>, <s>, </s>
PROMPTS = Path(__file__).parent / "models" / "eval.jsonl"


class NotLoaded(Exception):
    """The folder is not a whole checkpoint of one model."""


def main():
    arguments = parse_arguments()
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    prompts = [json.loads(line) for line in PROMPTS.read_text().splitlines()]
    rows, failures = [], []
    for folder in arguments.models:
        try:
            rows.append({"model": folder, **evaluate(folder, prompts)})
        except NotLoaded as error:
            failures.append({"model": folder, "error": str(error)})

    if arguments.json:
        print(json.dumps({"models": rows, "failures": failures}, indent=2))
    elif rows:
        print_table(rows, arguments.markdown)
    for failure in failures:
        print(f"{failure['model']}: {failure['error']}", file=sys.stderr)
    return 1 if failures else 0


def parse_arguments():
    parser = argparse.ArgumentParser(
        description="Accuracy of models on the prompts of examples/models/eval.jsonl, per task."
    )
    parser.add_argument("models", nargs="+", metavar="MODEL_DIR")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--markdown", action="store_true", help="print a Markdown table")
    return parser.parse_args()


def evaluate(folder, prompts):
    """Accuracy per task, and the mean of the tasks."""
    model, tokenizer = load(folder)
    answers = answer(model, tokenizer, [p["prompt"] for p in prompts], longest(tokenizer, prompts))

    right = {task: [] for task in TASKS}
    for prompt, ids in zip(prompts, answers):
        right[prompt["task"]].append(ids == encode(tokenizer, prompt["answer"]) + [EOS])
    accuracy = {TASKS[task]: sum(hits) / len(hits) for task, hits in right.items()}
    return {**accuracy, "mean": sum(accuracy.values()) / len(accuracy)}


def load(folder):
    if not Path(folder).is_dir():
        raise NotLoaded("no such folder")
    try:
        # the models are stored in bfloat16; float32 holds the same numbers and decodes alike, batched or not
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, by name
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many kinds; each means that the folder is no good
        first_line = next(iter(str(error).strip().splitlines()), "")
        raise NotLoaded(f"{type(error).__name__}: {first_line}") from error

    wrong = {what: tensors for what, tensors in loading.items() if tensors}
    if wrong:
        raise NotLoaded("; ".join(f"{what}: {sorted(map(str, tensors))}" for what, tensors in wrong.items()))
    for name, tensor in model.named_parameters():
        if not torch.isfinite(tensor).all():
            raise NotLoaded(f'tensor "{name}" holds NaN or infinity')
    return model.eval(), tokenizer


def longest(tokenizer, prompts):
    """Tokens of the longest answer, with the </s> after it."""
    return max(len(encode(tokenizer, p["answer"])) for p in prompts) + 1


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def answer(model, tokenizer, prompts, tokens_max):
    """The greedy continuation of each prompt as token ids, up to and with </s> where it was reached."""
    encoded = [[BOS] + encode(tokenizer, prompt) for prompt in prompts]
    width = max(map(len, encoded))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in encoded])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in encoded])
    greedy = GenerationConfig(
        do_sample=False, max_new_tokens=tokens_max, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD
    )
    with torch.inference_mode():
        generated = model.generate(ids, attention_mask=mask, generation_config=greedy)
    return [up_to_eos(row) for row in generated[:, width:].tolist()]


def up_to_eos(ids):
    return ids[: ids.index(EOS) + 1] if EOS in ids else ids


def print_table(rows, markdown):
    columns = [*TASKS.values(), "mean"]
    width = max(len("model"), *(len(row["model"]) for row in rows))
    bar, edge = (" | ", "|") if markdown else ("  ", "")

    def line(cells):
        return f"{edge} {bar.join(cells)} {edge}".strip()

    print(line(["model".ljust(width), *(c.rjust(7) for c in columns)]))
    if markdown:
        print(line(["-" * width, *("-" * 6 + ":" for _ in columns)]))
    for row in rows:
        print(line([row["model"].ljust(width), *(f"{row[c]:.3f}".rjust(7) for c in columns)]))


if __name__ == "__main__":
    sys.exit(main())
