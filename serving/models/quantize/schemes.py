"""The quantization schemes: what each one stores, how it is made, and which sizes of group fit a model."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

GROUP_SIZES = (128, 64, 32)  # what the 4-bit kernels of vLLM take, beside a whole channel


class BadScheme(ValueError):
    """A scheme that does not go with the model, the rows or the machine; the message says what does."""


class Rows(StrEnum):
    """Whether a scheme looks at a dataset while it quantizes."""

    NEVER = "never"
    OPTIONAL = "optional"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class Scheme:
    name: str
    preset: str  # the name in compressed-tensors
    format: str  # how compressed-tensors stores the weights
    stores: str
    rows: Rows
    calibrated_by: str = ""
    grouped: bool = False  # a scale for each group of inputs; otherwise one for each output channel


_SCHEMES = (
    Scheme(
        name="w8a8",
        preset="W8A8",
        format="int-quantized",
        stores="weights INT8 by output channel, activations INT8 by token",
        rows=Rows.OPTIONAL,
        calibrated_by="SmoothQuant, then GPTQ",
    ),
    Scheme(
        name="w8a16",
        preset="W8A16",
        format="pack-quantized",
        stores="weights INT8 by output channel",
        rows=Rows.NEVER,
    ),
    Scheme(
        name="w4a16-gptq",
        preset="W4A16",
        format="pack-quantized",
        stores="weights INT4",
        rows=Rows.ALWAYS,
        calibrated_by="GPTQ",
        grouped=True,
    ),
    Scheme(
        name="w4a16-awq",
        preset="W4A16_ASYM",
        format="pack-quantized",
        stores="weights INT4 with zero points",
        rows=Rows.ALWAYS,
        calibrated_by="AWQ",
        grouped=True,
    ),
    Scheme(
        name="fp8",
        preset="FP8_DYNAMIC",
        format="float-quantized",
        stores="weights FP8 by output channel, activations FP8 by token",
        rows=Rows.NEVER,
    ),
)
SCHEMES = {scheme.name: scheme for scheme in _SCHEMES}


def check_rows(scheme: Scheme, has_rows: bool) -> None:
    """Raises BadScheme where rows are missing, or would not be looked at."""
    if scheme.rows is Rows.ALWAYS and not has_rows:
        raise BadScheme(f"{scheme.name} looks at rows of your dataset; name its job with --calibrate JOB.toml")
    if scheme.rows is Rows.NEVER and has_rows:
        raise BadScheme(f"{scheme.name} looks at no rows; leave --calibrate out (--measure JOB.toml measures on some)")


def group_size(scheme: Scheme, inputs: Iterable[int], wanted: int | None) -> int | None:
    """The inputs that share a scale: what was wanted, or the largest that fits; None for a whole channel.

    `inputs` are the widths of the layers that will be quantized.

    Raises:
        BadScheme: what was wanted does not divide every width.
    """
    if not scheme.grouped:
        if wanted is not None:
            raise BadScheme(f"{scheme.name} has one scale for each output channel; leave --group-size out")
        return None
    widths = sorted(set(inputs))
    fitting = [size for size in GROUP_SIZES if all(width % size == 0 for width in widths)]
    if wanted is None:
        return fitting[0] if fitting else None
    if wanted == 0:
        return None
    if wanted not in fitting:
        sizes = " and ".join(str(size) for size in fitting) or "no size that vLLM runs"
        fits = f"{sizes} {'fit' if len(fitting) > 1 else 'fits'}, as does 0 for a whole channel"
        raise BadScheme(f"--group-size {wanted}: the model's layers have {_listed(widths)} inputs; {fits}")
    return wanted


def _listed(widths: list[int]) -> str:
    return ", ".join(str(width) for width in widths)
