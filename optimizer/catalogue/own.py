"""A user's own file of the catalogue: tables as the shipped ones have, each row checked before anything rests on it."""

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from optimizer.catalogue.hardware import Gpu
from optimizer.catalogue.names import AmbiguousName, BadCatalogue, by_key, gpu_key, model_key
from serving.engine_config import ModelShape

TABLES = ("gpus", "machines", "models", "sources")
DAY_OR_YEAR = re.compile(r"\d{4}(-\d{2}-\d{2})?")


@dataclass(frozen=True, slots=True)
class Key:
    """What a key of a row may hold."""

    what: str  # in words, with an example where one helps
    right: Callable[[Any], bool]
    needed: bool = True


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _above_zero(value: Any) -> bool:
    return _number(value) and value > 0


def _whole(value: Any) -> bool:
    return isinstance(value, int) and _number(value)


def _truth(value: Any) -> bool:
    return isinstance(value, bool)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _money(value: Any) -> bool:
    try:
        return isinstance(value, str) and Decimal(value).is_finite() and Decimal(value) > 0
    except InvalidOperation:
        return False


def _date(value: Any) -> bool:
    if not isinstance(value, str) or not DAY_OR_YEAR.fullmatch(value):
        return False
    try:
        date.fromisoformat(value if "-" in value else f"{value}-01-01")
    except ValueError:
        return False
    return True


TEXT, TRUTH = Key("text", _text), Key("true or false", _truth, needed=False)
NUMBER, RATE = Key("a number, 0 where it has none", _number), Key("a number above 0", _above_zero)
NAMES = Key('a list of names, such as ["H100"]', _texts, needed=False)
ABOVE_ZERO = {"memory_gib", "memory_gb_s", "bf16_tflops", "link_gb_s"}  # of a GPU: nothing runs without these

GPU: Mapping[str, Key] = {
    "aliases": NAMES,
    "architecture": Key('text, such as "Hopper"', _text),
    **{one.name: RATE if one.name in ABOVE_ZERO else NUMBER for one in fields(Gpu) if one.type is float},
    "nvlink": Key("true or false", _truth),
    "source": TEXT,
    "unchecked": TRUTH,
}
MODEL: Mapping[str, Key] = {
    "aliases": NAMES,
    "source": TEXT,
    "params_b": RATE,
    "quantization": Key('text, such as "fp8"', _text, needed=False),
    "shape": Key("a table, such as { layers = 32, ... }", lambda value: isinstance(value, dict)),
}
SHAPE: Mapping[str, Key] = {
    one.name: {
        str: TEXT,
        bool: TRUTH,
        int: Key("a whole number above 0", lambda value: _whole(value) and value > 0)
        if one.default is MISSING
        else Key("a whole number", _whole, needed=False),
    }[one.type]  # type: ignore[index]  # a type itself, since nothing here postpones annotations
    for one in fields(ModelShape)
}
MACHINE: Mapping[str, Key] = {
    "name": Key('text, such as "our-rack/h100 x8"', _text),
    "what": Key("text", _text, needed=False),
    "gpu": Key("the name of a GPU", _text, needed=False),
    "gpus": Key("a whole number, how many there are", _whole, needed=False),
    "usd_per_hour": Key('an amount above 0 as text, such as "1.006", so that no float touches it', _money),
    "region": Key("text", _text, needed=False),
    "as_of": Key('a day or a year as text, such as "2026-11-26"', _date),
    "source": TEXT,
    "spot": TRUTH,
    "offered": TRUTH,
    "unchecked": TRUTH,
}


def read_own(file: Path) -> Mapping[str, Any]:
    """The tables of a user's TOML file, by name, each row with all that its table needs and nothing else.

    Raises:
        BadCatalogue: unreadable, not TOML, or a table, row or value that is not known; it names the place.
    """
    own = _read(file)
    for table in own:
        if table not in TABLES:
            raise BadCatalogue(f"{file}: unknown table {table!r}{_nearest(table, TABLES)}")
    for table, keys in (("gpus", GPU), ("models", MODEL)):
        for name, row in _rows(file, own, table).items():
            _check(f"{file}: [{table}.{name!r}]", row, keys)
    for name, row in own.get("models", {}).items():
        _check_shape(f"{file}: [models.{name!r}] shape", row["shape"])
    machines = own.get("machines", [])
    if not isinstance(machines, list):
        raise BadCatalogue(f"{file}: machines is one table; write [[machines]], once for each of them")
    for place, row in enumerate(machines, 1):
        _check_machine(file, place, row)
    for name, source in _rows(file, own, "sources", of_tables=False).items():
        _check(f"{file}: [sources]", {name: source}, {name: TEXT})
    try:
        by_key(own.get("gpus", {}), gpu_key)
        by_key(own.get("models", {}), model_key)
    except AmbiguousName as error:
        raise AmbiguousName(f"{file}: {error}") from None
    return own


def _read(file: Path) -> Mapping[str, Any]:
    way_out = "name a TOML file with tables as in optimizer/catalogue/*.toml"
    if file.exists() and not file.is_file():
        raise BadCatalogue(f"{file}: not a file; {way_out}")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadCatalogue(f"{file}: cannot be read ({error.strerror}); {way_out}") from None
    except UnicodeDecodeError as error:
        raise BadCatalogue(f"{file}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadCatalogue(f"{file}: not TOML: {error}") from None


def _rows(file: Path, own: Mapping[str, Any], table: str, of_tables: bool = True) -> Mapping[str, Any]:
    rows = own.get(table, {})
    if not isinstance(rows, dict):
        raise BadCatalogue(f"{file}: {table} = {rows!r}: must be a table, such as [{table}]")
    for name, row in rows.items():
        if of_tables and not isinstance(row, dict):
            raise BadCatalogue(f"{file}: [{table}] {name} = {row!r}: must be a table, [{table}.{name!r}]")
    return rows


def _check(where: str, row: Mapping[str, Any], keys: Mapping[str, Key]) -> None:
    for name, value in row.items():
        if (key := keys.get(name)) is None:
            raise BadCatalogue(f"{where}: unknown key {name!r}{_nearest(name, keys)}")
        if not key.right(value):
            raise BadCatalogue(f"{where} {name} = {value!r}: must be {key.what}")
    if missing := [name for name, key in keys.items() if key.needed and name not in row]:
        raise BadCatalogue(f"{where}: {missing[0]} is missing; give it {keys[missing[0]].what}")


def _check_shape(where: str, shape: Mapping[str, Any]) -> None:
    _check(where, shape, SHAPE)
    found = ModelShape(**shape)
    if found.heads % found.kv_heads:
        raise BadCatalogue(f"{where} kv_heads = {found.kv_heads}: must divide heads = {found.heads}")
    experts = {"experts_per_token": found.experts_per_token, "expert_intermediate": found.expert_intermediate}
    for name, value in experts.items():
        if bool(value) != bool(found.experts):
            raise BadCatalogue(f"{where} {name} = {value}: goes with experts = {found.experts}; give both or neither")
    if not (found.experts or found.intermediate):
        raise BadCatalogue(f"{where}: intermediate is missing; give it the width of a layer's MLP")


def _check_machine(file: Path, place: int, row: Any) -> None:
    if not isinstance(row, dict):
        raise BadCatalogue(f"{file}: machines, row {place}: must be a table, written below [[machines]]")
    where = f"{file}: machines, row {place}" + (f" ({row['name']!r})" if _text(row.get("name")) else "")
    _check(where, row, MACHINE)
    if ("gpu" in row) != bool(row.get("gpus", 0)):
        raise BadCatalogue(f"{where} gpus = {row.get('gpus', 0)}: goes with gpu; give both, or none for a CPU machine")


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known here: {', '.join(sorted(known))}"
