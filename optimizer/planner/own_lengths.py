"""How long answers will be, drawn from those to the most similar of the prompts that have been answered."""

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
NEIGHBOURS = 12  # answers that one is drawn from: few enough to be alike, enough to differ


def drawn_like(
    seen: Counts, prompt_tokens: Counts, most_tokens: Counts, generator: np.random.Generator, resampled: bool = True
) -> Counts:
    """Output tokens of each request. `seen` is (n, 3): prompt tokens, the most output tokens allowed, output tokens.

    Two requests are alike by the logarithms of what they may put out and of their prompts. An answer that was cut off
    would have gone on, so it stands for one that is as long as its request allows. With `resampled`, what was seen is
    itself drawn with replacement first (the bootstrap, Efron 1979), so that a few answers are trusted less than many.
    """
    if resampled:
        seen = seen[generator.integers(0, len(seen), len(seen))]
    here, there = _place(prompt_tokens, most_tokens), _place(seen[:, 0], seen[:, 1])
    count = min(NEIGHBOURS, len(seen))
    nearest = np.empty((len(here), count), np.int64)
    for start in range(0, len(here), 4096):
        block = here[start : start + 4096]
        far = ((block[:, None, :] - there[None, :, :]) ** 2).sum(axis=2)
        nearest[start : start + 4096] = np.argpartition(far, count - 1, axis=1)[:, :count]
    chosen = seen[nearest[np.arange(len(here)), generator.integers(0, count, len(here))]]
    cut_off = chosen[:, 2] >= chosen[:, 1]
    lengths: Counts = np.maximum(1, np.where(cut_off, most_tokens, np.minimum(chosen[:, 2], most_tokens)))
    return lengths


def _place(prompt_tokens: Counts, most_tokens: Counts) -> NDArray[np.float64]:
    """What a request may put out tells more of its answer than how long its prompt is."""
    return np.stack([np.log(np.maximum(prompt_tokens, 1)), 2 * np.log(np.maximum(most_tokens, 1))], axis=1)
