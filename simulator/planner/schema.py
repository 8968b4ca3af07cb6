"""JSON schema of a plan file, for editors and other programs."""

from __future__ import annotations

from typing import Any

from simulator.planner.document import Plan


def plan_schema() -> dict[str, Any]:
    """The models' schema, and what a file may hold besides: names for mappings."""
    schema = Plan.model_json_schema()
    text = {"type": "string", "minLength": 1}
    _or(schema["properties"]["objective"], text)
    precision = schema["$defs"]["Space"]["properties"]["precision"]
    for option in precision["anyOf"]:
        if option.get("type") == "array":
            option["items"] = {"anyOf": [text, option["items"]]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _or(given: dict[str, Any], other: dict[str, Any]) -> None:
    """Lets a key hold something else as well."""
    mapping = {key: given.pop(key) for key in ("$ref", "allOf") if key in given}
    given["anyOf"] = [other, mapping]
