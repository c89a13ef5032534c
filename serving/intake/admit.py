"""Admission: the only place where text from outside becomes a Request. What is wrong becomes a Refusal."""

import functools
import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from msgspec import Struct

from serving.intake.bad_row import BadRow
from serving.intake.body import INERT_FIELDS, SAMPLING_FIELDS, read_body, read_endpoint
from serving.intake.fields import IGNORED_FIELDS, MAX_NAME_CHARACTERS, nearest
from serving.intake.files import InputFile
from serving.intake.formats.raw import PASSED_OVER, RawRow, Reading, every_row
from serving.intake.render import Renderer
from serving.intake.rows import read_rows
from serving.intake.shown import escaped, listed, shown
from serving.intake.strict_json import NotStrictJson, parse_line
from serving.intake.template import BadTemplate, Template
from serving.own_json import own_json
from serving.records import Endpoint, Message, Refusal, Request, Sampling, sampling_json

# Part of every key: raised when the meaning of a key changes, so that old answers are not taken for new questions.
POLICY_VERSION = 1
BATCH_FIELDS = {"custom_id", "method", "url", "body"}
PLAIN_FIELDS = frozenset(SAMPLING_FIELDS | INERT_FIELDS | {"messages", "prompt"})
MAX_ID_CHARACTERS = 64
MAX_OWN_COLUMNS = 1_000  # are looked at for typos: to help a person, not to slow down a file of made-up names
MAX_REMEMBERED_CHARACTERS = 16_384  # of a history of messages
MAX_SCHEMAS = 256  # different ones in a job: an engine keeps a grammar of each in memory


@dataclass(frozen=True, slots=True)
class Form:
    """How rows are to be read, as the job file says."""

    default: Sampling
    scope: str  # digest of tenant and models: keys of different scopes never meet
    prompt: Template | None = None
    system: Template | None = None
    id_column: str | None = None
    max_model_len: int | None = None
    reading: Reading = field(default_factory=Reading)
    adapters: frozenset[str] = frozenset()  # names by which a row's `model` asks for one


class Admitted(Struct, frozen=True):
    """A request with what later stages compare it by."""

    request: Request
    file: str
    line: int
    key: str  # equal keys may share an answer: everything that can change the answer is in it
    frame: str  # everything but the last message: near-duplicates are looked for within one frame
    text: str  # the last message, which is what near-duplicates are near in


class Noted(Protocol):
    """Where ids are noted, which must be unique over all files: serving.intake.ids."""

    def note(self, row: int, custom_id: str, place: str) -> None: ...


@dataclass(slots=True)
class Admission:
    """Reads files in order and numbers their rows. Whether an id stood twice, `ids` knows when all are read."""

    form: Form
    renderer: Renderer
    ids: Noted
    mine: Callable[[int], bool] | None = None  # which rows this process judges; None: all
    schemas: set[str] = field(default_factory=set)
    rows: int = 0  # read so far, judged or passed over
    _own_columns: set[str] = field(default_factory=set)  # names that are no setting mistyped

    def read(self, file: InputFile) -> Iterator[Admitted | Refusal]:
        """Every row of one file that is ours, admitted or refused.

        Raises:
            BadInput: the file cannot be read.
        """
        mine = self.mine
        ours = every_row if mine is None else lambda: mine(self.rows)
        for raw in read_rows(file, self.form.reading, ours):
            if raw is not PASSED_OVER:
                yield self._judge(raw)
            self.rows += 1

    def _judge(self, raw: RawRow) -> Admitted | Refusal:
        custom_id: str | None = None
        try:
            if raw.value is None:
                assert raw.fault is not None, "a raw row has a value or a fault"
                raise raw.fault
            custom_id = self._id(raw.value)
            self.ids.note(self.rows, custom_id, f"{escaped(raw.file, 4096)}:{raw.line}")
            return self._admit(raw, raw.value, custom_id)
        except (BadRow, BadTemplate) as fault:
            code = fault.code if isinstance(fault, BadRow) else "E_TEMPLATE"
            return Refusal(self.rows, raw.file, raw.line, custom_id, code, str(fault))

    def _id(self, row: Mapping[str, Any]) -> str:
        value = self._id_value(row)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value.strip():
            raise BadRow("E_ID", f"the id is {shown(value)}; it must be text that is not empty")
        if len(value) > MAX_ID_CHARACTERS:
            raise BadRow(
                "E_ID", f"the id {shown(value[:20])}... has {len(value)} characters; at most {MAX_ID_CHARACTERS}"
            )
        plain = value.isascii() and value.isprintable()  # most are, and it is quickly seen
        if not plain and any(unicodedata.category(character)[0] == "C" for character in value):
            raise BadRow("E_ID", f"the id {shown(value)} has a control or invisible character; leave it out")
        return value

    def _id_value(self, row: Mapping[str, Any]) -> Any:
        column = self.form.id_column
        if column is not None:
            if column not in row:
                raise BadRow(
                    "E_ID", f"column {shown(column)} (dataset.id) is missing; this row has: {listed(set(row))}"
                )
            return row[column]
        if "custom_id" in row or self._is_batch_form(row):
            return row.get("custom_id")
        return row.get("id", f"row-{self.rows}")

    def _is_batch_form(self, row: Mapping[str, Any]) -> bool:
        """True for an OpenAI Batch row. With a template every column is data, whatever its name."""
        return self.form.prompt is None and "body" in row

    def _admit(self, raw: RawRow, row: Mapping[str, Any], custom_id: str) -> Admitted:
        endpoint = read_endpoint(row) if self._is_batch_form(row) else Endpoint.CHAT
        messages, sampling = self._contents(endpoint, raw, row)
        self._note_schema(sampling.json_schema)
        text, token_ids = self.renderer.render(endpoint, messages)
        if token_ids is not None and self.form.max_model_len is not None:
            _must_fit(len(token_ids), sampling.max_tokens, self.form.max_model_len)
        adapter = self._adapter(row)
        request = Request(self.rows, custom_id, endpoint, messages, sampling, token_ids, adapter)
        scope = self.form.scope if adapter is None else f"{self.form.scope}+{adapter}"
        common = (scope, endpoint, sampling_json(sampling))
        history = tuple((message.role, message.content) for message in messages[:-1])
        key = _digest(*common, "prompt", text)
        frame = _frame(*common, history, messages[-1].role)
        return Admitted(request, raw.file, raw.line, key, frame, messages[-1].content)

    def _adapter(self, row: Mapping[str, Any]) -> str | None:
        """The adapter that a row names as its model. Any other name has no effect: the job chooses the model."""
        if not self.form.adapters or self.form.prompt is not None:
            return None
        named = (row["body"] if self._is_batch_form(row) else row).get("model")
        return named if isinstance(named, str) and named in self.form.adapters else None

    def _contents(
        self, endpoint: Endpoint, raw: RawRow, row: Mapping[str, Any]
    ) -> tuple[tuple[Message, ...], Sampling]:
        if self._is_batch_form(row):
            if extra := row.keys() - BATCH_FIELDS - {self.form.id_column}:
                reason = f"{shown(min(extra))} is not known beside a body; known: {listed(BATCH_FIELDS)}"
                raise BadRow("E_FIELD_FORBIDDEN", reason)
            return read_body(endpoint, row["body"], self.form.default)
        if self.form.prompt is not None:  # with a template every column is data, none a setting
            return read_body(Endpoint.CHAT, {"messages": self._filled(row)}, self.form.default)
        self._only_own_columns(row)
        body = {name: row[name] for name in row.keys() & (SAMPLING_FIELDS | INERT_FIELDS)}
        if raw.all_text:
            body = {name: _typed(cell) for name, cell in body.items()}
        return read_body(Endpoint.CHAT, {**body, "messages": _plain_messages(row)}, self.form.default)

    def _only_own_columns(self, row: Mapping[str, Any]) -> None:
        """Other columns are the user's own, but one that names, or almost names, a setting is expected to act."""
        if ignored := row.keys() & IGNORED_FIELDS:
            reason = f"{shown(min(ignored))} has no effect here; rename the column if it is data, else leave it out"
            raise BadRow("E_FIELD_FORBIDDEN", reason)
        for name in sorted(row.keys() - PLAIN_FIELDS - self._own_columns):
            if len(self._own_columns) >= MAX_OWN_COLUMNS:
                return
            if len(name) > MAX_NAME_CHARACTERS:
                continue
            if close := nearest(name, PLAIN_FIELDS, 0.85):
                raise BadRow("E_FIELD_FORBIDDEN", f"{shown(name)} is not known; did you mean {close!r}?")
            self._own_columns.add(name)

    def _note_schema(self, schema: str | None) -> None:
        if schema is None or schema in self.schemas:
            return
        if len(self.schemas) >= MAX_SCHEMAS:
            raise BadRow("E_SCHEMA_LIMIT", f"one JSON schema more than the {MAX_SCHEMAS} that a job may have; split it")
        self.schemas.add(schema)

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
        columns = listed(set(row), 200)
        raise BadRow("E_PROMPT", f"no body, messages or prompt; set dataset.prompt to a template over: {columns}")
    if not isinstance(row["prompt"], str) or not row["prompt"].strip():
        raise BadRow("E_PROMPT", f"prompt is {shown(row['prompt'])}; it must be text that is not empty")
    return [{"role": "user", "content": row["prompt"]}]


def _must_fit(prompt_tokens: int, max_tokens: int, max_model_len: int) -> None:
    if prompt_tokens + max_tokens > max_model_len:
        spans = f"{prompt_tokens} prompt tokens + max_tokens {max_tokens} = {prompt_tokens + max_tokens}"
        raise BadRow("E_TOO_LONG", f"{spans}; the model holds {max_model_len}, so shorten one of them")


def _digest(scope: str, url: str, how: str, name: str, value: Any) -> str:
    compared = {"policy": POLICY_VERSION, "scope": scope, "url": url, "how": how, name: value}
    return hashlib.sha256(own_json(compared)).hexdigest()


def _frame(scope: str, url: str, how: str, history: tuple[tuple[str, str], ...], role: str) -> str:
    """Of what stands before the last message. Rows often share it; a long one is not worth being remembered."""
    short = sum(len(content) for _, content in history) <= MAX_REMEMBERED_CHARACTERS
    return (_frame_of if short else _frame_of.__wrapped__)(scope, url, how, history, role)


@functools.lru_cache(maxsize=256)
def _frame_of(scope: str, url: str, how: str, history: tuple[tuple[str, str], ...], role: str) -> str:
    return _digest(scope, url, how, "history", [*history, role])
