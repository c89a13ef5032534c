"""What the process that admits is told: which files, how to read them, where to write. It goes there as JSON."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from msgspec import structs

from serving.intake.admit import Form
from serving.intake.files import InputFile
from serving.intake.formats.raw import Reading
from serving.intake.template import Template
from serving.records import Sampling


@dataclass(frozen=True, slots=True)
class ModelText:
    """What of a model turns messages into tokens."""

    tokenizer_json: Path
    chat_template: str | None
    special_tokens: dict[str, str]


@dataclass(frozen=True, slots=True)
class Order:
    files: list[InputFile]
    folder: Path  # of the stage's parts
    form: Form
    model: ModelText | None  # None where a server renders
    stop_at_a_bad_row: bool

    @property
    def decoded_bytes_at_most(self) -> int:
        return sum(self.form.reading.decoded_bytes_at_most(file.size_bytes) for file in self.files)

    def to_json(self) -> str:
        form = self.form
        return json.dumps(
            {
                "files": [asdict(file) for file in self.files],
                "folder": str(self.folder.absolute()),
                "form": {
                    "default": structs.asdict(form.default),
                    "scope": form.scope,
                    "prompt": form.prompt and form.prompt.text,
                    "system": form.system and form.system.text,
                    "id_column": form.id_column,
                    "max_model_len": form.max_model_len,
                    "reading": asdict(form.reading),
                    "adapters": sorted(form.adapters),
                },
                "model": self.model and {**asdict(self.model), "tokenizer_json": str(self.model.tokenizer_json)},
                "stop_at_a_bad_row": self.stop_at_a_bad_row,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "Order":
        """Of the descriptors it takes none over: they end with the process."""
        told = json.loads(text)
        model = told["model"]
        return cls(
            files=[InputFile(**file) for file in told["files"]],
            folder=Path(told["folder"]),
            form=_form(told["form"]),
            model=model and ModelText(Path(model["tokenizer_json"]), model["chat_template"], model["special_tokens"]),
            stop_at_a_bad_row=told["stop_at_a_bad_row"],
        )


def _form(told: dict[str, Any]) -> Form:
    default = told["default"]
    return Form(
        default=Sampling(**{**default, "stop": tuple(default["stop"])}),
        scope=told["scope"],
        prompt=told["prompt"] and Template(told["prompt"]),
        system=told["system"] and Template(told["system"], needs_column=False),
        id_column=told["id_column"],
        max_model_len=told["max_model_len"],
        reading=Reading(**told["reading"]),
        adapters=frozenset(told["adapters"]),
    )
