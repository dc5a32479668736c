"""The JSON Schemas that ship with the package, and the part of JSON Schema 2020-12 that they are written in.

A reader demands what the schema says, because it asks the schema: ``problems`` judges a JSON value by one. Keywords:
``type const enum required properties additionalProperties items minItems maxItems uniqueItems minimum maximum
exclusiveMinimum pattern $ref``; a schema with another one is a defect of ours.
"""

import functools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddjax.errors import nearest

FOLDER = Path(__file__).parent / "schemas"
SILENT = {"$schema", "$id", "$defs", "$ref", "title", "description"}
SHOWN, MOST = 60, 20  # characters of a value in a message, sentences about one value


@functools.cache
def schema(name: str) -> dict[str, Any]:
    """The schema called ``name``, as ``manifest-1``."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def problems(name: str, value: Any) -> list[str]:
    """What makes ``value`` unfit by the schema ``name``, one sentence each, at most twenty; [] where it fits."""
    root, found = schema(name), []
    for sentence in _judge(root, root, value, ""):
        found.append(sentence)
        if len(found) == MOST:
            break
    return found


def is_kind(kind: str, value: Any) -> bool:
    """Whether a value is of a JSON type; NaN and infinity are no numbers, and 1.0 is an integer."""
    if kind in ("number", "integer"):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return isinstance(value, int) or (value.is_integer() if kind == "integer" else math.isfinite(value))
    kinds = {"object": dict, "array": list, "string": str, "null": type(None), "boolean": bool}
    return isinstance(value, kinds[kind])


def _judge(root: dict[str, Any], rule: dict[str, Any], value: Any, at: str) -> Iterator[str]:
    if "$ref" in rule:
        rule = root["$defs"][rule["$ref"].removeprefix("#/$defs/")]
    unknown = rule.keys() - WORDS - SILENT
    if unknown:
        raise NotImplementedError(f"schema keywords {sorted(unknown)}")
    allowed = rule.get("type", [])
    allowed = [allowed] if isinstance(allowed, str) else allowed
    if allowed and not any(is_kind(kind, value) for kind in allowed):
        yield f"{at or 'it'} = {_show(value)} is of the wrong kind; allowed: {' or '.join(allowed)}."
        return
    yield from _listed(rule, value, at)
    if isinstance(value, str) and "pattern" in rule and not re.search(rule["pattern"], value):
        yield f"{at} = {_show(value)} is not of the form {rule['pattern']}."
    if not isinstance(value, str) and is_kind("number", value):
        yield from _bounds(rule, value, at)
    if isinstance(value, list):
        yield from _array(root, rule, value, at)
    if isinstance(value, dict):
        yield from _object(root, rule, value, at)


def _show(value: Any) -> str:
    if isinstance(value, dict | list):
        return f"{'{…}' if value else '{}'}" if isinstance(value, dict) else f"[{len(value)} values]"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**18:
        return "a number of too many digits"
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def _listed(rule: dict[str, Any], value: Any, at: str) -> Iterator[str]:
    names = rule.get("enum", [rule["const"]] if "const" in rule else None)
    if names is None or any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in names):
        return
    near = nearest(str(value), names) if isinstance(value, str) else None
    hint = f" Did you mean {near!r}?" if near else ""
    yield f"{at} = {_show(value)} is not known; allowed: {', '.join(map(str, names))}.{hint}"


def _bounds(rule: dict[str, Any], value: float, at: str) -> Iterator[str]:
    low, above, high = rule.get("minimum"), rule.get("exclusiveMinimum"), rule.get("maximum")
    if (low is None or value >= low) and (above is None or value > above) and (high is None or value <= high):
        return
    told = [f"{sign} {bound:g}" for sign, bound in ((">=", low), (">", above), ("<=", high)) if bound is not None]
    yield f"{at} = {_show(value)} is out of range; allowed: {', '.join(told)}."


def _array(root: dict[str, Any], rule: dict[str, Any], value: list, at: str) -> Iterator[str]:
    low, high = rule.get("minItems", 0), rule.get("maxItems", math.inf)
    if not low <= len(value) <= high:
        allowed = f"{low}" if low == high else f"{low} or more" if high == math.inf else f"{low} to {high}"
        yield f"{at} has {len(value)} values; allowed: {allowed}."
    for i, one in enumerate(value) if "items" in rule else ():
        yield from _judge(root, rule["items"], one, f"{at}[{i}]")
    texts = [one for one in value if isinstance(one, str)]
    if rule.get("uniqueItems") and len(set(texts)) < len(texts):
        twice = sorted({one for one in texts if texts.count(one) > 1})
        yield f"{at} holds a value twice: {', '.join(map(_show, twice[:5]))}."


def _object(root: dict[str, Any], rule: dict[str, Any], value: dict, at: str) -> Iterator[str]:
    def inner(name: str) -> str:
        return f"{at}.{name}" if at else name

    absent = [inner(name) for name in rule.get("required", []) if name not in value]
    if absent:
        yield f"it lacks {', '.join(absent)}."
    known = rule.get("properties", {})
    for name, one in value.items():
        if name in known:
            yield from _judge(root, known[name], one, inner(name))
        elif "additionalProperties" in rule:
            yield from _judge(root, rule["additionalProperties"], one, inner(name))


WORDS = {
    "type", "const", "enum", "required", "properties", "additionalProperties", "items", "minItems", "maxItems",
    "uniqueItems", "minimum", "maximum", "exclusiveMinimum", "pattern",
}  # fmt: skip
