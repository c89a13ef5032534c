"""Which rows of a dataset a quantization looks at, and which others it is measured on: a seeded draw."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from serving.models.quantize.schemes import BadScheme


@dataclass(frozen=True, slots=True)
class Prompt:
    row: int  # its place in the dataset
    token_ids: tuple[int, ...]
    max_tokens: int  # of its answer


@dataclass(frozen=True, slots=True)
class Drawn:
    """Places in the dataset, in the order they were drawn."""

    calibration: tuple[int, ...]
    held_out: tuple[int, ...]


def draw(different: Sequence[int], admitted: int, calibration_rows: int, held_out_rows: int, seed: int) -> Drawn:
    """From the places of `different` prompts. Held-out rows come first: with one seed they are the same for any scheme,
    however many rows it looks at.

    Raises:
        BadScheme: there are fewer different prompts than are asked for.
    """
    wanted = calibration_rows + held_out_rows
    if len(different) < wanted:
        asked = f"{calibration_rows} to calibrate on and {held_out_rows} to measure on"
        way = "lower --rows or --held-out, or name a job with more rows"
        raise BadScheme(
            f"{len(different)} different prompts in {admitted} admitted rows, but wanted are {asked}; {way}"
        )
    places = list(different)
    random.Random(seed).shuffle(places)  # not sample(), whose first places depend on how many are drawn
    return Drawn(tuple(places[held_out_rows:wanted]), tuple(places[:held_out_rows]))


def check_tokens(prompts: Sequence[Prompt], widest: int) -> None:
    """GPTQ inverts H = 2XX', a square of the layer's width: with fewer tokens than that it has no full rank."""
    tokens = sum(len(prompt.token_ids) for prompt in prompts)
    if tokens < widest:
        few = f"{len(prompts)} rows to calibrate on come to {tokens} tokens"
        raise BadScheme(f"{few}, fewer than the {widest} inputs of the widest layer; raise --rows")
