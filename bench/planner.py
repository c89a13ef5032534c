"""How far the planner is off on rows that others measured: in sample, and with whole GPUs or models left out.

    python bench/planner.py [../shared/data/measured_throughput.csv] [--fit] [--constants]
        [--folds sample,cell,gpu,architecture,model,source]

Each fold is fitted anew without the rows it is tested on. Counted are throughputs, closed-loop rates (from pairs of
TTFT and TPOT by Little's law) and times per token; never times to first token, which are queueing where a batch is
saturated. Beside it stand the datasheet's roofline and one with fixed shares of 0.6 of arithmetic and 0.8 of memory.
`--fit` writes the constants and bounds that are shipped. Adds a summary to bench/results/planner.csv.
"""

import argparse
import csv
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from optimizer.planner.answers import Asked
from optimizer.planner.calibration import NAMES, NONE, Calibration, fit
from optimizer.planner.interval import FEWEST, MEASURED, Bounds, Stratum, conformal, conformal_of_cells
from optimizer.planner.kernels import CALL_FIRST, CALL_STEP, CALLS
from optimizer.planner.nearby import Nearby
from optimizer.planner.predict import stratum_of
from optimizer.planner.question import Question, Unanswerable, question_of
from optimizer.planner.step import MOST, StepCost

sys.path.insert(0, str(Path(__file__).parent))
from sheet import add_rows

Numbers = NDArray[np.float64]
ROWS = Path("../shared/data/measured_throughput.csv")
RESULTS = Path("bench/results/planner.csv")
PACKAGE = Path("optimizer/planner")
COUNTED = {"output_tokens_per_s", "total_tokens_per_s", "closed_rate", "token_s", "requests_per_s"}
FITTED = COUNTED | {"request_s"}
TIMES = {"token_s", "request_s"}  # of those; the others are rates
FOLDS = 8  # of models, and of cells of a GPU and a model
FAMILIES = ("AIConfigurator silicon_sample.csv (NVIDIA", "AIConfigurator silicon_sample.csv (Semi", "Argonne", "BLIS")
FAMILIES += ("MLPerf", "NVIDIA TensorRT-LLM docs perf (static", "Qwen")
FAMILIES += ("NVIDIA TensorRT-LLM docs perf-overview", "NVIDIA TensorRT-LLM docs developer")
SHORTLISTS, SHORTLIST = 4000, 8
NEARBY = """Written by `python bench/planner.py --fit` from {rows}: what measured points add to the logarithm of the \
time of plans near them. Of a point: log2 of sequences at once, of input and output tokens, of weights that a token \
meets and of ranks, and its pull. See optimizer/planner/nearby.py."""
MLPERF_WEIGHT = 0.3  # their input lengths are means of a data set, or assumed


@dataclass(frozen=True, slots=True)
class Case:
    row: dict[str, str]
    question: Question
    measured: float


@dataclass(frozen=True, slots=True)
class Fold:
    """log(measured / predicted) of every case by each of some fits; and which of them never saw a case, -1 if none."""

    by_fit: Numbers  # (fits, cases)
    unseen_by: NDArray[np.int64]  # (cases,)

    @classmethod
    def one(cls, logs: Numbers) -> "Fold":
        return cls(logs[None], np.zeros(len(logs), np.int64))

    @property
    def logs(self) -> Numbers:
        """By the fit that never saw a case."""
        logs = self.by_fit[self.unseen_by, np.arange(len(self.unseen_by))]
        return np.where(self.unseen_by >= 0, logs, np.nan)


def main() -> int:
    parser = argparse.ArgumentParser(description="How far the planner is off on rows that others measured.")
    parser.add_argument("rows", type=Path, nargs="?", default=ROWS)
    parser.add_argument("--fit", action="store_true", help="write the shipped constants and bounds")
    parser.add_argument("--constants", action="store_true", help="score them alone, with nothing from plans nearby")
    parser.add_argument("--folds", default="sample,cell,gpu,architecture,model,source")
    parser.add_argument("--detail", action="store_true", help="tables by source, GPU, model and version")
    options = parser.parse_args()
    if options.fit and options.constants:
        parser.error("--fit writes what is near as well; leave out --constants")
    cases, unanswered = read(options.rows)
    print(f"{len(cases)} cases; unanswered: {sum(unanswered.values())}")
    for reason, count in sorted(unanswered.items(), key=lambda item: -item[1])[:10]:
        print(f"  {count:5d}  {reason}")
    bench = Bench(cases, alone=options.constants)
    whole = bench.fitted(np.ones(len(cases), dtype=bool))
    predicted = {"sample": Fold.one(bench.logs_of(whole))}
    for kind in [name for name in options.folds.split(",") if name != "sample"]:
        predicted[kind] = bench.left_out(kind)
    if options.fit:
        bench.write(whole, predicted, options.rows.name)
    summary = []
    for name, fold in predicted.items():
        print(f"\n== {name}")
        summary += report(name, bench, fold.logs, options.detail)
    rooflines = baselines(bench)
    for name, fold in rooflines.items():
        print(f"\n== {name}")
        summary += report(name, bench, fold.logs, False)
    decide(bench, predicted | rooflines, bench.counted)
    print("the same without plans whose server's limit is not told")
    decide(bench, predicted | rooflines, bench.counted & bench.told)
    if options.constants:
        return 0
    today = datetime.now(UTC).date().isoformat()
    add_rows(RESULTS, [{"date": today, **row} for row in summary])
    return 0


def read(path: Path) -> tuple[list[Case], dict[str, int]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    cases, unanswered = [], defaultdict[str, int](int)
    for row in [*rows, *closed_rates(rows)]:
        try:
            cases.append(Case(row, question_of(row), float(row["value"])))
        except Unanswerable as error:
            unanswered[str(error)[:110]] += 1
    return cases, unanswered


def closed_rates(rows: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """Output tokens/s of a closed loop, B * o / (TTFT + TPOT * (o - 1)), from rows that tell both."""
    pairs: dict[tuple[str, ...], dict[str, dict[str, str]]] = defaultdict(dict)
    for row in rows:
        if row["metric"].startswith("mean_or_median"):
            key = tuple(value for name, value in row.items() if name not in {"metric", "value", "unit"})
            pairs[key][row["metric"][-4:]] = row
    found = []
    for pair in pairs.values():
        if len(pair) == 2:
            row, output = pair["ttft"], float(pair["ttft"]["osl"])
            wait_s = (float(row["value"]) + float(pair["tpot"]["value"]) * (output - 1)) / 1000
            rate = float(row["concurrency_or_batch"]) * output / wait_s
            found.append({**row, "metric": "closed_loop_output_rate", "unit": "output_tok/s", "value": repr(rate)})
    return found


class Bench:
    def __init__(self, cases: Sequence[Case], alone: bool) -> None:
        self.cases = cases
        self.alone = alone
        self.measured = np.array([case.measured for case in cases])
        self.groups = [case.question.groups for case in cases]
        self.asked = Asked.of([case.question for case in cases])
        self.counted = np.array([case.question.wants in COUNTED for case in cases])
        self.fits = np.array([case.question.wants in FITTED for case in cases])
        self.told = ~np.array([limit_untold(case) for case in cases])
        self.saturation = self.asked.saturation
        sources = self.column("source")
        share = {source: 1 / np.sqrt(np.sum((sources == source) & self.fits)) for source in set(sources)}
        self.weights = np.array([share[source] for source in sources])
        self.weights[[source.startswith("MLPerf") for source in sources]] *= MLPERF_WEIGHT
        self.weights *= self.fits.sum() / self.weights[self.fits].sum()

    def column(self, name: str) -> NDArray[np.str_]:
        if name == "gpu":
            return np.array([case.question.plan.gpu.name for case in self.cases])
        if name == "architecture":
            return np.array([case.question.plan.gpu.architecture for case in self.cases])
        if name == "model":
            return np.array([base_name(case) for case in self.cases])
        if name == "cell":
            return np.array([f"{base_name(case)} on {case.question.plan.gpu.name}" for case in self.cases])
        return np.array([case.row[name] for case in self.cases])

    def logs_of(self, calibration: Calibration) -> Numbers:
        """log(measured / predicted) of every case."""
        values = self.asked.values(calibration.logs(self.groups), calibration.slower(self.asked.points))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.log(self.measured / values))

    def fitted(self, train: NDArray[np.bool_]) -> Calibration:
        values = self.asked.values(NONE.logs(self.groups))
        chosen = np.flatnonzero(train & self.fits & np.isfinite(values) & (values > 0))
        part = Asked.of([self.cases[place].question for place in chosen])
        constants = fit(
            lambda logs: np.log(part.values(logs)),
            self.measured[chosen],
            [self.groups[place] for place in chosen],
            self.weights[chosen],
        )
        if self.alone:
            return constants
        left = self.logs_of(constants)[chosen]
        times = np.array([self.cases[place].question.wants in TIMES for place in chosen])
        return replace(constants, nearby=Nearby.learned(self.asked.points.at(chosen), np.where(times, left, -left)))

    def left_out(self, kind: str) -> Fold:
        """By fits that never saw a case's GPU, architecture, model, source, or cell of GPU and model."""
        names = self.column(kind)
        distinct = sorted(set(names))
        folds = [{name} for name in distinct]
        if kind == "source":
            folds = [{name for name in distinct if name.startswith(first)} for first in FAMILIES]
        if kind in {"model", "cell"}:
            folds = [set(distinct[start::FOLDS]) for start in range(FOLDS)]
        unseen_by = np.full(len(self.cases), -1, np.int64)
        tests = [np.isin(names, sorted(fold)) for fold in folds]
        for place, test in enumerate(tests):
            unseen_by[test] = place
        with ProcessPoolExecutor(mp_context=get_context("fork")) as pool:
            return Fold(np.stack(list(pool.map(self._without, tests))), unseen_by)

    def _without(self, test: NDArray[np.bool_]) -> Numbers:
        """By a fit from the priors: one that went on from the fit of all rows would keep some of what that knows."""
        return self.logs_of(self.fitted(~test))

    def write(self, whole: Calibration, predicted: dict[str, Fold], rows: str) -> None:
        lines = [
            f"# Written by `python bench/planner.py --fit` from {rows}: deviations of the logarithms of constants from",
            "# their priors (optimizer/planner/step.py), by what a plan has. See optimizer/planner/calibration.py.",
        ]
        for group, known in sorted(whole.deviations.items()):
            inside = ", ".join(f"{name} = {known[name]:.4f}" for name in NAMES if name in known)
            lines.append(f'deviation."{group}" = {{ {inside} }}')
        (PACKAGE / "constants.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        assert whole.nearby is not None
        (PACKAGE / "nearby.json").write_text(whole.nearby.text(NEARBY.format(rows=rows)), encoding="utf-8")
        gpus = sorted({str(name) for name in self.column("gpu")})
        bounds = self.bounds(predicted)
        lines = [
            f"# Written by `python bench/planner.py --fit` from {rows}: factors that hold 90 % of left-out rows.",
            "[bounds]",
            *(f'"{stratum.value}" = [{one.low:.4f}, {one.high:.4f}]' for stratum, one in bounds.items()),
            "[seen]",
            f"gpus = {gpus}".replace("'", '"'),
        ]
        (PACKAGE / "intervals.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def strata(self) -> list[Stratum]:
        """These rows are what makes a GPU a measured one."""
        found = [stratum_of(case.question, float(over)) for case, over in zip(self.cases, self.saturation, strict=True)]
        return [MEASURED.get(one, one) for one in found]

    def bounds(self, predicted: dict[str, Fold]) -> dict[Stratum, Bounds]:
        folds = ("architecture", "cell", "source")
        architecture, cell, source = (predicted.get(fold, predicted["sample"]).logs for fold in folds)
        strata = np.array([stratum.value for stratum in self.strata()])
        vllm_dense = strata == Stratum.SEEN.value
        pools = {
            Stratum.SEEN: (cell, vllm_dense),
            Stratum.UNSEEN: (architecture, vllm_dense),
            Stratum.MOE: (cell, strata == Stratum.MOE.value),
            Stratum.SATURATED: (cell, strata == Stratum.SATURATED.value),
            Stratum.OFFLINE: (source, vllm_dense),
            Stratum.OTHER_ENGINE: (cell, strata == Stratum.OTHER_ENGINE.value),
        }
        cells, found = self.column("cell"), {}
        for stratum, (logs, mask) in pools.items():
            use = mask & self.counted & np.isfinite(logs)
            if use.sum() >= FEWEST:
                few = stratum is Stratum.MOE
                found[stratum] = bounds_from(logs[use], cells[use], few)
                held = self.coverage(logs[use], cells[use], few)
                limits = f"{found[stratum].low:.3f} … {found[stratum].high:.3f}  n {use.sum():5d}"
                print(f"bounds     {stratum.value:20} {limits}  cover {100 * held:.1f} % of other cells")
        found[Stratum.MEMORY] = Bounds(0.95, 1.05)
        return found

    def coverage(self, logs: Numbers, cells: NDArray[np.str_], few: bool, splits: int = 40) -> float:
        """Share of rows inside bounds that are drawn from the other half of the cells, over random halves.

        Few cells are left out one by one instead.
        """
        rng = np.random.default_rng(4)
        names, inside = np.unique(cells), []
        if few:
            for name in names:
                bounds, own = bounds_from(logs[cells != name], cells[cells != name], few), np.exp(logs[cells == name])
                inside += list((own >= bounds.low) & (own <= bounds.high))
            return float(np.mean(inside))
        for _ in range(splits):
            half = np.isin(cells, rng.permutation(names)[: len(names) // 2])
            if half.sum() < FEWEST or (~half).sum() < FEWEST:
                continue
            bounds = conformal([float(log) for log in logs[half]])
            other = np.exp(logs[~half])
            inside.append(float(np.mean((other >= bounds.low) & (other <= bounds.high))))
        return float(np.mean(inside)) if inside else float("nan")


def bounds_from(logs: Numbers, cells: NDArray[np.str_], few: bool) -> Bounds:
    if few:
        return conformal_of_cells(logs.tolist(), cells.tolist())
    return conformal(logs.tolist())


def limit_untold(case: Case) -> bool:
    """Whether a server took fewer sequences at once than the row tells that clients offered.

    At 512 offered to gpt-oss on H100s, waits are 4.2 to 4.8 times the time in which an answer is written, and times per
    token those of 4 to 64 sequences, whatever the lengths and the GPUs: as of 10 requests for each sequence that the
    server takes, all sent at once. How many it takes is in no column, so no planner can tell these rows.
    """
    row = case.row
    offered = row["concurrency_or_batch"] == "512" and row["source"].startswith("AIConfigurator")
    return offered and "gpt-oss" in row["model"] and case.question.plan.gpu.name == "H100-SXM-80GB"


def base_name(case: Case) -> str:
    """A model's own name whatever it is called, so that one is left out under all its names."""
    from optimizer.catalogue.catalogue import model

    return model(case.row["model"]).name


def report(fold: str, bench: Bench, logs: Numbers, detail: bool) -> list[dict[str, object]]:
    use = bench.counted & np.isfinite(logs)
    sources = bench.column("source")
    found = [line(fold, "all", logs[use])]
    vllm = np.array([case.question.defaults.engine == "vllm" for case in bench.cases])
    moe = np.array([bool(case.question.plan.shape.experts) for case in bench.cases])
    found.append(line(fold, "vLLM dense", logs[use & vllm & ~moe]))
    found.append(line(fold, "vLLM MoE", logs[use & vllm & moe]))
    found.append(line(fold, "vLLM MoE, limits of the server told", logs[use & vllm & moe & bench.told]))
    found.append(line(fold, "TensorRT-LLM", logs[use & ~vllm]))
    by_source = [
        line(fold, f"source {source[:58]}", logs[use & (sources == source)]) for source in sorted(set(sources))
    ]
    found += [one for one in by_source if one["n"]]
    errors = [float(one["mape"]) for one in by_source if one["n"]]
    print(f"{fold:10} mean over sources: MAPE {np.mean(errors):.1f} %")
    if detail:
        models = bench.column("model")
        for names, what in (
            (bench.column("gpu"), "gpu"),
            (models, "model"),
            (bench.column("engine_version"), "version"),
            (bench.column("weight_dtype"), "dtype"),
            (bench.column("tp"), "tp"),
            (bench.column("metric"), "metric"),
        ):
            for name in sorted(set(names)):
                for engine, mask in (("vllm", vllm), ("trt", ~vllm)):
                    chosen = np.isfinite(logs) & (names == name) & mask & (use | (what == "metric"))
                    if chosen.any():
                        line(fold, f"{engine} {what} {name[:40]}", logs[chosen])
    return found


def line(fold: str, part: str, logs: Numbers) -> dict[str, object]:
    """Errors are of the prediction against the measurement: predicted / measured - 1."""
    if not len(logs):
        return {"fold": fold, "part": part, "n": 0, "mape": 0.0, "median": 0.0, "p90": 0.0, "bias": 0.0}
    errors = np.expm1(-logs)
    size = 100 * np.abs(errors)
    mape, median, p90, bias = size.mean(), np.median(size), np.quantile(size, 0.9), 100 * errors.mean()
    spread = f"MAPE {mape:5.1f}  median {median:5.1f}  p90 {p90:5.1f}  bias {bias:+5.1f}"
    print(f"{fold:10} {part:64} n {len(logs):5d}  {spread}")
    return {
        "fold": fold, "part": part, "n": len(logs), "mape": round(mape, 2), "median": round(float(median), 2),
        "p90": round(float(p90), 2), "bias": round(bias, 2),
    }  # fmt: skip


def baselines(bench: Bench) -> dict[str, Fold]:
    """Rooflines without calibration, overheads and communication: of the datasheet, and with fixed shares."""
    found = {}
    for name, compute, memory in (("datasheet", 1.0, 1.0), ("fixed", 0.6, 0.8)):
        parts = [replace(part, costs=bare(part.costs)) for part in bench.asked.parts]
        made = replace(bench.asked, parts=parts)
        of_memory, of_compute = 1 / (memory * MOST), 1 / (compute * MOST)  # of what `bare` raises
        shares = {
            "weight_read": of_memory, "expert_read": of_memory, "kv_read": 1 / memory, "compute": of_compute,
            "expert_compute": of_compute, "prefill_attention": of_compute, "all_reduce": 1.0,
        }  # fmt: skip
        nothing = np.log([shares.get(name, 1e-9) for name in NAMES])
        values = made.values(np.tile(nothing, (len(bench.cases), 1)))
        found[name] = Fold.one(np.log(bench.measured / values))
    return found


def bare(cost: StepCost) -> StepCost:
    """Of a machine that reaches all of its peaks, so that shares of them are the datasheet's."""
    one = np.ones_like(cost.bandwidth)
    flat = np.ones_like(cost.linear_shares)
    sizes = 2.0 ** (CALL_FIRST + CALL_STEP * np.arange(CALLS))
    return replace(
        cost,
        bandwidth=cost.bandwidth / MOST,
        half_flops=cost.half_flops / MOST,
        linear_flops=cost.linear_flops / MOST,
        expert_flops=cost.expert_flops / MOST,
        linear_shares=flat,
        expert_shares=flat,
        head_shares=flat,
        linear_compute_share=one,
        linear_read_share=one,
        expert_compute_share=one,
        expert_read_share=one,
        expert_floor_s=0 * one,
        expert_each_s=0 * one,
        expert_moved_bytes=0 * one,
        kv_call_us=1e6 * sizes / cost.bandwidth[:, None],
        attention_share=one,
        activation_bytes=0 * one,
        reduces=0 * one,
    )


def decide(bench: Bench, predicted: dict[str, Fold], among: NDArray[np.bool_]) -> None:
    """Kendall's tau, and what choosing by prediction costs: random shortlists of plans for one model and length.

    One fit predicts a whole shortlist, as it does for whoever chooses: that which never saw the first of its plans.
    """
    from scipy.stats import kendalltau

    rng = np.random.default_rng(20)
    price = np.array(
        [PRICE.get(case.question.plan.gpu.name, 4.0) * float(case.row["num_gpus"] or 1) for case in bench.cases]
    )
    tasks: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, case in enumerate(bench.cases):
        row = case.row
        if case.question.wants in {"closed_rate", "output_tokens_per_s", "total_tokens_per_s"} and among[place]:
            tasks[base_name(case), row["isl"], row["osl"], row["engine"][:8], row["metric"]].append(place)
    usable = [places for places in tasks.values() if len(places) >= SHORTLIST]
    if not usable:
        return
    for name, fold in predicted.items():
        regrets, taus, right = [], [], 0
        picks = rng.integers(0, len(usable), SHORTLISTS)
        for pick in picks:
            places = rng.choice(usable[pick], SHORTLIST, replace=False)
            scale = np.array(
                [
                    float(bench.cases[place].row["num_gpus"] or 1)
                    if "per_gpu" in bench.cases[place].row["metric"]
                    else 1.0
                    for place in places
                ]
            )
            true = price[places] / (bench.measured[places] * scale)
            guess = true * np.exp(fold.by_fit[fold.unseen_by[places[0]], places])
            if fold.unseen_by[places[0]] < 0 or not np.isfinite(guess).all():
                continue
            chosen = int(np.argmin(guess))
            regrets.append(true[chosen] / true.min() - 1)
            right += chosen == int(np.argmin(true))
            taus.append(kendalltau(true, guess).statistic)
        regret = 100 * np.array(regrets)
        print(
            f"choice     {name:12} best found {100 * right / len(regret):5.1f} %  regret mean {regret.mean():5.2f} %  "
            f"p95 {np.quantile(regret, 0.95):5.1f} %  tau {np.nanmean(taus):.3f}"
        )


# USD per GPU-hour on demand, AWS us-east-1 as of 2026-07-20 where it has the GPU (gpu_prices.csv), else a nearby one.
PRICE = {
    "H100-SXM-80GB": 6.88, "H200-SXM-141GB": 7.91, "B200-SXM-180GB": 14.24, "A100-SXM4-80GB": 3.43, "L40S": 1.86,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
