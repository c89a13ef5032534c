"""Which candidates to serve without running them: the surest first, as far as an audit is likely to bear them out.

A candidate is a row that could take another's answer, or a cheaper model's. Those that were audited teach how likely
each of the others is to be served a wrong one; nothing that is promised rests on that. A promise rests on rows drawn
afresh from those that were chosen (optimizer.certificate), so what is learned here can cost a saving and nothing more.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.certificate import Certificate, audits_needed, log_choose
from serving.records import MOST_LOOKS

Floats = NDArray[np.float64]  # (candidates,), or (candidates, features)
Places = NDArray[np.int64]
Flags = NDArray[np.bool_]


MOST_OF_DELTA = 0.99  # that the first look is given, where later ones can do with the rest
FEW = 0.1  # of the rows: so many audits are few enough for a later look
RIDGE = 1.0  # on standardised features: each is worth about nothing until some audits speak for it
GROUP_PRIOR = 1.0  # audits, in variance, that it takes until a group is believed to be another than the rest
FOLDS = 5
NEWTON_STEPS = 30
LEAST_AUDITS = 100  # of a first look, from which later ones learn, where that is no more than a fifth of all
MOST_FOUND = 12  # wrong ones among the audits that a look may be planned to bear
SHARES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01)
LEAST_GAIN = 0.01  # of the candidates: a look that is expected to save less is not worth the wait for it
LEAST_KNOWN = 30  # audited answers that tell what a model's confidence is worth
PARTS = 5  # of a choice, from its surest rows to its last, in each of which what audits found is held against chances
PRIOR_ROWS = 4.0  # audits that the learned chances of a part count for


@dataclass(frozen=True, slots=True)
class Choice:
    chosen: Flags
    audits: int  # to draw among them
    chance_wrong: Floats  # of every candidate; NaN where nothing was learned yet


def delta_of_look(number: int, rows: int, max_wrong: float, delta: float) -> float:
    """The chance to be wrong that a look may have, of the `delta` of all together; it is shared out before any of them.

    The first is given most of it if later ones can still promise something with the rest: with a hundredth an audit
    takes some three times as many rows, which among many are few. And if they could promise nothing with half of it.
    """
    rest, half = delta * (1 - MOST_OF_DELTA), rows // 2
    many = audits_needed(rows, max_wrong, rest / 2) <= FEW * rows
    hopeless = audits_needed(half, max_wrong, delta / 4) >= half
    later: float = rest if many or hopeless else delta / 2
    if number == 0:
        return delta - later
    return later / float(2 ** min(number, MOST_LOOKS - 2))


def first_choice(free: Flags, max_wrong: float, delta: float) -> Choice | None:
    """All of them, with as few audits as can certify them; None if they are too few for any promise."""
    rows = int(free.sum())
    audits = max(audits_needed(rows, max_wrong, delta), min(LEAST_AUDITS, rows // 5))
    return Choice(free, audits, np.full(len(free), np.nan)) if audits < rows else None


def next_choice(
    features: Floats,
    group: Places,
    audited: Flags,
    wrong: Flags,
    free: Flags,
    drawable: Flags,
    max_wrong: float,
    delta: float,
) -> Choice | None:
    """The set that is expected to save most, after what audits found: `wrong` of the `audited` ones. `free` are those
    that may be chosen, and `drawable` those of them that may be audited. None where no set is expected to save enough.
    """
    chance = chances(features, group, audited, wrong)
    order = np.flatnonzero(free)[np.argsort(chance[free], kind="stable")]
    best = _best(
        chance[order], chance[audited], wrong[audited], np.cumsum(drawable[order]), max_wrong, delta, len(free)
    )
    if best is None:
        return None
    chosen = np.zeros(len(free), np.bool_)
    chosen[order[: best.rows]] = True
    return Choice(chosen, best.audits, chance)


def cascade_pays(
    features: Floats,
    confidence: Floats,
    group: Places,
    audited: Flags,
    wrong: Flags,
    free: Flags,
    drawable: Flags,
    max_wrong: float,
    delta: float,
    cost_ratio: float,
) -> bool:
    """Whether to have a cheaper model answer all that is free, so that how sure it is of each answer can choose.

    Its `confidence` is known of audited rows, NaN of others; they were drawn from all, and stand for them. An answer
    costs `cost_ratio` of one by the full model: in a cascade for all that is free, else for what is served alone.
    """
    rows, known = int(free.sum()), audited & np.isfinite(confidence)
    if known.sum() < LEAST_KNOWN or not wrong[known].any():
        return False
    more = np.column_stack([features, np.where(known, confidence, confidence[known].mean())])
    chance = chances(more, group, known, wrong)
    sample = np.sort(chance[known])
    alike = sample[np.arange(rows) * len(sample) // rows]
    can_be_drawn = np.arange(1, rows + 1) * int(drawable.sum()) // rows
    sure = _best(alike, chance[known], wrong[known], can_be_drawn, max_wrong, delta, len(free))
    if sure is None:
        return False
    by_prompt = chances(features, group, audited, wrong)
    plain = _best(
        np.sort(by_prompt[free]), by_prompt[audited], wrong[audited], can_be_drawn, max_wrong, delta, len(free)
    )
    without = plain.saved * (1 - cost_ratio) if plain else 0.0
    return bool(sure.saved - cost_ratio * rows > max(without, LEAST_GAIN * len(free)))


def chances(features: Floats, group: Places, audited: Flags, wrong: Flags) -> Floats:
    """How likely each candidate is to be served a wrong answer. Of audited ones, as told by the others alone, so that
    they can be held against what was found of them.

    A logistic regression with a ridge (Hoerl and Kennard 1970), and for each group a shift of its own that is shrunk
    towards none.
    """
    spread = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    design = np.column_stack([np.ones(len(features)), scaled])
    places = np.flatnonzero(audited)
    found = _shifted(design, group, places, wrong)
    for fold in range(min(FOLDS, len(places))):
        held = places[fold::FOLDS]
        found[held] = _shifted(design, group, np.setdiff1d(places, held), wrong)[held]
    return found


def _shifted(design: Floats, group: Places, known: Places, wrong: Flags) -> Floats:
    logits = design @ _fitted(design[known], wrong[known])
    expected = _sigmoid(logits[known])
    groups = int(group.max(initial=0)) + 1
    beyond = np.bincount(group[known], wrong[known] - expected, groups)
    variance = np.bincount(group[known], expected * (1 - expected), groups)
    return _sigmoid(logits + (beyond / (variance + GROUP_PRIOR))[group])


def _fitted(design: Floats, wrong: Flags) -> Floats:
    """Newton's steps on the penalised likelihood; half a wrong and half a right answer at the mean keep it finite."""
    mean = np.zeros((2, design.shape[1]))
    mean[:, 0] = 1
    rows, target = np.vstack([design, mean]), np.append(wrong.astype(np.float64), [0.0, 1.0])
    weight = np.append(np.ones(len(wrong)), [0.5, 0.5])
    penalty = np.full(design.shape[1], RIDGE)
    penalty[0] = 0.0
    found = np.zeros(design.shape[1])
    for _ in range(NEWTON_STEPS):
        chance = _sigmoid(rows @ found)
        slope = rows.T @ (weight * (target - chance)) - penalty * found
        curve = (rows * (weight * chance * (1 - chance))[:, None]).T @ rows + np.diag(penalty + 1e-9)
        step = np.linalg.solve(curve, slope)
        found += step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-6:
            break
    return found


def _sigmoid(value: Floats) -> Floats:
    found: Floats = 1 / (1 + np.exp(-np.clip(value, -30, 30)))
    return found


def _belief(chosen: Floats, known: Floats, wrong: Flags) -> tuple[float, float]:
    """A beta distribution of the share of a choice that is wrong, from the chances of its rows, ascending, and those of
    audited ones with what was found. Part by part, since earlier looks may have audited its surest rows most."""
    edges = [float(part[-1]) for part in np.array_split(chosen, PARTS) if len(part)]
    part = np.searchsorted(edges, known)
    within = part < len(edges)
    audited = np.bincount(part[within], minlength=len(edges))
    found = np.bincount(part[within], wrong[within], len(edges))
    expected = np.array([float(some.mean()) for some in np.array_split(chosen, PARTS) if len(some)])
    share = (found + PRIOR_ROWS * expected) / (audited + PRIOR_ROWS)
    mean = min(max(float(share.mean()), 1e-6), 1 - 1e-6)
    variance = float((share * (1 - share) / (audited + PRIOR_ROWS + 1)).mean()) / len(edges)
    size = max(mean * (1 - mean) / max(variance, 1e-12) - 1, 1.0)
    return size * mean, size * (1 - mean)


@dataclass(frozen=True, slots=True)
class _Best:
    rows: int  # the surest so many
    audits: int
    saved: float  # rows that are expected not to be run


def _best(
    chance: Floats,
    known: Floats,
    wrong: Flags,
    can_be_drawn: Places,
    max_wrong: float,
    delta: float,
    candidates: int,
) -> _Best | None:
    """Of the surest so many of these, ascending by chance, those that are expected to save most; `can_be_drawn` is how
    many of the first 1, 2, ... may be audited, and `known` are the chances of audited ones with what was found."""
    best, least = None, LEAST_GAIN * candidates
    for count in sorted({math.ceil(share * len(chance)) for share in SHARES} - {0}):
        belief = _belief(chance[:count], known, wrong)
        for audits, saved in _gains(count, belief, max_wrong, delta):
            if saved > (best.saved if best else least) and audits <= can_be_drawn[count - 1]:
                best = _Best(count, audits, saved)
    return best


def _gains(rows: int, belief: tuple[float, float], max_wrong: float, delta: float) -> list[tuple[int, float]]:
    """(audits, rows that are expected to be saved) for each number of wrong ones that an audit could bear."""
    found = []
    for bearable in range(MOST_FOUND + 1):
        audits = audits_needed(rows, max_wrong, delta, bearable)
        if audits >= rows or not Certificate(rows, audits, bearable, max_wrong, delta).certified:
            break
        passes = sum(_beta_binomial(count, audits, *belief) for count in range(bearable + 1))
        found.append((audits, min(1.0, passes) * (rows - audits)))
    return found


def _beta_binomial(count: int, trials: int, more: float, less: float) -> float:
    return math.exp(log_choose(trials, count) + _log_beta(count + more, trials - count + less) - _log_beta(more, less))


def _log_beta(one: float, other: float) -> float:
    return math.lgamma(one) + math.lgamma(other) - math.lgamma(one + other)
