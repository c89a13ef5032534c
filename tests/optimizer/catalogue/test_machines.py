"""The price list: every row says where and when it was read, and an unknown name is an error."""

import re
from collections import Counter
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from optimizer.catalogue.catalogue import BadCatalogue, Catalogue, gpu, machines, price_of_hardware, shipped
from optimizer.catalogue.machines import PricedMachine, UnknownPrice

EVERY_ROW = pytest.mark.parametrize(
    "machine", shipped().prices, ids=lambda machine: f"{machine.hardware} {machine.as_of}"
)


@EVERY_ROW
def test_every_price_has_a_source_that_is_spelled_out(machine: PricedMachine) -> None:
    assert "/" in machine.source


@EVERY_ROW
def test_every_price_has_the_date_it_was_read_or_its_year(machine: PricedMachine) -> None:
    assert machine.as_of == "2025" or date.fromisoformat(machine.as_of) >= date(2025, 1, 1)


@EVERY_ROW
def test_every_machine_costs_something(machine: PricedMachine) -> None:
    assert machine.usd_per_hour > 0


@EVERY_ROW
def test_a_machine_has_gpus_of_the_catalogue_or_none(machine: PricedMachine) -> None:
    if machine.gpu is None:
        assert machine.gpus == 0
    else:
        assert machine.gpus >= 1
        assert gpu(machine.gpu).name == machine.gpu


@pytest.mark.parametrize("machine", machines(), ids=lambda machine: machine.hardware)
def test_what_can_be_rented_is_priced_by_what_names_it_alone(machine: PricedMachine) -> None:
    price = price_of_hardware(machine.hardware)
    assert price.bills_time
    assert (price.usd_per_hour, price.source, price.as_of) == (machine.usd_per_hour, machine.source, machine.as_of)


def test_what_can_be_rented_has_one_price_for_each_name_region_and_kind() -> None:
    assert set(Counter(machine.hardware for machine in machines()).values()) == {1}


def test_a_price_is_exact() -> None:
    assert price_of_hardware("aws/c7a.large").usd_per_hour == Decimal("0.102640")
    assert price_of_hardware("aws/g5.xlarge").usd_per_hour == Decimal("1.006000")


def test_of_two_dates_the_newer_counts() -> None:
    # RunPod's H100 by the hour: 2.69 on 2026-08-19 and on 2026-09-25, secure 3.29 and then 3.49.
    assert price_of_hardware("runpod/h100-sxm-80gb x1 secure").usd_per_hour == Decimal("3.49")


def test_spot_is_asked_for_by_name() -> None:
    assert price_of_hardware("gcp/a3-highgpu-1g").usd_per_hour == Decimal("10.9791")
    assert price_of_hardware("gcp/a3-highgpu-1g spot").usd_per_hour == Decimal("6.571")


def test_a_machine_that_costs_differently_by_region_wants_one_named() -> None:
    with pytest.raises(UnknownPrice, match=r"costs differently by region; write one of .*@swedencentral' \(110\.27"):
        price_of_hardware("azure/Standard_ND96isr_H200_v5")
    assert price_of_hardware("azure/Standard_ND96isr_H200_v5@westus3").usd_per_hour == Decimal("84.800000")


def test_a_figure_of_the_market_is_listed_but_not_for_rent() -> None:
    averages = {machine.name for machine in shipped().prices if not machine.offered}
    assert "lambda/h100 x1 average" in averages
    assert not averages & {machine.name for machine in machines()}


def test_an_unpriced_machine_is_an_error_not_free() -> None:
    with pytest.raises(UnknownPrice, match=r"price.hardware = 'my-own-box' has no price; known: aws/"):
        price_of_hardware("my-own-box")


def test_a_name_that_nothing_is_near_to_lists_all_that_are_known() -> None:
    names = sorted({machine.name for machine in shipped().prices})
    with pytest.raises(UnknownPrice, match=re.escape(", ".join(names))):
        price_of_hardware("my-own-box")


def test_a_misspelled_machine_names_the_nearest_one() -> None:
    with pytest.raises(UnknownPrice, match=r"did you mean 'aws/c7a\.large'\?"):
        price_of_hardware("aws/c7a.lagre")


def test_a_users_own_price_takes_the_place_of_ours(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(
        '[[machines]]\nname = "aws/p5.48xlarge"\ngpu = "H100-SXM-80GB"\ngpus = 8\nusd_per_hour = "30"\n'
        'region = "us-east-1"\nas_of = "2024-01-01"\nsource = "our contract"\n'
    )
    price = Catalogue.load(tmp_path / "own.toml").price_of_hardware("aws/p5.48xlarge")
    assert (price.usd_per_hour, price.source) == (Decimal(30), "our contract")


def test_a_price_that_is_a_float_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(
        '[[machines]]\nname = "own/box"\nusd_per_hour = 1.1\nas_of = "2026-01-01"\nsource = "ours"\n'
    )
    with pytest.raises(BadCatalogue, match=r"usd_per_hour = 1\.1: must be an amount above 0 as text"):
        Catalogue.load(tmp_path / "own.toml")
