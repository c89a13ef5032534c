"""`gristmill models quantize`: a smaller copy of a model, made with rows of the user's own, and measured on others."""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from flows.rows import DrawnRows, draw_rows
from flows.terminal import in_columns
from serving.config import load_job
from serving.engines.machine import Machine, this_machine
from serving.models.fidelity import compare
from serving.models.folder import FolderExists, ModelFolder
from serving.models.quantize.apart import PYTHON
from serving.models.quantize.schemes import SCHEMES, BadScheme
from serving.models.quantize.write import CalibrationRows, Recipe, fit, quantize
from serving.models.record import Calibration, Fidelity, add_fidelity
from serving.models.sample import Prompt, check_tokens
from serving.models.speed import Speed, measure_speed
from serving.records import EngineDied

Say = Callable[[str], None]
MAX_ANSWER_TOKENS = 64  # of a held-out row: by then two greedy answers have parted, or will not soon


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asks for."""

    source: Path
    target: Path
    scheme: str
    calibrate: Path | None = None  # a job file, whose rows are looked at and, others of them, measured on
    measure: Path | None = None  # a job file, whose rows are only measured on
    rows: int = 256
    held_out: int = 64
    seed: int = 0
    group_size: int | None = None  # 0: one scale for a whole output channel; None: what fits
    speed: bool = False
    python: Path = PYTHON
    log: Path | None = None

    @property
    def job(self) -> Path | None:
        return self.calibrate or self.measure


def make_quantized(wish: Wish, say: Say) -> Fidelity | None:
    """Write the copy and, where a job names rows, measure it and put the figures into its record.

    Raises:
        BadModelFolder, FolderExists, BadScheme, BadInput, BadJob: nothing was written.
        QuantizationFailed: the process that calibrates ended without a model.
    """
    if wish.target.exists():
        raise FolderExists(f"{wish.target} already exists; delete or move it first, or name another folder")
    if wish.speed and wish.job is None:
        raise BadScheme("--speed runs held-out rows through the engine; name their job with --measure JOB.toml")
    source = ModelFolder.open(wish.source)
    recipe = fit(source, SCHEMES[wish.scheme], wish.calibrate is not None, wish.group_size, wish.python)
    drawn = _draw(wish, source, say)
    say(f"{wish.target.name}: {recipe.method}")
    quantize(recipe, wish.target, _calibration(wish, recipe, drawn), wish.log)
    return None if drawn is None else _measured(wish, source, drawn, say)


def measure_again(wish: Wish, say: Say) -> Fidelity | None:
    """The same for a copy that is there: the rows that its making saw are drawn again, and held apart again."""
    source = ModelFolder.open(wish.source)
    drawn = _draw(wish, source, say)
    return None if drawn is None else _measured(wish, source, drawn, say)


def _measured(wish: Wish, source: ModelFolder, drawn: DrawnRows, say: Say) -> Fidelity:
    fidelity = measure(source, ModelFolder.open(wish.target), drawn, wish.speed, this_machine(), say)
    add_fidelity(wish.target, fidelity)
    return fidelity


def _draw(wish: Wish, source: ModelFolder, say: Say) -> DrawnRows | None:
    if wish.job is None:
        return None
    rows = wish.rows if wish.calibrate else 0
    return draw_rows(load_job(wish.job), source, rows, wish.held_out, wish.seed, say)


def _calibration(wish: Wish, recipe: Recipe, drawn: DrawnRows | None) -> CalibrationRows | None:
    if wish.calibrate is None or drawn is None:
        return None
    prompts = drawn.calibration
    check_tokens(prompts, recipe.widest)
    places = tuple(prompt.row for prompt in prompts)
    tokens = sum(len(prompt.token_ids) for prompt in prompts)
    record = Calibration(drawn.dataset, drawn.input_sha256, drawn.seed, tokens, places)
    return CalibrationRows(tuple(prompt.token_ids for prompt in prompts), record)


def measure(
    full: ModelFolder, quantized: ModelFolder, drawn: DrawnRows, speed: bool, machine: Machine, say: Say
) -> Fidelity:
    prompts = [replace(prompt, max_tokens=min(prompt.max_tokens, MAX_ANSWER_TOKENS)) for prompt in drawn.held_out]
    agreement = compare(full.path, quantized.path, prompts, say)
    pace, note = _speed(full, quantized, prompts, machine, say) if speed else (None, "not measured")
    return Fidelity(
        full=f"{full.name}, fingerprint {full.fingerprint}",
        dataset=drawn.dataset,
        input_sha256=drawn.input_sha256,
        seed=drawn.seed,
        rows=len(prompts),
        **asdict(agreement),
        full_bytes=full.size_bytes,
        size_bytes=quantized.size_bytes,
        full_output_tokens_per_s=None if pace is None else pace.full_output_tokens_per_s,
        output_tokens_per_s=None if pace is None else pace.output_tokens_per_s,
        speed_note=note,
        machine=f"{machine.cpu}, {len(machine.cores)} cores{''.join(f', {gpu.name}' for gpu in machine.gpus)}",
        date=f"{datetime.now(UTC):%Y-%m-%d}",
    )


def _speed(
    full: ModelFolder, quantized: ModelFolder, prompts: list[Prompt], machine: Machine, say: Say
) -> tuple[Speed | None, str]:
    """What the engine cannot run is a finding, not a fault."""
    say("the engine runs both models")
    with tempfile.TemporaryDirectory(prefix="gristmill-") as scratch:
        try:
            return measure_speed(full.path, quantized.path, prompts, machine, Path(scratch)), ""
        except EngineDied as death:
            return None, f"cannot run here: {str(death).partition(' (whole log')[0]}"


def table(fidelity: Fidelity) -> str:
    """The figures as a person reads them."""
    per_s = (fidelity.full_output_tokens_per_s, fidelity.output_tokens_per_s)
    if per_s[0] is None or per_s[1] is None:
        pace = ("", fidelity.speed_note)
    else:
        pace = (f"{per_s[0]:.0f}", f"{per_s[1]:.0f}  {per_s[1] / per_s[0]:.2f}x")
    sizes = (f"{fidelity.full_bytes / 1e6:.0f}", f"{fidelity.size_bytes / 1e6:.0f}")
    rows = [
        (f"on {fidelity.rows} held-out rows of {fidelity.dataset}", "full", "quantized"),
        ("greedy answers that are the same", "", f"{fidelity.exact_share:.1%}"),
        ("of an answer, before the first token that differs", "", f"{fidelity.prefix_share:.1%}"),
        (f"same likeliest next token, of {fidelity.tokens}", "", f"{fidelity.top1_share:.1%}"),
        ("KL(full || quantized), nats a token", "", f"{fidelity.mean_kl_nats:.5f}"),
        ("perplexity of the full model's answers", f"{fidelity.full_perplexity:.3f}", f"{fidelity.perplexity:.3f}"),
        ("MB on disk", sizes[0], f"{sizes[1]}  {fidelity.size_bytes / fidelity.full_bytes:.2f}x"),
        ("output tokens/s through the engine", *pace),
    ]
    return "\n".join([*in_columns(rows), f"{fidelity.machine}, {fidelity.date}"])
