"""A row of measurements as a question to the planner: which plan, under which load, and what was measured of it."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from optimizer.catalogue.catalogue import Catalogue, shipped
from optimizer.catalogue.hardware import Gpu
from optimizer.catalogue.names import UnknownName
from optimizer.planner.calibration import Groups
from optimizer.planner.deployment import Deployment, groups_of
from optimizer.planner.engines import Defaults, defaults_of
from optimizer.planner.memory import SAMPLER_BYTES, memory_of
from optimizer.planner.precision import UnknownPrecision
from optimizer.planner.steady_state import Lengths, fixed, spread
from optimizer.planner.step import Split
from serving.engine_config import ModelShape

Row = Mapping[str, str]

METRICS = {  # what a row's metric asks for
    "total_token_throughput": "total_tokens_per_s",
    "output_throughput_total": "output_tokens_per_s",
    "output_throughput_bs1": "output_tokens_per_s",
    "output_throughput_per_gpu": "output_tokens_per_s",
    "mlperf_offline_tokens_per_s": "output_tokens_per_s",
    "output_throughput": "output_tokens_per_s",
    "offline_output_throughput": "output_tokens_per_s",
    "request_throughput": "requests_per_s",
    "requests_per_s": "requests_per_s",
    "mean_or_median_ttft": "first_token_s",
    "ttft_mean": "first_token_s",
    "mean_or_median_tpot": "token_s",
    "tpot_mean": "token_s",
    "itl_mean": "token_s",
    "e2e_mean": "request_s",
    "e2e_p99": "request_p99_s",
    "offline_job_makespan": "makespan_s",
    "closed_loop_output_rate": "closed_rate",
}
UNITS = {"ms": 1e-3, "s": 1.0, "ns": 1e-9, "us": 1e-6, "seconds": 1.0, "min": 60.0, "h": 3600.0}
# Mean input tokens of MLPerf's data sets, as MLCommons tells them with each benchmark's introduction; the result rows
# leave them out. `assumed`: not published as a mean, taken from the set's description.
MLPERF_INPUT = {"llama3.1-405b": 9400, "deepseek-r1": 800, "llama3.1-8b": 778, "llama2-70b": 250, "mixtral-8x7b": 500}
MLPERF_METRICS = {"mlperf_offline_tokens_per_s", "offline_job_makespan"}
MLPERF_REQUESTS = 1e5  # at least ten minutes
MLPERF_VARIATION = 0.7  # of output lengths
TRTLLM_REQUESTS = 3000  # the usual number of its own tables
OFFLINE_REQUESTS = 1000  # where a row tells of none: vLLM's own benchmark's default
UNEVEN_VARIATION = 0.8  # of output lengths whose mean is no whole number, that is, of real answers


# Argonne's bench does not say which A100 it ran on. Llama-2-7B of 2 * 1024 tokens runs no faster at batch 64 than at
# 32, as where 28 sequences fit in 40 GB, and Llama-2-70B on four of them is as starved.
ARGONNE_A100 = "A100-SXM4-40GB"


class Unanswerable(ValueError):
    """Why a row has no prediction."""


@dataclass(frozen=True, slots=True)
class Question:
    plan: Deployment
    replicas: float
    defaults: Defaults
    groups: Groups
    lengths: Lengths
    load: str  # closed | static | offline | open
    concurrency: float
    requests: float
    rates: tuple[float, ...]  # requests/s, one stage after another
    wants: str
    scale: float  # from the planner's unit to the row's
    guessed: int = 0  # tokens that a draft guesses
    draft: ModelShape | None = None


def question_of(row: Row, catalogue: Catalogue | None = None) -> Question:
    """By the names that are shipped, unless another catalogue is given. Raises Unanswerable."""
    known = catalogue or shipped()
    try:
        gpu = known.gpu(ARGONNE_A100 if "memory size not stated" in row["gpu"] else row["gpu"])
        model = known.model(row["model"])
    except UnknownName as error:
        raise Unanswerable(str(error)) from error
    load, concurrency, requests, rates = _load(row)
    wants, scale, per_gpu = _wanted(row)
    num_gpus = _number(row.get("num_gpus", "")) or 1.0
    split = _split(row, model.shape, num_gpus, gpu)
    weight_dtype = _weight_dtype(row, model.quantization, gpu)
    kv_dtype = _kv_dtype(row, gpu, weight_dtype)
    shape = model.shape
    if "tensorrt" in row["engine"].lower() and shape.window and shape.windowed_layers == shape.layers:
        shape = replace(shape, window=0, windowed_layers=0)  # it keeps and reads all of the context
    static = row.get("tier") == "C-trtllm-static" or (load == "static" and "tensorrt" in row["engine"].lower())
    served = load in {"open", "closed"}
    defaults = defaults_of(
        row["engine"], row.get("engine_version", ""), gpu, shape.max_model_len, offline=not served, static=static
    )
    defaults = _as_noted(defaults, row.get("notes", ""), concurrency)
    plan = Deployment(shape, gpu, split, weight_dtype, kv_dtype)
    try:
        groups = groups_of(plan, defaults, row.get("engine_version", ""), served=served)
    except UnknownPrecision as error:
        raise Unanswerable(str(error)) from error
    guessed, draft = _speculation(row, known)
    if per_gpu:
        scale /= num_gpus
    replicas = 1.0 if served else max(1.0, num_gpus / split.ranks)
    return Question(
        plan, replicas, defaults, groups, _lengths(row, load), load,
        concurrency, requests, rates, wants, scale, guessed, draft,
    )  # fmt: skip


def _as_noted(defaults: Defaults, notes: str, concurrency: float) -> Defaults:
    """With the limits that a row's notes tell."""
    found = re.search(r"max_num_batched_tokens[= ]+(\d+)", notes)
    tokens = int(found[1]) if found else defaults.max_num_batched_tokens
    found = re.search(r"max_num_seqs[= ]+(\d+|concurrency)", notes)
    seqs = defaults.max_num_seqs if not found else int(concurrency) if found[1] == "concurrency" else int(found[1])
    found = re.search(r"(?:gpu_mem_util|gpu_memory_utilization)[= ]+(0\.\d+)", notes)
    share = float(found[1]) if found else defaults.utilization
    sampler = SAMPLER_BYTES if "VLLM_USE_FLASHINFER_SAMPLER=1" in notes else defaults.sampler_bytes
    return replace(defaults, max_num_batched_tokens=tokens, max_num_seqs=seqs, utilization=share, sampler_bytes=sampler)


def _wanted(row: Row) -> tuple[str, float, bool]:
    metric, unit = row["metric"].strip(), row.get("unit", "").strip().lower()
    wants = METRICS.get(metric)
    if wants is None:
        text = f"{metric} {unit}".lower()
        if "block" in text:
            wants = "kv_blocks"
        elif "kv" in text and ("token" in text or "cache" in text):
            wants = "kv_gib" if "gib" in text else "kv_tokens"
        elif "request" in text or "req/s" in text:
            wants = "requests_per_s"
        elif "makespan" in text or "job" in text or "duration" in text or "elapsed" in text:
            wants = "makespan_s"
        elif "ttft" in text:
            wants = "first_token_s"
        elif "tpot" in text or "itl" in text:
            wants = "token_s"
        elif "e2e" in text or "latency" in text:
            wants = "request_s"
        elif "tok" in text:
            wants = "total_tokens_per_s" if "total_tok" in text or "in+out" in text else "output_tokens_per_s"
        else:
            raise Unanswerable(f"no prediction is made of {metric!r}")
    per_gpu = "/gpu" in unit or "per_gpu" in metric
    scale = 1 / UNITS.get(unit, 1.0) if wants.endswith("_s") and not wants.endswith("per_s") else 1.0
    return wants, scale, per_gpu


def _load(row: Row) -> tuple[str, float, float, tuple[float, ...]]:
    text = row.get("concurrency_or_batch", "").strip().lower()
    if "open loop" in text or "req/s" in text:
        rates = tuple(float(number) for number in re.findall(r"\d+(?:\.\d+)?(?=\s*(?:->|req))", text))
        if not rates:
            raise Unanswerable(f"no arrival rate in {text!r}")
        return "open", math.inf, math.inf, rates
    number = _number(text)
    if number is not None and text.replace(".", "", 1).isdigit():
        metric = row["metric"]
        # A concurrency is kept up by new requests where latencies are told, else it is one batch from start to end.
        closed = any(word in metric for word in ("tpot", "ttft", "itl", "e2e", "closed"))
        return ("closed" if closed else "static"), number, (10 * number if closed else number), ()
    if row["metric"] in MLPERF_METRICS and not re.search(r"\d", text):
        return "offline", math.inf, MLPERF_REQUESTS, ()
    found = re.search(r"(\d[\d_,]*)\s*(?:samples|prompts|requests)", text)
    if found:
        return "offline", math.inf, float(re.sub(r"[_,]", "", found[1])), ()
    return "offline", math.inf, _requests_in_notes(row), ()


def _requests_in_notes(row: Row) -> float:
    """Documents of TensorRT-LLM list `num_requests 128/128:30000,128/2048:3000`."""
    listed = dict(re.findall(r"(\d+/\d+):(\d+)", row.get("notes", "")))
    wanted = listed.get(f"{row.get('isl', '')}/{row.get('osl', '')}")
    found = re.search(r"num_prompts[= ]+(\d+)", row.get("notes", ""))
    usual = TRTLLM_REQUESTS if "tensorrt" in row["engine"].lower() else OFFLINE_REQUESTS
    return float(wanted or (found[1] if found else usual))


def _lengths(row: Row, load: str) -> Lengths:
    given, output = _number(row.get("isl", "")), _number(row.get("osl", ""))
    mlperf = row["metric"] in MLPERF_METRICS
    if given is None and mlperf:
        name = row["model"].lower()
        given = next((float(mean) for known, mean in MLPERF_INPUT.items() if name.startswith(known)), None)
    if given is None or output is None:
        if row["metric"].lower().find("block") >= 0 or "kv" in row["metric"].lower():
            return fixed(1.0, 1.0)
        raise Unanswerable("the row tells no input or output length")
    if _lengths_vary_below_nominal(row):
        # Independent, uniform in [0.8, 1] of the nominal: E[u] = 0.9, E[u^2] = 0.8133.
        return Lengths(0.9 * given, 0.9 * output, 0.81333 * output**2, 0.81 * given * output)
    if mlperf:
        return spread(given, output, MLPERF_VARIATION)
    return spread(given, output, 0.0 if output == int(output) else UNEVEN_VARIATION)


def _lengths_vary_below_nominal(row: Row) -> bool:
    """InferenceX draws lengths below the nominal ones; without notes its rows are told by their metrics and models."""
    if "RANDOM_RANGE_RATIO" in row.get("notes", "") or "[0.8,1.0]" in row.get("notes", ""):
        return True
    latencies = row["metric"].startswith("mean_or_median")
    return latencies and not row.get("notes") and not row.get("engine_version", "").startswith("0.12.0")


def _split(row: Row, shape: ModelShape, num_gpus: float, gpu: Gpu) -> Split:
    text = row.get("tp", "").strip()
    pipeline = int(_number(row.get("pp", "")) or 1)
    if text.upper().startswith("DEP"):
        return Split(int(text[3:]), pipeline, experts_whole=True)
    tensor = _number(text)
    attention_lanes = bool(shape.experts) and "attention_dp" in row.get("notes", "").replace("attention_dp=1", "")
    if tensor is not None:
        return Split(int(tensor), pipeline, attention_lanes and int(tensor) > 1)
    if row["metric"] in MLPERF_METRICS:
        return Split(_least_tensor(row, shape, gpu))
    return Split(max(1, int(num_gpus) // pipeline), pipeline)


def _least_tensor(row: Row, shape: ModelShape, gpu: Gpu) -> int:
    """Submitters run as many replicas as fit; a node has 8 GPUs."""
    for tensor in (1, 2, 4, 8):
        dtype = _weight_dtype(row, None, gpu)
        held = memory_of(shape, gpu, Split(tensor), dtype, "fp8", utilization=0.95)
        if held.cache > 0.25 * held.usable:
            return tensor
    return 8


def _weight_dtype(row: Row, quantization: str | None, gpu: Gpu) -> str:
    told = row.get("weight_dtype", "").strip()
    if quantization == "mxfp4":
        return "mxfp4"  # published in no other way; tables name the precision that activations have
    if told:
        return told
    if quantization and quantization != "none":
        return quantization
    if row["metric"] in MLPERF_METRICS:
        return "fp4" if gpu.fp4_tflops else "fp8" if gpu.fp8_tflops else "fp16"
    return "auto"


def _kv_dtype(row: Row, gpu: Gpu, weight_dtype: str) -> str:
    told = row.get("kv_dtype", "").strip()
    if told:
        return told
    trtllm = "tensorrt" in row["engine"].lower()
    narrow = any(part in weight_dtype for part in ("fp8", "fp4"))
    return "fp8" if trtllm and narrow and gpu.fp8_tflops else "auto"


def _speculation(row: Row, known: Catalogue) -> tuple[int, ModelShape | None]:
    notes = row.get("notes", "")
    found = re.search(r"With Speculative Decoding; draft=(\S+) k=(\d+)", notes)
    if not found:
        return 0, None
    try:
        return int(found[2]), known.model(found[1]).shape
    except UnknownName as error:
        raise Unanswerable(f"draft model: {error}") from error


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None
