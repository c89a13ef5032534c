"""Admission: the only place where text from outside becomes a Request. What is wrong becomes a Refusal."""

import difflib
import hashlib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.intake.body import INERT_FIELDS, SAMPLING_FIELDS, BadRow, read_body, read_endpoint
from serving.intake.files import BadInput, RawRow, read_rows
from serving.intake.render import Renderer
from serving.intake.strict_json import NotStrictJson, parse_line
from serving.intake.template import BadTemplate, Template
from serving.records import Endpoint, Message, Refusal, Request, Sampling, canonical_json, sampling_json

# Part of every key: raised when the meaning of a key changes, so that old answers are not taken for new questions.
POLICY_VERSION = 1
BATCH_FIELDS = {"custom_id", "method", "url", "body"}
MAX_ID_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class Form:
    """How rows are to be read, as the job file says."""

    default: Sampling
    scope: str  # digest of tenant and models: keys of different scopes never meet
    prompt: Template | None = None
    system: Template | None = None
    id_column: str | None = None
    max_model_len: int | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request with what later stages compare it by."""

    request: Request
    file: str
    line: int
    key: str  # equal keys may share an answer: everything that can change the answer is in it
    frame: str  # everything but the last message: near-duplicates are looked for within one frame
    text: str  # the last message, which is what near-duplicates are near in


@dataclass(slots=True)
class Admission:
    """Reads files in order and numbers their rows. Remembers ids, which must be unique over all files."""

    form: Form
    renderer: Renderer
    _rows: int = 0
    _places: dict[str, tuple[str, int]] = field(default_factory=dict)

    def read(self, file: str) -> Iterator[Admitted | Refusal]:
        """Every row of one file, admitted or refused.

        Raises:
            BadInput: the file cannot be read, or an id stands twice: answers could not be told apart.
        """
        for raw in read_rows(file):
            yield self._judge(raw)
            self._rows += 1

    def _judge(self, raw: RawRow) -> Admitted | Refusal:
        custom_id: str | None = None
        try:
            if raw.value is None:
                assert raw.fault is not None, "a raw row has a value or a fault"
                raise raw.fault
            custom_id = self._id(raw, raw.value)
            return self._admit(raw, raw.value, custom_id)
        except (BadRow, BadTemplate) as fault:
            code = fault.code if isinstance(fault, BadRow) else "E_TEMPLATE"
            return Refusal(self._rows, _short(raw.file), raw.line, custom_id, code, str(fault))

    def _id(self, raw: RawRow, row: Mapping[str, Any]) -> str:
        value = self._id_value(row)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value.strip():
            raise BadRow("E_ID", f"the id is {value!r:.80}; it must be text that is not empty")
        if len(value) > MAX_ID_CHARACTERS:
            raise BadRow("E_ID", f"the id {value[:20]!r}... has {len(value)} characters; at most {MAX_ID_CHARACTERS}")
        if any(unicodedata.category(character)[0] == "C" for character in value):
            raise BadRow("E_ID", f"the id {value!r} has a control or invisible character; leave it out")
        place = (_short(raw.file), raw.line)
        first = self._places.setdefault(value, place)
        if first is not place:
            where = " and ".join(f"{file}:{line}" for file, line in (first, place))
            raise BadInput(f"id {value!r} stands twice, at {where}; give every row its own id")
        return value

    def _id_value(self, row: Mapping[str, Any]) -> Any:
        column = self.form.id_column
        if column is not None:
            if column not in row:
                raise BadRow("E_ID", f"column {column!r} (dataset.id) is missing")
            return row[column]
        if "custom_id" in row or self._is_batch_form(row):
            return row.get("custom_id")
        return row.get("id", f"row-{self._rows}")

    def _is_batch_form(self, row: Mapping[str, Any]) -> bool:
        """True for an OpenAI Batch row. With a template every column is data, whatever its name."""
        return self.form.prompt is None and "body" in row

    def _admit(self, raw: RawRow, row: Mapping[str, Any], custom_id: str) -> Admitted:
        endpoint = read_endpoint(row) if self._is_batch_form(row) else Endpoint.CHAT
        messages, sampling = self._contents(endpoint, raw, row)
        text, token_ids = self.renderer.render(endpoint, messages)
        if token_ids is not None and self.form.max_model_len is not None:
            _must_fit(len(token_ids), sampling.max_tokens, self.form.max_model_len)
        request = Request(self._rows, custom_id, endpoint, messages, sampling, token_ids)
        common = {"policy": POLICY_VERSION, "scope": self.form.scope, "url": endpoint, "how": sampling_json(sampling)}
        history = [[message.role, message.content] for message in messages[:-1]] + [messages[-1].role]
        key = _digest({**common, "prompt": text})
        frame = _digest({**common, "history": history})
        return Admitted(request, _short(raw.file), raw.line, key, frame, messages[-1].content)

    def _contents(
        self, endpoint: Endpoint, raw: RawRow, row: Mapping[str, Any]
    ) -> tuple[tuple[Message, ...], Sampling]:
        if self._is_batch_form(row):
            if extra := row.keys() - BATCH_FIELDS - {self.form.id_column}:
                known = ", ".join(sorted(BATCH_FIELDS))
                raise BadRow("E_FIELD", f"{min(extra)[:80]!r} is not known beside a body; known: {known}")
            return read_body(endpoint, row["body"], self.form.default)
        if self.form.prompt is not None:  # with a template every column is data, none a setting
            return read_body(Endpoint.CHAT, {"messages": self._filled(row)}, self.form.default)
        _no_near_misses(row)
        body = {name: row[name] for name in row.keys() & (SAMPLING_FIELDS | INERT_FIELDS)}
        if raw.all_text:
            body = {name: _typed(cell) for name, cell in body.items()}
        return read_body(Endpoint.CHAT, {**body, "messages": _plain_messages(row)}, self.form.default)

    def _filled(self, row: Mapping[str, Any]) -> list[dict[str, str]]:
        assert self.form.prompt is not None
        system = [{"role": "system", "content": self.form.system.fill(row)}] if self.form.system else []
        return [*system, {"role": "user", "content": self.form.prompt.fill(row)}]


def _typed(cell: str) -> Any:
    """A CSV cell is text whatever it holds: an empty one is no setting, one that is a JSON value is that value."""
    try:
        return parse_line(cell.encode()) if cell else None
    except NotStrictJson:
        return cell


def _plain_messages(row: Mapping[str, Any]) -> Any:
    if "messages" in row:
        return row["messages"]
    if "prompt" not in row:
        columns = ", ".join(sorted(row))[:200]
        raise BadRow("E_PROMPT", f"no body, messages or prompt; set dataset.prompt to a template over: {columns}")
    return [{"role": "user", "content": row["prompt"]}]


def _no_near_misses(row: Mapping[str, Any]) -> None:
    """Other columns are the user's own, but one that almost names a setting is a typo that would cost money."""
    known = SAMPLING_FIELDS | {"messages", "prompt"}
    for name in row.keys() - known:
        if close := difflib.get_close_matches(name, known, n=1, cutoff=0.85):
            raise BadRow("E_FIELD", f"{name[:80]!r} is not known; did you mean {close[0]!r}?")


def _must_fit(prompt_tokens: int, max_tokens: int, max_model_len: int) -> None:
    if prompt_tokens + max_tokens > max_model_len:
        spans = f"{prompt_tokens} prompt tokens + max_tokens {max_tokens}"
        raise BadRow("E_TOO_LONG", f"{spans} = {prompt_tokens + max_tokens}; the model holds {max_model_len}")


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _short(file: str) -> str:
    """The file as messages name it: relative to where the user stands, if it is below."""
    path = Path(file)
    if "://" in file or not path.is_absolute() or not path.is_relative_to(Path.cwd()):
        return file
    return str(path.relative_to(Path.cwd()))
