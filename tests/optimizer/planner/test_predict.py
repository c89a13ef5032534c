"""A row of measurements in, a prediction or a reason out."""

import time

import pytest

from optimizer.planner.predict import Prediction, predict, predict_all

ROW = {
    "engine": "vLLM", "engine_version": "0.11.0", "model": "meta-llama/Llama-3.1-8B-Instruct", "params_b": "8.0",
    "gpu": "H100-SXM-80GB", "num_gpus": "1", "tp": "1", "pp": "1", "weight_dtype": "bf16", "kv_dtype": "auto",
    "isl": "1024", "osl": "256", "concurrency_or_batch": "offline (all requests queued at t=0)",
    "metric": "output_throughput_total", "unit": "output_tok/s",
}  # fmt: skip


def told(**changed: str) -> Prediction:
    found = predict(ROW | changed)
    assert found.predicted is not None, found.reason
    return found


@pytest.mark.parametrize(
    ("metric", "unit"),
    [
        ("total_token_throughput", "(in+out) tok/s"),
        ("output_throughput_total", "output_tok/s"),
        ("output_throughput_per_gpu", "output_tok/s/gpu"),
        ("mlperf_offline_tokens_per_s", "output_tok/s (system)"),
        ("output_throughput_bs1", "output_tok/s"),
        ("offline_job_makespan", "ns"),
        ("request_throughput", "req/s"),
        ("mean_or_median_ttft", "ms"),
        ("mean_or_median_tpot", "ms"),
        ("itl_mean", "ms"),
        ("e2e_mean", "ms"),
        ("e2e_p99", "ms"),
        ("ttft_mean", "ms"),
        ("num_gpu_blocks", "blocks"),
        ("kv_cache_tokens", "tokens"),
    ],
)
def test_every_metric_has_an_answer_inside_its_bounds(metric: str, unit: str) -> None:
    batch = "32" if metric.startswith(("mean", "itl", "e2e", "ttft", "total")) else ROW["concurrency_or_batch"]
    found = told(metric=metric, unit=unit, concurrency_or_batch=batch)
    assert found.low_90 is not None
    assert found.high_90 is not None
    assert 0 < found.low_90 < (found.predicted or 0) < found.high_90
    assert found.fits_memory


def test_a_blank_tensor_parallelism_is_that_of_all_gpus() -> None:
    both = [told(num_gpus="4", tp=tp, model="Llama-3.1-70B").predicted for tp in ("", "4")]
    assert both[0] == both[1]


def test_gpus_beyond_one_model_run_replicas() -> None:
    one, four = told().predicted, told(num_gpus="4").predicted
    assert one is not None
    assert four is not None
    assert 3.3 < four / one < 4


def test_a_throughput_for_each_gpu_is_that_of_all_over_their_number() -> None:
    whole = told(num_gpus="4", tp="4", model="Llama-3.1-70B").predicted
    each = told(
        num_gpus="4", tp="4", model="Llama-3.1-70B", metric="output_throughput_per_gpu", unit="output_tok/s/gpu"
    )
    assert each.predicted == pytest.approx((whole or 0) / 4)


def test_milliseconds_are_a_thousand_times_seconds() -> None:
    in_ms = told(metric="itl_mean", unit="ms", concurrency_or_batch="16").predicted
    assert in_ms == pytest.approx(1000 * (told(metric="itl_mean", unit="s", concurrency_or_batch="16").predicted or 0))


def test_a_model_too_large_for_its_gpu_is_said_not_to_fit() -> None:
    assert predict(ROW | {"model": "Llama-3.1-70B"}).fits_memory is False


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"gpu": "Abacus 3000"}, "Abacus"),
        ({"model": "nobody/nothing-1b-of-mine"}, "nothing"),
        ({"osl": ""}, "length"),
        ({"metric": "happiness", "unit": "smiles"}, "happiness"),
        ({"weight_dtype": "ternary"}, "ternary"),
    ],
)
def test_what_cannot_be_told_says_why(changed: dict[str, str], word: str) -> None:
    found = predict(ROW | changed)
    assert found.predicted is None
    assert word in found.reason


def test_a_version_newer_than_any_measured_is_predicted_as_the_newest() -> None:
    assert told(engine_version="0.99.0").predicted == pytest.approx(told(engine_version="0.19.0").predicted, rel=0.1)


def test_ten_thousand_rows_are_priced_in_seconds() -> None:
    rows = [ROW | {"isl": str(100 + place % 997), "num_gpus": str(2 ** (place % 4))} for place in range(10_000)]
    began = time.process_time()
    assert all(found.predicted for found in predict_all(rows))
    assert time.process_time() - began < 8
