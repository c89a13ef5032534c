"""Jobs, wishes and a few machines that the tests of the search share."""

from dataclasses import replace
from decimal import Decimal
from functools import cache

from optimizer.catalogue.catalogue import gpu, machines, model
from optimizer.catalogue.machines import PricedMachine
from optimizer.planner.found import Found
from optimizer.planner.job import Job, TokenCounts, Wish
from optimizer.planner.search import search

CHATTY = Job(
    100_000,
    TokenCounts.of_percentiles(600, {50: 450, 90: 1200, 99: 2500}),
    TokenCounts.of_percentiles(180, {50: 140, 90: 380, 99: 700}),
)
SMALL = Job(200, TokenCounts.fixed(300), TokenCounts.fixed(100))
ANYTHING = Wish(weights=("bf16", "fp8"), kv_dtypes=("auto", "fp8"), most_machines=8)


def machine(gpu_name: str, gpus: int, usd_per_hour: str, spot: bool = False) -> PricedMachine:
    name = f"test/{gpu_name} x{gpus}"
    return PricedMachine(name, "test", gpu_name, gpus, Decimal(usd_per_hour), spot, None, "2026-01-01", "a/test")


FEW = (
    machine("L4", 1, "0.80"),
    machine("L40S", 4, "7.50"),
    machine("A100-SXM4-80GB", 1, "2.00"),
    machine("H100-SXM-80GB", 1, "3.50"),
    machine("H100-SXM-80GB", 8, "24.00"),
    machine("H100-SXM-80GB", 8, "11.00", spot=True),
)


def cheaper(fleet: tuple[PricedMachine, ...], place: int, factor: str) -> tuple[PricedMachine, ...]:
    changed = replace(fleet[place], usd_per_hour=fleet[place].usd_per_hour * Decimal(factor))
    return (*fleet[:place], changed, *fleet[place + 1 :])


@cache
def found(
    wish: Wish = ANYTHING,
    job: Job = CHATTY,
    name: str = "Llama-3.1-8B",
    fleet: tuple[PricedMachine, ...] = FEW,
    simulated: bool = False,
) -> Found:
    return search(model(name).shape, job, wish, fleet, gpu, simulated=simulated)


def usd(found: Found) -> float:
    assert found.chosen is not None
    return found.chosen.prediction.cost_usd.value


def everything_rented() -> tuple[PricedMachine, ...]:
    return machines()
