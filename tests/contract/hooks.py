"""What schemathesis sends as valid and no schema can say: `hooks` of schemathesis.toml.

The server finds two models of the same shape at org/base and org/chat, as in the examples of the contract.
"""

import re

import schemathesis

JSON = "application/json"
INPUTS = [{"model": model, "parameters": {"weight": 1.0}} for model in ("org/base", "org/chat")]
RECIPE = {"merge_method": "linear", "models": INPUTS, "dtype": "bfloat16"}
OF_THE_RECIPE = {"recipe", "recipe_yaml", "options", "variants", "grid", "output"}


@schemathesis.hook
def before_call(context, case, kwargs):
    is_positive = case.meta is not None and case.meta.generation.mode.is_positive
    # a job with some of its fields alone is no whole `Job`; names that no job has are to be refused
    for parameter in case.operation.definition.raw.get("parameters", []):
        if parameter.get("name") == "fields" and isinstance(case.query, dict):
            if re.search(parameter["schema"]["pattern"], str(case.query.get("fields"))):
                del case.query["fields"]
    takes_a_recipe = case.operation.definition.raw.get("operationId") in ("create_job", "create_plan")
    if not takes_a_recipe or not isinstance(case.body, dict):
        return
    if not is_positive:
        return
    case.query = sayable(case.query or {}, case.media_type)
    recipe = case.body.get("recipe") if case.media_type == JSON else case.body
    if isinstance(recipe, dict) and "merge_method" in recipe:
        return
    # what was made up is no recipe: with one that can be merged, a job comes of the rest
    if case.media_type == JSON:
        rest = {key: value for key, value in case.body.items() if key not in OF_THE_RECIPE}
        case.body = {**rest, "recipe": RECIPE}
    else:
        case.body = RECIPE
        case.query.pop("output", None)


def sayable(query, media_type):
    """The options of a YAML body: a JSON object holds its own. No pair is said twice."""
    if media_type == JSON:
        return {key: value for key, value in query.items() if key == "tensors"}
    return {key: once(value) if key in ("label", "metadata") else value for key, value in query.items()}


def once(pairs):
    if not isinstance(pairs, list):
        return pairs
    return list({str(pair).partition("=")[0]: pair for pair in pairs}.values())
