"""One plan, calibrated: what the search and the simulation of steps stand on."""

import numpy as np

from optimizer.catalogue.catalogue import gpu, model
from optimizer.planner.calibration import shipped
from optimizer.planner.deployment import Deployment, calibrated_cost, groups_of, memory_for
from optimizer.planner.engines import defaults_of
from optimizer.planner.step import Split

H100 = gpu("H100-SXM-80GB")
PLAN = Deployment(model("Llama-3.1-8B").shape, H100, Split(), "auto", "auto")
DEFAULTS = defaults_of("vLLM", "0.19.0", H100)


def test_a_calibrated_step_takes_plain_numbers_and_arrays() -> None:
    cost = calibrated_cost(PLAN, DEFAULTS, "0.19.0")
    one = cost.seconds(512, 512 * 256, 32, 32 * 800)
    many = cost.seconds(np.array([512.0, 0.0]), np.array([512 * 256.0, 0.0]), np.array([32.0, 32.0]), 32 * 800.0)
    assert float(one) == float(np.asarray(many)[0])
    assert 0.005 < float(np.asarray(many)[1]) < float(one) < 0.1


def test_a_version_never_seen_shares_the_constants_of_its_era() -> None:
    known = calibrated_cost(PLAN, defaults_of("vLLM", "0.19.0", H100), "0.19.0")
    newer = calibrated_cost(PLAN, defaults_of("vLLM", "1.7.0", H100), "1.7.0")
    assert known.seconds(0, 0, 64, 64_000) == newer.seconds(0, 0, 64, 64_000)


def test_every_deviation_that_is_shipped_belongs_to_a_kind_of_group() -> None:
    experts = Deployment(model("Mixtral-8x7B").shape, H100, Split(), "auto", "auto")
    groups = {group for plan in (PLAN, experts) for group in groups_of(plan, DEFAULTS, "", served=False)}
    kinds = {group.partition(":")[0] for group in shipped().deviations}
    assert kinds == {group.partition(":")[0] for group in groups} | {"attention"}


def test_constants_stay_within_what_physics_allows() -> None:
    """A read never faster than three quarters of what the kernel was measured to take, nor a product."""
    constants = calibrated_cost(PLAN, DEFAULTS).constants
    assert 0.6 < constants.weight_read < 1.6
    assert 0.6 < constants.compute < 1.8
    assert 0.6 < constants.kv_read < 2.0


def test_a_step_too_large_for_the_memory_is_made_smaller() -> None:
    big = Deployment(model("Qwen2.5-72B").shape, gpu("A100-SXM4-80GB"), Split(2), "auto", "auto")
    assert memory_for(big, defaults_of("vLLM", "0.6.0", big.gpu, 32768)).activations < 1


def test_engine_v0_has_less_room_for_the_cache_over_several_gpus() -> None:
    """As many sequences of 512, 1,024 and 2,048 tokens in and out as ran at once on four A100 take 8,400 tokens."""
    tight = Deployment(model("Llama-2-70B").shape, gpu("A100-SXM4-40GB"), Split(4), "fp16", "fp16")
    old, new = (
        memory_for(tight, defaults_of("vLLM", version, tight.gpu, 4096)).kv_tokens() for version in ("0.5.3", "0.19.0")
    )
    assert 8000 < old < 8800
    assert new > 2 * old
