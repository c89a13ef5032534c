"""The JSON schema of a row: valid, small, and plain enough that no grammar compiler can hang, swell or reach out."""

import functools
import json
import re
from collections.abc import Iterator
from typing import Any

from serving.intake.bad_row import BadRow
from serving.intake.pattern import why_not
from serving.intake.shown import escaped, shown
from serving.records import canonical_json

MAX_SCHEMA_BYTES = 16_384
MAX_SCHEMA_DEPTH = 32
MAX_PROPERTIES = 256
MAX_COUNT = 10_000  # of what minItems, maxLength and their like ask for: a grammar writes each one out
MAX_EXPANDED = 4_096  # schemas, once every $ref is replaced by what it refers to

MAPS_OF_SCHEMAS = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
DATA = {"enum", "const", "default", "examples"}
COUNTS = {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties", "minContains",
          "maxContains"}  # fmt: skip
OTHER_REFERENCES = {"$dynamicRef", "$recursiveRef"}


def checked_schema(schema: dict[str, Any]) -> str:
    """The canonical text of a schema that an engine may be given.

    Raises:
        BadRow: E_SCHEMA_LIMIT.
    """
    try:
        text = canonical_json(schema)
    except (ValueError, TypeError, RecursionError) as error:  # a Parquet file can hold what JSON cannot
        raise _fault(f"is not JSON ({escaped(str(error))}); write it as JSON") from None
    if len(text.encode()) > MAX_SCHEMA_BYTES:
        raise _fault(f"has {len(text.encode())} bytes; at most {MAX_SCHEMA_BYTES}")
    if (fault := _judged(text)) is not None:
        raise _fault(fault)
    return text


def _fault(reason: str) -> BadRow:
    return BadRow("E_SCHEMA_LIMIT", f"the JSON schema {reason}")


@functools.lru_cache(maxsize=1024)
def _judged(text: str) -> str | None:
    """What is wrong with a schema, or None. The rows of a job often share one."""
    schema = json.loads(text)
    try:
        _within_limits(schema)
    except _Beyond as beyond:
        return str(beyond)
    except RecursionError:
        return "refers on and on; write it with fewer $ref"
    return _not_valid(schema)


class _Beyond(Exception):
    """What a schema has that it may not have, in words that follow "the JSON schema"."""


def _within_limits(schema: dict[str, Any]) -> None:
    properties = 0
    for depth, part in _schemas(schema, 0):
        if depth > MAX_SCHEMA_DEPTH:
            raise _Beyond(f"is nested deeper than {MAX_SCHEMA_DEPTH} schemas; flatten it")
        properties += len(part["properties"]) if isinstance(part.get("properties"), dict) else 0
        _plain_words(part)
    if properties > MAX_PROPERTIES:
        raise _Beyond(f"has {properties} properties; at most {MAX_PROPERTIES}")
    if _Expansion(schema).size(schema) > MAX_EXPANDED:
        raise _Beyond(f"stands for over {MAX_EXPANDED} schemas once its $ref are replaced; write a smaller one")


def _schemas(schema: Any, depth: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every schema within a schema, itself first. What is data, such as an enum, is not looked into."""
    if isinstance(schema, list):
        for inner in schema:
            yield from _schemas(inner, depth)
    if not isinstance(schema, dict):
        return
    yield depth, schema
    if depth <= MAX_SCHEMA_DEPTH:
        for inner in _parts(schema):
            yield from _schemas(inner, depth + 1)


def _parts(schema: dict[str, Any]) -> Iterator[Any]:
    for name, inner in schema.items():
        if name in MAPS_OF_SCHEMAS and isinstance(inner, dict):
            yield from inner.values()
        elif name not in DATA:
            yield inner


def _plain_words(schema: dict[str, Any]) -> None:
    for name in schema.keys() & COUNTS:
        count = schema[name]
        if isinstance(count, (int, float)) and count > MAX_COUNT:
            raise _Beyond(f"has {name} {count:g}; at most {MAX_COUNT}")
    for name in schema.keys() & OTHER_REFERENCES:
        raise _Beyond(f"has {name}; only $ref is known, so write it as one")
    patterns = [schema["pattern"]] if "pattern" in schema else []
    of_names = schema.get("patternProperties")
    for pattern in [*patterns, *(of_names if isinstance(of_names, dict) else ())]:
        if isinstance(pattern, str) and (fault := why_not(pattern)) is not None:
            raise _Beyond(f"has the pattern {shown(pattern)}, which {fault}")


class _Expansion:
    """How many schemas a schema stands for once each $ref is replaced by its target, which may refer on."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._sizes: dict[str, int] = {}
        self._open: set[str] = set()  # being counted: to meet one again is to go round in a circle

    def size(self, schema: Any) -> int:
        total = 0
        for _, part in _schemas(schema, 0):
            total += 1
            reference = part.get("$ref")
            if isinstance(reference, str):
                total += self._size_of(reference)
            if total > MAX_EXPANDED:
                break
        return total

    def _size_of(self, reference: str) -> int:
        if not reference.startswith("#"):
            raise _Beyond(f"refers to another document, {shown(reference)}; put it inside")
        if reference in self._open:
            raise _Beyond(f"refers to itself by {shown(reference)}; no answer has a length that is known then")
        if reference not in self._sizes:
            self._open.add(reference)
            self._sizes[reference] = self.size(self._target(reference))
            self._open.remove(reference)
        return self._sizes[reference]

    def _target(self, reference: str) -> Any:
        target: Any = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and re.fullmatch(r"\d{1,4}", step) and int(step) < len(target):
                target = target[int(step)]
            elif isinstance(target, dict) and step in target:
                target = target[step]
            else:
                raise _Beyond(f"has no {shown(reference)}, to which it refers; put it inside, as #/$defs/NAME")
        if reference not in ("#", "#/") and not reference.startswith("#/"):
            raise _Beyond(f"refers by a name, {shown(reference)}; refer by the place, as #/$defs/NAME")
        return target


def _not_valid(schema: dict[str, Any]) -> str | None:
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for

    if not isinstance(schema.get("$schema", ""), str):
        return f"is not valid: $schema is {shown(schema['$schema'])}; leave it out"
    try:
        known = validator_for(schema, default=None) if "$schema" in schema else Draft202012Validator
    except ValueError:  # an address that is none
        known = None
    if known is None:
        return f"is of the unknown kind {shown(schema['$schema'])}; leave $schema out"
    try:
        known.check_schema(schema)
    except SchemaError as error:
        return f"is not valid at {escaped(error.json_path)}: {escaped(error.message)}; see json-schema.org"
    return None
