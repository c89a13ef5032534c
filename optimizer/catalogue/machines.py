"""What an hour of a machine costs. Each price has its source and date; an unknown name is an error, never free."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from optimizer.catalogue.names import UnknownName
from serving.records import Price


class UnknownPrice(UnknownName):
    """A machine was named that the price list does not have, or has at several prices."""


@dataclass(frozen=True, slots=True)
class PricedMachine:
    """A whole machine, as it is rented."""

    name: str  # "aws/p5.48xlarge"; "lambda/h100-sxm-80gb x8" where the provider has no name for it
    provider: str
    gpu: str | None  # by its name in the catalogue; None: a CPU machine
    gpus: int
    usd_per_hour: Decimal
    spot: bool  # cheaper, and it can be taken away
    region: str | None
    as_of: str  # ISO date, or the year where the source says no more
    source: str
    offered: bool = True  # False: a figure of the market, at which no machine can be had
    unchecked: bool = False  # the number of GPUs is not checked

    @property
    def hardware(self) -> str:
        """What names this price alone in a job file: "azure/Standard_ND96isr_H200_v5@eastus2 spot"."""
        return self.name + (f"@{self.region}" if self.region else "") + (" spot" if self.spot else "")


def machine_of(row: Mapping[str, Any], sources: Mapping[str, str]) -> PricedMachine:
    """Raises LookupError or TypeError where the row lacks something."""
    if not isinstance(row["usd_per_hour"], str):
        raise TypeError('usd_per_hour must be text, such as "1.006", so that no float touches it')
    return PricedMachine(
        name=row["name"],
        provider=row["name"].partition("/")[0],
        gpu=row.get("gpu"),
        gpus=row.get("gpus", 0),
        usd_per_hour=Decimal(row["usd_per_hour"]),
        spot=row.get("spot", False),
        region=row.get("region"),
        as_of=row["as_of"],
        source=sources.get(row["source"], row["source"]),
        offered=row.get("offered", True),
        unchecked=row.get("unchecked", False),
    )


def newest(machines: Iterable[PricedMachine]) -> tuple[PricedMachine, ...]:
    """One for each name, region and kind; of two of one day, the later in the list."""
    of: dict[str, PricedMachine] = {}
    for machine in machines:
        if machine.hardware not in of or of[machine.hardware].as_of <= machine.as_of:
            of[machine.hardware] = machine
    return tuple(of.values())


def price_among(machines: Iterable[PricedMachine], asked: str) -> Price:
    """`asked` is a machine's name, and where that is not enough its region and kind: "name@region spot".

    Raises:
        UnknownPrice: none has that name, or it costs differently by region.
    """
    rest, spot = asked.removesuffix(" spot"), asked.endswith(" spot")
    name, _, region = rest.partition("@")
    machines = newest(machines)
    found = [one for one in machines if one.name == name and one.spot == spot and region in ("", one.region)]
    if not found:
        raise UnknownPrice(f"price.hardware = {asked!r} has no price; {_hint(name, {one.name for one in machines})}")
    if len({one.usd_per_hour for one in found}) > 1:
        choices = ", ".join(f"{one.hardware!r} ({one.usd_per_hour} USD)" for one in found)
        raise UnknownPrice(f"price.hardware = {asked!r} costs differently by region; write one of {choices}")
    return Price(found[0].source, found[0].as_of, usd_per_hour=found[0].usd_per_hour)


def _hint(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"
    return f"{hint} Or set price.usd_per_hour"
