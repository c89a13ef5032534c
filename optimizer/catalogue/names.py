"""What the world calls a GPU or a model, and which row of the catalogue is meant."""

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

# Makers, cooling, partitions and power limits tell one machine's GPU from another's, not one kind from another.
GPU_NOISE = re.compile(
    r"nvidia|amd|tesla|geforce|instinct|virtualized|hgx|grace|hopper|superchip|generation|edition"
    r"|hbm\de?|cts|nps\d|spx|\d+w"
)
# What training or packing a model had changes no size.
MODEL_NOISE = re.compile(r"meta|instruct|chat|base|it|hf|datacenter|edge|interactive|99|99\.9")
# What a suffix says of the weights; the first that is found counts. Plain "GPTQ" has 4 bits in all but a few folders.
QUANTIZATIONS: Mapping[str, str | None] = {
    r"fp8-w8a8|w8a8-fp8|fp8-(dynamic|block|kv)|fp8": "fp8",
    r"nvfp4(a16)?|fp4": "nvfp4",
    r"mxfp4": "mxfp4",
    r"(int8-)?(quantized\.)?w8a8(-int8)?": "w8a8",
    r"(quantized\.)?w8a16": "w8a16",
    r"(int4-)?(quantized\.)?w4a16(-g\d+)?": "w4a16",
    r"gptq-(int8|8bit|w8a16)": "gptq-int8",
    r"gptq(-int4|-4bit)?": "gptq-int4",
    r"awq(-int4|-4bit|-marlin)?": "awq",
    r"int8|8bit": "int8",
    r"bnb-4bit|int4|4bit": "int4",
    r"bf16|fp16": None,
}


class UnknownName(LookupError):
    """A GPU, a model or a machine was named that the catalogue does not have."""


class BadCatalogue(ValueError):
    """A row of the catalogue, or a user's own file of it, has not what its table needs."""


class AmbiguousName(BadCatalogue):
    """Two rows of the catalogue go by one name."""


def gpu_key(name: str) -> str:
    """Equal for names that mean one GPU: case, separators, what stands in brackets and makers' words do not count."""
    words = re.split(r"[\s_/-]+", re.sub(r"\(.*?\)", "", name.lower()))
    return "".join(word for word in words if not GPU_NOISE.fullmatch(word))


def model_key(name: str) -> str:
    """As gpu_key, for a model; its organisation counts where the name has one."""
    *organisation, model = name.lower().strip("/").split("/")
    words = re.split(r"[\s_:-]+", model)
    bare = "".join(re.sub(r"^v(?=\d)", "", word) for word in words if not MODEL_NOISE.fullmatch(word))
    return "/".join([*organisation[-1:], bare])


def quantization_in(name: str) -> tuple[str, str | None, bool]:
    """The name without what it says of its weights' quantization, that, and whether it says anything."""
    text = re.sub(r"[\s_:-]+", "-", name.lower())
    found: list[str | None] = []
    for pattern, quantization in QUANTIZATIONS.items():
        text, times = re.subn(rf"-({pattern})(?=-|$)", "", text)
        found += [quantization] * (times > 0)
    return text, next(iter(found), None), bool(found)


def by_key(rows: Mapping[str, Mapping[str, Any]], key_of: Callable[[str], str]) -> dict[str, str]:
    """The canonical name by every key that a row goes by.

    Raises:
        AmbiguousName: two rows share one.
    """
    names: dict[str, str] = {}
    for name, row in rows.items():
        for key in map(key_of, (name, *row.get("aliases", ()))):
            if names.setdefault(key, name) != name:
                raise AmbiguousName(f"catalogue: {names[key]!r} and {name!r} both go by {key!r}; rename one's alias")
    return names


def nearest(key: str, names: Mapping[str, str], most: int = 3) -> list[str]:
    """Canonical names, the likeliest first."""
    close = difflib.get_close_matches(key, names, n=3 * most, cutoff=0.5)
    return list(dict.fromkeys(names[one] for one in close))[:most]
