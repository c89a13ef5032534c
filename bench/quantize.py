"""Every quantization scheme of one model, measured against it on rows of one job: the table in docs/models.md.

    .venv/bin/python bench/quantize.py MODEL JOB.toml FOLDER [SCHEME ...]

makes the copies in FOLDER and measures them, those that it does not find there with a measurement; prints the table and
adds the raw figures to bench/results/quantize.csv. Needs `make quantize-env`.
"""

import sys
from dataclasses import asdict
from pathlib import Path

from flows.quantize import Wish, make_quantized, measure_again
from flows.terminal import in_columns
from serving.environment import settle
from serving.models.folder import ModelFolder
from serving.models.record import Fidelity

sys.path.insert(0, str(Path(__file__).parent))
from sheet import add_rows

RESULTS = Path("bench/results/quantize.csv")
HELD_OUT = 32
VARIANTS = {  # scheme, and how many rows are looked at
    "w8a8": ("w8a8", 0),
    "w8a8, SmoothQuant and GPTQ": ("w8a8", 128),
    "w8a16": ("w8a16", 0),
    "fp8": ("fp8", 0),
    "w4a16-gptq": ("w4a16-gptq", 128),
    "w4a16-awq": ("w4a16-awq", 32),  # it takes a mean, not a covariance, and 20 tries at each layer
}
HEADING = ("scheme", "rows seen", "MB", "exact", "prefix", "top-1", "KL nats", "perplexity", "output tok/s")


def main() -> int:
    model, job, folder = (Path(argument) for argument in sys.argv[1:4])
    settle(Path(".gristmill").resolve())
    found = {name: _measured(name, model, job, folder) for name in sys.argv[4:] or VARIANTS}
    first = next(iter(found.values()))
    print(f"{first.machine}, {first.date}; {model.name}, {first.rows} held-out rows, {first.tokens} answer tokens")
    full = ("full", "", f"{first.full_bytes / 1e6:.0f}", "", "", "", "", f"{first.full_perplexity:.3f}", "1.00x")
    print("\n".join(in_columns([HEADING, full, *(_cells(name, one) for name, one in found.items())])))
    add_rows(RESULTS, [{"variant": name, **asdict(one)} for name, one in found.items()])
    return 0


def _measured(name: str, model: Path, job: Path, folder: Path) -> Fidelity:
    scheme, rows = VARIANTS[name]
    target = folder / f"{model.name}-{name.replace(', ', '-').replace(' ', '-')}"
    jobs = {"calibrate": job} if rows else {"measure": job}
    log = Path(".gristmill/quantize.log")
    wish = Wish(model, target, scheme, **jobs, rows=rows, held_out=HELD_OUT, speed=True, log=log)
    fidelity = ModelFolder.open(target).fidelity if target.exists() else None
    if fidelity is None:
        make = measure_again if target.exists() else make_quantized
        fidelity = make(wish, lambda message: print(message, file=sys.stderr, flush=True))
    assert fidelity is not None, "a job was named to measure on"
    return fidelity


def _cells(name: str, one: Fidelity) -> tuple[str, ...]:
    if one.full_output_tokens_per_s and one.output_tokens_per_s:
        pace = f"{one.output_tokens_per_s / one.full_output_tokens_per_s:.2f}x"
    else:
        pace = one.speed_note
    shares = (f"{share:.1%}" for share in (one.exact_share, one.prefix_share, one.top1_share))
    seen = str(VARIANTS[name][1])
    return (
        name,
        seen,
        f"{one.size_bytes / 1e6:.0f}",
        *shares,
        f"{one.mean_kl_nats:.4f}",
        f"{one.perplexity:.3f}",
        pace,
    )


if __name__ == "__main__":
    sys.exit(main())
