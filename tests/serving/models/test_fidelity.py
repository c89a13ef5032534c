"""How near two models are: the figures by hand, on tiny models, and with what a quantized model rounds at run time."""

from math import exp, log
from pathlib import Path
from typing import Any

import pytest

from serving.models.fidelity import Distance, common_prefix, compare, distance, greedy, load, summarise
from serving.models.folder import ModelFolder
from serving.models.quantize.schemes import SCHEMES
from serving.models.quantize.write import fit, quantize
from tests.serving.models.tiny import prompts, save_model

pytest.importorskip("compressed_tensors")


def test_the_shares_are_of_answers_and_the_means_of_tokens() -> None:
    answers = [(1, 2, 3, 4), (5,)]
    others = [(1, 2, 9, 4), (5,)]
    distances = [Distance(4, 3, 0.8, 4 * log(0.5), 4 * log(0.25)), Distance(1, 1, 0.2, log(0.5), log(0.25))]

    found = summarise(answers, others, distances)

    assert (found.tokens, found.exact_share) == (5, 0.5)
    assert found.prefix_share == (2 / 4 + 1 / 1) / 2
    assert found.top1_share == 4 / 5
    assert found.mean_kl_nats == pytest.approx(1.0 / 5)
    assert (found.full_perplexity, found.perplexity) == (pytest.approx(2), pytest.approx(4))


@pytest.mark.parametrize(("other", "length"), [((1, 2, 3), 3), ((1, 2), 2), ((1, 2, 3, 4), 3), ((2, 2, 3), 0), ((), 0)])
def test_the_prefix_ends_at_the_first_token_that_differs(other: tuple[int, ...], length: int) -> None:
    assert common_prefix((1, 2, 3), other) == length


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load(folder)


def test_a_model_agrees_with_itself_in_everything(folder: Path) -> None:
    found = compare(folder, folder, prompts(5), lambda message: None)

    assert (found.exact_share, found.prefix_share, found.top1_share) == (1.0, 1.0, 1.0)
    assert found.mean_kl_nats == pytest.approx(0, abs=1e-12)
    assert found.perplexity == found.full_perplexity > 1


def test_the_distance_is_the_formula_of_the_logits(folder: Path, model: Any, tmp_path: Path) -> None:
    """Position by position, with the whole prefix run anew each time."""
    import torch

    other, (prompt,) = load(save_model(tmp_path / "other", seed=1)), prompts(1)
    answer = (40, 50, 60)
    kl, top1, likelihoods = 0.0, 0, [0.0, 0.0]
    for place, token in enumerate(answer):
        ids = torch.tensor([[*prompt.token_ids, *answer[:place]]])
        with torch.inference_mode():
            p, q = (one(input_ids=ids).logits[0, -1].double().softmax(-1).tolist() for one in (model, other))
        kl += sum(a * log(a / b) for a, b in zip(p, q, strict=True))
        top1 += p.index(max(p)) == q.index(max(q))
        likelihoods = [likelihoods[0] + log(p[token]), likelihoods[1] + log(q[token])]

    found = distance(model, other, prompt, answer)

    assert (found.tokens, found.same_top1) == (3, top1)
    assert found.kl_nats == pytest.approx(kl, rel=1e-4)
    assert found.kl_nats > 0.1
    assert (found.full_log_likelihood, found.log_likelihood) == tuple(
        pytest.approx(sum_, rel=1e-4) for sum_ in likelihoods
    )


def test_answers_do_not_depend_on_who_is_in_the_batch(model: Any) -> None:
    rows = prompts(5)
    assert greedy(model, rows) == [answer for row in rows for answer in greedy(model, [row])]


def test_an_answer_ends_with_its_end_token_or_at_its_own_limit(model: Any) -> None:
    from dataclasses import replace

    rows = [replace(row, max_tokens=3 + row.row) for row in prompts(4)]
    free = greedy(model, rows)
    assert [len(answer) for answer in free] == [3, 4, 5, 6]
    model.generation_config.eos_token_id = free[3][2]
    try:
        ended = greedy(model, rows)
    finally:
        model.generation_config.eos_token_id = 2
    assert ended[3] == free[3][: free[3].index(free[3][2]) + 1]


def test_activations_are_rounded_where_the_scheme_rounds_them(folder: Path, tmp_path: Path) -> None:
    """Per token: scale = max(|x|) / 127.5, q = round(x / scale); a scheme with 16-bit activations keeps them."""
    import torch

    for scheme, rounds in (("w8a8", True), ("w8a16", False)):
        quantize(fit(ModelFolder.open(folder), SCHEMES[scheme], False, None), tmp_path / scheme)
        layer = load(tmp_path / scheme).model.layers[0].mlp.gate_proj
        x = torch.randn(1, 7, 64, generator=torch.Generator().manual_seed(0))
        step = x.abs().amax(-1, keepdim=True) / 127.5
        rounded = (x / step).round().clamp(-128, 127) * step
        expected = (rounded if rounds else x) @ layer.weight.float().T
        with torch.inference_mode():
            assert torch.allclose(layer(x), expected, atol=1e-5), scheme


def test_int8_is_near_and_nearer_than_another_model(folder: Path, tmp_path: Path) -> None:
    quantize(fit(ModelFolder.open(folder), SCHEMES["w8a8"], False, None), tmp_path / "w8a8")
    other = save_model(tmp_path / "other", seed=1)

    near, far = (compare(folder, one, prompts(6), lambda message: None) for one in (tmp_path / "w8a8", other))

    assert 0 < near.mean_kl_nats < 0.01 < far.mean_kl_nats
    assert near.top1_share > 0.9 > far.top1_share
    assert near.perplexity / near.full_perplexity == pytest.approx(1, abs=0.05)
    assert exp(near.mean_kl_nats) < far.perplexity
