"""The merges that each family goes through."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import expected
from adapters import extracted, has_peft
from amalgam import Amalgam, Broken
from expected import BFLOAT16_STEP, FLOAT32_STEP, Tensors, expect_config, expect_files, expect_output, expect_tensors
from family import LAYERS, Family, make
from loading import load, output, tensors

BASE, FIRST, SECOND = range(3)
REPEATED = [(BASE, 0), (BASE, 1), (FIRST, 1), (FIRST, 2), (FIRST, 3)]
DROPPED = [(BASE, 1), (FIRST, 3)]


@dataclass(frozen=True)
class Bench:
    """One family's three checkpoints, on disk and as transformers holds them."""

    family: Family
    amalgam: Amalgam
    paths: list[Path]
    models: list[Tensors]

    @staticmethod
    def make(family: Family, amalgam: Amalgam, folder: Path) -> "Bench":
        paths = make(family, folder)
        return Bench(family, amalgam, paths, [tensors(load(family.model_class, path)) for path in paths])

    def merge(self, name: str, recipe: dict, layers: Sequence[int] = range(LAYERS), **changed):
        """The merged model, once its config is what it should be."""
        folder = self.amalgam.merge(recipe, self.paths[BASE].with_name(name))
        expect_files(self.paths[BASE], folder)
        expect_config(self.family, self.config(self.paths[BASE]) | changed, self.config(folder), layers)
        return load(self.family.model_class, folder)

    def config(self, folder: Path) -> dict:
        return self.family.model_class.config_class.from_pretrained(folder).to_dict()

    def of(self, *models: int, **parameters) -> list[dict]:
        return [{"model": str(self.paths[model]), "parameters": parameters} for model in models]


def linear(bench: Bench):
    recipe = {"merge_method": "linear", "models": bench.of(BASE, FIRST, SECOND, weight=1.0)}
    model = bench.merge("linear", recipe)
    expect_tensors(tensors(model), expected.mean(bench.models), BFLOAT16_STEP)
    output(bench.family, model)


def float32(bench: Bench):
    """What the model gives is compared here: bfloat16 rounds routers' logits, and other experts are asked then."""
    models = bench.of(BASE, FIRST, SECOND, weight=1.0)
    recipe = {"merge_method": "linear", "models": models, "dtype": "float32"}
    model, should = bench.merge("float32", recipe, dtype="float32"), expected.mean(bench.models)
    expect_tensors(tensors(model), should, FLOAT32_STEP)
    given = output(bench.family, model)
    model.load_state_dict(should)
    expect_output(given, output(bench.family, model))


def ties(bench: Bench):
    """With all of each task vector, since experts that transformers holds as one tensor are trimmed one by one."""
    models, base = bench.of(FIRST, SECOND, weight=1.0, density=1.0), str(bench.paths[BASE])
    model = bench.merge("ties", {"merge_method": "ties", "base_model": base, "models": models})
    expect_tensors(tensors(model), expected.ties(bench.models[BASE], bench.models[FIRST:]), BFLOAT16_STEP)
    output(bench.family, model)


def repeated(bench: Bench):
    recipe = {"merge_method": "passthrough", "slices": slices(bench, REPEATED)}
    expect_stack(bench, "repeated", recipe, REPEATED)


def dropped(bench: Bench):
    recipe = {"merge_method": "passthrough", "slices": slices(bench, DROPPED)}
    expect_stack(bench, "dropped", recipe, DROPPED)


def modules(bench: Bench):
    """Each part from other models: the first from all of them, the others from one each."""
    parts = list(bench.family.modules)
    donors = {part: [(BASE, FIRST, SECOND), (FIRST,), (SECOND,)][place] for place, part in enumerate(parts)}
    recipe = {"merge_method": "linear", "modules": {p: {"models": bench.of(*d, weight=1.0)} for p, d in donors.items()}}
    model = bench.merge("modules", recipe)
    means = {part: expected.mean([bench.models[d] for d in donors[part]]) for part in parts}
    should = {name: means[part_of(bench.family, name)][name] for name in bench.models[BASE]}
    expect_tensors(tensors(model), should, BFLOAT16_STEP)
    output(bench.family, model)


def module_layers(bench: Bench):
    """One part with layers repeated, the others as they are in the base."""
    part, *others = bench.family.modules
    parts = {part: {"slices": slices(bench, REPEATED)}, **{other: {"models": bench.of(BASE)} for other in others}}
    recipe = {"merge_method": "passthrough", "base_model": str(bench.paths[BASE]), "modules": parts}
    expect_stack(bench, "module-layers", recipe, REPEATED, bench.family.modules[part])


def part_of(family: Family, tensor: str) -> str:
    for part, beginnings in family.modules.items():
        if tensor.startswith(beginnings):
            return part
    raise Broken(f"{tensor} is in no module")


def slices(bench: Bench, layers: list[tuple[int, int]]) -> list[dict]:
    return [
        {"sources": [{"model": str(bench.paths[model]), "layer_range": [layer, layer + 1]}]} for model, layer in layers
    ]


def expect_stack(bench: Bench, name: str, recipe: dict, layers: list[tuple[int, int]], within=("",)):
    model = bench.merge(name, recipe, [layer for _, layer in layers])
    expect_tensors(tensors(model), expected.stacked(model, bench.models, layers, within), step=0.0)
    output(bench.family, model)


def always(_family: Family) -> bool:
    return True


def has_slices(family: Family) -> bool:
    return family.slices


def has_modules(family: Family) -> bool:
    return bool(family.modules)


# Each check with the families it is for.
CHECKS: dict[str, tuple[Callable[[Bench], str | None], Callable[[Family], bool]]] = {
    "linear": (linear, always),
    "float32": (float32, always),
    "ties": (ties, always),
    "layers repeated": (repeated, has_slices),
    "layers dropped": (dropped, has_slices),
    "modules": (modules, has_modules),
    "modules, layers repeated": (module_layers, has_modules),
    "adapter": (extracted, has_peft),
}
