"""What the planner knows by name: GPUs, models, machines; the shipped tables, and over them a user's own."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from optimizer.catalogue.hardware import Gpu
from optimizer.catalogue.machines import PricedMachine, machine_of, newest, price_among
from optimizer.catalogue.names import UnknownName, by_key, gpu_key, model_key, nearest, quantization_in
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


class BadCatalogue(ValueError):
    """A row has not what its table needs."""


@dataclass(frozen=True)
class Catalogue:
    """Each table is read when first asked for."""

    own: Mapping[str, Any] = field(default_factory=dict)  # tables of the user's, by the names that ours have

    @classmethod
    def load(cls, extra: Path | None = None) -> Self:
        """`extra` is a TOML file with tables as the shipped ones have; its rows add to ours, or take their place."""
        return cls(tomllib.loads(extra.read_text(encoding="utf-8")) if extra else {})

    def gpu(self, name: str) -> Gpu:
        key = gpu_key(name)
        if (known := self._gpu_names.get(key)) is None:
            raise UnknownName(_unknown("GPU", name, key, self._gpu_names, "gpus"))
        row = {part: value for part, value in self._gpus[known].items() if part != "aliases"}
        try:
            return Gpu(name=known, **row)
        except TypeError as error:
            raise BadCatalogue(f"[gpus.{known!r}]: {error}") from None

    def model(self, name: str) -> NamedModel:
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
            return tuple(machine_of(row, sources) for row in [*(r for r in rows if _offer(r) not in named), *own])
        except (TypeError, LookupError, ArithmeticError) as error:
            raise BadCatalogue(f"machines: {error}") from None

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


@cache
def _shipped(file: str) -> dict[str, Any]:
    return tomllib.loads(files("optimizer.catalogue").joinpath(file).read_text(encoding="utf-8"))


def _unknown(kind: str, name: str, key: str, names: Mapping[str, str], table: str) -> str:
    close = ", ".join(nearest(key, names))
    return (
        f"{kind} {name!r} is not in the catalogue; nearest: {close or 'none'}. To add it, give a TOML file of your own "
        f"with a table [{table}.{name!r}], written as those in optimizer/catalogue/{table}.toml"
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
