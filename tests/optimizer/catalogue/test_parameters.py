"""Each shape of the catalogue adds up to the parameters that its model is known to have: what catches a wrong row."""

import pytest

from optimizer.catalogue.catalogue import model, shipped
from optimizer.catalogue.parameters import parameters

# Active parameters in 10**9 as their makers publish them; gpt-oss counts without the embedding's 0.58.
ACTIVE_B = {
    "Mixtral-8x7B": 12.9,
    "Qwen3-30B-A3B": 3.3,
    "Qwen3-235B-A22B": 22.0,
    "DeepSeek-V3": 37.0,
    "DeepSeek-V2": 21.0,
    "Kimi-K2": 32.0,
    "gpt-oss-120b": 5.1 + 0.58,
    "gpt-oss-20b": 3.6 + 0.58,
    "Llama-4-Maverick-17B-128E": 17.0,
}


@pytest.mark.parametrize("name", shipped().model_names)
def test_a_shape_has_the_published_number_of_parameters(name: str) -> None:
    found = model(name)
    tolerance = 0.05 if found.shape.experts else 0.03
    assert parameters(found.shape).total / 1e9 == pytest.approx(found.params_b, rel=tolerance)


@pytest.mark.parametrize("name", ACTIVE_B)
def test_of_a_mixture_a_token_passes_the_published_number(name: str) -> None:
    assert parameters(model(name).shape).active / 1e9 == pytest.approx(ACTIVE_B[name], rel=0.05)


def test_of_a_dense_model_a_token_passes_all() -> None:
    count = parameters(model("Llama-3.1-8B").shape)
    assert count.active == count.total


def test_parameters_by_hand() -> None:
    # Llama-3.2-1B, tied: embedding 128256 x 2048 = 262,668,288; a layer's attention 2 x 2048 x 64 x (32 + 8) =
    # 10,485,760 and its MLP 3 x 2048 x 8192 = 50,331,648; 16 layers.
    assert parameters(model("Llama-3.2-1B").shape).total == 262_668_288 + 16 * (10_485_760 + 50_331_648)
