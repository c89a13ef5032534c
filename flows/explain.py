"""`gristmill explain`: what a model does on a GPU, by arithmetic that one can follow with a pencil."""

import re
from dataclasses import dataclass
from pathlib import Path

from flows.terminal import in_columns
from optimizer.catalogue.catalogue import Catalogue
from optimizer.catalogue.catalogue import shipped as shipped_catalogue
from optimizer.catalogue.hardware import Gpu
from optimizer.planner.calibration import shipped
from optimizer.planner.explanation import Explanation, explanation_of
from optimizer.planner.layouts import BLOCK_TOKENS, Layout
from optimizer.planner.precision import UnknownPrecision, kv_bytes, precisions
from optimizer.planner.step import Split
from serving.engine_config import ModelShape
from serving.engines.machine import CannotRun
from serving.models.folder import ModelFolder
from serving.models.shape import shape_of
from serving.records import Interval

GIB = 2**30
PICTURES = (".png", ".svg")
COUNT = re.compile(r"(.+?)\s+x\s?(\d{1,2})")
HALF = ("bf16", "fp16", "fp32", "fp64")  # a folder's precisions that vLLM computes in 16 bit, unless told otherwise


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be explained."""

    name: str
    shape: ModelShape
    layout: Layout
    gpus: int

    @property
    def title(self) -> str:
        layout, ranks = self.layout, self.layout.split.tensor
        kv = f"{layout.kv_dtype} KV cache" if layout.kv_dtype != "auto" else "16-bit KV cache"
        split = f" x{ranks}, tensor parallel" if ranks > 1 else ""
        return f"{self.name} on {layout.gpu.name}{split}: {layout.weights} weights, {kv}"


def subject_of(
    asked: str,
    hardware: str,
    weights: str | None,
    kv_dtype: str,
    tensor: int | None,
    catalogue: Catalogue | None = None,
) -> Subject:
    """`asked` is a folder with a model, or a name of the catalogue; `hardware` a GPU, or "GPU x4". The catalogue is the
    shipped one unless another is given.

    Raises:
        UnknownName, BadModelFolder: there is no such model or GPU.
        CannotRun: the precision is unknown, or there are not enough GPUs.
    """
    known = catalogue or shipped_catalogue()
    one, count = _hardware(hardware, known)
    name, shape, published = _model(asked, known)
    ranks = tensor or count
    if ranks > count:
        raise CannotRun(f"--tensor-parallel {ranks} needs {ranks} GPUs: write {one.name + f' x{ranks}'!r}")
    precision = weights or published
    try:
        precisions(precision, one)
    except UnknownPrecision as error:
        raise CannotRun(f"--weights {precision}: {error}; known: bf16, fp8, w8a8, w8a16, w4a16, nvfp4, mxfp4") from None
    if kv_dtype != "auto" and kv_bytes(kv_dtype) != 1:
        raise CannotRun(f"--kv-dtype {kv_dtype}: vLLM keeps keys and values as auto, fp8, fp8_e4m3 or fp8_e5m2")
    return Subject(name, shape, Layout(one, Split(ranks), precision, kv_dtype), count)


def _hardware(asked: str, known: Catalogue) -> tuple[Gpu, int]:
    found = COUNT.fullmatch(asked.strip())
    return (known.gpu(found[1]), max(1, int(found[2]))) if found else (known.gpu(asked), 1)


def _model(asked: str, catalogue: Catalogue) -> tuple[str, ModelShape, str]:
    """Its name, its shape, and the precision that its weights come in."""
    if (Path(asked) / "config.json").is_file():
        folder = ModelFolder.open(Path(asked))
        return folder.name, shape_of(folder), "bf16" if folder.precision in HALF else folder.precision
    known = catalogue.model(asked)
    return known.name, known.shape, known.quantization or "bf16"


def check_picture(file: Path) -> None:
    """Before anything is computed. Raises CannotRun."""
    if file.suffix.lower() not in PICTURES:
        raise CannotRun(f"--picture {file}: a picture ends in {' or '.join(PICTURES)}")
    if not file.absolute().parent.is_dir():
        raise CannotRun(f"--picture {file}: {file.parent} is no folder; make it first")


def explained(subject: Subject, prompt_tokens: int, output_tokens: int) -> Explanation:
    return explanation_of(subject.shape, subject.layout, shipped(), prompt_tokens, output_tokens)


def text_of(subject: Subject, of: Explanation) -> str:
    lines = [
        subject.title,
        "",
        *_sizes(of),
        *_cache(of),
        *_balance(of),
        "",
        *_table(of),
        "",
        *_verdict(subject, of),
    ]
    return "\n".join(lines)


def _sizes(of: Explanation) -> list[str]:
    shape, gpu, weights, ranks = of.shape, of.layout.gpu, of.weights, of.layout.split.tensor
    total, memory = weights.total, of.memory
    active = total - weights.experts * (1 - shape.experts_per_token / shape.experts) if shape.experts else total
    experts = f", {active / 1e9:.2f} B of them for each token ({shape.experts_per_token} of {shape.experts} experts)"
    share = f" / {ranks} GPUs" if ranks > 1 else ""
    return [
        f"parameters   {total / 1e9:.2f} B in {shape.layers} layers" + (experts if shape.experts else ""),
        f"weights      {of.weight_bytes:g} bytes each, embedding and head 2{share}: {memory.weights:.2f} GiB on a GPU",
        f"GPU          {of.peak_flops / 1e12:.0f} TFLOP/s for these weights ({of.units}), "
        f"{of.bandwidth / 1e9:.0f} GB/s, {gpu.memory_gib:.2f} GiB",
    ]


def _cache(of: Explanation) -> list[str]:
    memory, ranks = of.memory, of.layout.split.tensor
    said = [
        f"KV a token   {_kv_formula(of)} = {of.kv_bytes_per_token:,.0f} bytes" + (" on a GPU" if ranks > 1 else ""),
        f"KV cache     {of.layout.utilization:.0%} of the memory {memory.usable:.2f} - weights {memory.weights:.2f}"
        f" - activations {memory.activations:.2f} - engine {memory.engine:.2f} = {memory.cache:.2f} GiB",
    ]
    if of.kv_blocks:
        said.append(
            f"             / {BLOCK_TOKENS} x {of.kv_bytes_per_token:,.0f} bytes = {of.kv_blocks:,} blocks"
            f" = {of.kv_tokens:,} tokens"
        )
        said.append(
            f"batch        a sequence of {of.prompt_tokens} + {of.output_tokens} tokens holds {of.held_tokens:.0f} on"
            f" average: {of.largest_batch:,} run at once"
            + (f", vLLM's limit; there is room for {of.room:,}" if of.room > of.largest_batch else "")
        )
    return said


def _kv_formula(of: Explanation) -> str:
    shape, number = of.shape, of.kv_number_bytes
    if shape.kv_lora_rank:
        return (
            f"{shape.layers} layers x ({shape.kv_lora_rank} latent + {shape.rope_head_dim} rotary) x {number:g} bytes"
        )
    heads = max(1.0, shape.kv_heads / of.layout.split.tensor)
    return f"2 x {shape.layers} layers x {heads:g} KV heads x {shape.head_dim} x {number:g} bytes"


def _balance(of: Explanation) -> list[str]:
    return [
        f"critical     T* = C b / 2 W = {of.peak_flops / 1e12:.0f}e12 x {of.weight_bytes:g} / (2 x"
        f" {of.bandwidth / 1e9:.0f}e9) = {of.critical_tokens:.0f} tokens a step: fewer wait for"
        " memory, more for arithmetic",
        f"ridge        C / W = {of.ridge:.0f} FLOP for each byte",
    ]


def _table(of: Explanation) -> list[str]:
    heading = ["one step, on one GPU", "FLOP", "bytes", "FLOP/byte", "bound by", "ms", "[90 %]", "tokens/s", "[90 %]"]
    rows = [heading]
    for point in of.points:
        bound = "arithmetic" if point.work.intensity > of.ridge else "memory"
        name = point.name if point.fits else f"{point.name} (does not fit)"
        rows.append(
            [
                name,
                _scaled(point.work.flops),
                _scaled(point.work.moved_bytes),
                f"{point.work.intensity:.1f}",
                bound,
                *_with_bounds(point.seconds, 1e3),
                *_with_bounds(point.tokens_per_s, 1.0),
            ]
        )
    return in_columns(rows, [False, True, True, True, False, True, True, True, True])


def _verdict(subject: Subject, of: Explanation) -> list[str]:
    said = []
    if of.output_tokens_per_s is not None:
        value, bounds = _with_bounds(of.output_tokens_per_s, 1.0)
        engines = max(1, subject.gpus // of.layout.split.tensor)
        many = f"; {engines} engines side by side make {engines} times as many" if engines > 1 else ""
        said.append(
            f"a full batch, prompts of {of.prompt_tokens} tokens included: {value} output tokens/s {bounds}{many}"
        )
    else:
        said.append(
            f"it does not fit: {of.memory.cache:.2f} GiB are left for the cache. Try smaller weights, a larger GPU, or"
            f" more of them (--tensor-parallel)"
        )
    if of.refused is not None:
        said.append(f"vLLM would refuse it: {of.refused}")
    said.append(
        f"bounds hold 90 % of measurements of the kind {of.stratum.value!r}; none were made with gristmill itself"
    )
    return said


def _with_bounds(interval: Interval, scale: float) -> list[str]:
    value, low, high = (each * scale for each in (interval.value, interval.low_90, interval.high_90))
    return [_figure(value), f"[{_figure(low)}, {_figure(high)}]"]


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _scaled(value: float) -> str:
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"
