"""What the planner knows by name: GPUs, models, machines; the shipped tables, and over them a user's own."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from optimizer.catalogue.hardware import Gpu
from optimizer.catalogue.machines import PricedMachine, machine_of, newest, price_among
from optimizer.catalogue.names import (
    BadCatalogue,
    UnknownName,
    by_key,
    gpu_key,
    model_key,
    nearest,
    quantization_in,
)
from optimizer.catalogue.own import read_own
from serving.engine_config import ModelShape
from serving.records import Price


@dataclass(frozen=True, slots=True)
class NamedModel:
    """What a model's name stands for."""

    name: str  # in the catalogue
    shape: ModelShape
    params_b: float  # as published, in 10**9
    quantization: str | None  # "fp8", "awq", ...: what the name says, else how it is published; None: 16 bits
    source: str


@dataclass(frozen=True)
class Catalogue:
    """Each table is read when first asked for."""

    own: Mapping[str, Any] = field(default_factory=dict)  # tables of the user's, by the names that ours have

    @classmethod
    def load(cls, extra: Path | None = None) -> Self:
        """`extra` is a TOML file with tables as the shipped ones have; its rows add to ours, or take their place.

        Raises:
            BadCatalogue: the file cannot be read, or a row of it is wrong.
        """
        found = cls(_by_our_names(read_own(extra)) if extra else {})
        for place, row in enumerate(found.own.get("machines", ()), 1):
            try:
                if "gpu" in row:
                    found.gpu(row["gpu"])
            except UnknownName as error:
                raise BadCatalogue(f"{extra}: machines, row {place} ({row['name']!r}): {error}") from None
        return found

    def gpu(self, name: str) -> Gpu:
        """Raises UnknownName."""
        return self._gpu_of(name)

    def model(self, name: str) -> NamedModel:
        """Raises UnknownName."""
        return self._model_of(name)

    @cached_property
    def _gpu_of(self) -> Callable[[str], Gpu]:
        return cache(self._find_gpu)

    @cached_property
    def _model_of(self) -> Callable[[str], NamedModel]:
        return cache(self._find_model)

    def _find_gpu(self, name: str) -> Gpu:
        key = gpu_key(name)
        if (known := self._gpu_names.get(key)) is None:
            raise UnknownName(_unknown("GPU", name, key, self._gpu_names, "gpus"))
        row = {part: value for part, value in self._gpus[known].items() if part != "aliases"}
        try:
            return Gpu(name=known, **row)
        except TypeError as error:
            raise BadCatalogue(f"[gpus.{known!r}]: {error}") from None

    def _find_model(self, name: str) -> NamedModel:
        bare, quantization, says = quantization_in(name)
        key = model_key(bare)
        known = self._model_names.get(key) or self._model_names.get(key.rsplit("/")[-1])
        if known is None:
            raise UnknownName(_unknown("model", name, key.rsplit("/")[-1], self._model_names, "models"))
        row = self._models[known]
        try:
            shape, weights = ModelShape(**row["shape"]), quantization if says else row.get("quantization")
            return NamedModel(known, shape, row["params_b"], weights, row["source"])
        except (TypeError, LookupError) as error:
            raise BadCatalogue(f"[models.{known!r}]: {error}") from None

    def machines(self) -> tuple[PricedMachine, ...]:
        """What can be rented, each at its newest price."""
        return tuple(machine for machine in newest(self.prices) if machine.offered)

    def price_of_hardware(self, asked: str) -> Price:
        """`asked` is a machine's name, and where that is not enough its region and kind: "name@region spot".

        Raises:
            UnknownPrice: no machine has that name, or it costs differently by region.
        """
        return price_among(self.prices, asked)

    @cached_property
    def prices(self) -> tuple[PricedMachine, ...]:
        """Every row of the price lists, old ones and figures of the market as well."""
        ours = _shipped("prices.toml")
        sources = {**ours["sources"], **self.own.get("sources", {})}
        rows, own = ours["machines"], self.own.get("machines", [])
        named = {_offer(row) for row in own}
        try:
            found = [machine_of(row, sources) for row in [*(r for r in rows if _offer(r) not in named), *own]]
        except (TypeError, LookupError, ArithmeticError) as error:
            raise BadCatalogue(f"machines: {error}") from None
        # A machine says "H100", its GPU's row has another name: whoever brings the two together needs one.
        return tuple(one if one.gpu is None else replace(one, gpu=self.gpu(one.gpu).name) for one in found)

    @property
    def gpu_names(self) -> tuple[str, ...]:
        return tuple(self._gpus)

    @property
    def model_names(self) -> tuple[str, ...]:
        return tuple(self._models)

    @cached_property
    def _gpus(self) -> Mapping[str, Any]:
        return {**_shipped("gpus.toml")["gpus"], **self.own.get("gpus", {})}

    @cached_property
    def _gpu_names(self) -> Mapping[str, str]:
        return by_key(_shipped("gpus.toml")["gpus"], gpu_key) | by_key(self.own.get("gpus", {}), gpu_key)

    @cached_property
    def _models(self) -> Mapping[str, Any]:
        return {**_shipped("models.toml")["models"], **self.own.get("models", {})}

    @cached_property
    def _model_names(self) -> Mapping[str, str]:
        return by_key(_shipped("models.toml")["models"], model_key) | by_key(self.own.get("models", {}), model_key)


def _by_our_names(own: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row whose name is one of ours in another spelling goes by ours, and so takes its place."""
    settled = dict(own)
    for table, key_of in (("gpus", gpu_key), ("models", model_key)):
        ours = {key_of(name): name for name in _shipped(f"{table}.toml")[table]}
        settled[table] = {ours.get(key_of(name), name): row for name, row in own.get(table, {}).items()}
    return settled


@cache
def _shipped(file: str) -> dict[str, Any]:
    return tomllib.loads(files("optimizer.catalogue").joinpath(file).read_text(encoding="utf-8"))


def _unknown(kind: str, name: str, key: str, names: Mapping[str, str], table: str) -> str:
    close = ", ".join(nearest(key, names))
    return (
        f"{kind} {name!r} is not in the catalogue; nearest: {close or 'none'}. To add it, give a TOML file of your own "
        f"(--catalogue, or a job's price.catalogue) with a table [{table}.{name!r}], written as those in "
        f"optimizer/catalogue/{table}.toml"
    )


def _offer(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a row of the user's own replaces, whatever the date of ours."""
    return row.get("name"), row.get("region"), row.get("spot", False)


@cache
def shipped() -> Catalogue:
    return Catalogue.load()


def gpu(name: str) -> Gpu:
    """Raises UnknownName."""
    return shipped().gpu(name)


def model(name: str) -> NamedModel:
    """Raises UnknownName."""
    return shipped().model(name)


def machines() -> tuple[PricedMachine, ...]:
    return shipped().machines()


def price_of_hardware(asked: str) -> Price:
    """Raises UnknownPrice."""
    return shipped().price_of_hardware(asked)
