"""The price list: hardware by name, each price with its source and date. An unknown name is an error, never free."""

import difflib
import tomllib
from decimal import Decimal
from importlib.resources import files

from serving.records import Price


class UnknownPrice(LookupError):
    """A machine was named that the price list does not have."""


def price_of_hardware(name: str) -> Price:
    listed = tomllib.loads(files("optimizer").joinpath("prices.toml").read_text(encoding="utf-8"))
    row = listed["hardware"].get(name)
    if row is None:
        known = sorted(listed["hardware"])
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
        raise UnknownPrice(f"price.hardware = {name!r} has no price; {hint} Or set price.usd_per_hour")
    return Price(listed["sources"][row["source"]], row["as_of"], usd_per_hour=Decimal(row["usd_per_hour"]))
