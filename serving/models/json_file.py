"""The JSON files of a model folder, read within limits. A key that asks for code is refused wherever it is."""

import json
from pathlib import Path
from typing import Any

from serving.models.refusal import unsafe, unusable

MAX_BYTES = 64 * 2**20  # the largest in use are tokenizer.json files of 260,000 tokens, some 35 MB
# What transformers and sentence-transformers take for the name of code to be run.
CODE_KEYS = ("auto_map", "custom_code", "custom_pipelines", "trust_remote_code")
VOCABULARIES = frozenset(
    {"tokenizer.json", "vocab.json", "added_tokens.json"}
)  # keys are tokens there, values their ids


def parse(file: Path) -> Any:
    """The value in `file`.

    Raises:
        BadModelFolder: too large, not JSON, nested too deep, or it asks for code.
    """
    if (size := file.stat().st_size) > MAX_BYTES:
        raise unusable(f"{file}: {size} bytes of JSON; at most {MAX_BYTES} are read, get the file again")
    asks: list[str] = []

    def note(entries: dict[str, Any]) -> dict[str, Any]:
        asks.extend(f"{key} is {str(entries[key])[:200]!r}" for key in CODE_KEYS if _asks(file, entries.get(key)))
        return entries

    try:
        value = json.loads(file.read_bytes(), object_hook=note)
    except RecursionError:
        raise unusable(f"{file}: JSON nested beyond any use; get the file again") from None
    except ValueError as error:
        raise unusable(f"{file}: not valid JSON ({error}); get the file again") from None
    if asks:
        raise unsafe(
            f"{file}: {', '.join(asks[:3])}, which asks for the model's own code to be run; "
            "use a model of a built-in architecture, or remove the entry if the built-in class fits"
        )
    return value


def read_object(file: Path) -> dict[str, Any]:
    value = parse(file)
    if not isinstance(value, dict):
        raise unusable(f"{file}: a JSON {type(value).__name__}, not an object; get the file again")
    return value


def _asks(file: Path, value: Any) -> bool:
    return bool(value) and not (file.name in VOCABULARIES and type(value) is int)
