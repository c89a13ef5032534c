"""How near a quantized model stays to the full one: its own greedy answers, and its next-token distributions.

Both models run in float32 through transformers; weights are as the quantized folder stores them, activations rounded to
the same grid as at run time. For each held-out prompt the full model answers greedily, t_1..t_n. Then, at every
position i of that answer, with p_i and q_i the next-token distributions of the full and the quantized model after
prompt, t_1..t_(i-1):

    mean KL = mean of sum_v p_i(v) ln(p_i(v) / q_i(v))     top-1 = share of i with argmax p_i = argmax q_i
    perplexity = exp(-mean of ln p_i(t_i)), and the same with q_i

and, of the answer u that the quantized model gives greedily by itself, prefix = (tokens before the first that differs)
/ n, and exact = share of answers with u = t.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import exp
from pathlib import Path
from typing import Any

from serving.models.json_file import read_object
from serving.models.quietly import quietly
from serving.models.sample import Prompt

BATCH_ROWS = 8


@dataclass(frozen=True, slots=True)
class Agreement:
    """The figures of one comparison; see serving.models.record.Fidelity for what each means."""

    tokens: int
    exact_share: float
    prefix_share: float
    top1_share: float
    mean_kl_nats: float
    full_perplexity: float
    perplexity: float


Answer = tuple[int, ...]


def compare(full: Path, quantized: Path, prompts: Sequence[Prompt], say: Callable[[str], None]) -> Agreement:
    """Memory: both models in float32, and the logits of one row."""
    full_model, quantized_model = load(full), load(quantized)
    say(f"the full model answers {len(prompts)} held-out rows")
    answers = greedy(full_model, prompts)
    say("the quantized model answers them")
    others = greedy(quantized_model, prompts)
    say("both continue the full model's answers, token by token")
    pairs = zip(prompts, answers, strict=True)
    return summarise(answers, others, [distance(full_model, quantized_model, *pair) for pair in pairs])


@dataclass(frozen=True, slots=True)
class Distance:
    """Sums over the tokens of one answer."""

    tokens: int
    same_top1: int
    kl_nats: float
    full_log_likelihood: float
    log_likelihood: float


def summarise(answers: Sequence[Answer], others: Sequence[Answer], distances: Sequence[Distance]) -> Agreement:
    pairs = list(zip(answers, others, strict=True))
    tokens = sum(distance.tokens for distance in distances)
    return Agreement(
        tokens=tokens,
        exact_share=sum(answer == other for answer, other in pairs) / len(pairs),
        prefix_share=sum(common_prefix(answer, other) / len(answer) for answer, other in pairs) / len(pairs),
        top1_share=sum(distance.same_top1 for distance in distances) / tokens,
        mean_kl_nats=sum(distance.kl_nats for distance in distances) / tokens,
        full_perplexity=exp(-sum(distance.full_log_likelihood for distance in distances) / tokens),
        perplexity=exp(-sum(distance.log_likelihood for distance in distances) / tokens),
    )


def common_prefix(answer: Answer, other: Answer) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(answer, other, strict=False)))


def greedy(model: Any, prompts: Sequence[Prompt]) -> list[Answer]:
    """Each answer with its end token, if it came to one; never empty."""
    import torch
    from transformers import GenerationConfig

    ends = _end_tokens(model)
    answers = []
    for start in range(0, len(prompts), BATCH_ROWS):
        batch = prompts[start : start + BATCH_ROWS]
        widest = max(len(prompt.token_ids) for prompt in batch)
        # padded on the left and masked, so that every answer begins in the same column
        ids = torch.tensor([[0] * (widest - len(p.token_ids)) + list(p.token_ids) for p in batch])
        mask = torch.tensor([[0] * (widest - len(p.token_ids)) + [1] * len(p.token_ids) for p in batch])
        most = max(prompt.max_tokens for prompt in batch)
        how = {"do_sample": False, "max_new_tokens": most, "eos_token_id": sorted(ends) or None, "pad_token_id": 0}
        config: Any = GenerationConfig(**how)  # type: ignore[no-untyped-call]
        with quietly(), torch.inference_mode():
            made = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        rows = zip(made[:, widest:].tolist(), batch, strict=True)
        answers += [_ended(tuple(row[: prompt.max_tokens]), ends) for row, prompt in rows]
    return answers


def _ended(answer: Answer, ends: frozenset[int]) -> Answer:
    end = next((place for place, token in enumerate(answer) if token in ends), len(answer))
    return answer[: end + 1]


def _end_tokens(model: Any) -> frozenset[int]:
    given = model.generation_config.eos_token_id
    return frozenset() if given is None else frozenset([given] if isinstance(given, int) else given)


def distance(full: Any, quantized: Any, prompt: Prompt, answer: Answer) -> Distance:
    import torch

    ids = torch.tensor([[*prompt.token_ids, *answer]])
    target = torch.tensor(answer)[:, None]
    with torch.inference_mode():
        p, q = (
            model(input_ids=ids, logits_to_keep=len(answer) + 1).logits[0, :-1].double().log_softmax(-1)
            for model in (full, quantized)
        )
    return Distance(
        tokens=len(answer),
        same_top1=int((p.argmax(-1) == q.argmax(-1)).sum()),
        kl_nats=float((p.exp() * (p - q)).sum()),
        full_log_likelihood=float(p.gather(1, target).sum()),
        log_likelihood=float(q.gather(1, target).sum()),
    )


def load(folder: Path) -> Any:
    """In float32, with quantized weights read back once; what was rounded at run time still is."""
    import torch
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    settings: dict[str, Any] = {"dtype": torch.float32}
    if "quantization_config" in read_object(folder / "config.json"):
        settings["quantization_config"] = CompressedTensorsConfig(dequantize=True)
    with quietly(), warnings.catch_warnings(action="ignore"):  # that what is asked for is taken
        model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, **settings)
    return model.eval()
