"""From messages to the tokens that an engine is fed: the model's own chat template, in a sandbox, and its tokenizer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from serving.intake.bad_row import BadRow
from serving.intake.files import BadInput
from serving.intake.patience import OutOfTime, Patience
from serving.intake.shown import escaped
from serving.own_json import own_json
from serving.records import Endpoint, Message

MAX_RENDERED_CHARACTERS = 4 * 2**20
MAX_PROMPT_TOKENS = 400_000  # a tokenizer takes some 450 bytes of memory for each
# Counted by pieces first, a text may come to a few tokens more than as a whole: some are cut in two.
PIECE_CHARACTERS = 2**16


class Renderer(Protocol):
    """Turns messages into the text and the tokens of a prompt; the tokens are None where the model is remote."""

    def render(self, endpoint: Endpoint, messages: tuple[Message, ...]) -> tuple[str, tuple[int, ...] | None]: ...


class PlainRenderer:
    """For a model whose tokenizer is not at hand: the server renders, so the messages themselves are the identity."""

    def render(self, endpoint: Endpoint, messages: tuple[Message, ...]) -> tuple[str, None]:
        return own_json(messages).decode(), None


class ModelRenderer:
    """Renders and tokenizes exactly as the engine would, once, before the engine exists."""

    def __init__(
        self,
        tokenizer_json: Path,
        chat_template: str | None,
        special_tokens: dict[str, str],
        most_tokens: int | None = None,
    ) -> None:
        """`most_tokens` is what the model holds: of a prompt far beyond it, only as much is tokenized as shows that.

        Raises:
            BadInput: the tokenizer or the template cannot be used for any row.
        """
        self._most_tokens = min(most_tokens or MAX_PROMPT_TOKENS, MAX_PROMPT_TOKENS)
        self._tokenizer = _tokenizer(tokenizer_json)
        self._patience = Patience()
        self._template = None if chat_template is None else self._compiled(chat_template)
        self._special_tokens = special_tokens

    def render(self, endpoint: Endpoint, messages: tuple[Message, ...]) -> tuple[str, tuple[int, ...]]:
        """Raises BadRow if the template refuses these messages, BadInput if it takes too long for row after row."""
        chat = endpoint is Endpoint.CHAT
        text = self._chat(messages) if chat else messages[0].content
        self._must_not_be_far_too_long(text)
        # A chat template writes its own special tokens; a bare prompt gets the tokenizer's.
        ids = tuple(self._tokenizer.encode(text, add_special_tokens=not chat).ids)
        if not ids:
            raise BadRow("E_TEMPLATE", "comes to no tokens at all; mend the chat template, or write more")
        return text, ids

    def _must_not_be_far_too_long(self, text: str) -> None:
        if len(text) <= PIECE_CHARACTERS:
            return
        tokens = 0
        for start in range(0, len(text), PIECE_CHARACTERS):
            tokens += len(self._tokenizer.encode(text[start : start + PIECE_CHARACTERS]).ids)
            if tokens > min(2 * self._most_tokens, MAX_PROMPT_TOKENS):
                raise BadRow(
                    "E_TOO_LONG", f"over {tokens} prompt tokens; at most {self._most_tokens} fit, so shorten it"
                )

    def _chat(self, messages: tuple[Message, ...]) -> str:
        if self._template is None:
            raise BadRow("E_TEMPLATE", f"this model has no chat template; send its rows to {Endpoint.COMPLETION}")
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            with self._patience.limit():
                pieces = self._template.generate(messages=turns, add_generation_prompt=True, **self._special_tokens)
                return _joined(pieces)
        except OutOfTime:
            reason = f"the chat template took over {self._patience.at_most_s:g} s for these messages; mend its loops"
            raise BadRow("E_TEMPLATE", reason) from None
        except (BadRow, BadInput):
            raise
        except MemoryError:
            reason = "the chat template needs more memory than admission has; mend what it repeats"
            raise BadRow("E_TEMPLATE", reason) from None
        except Exception as error:  # noqa: BLE001 (a template is foreign code: it raises what it likes)
            why = escaped(str(error) or type(error).__name__, 200)
            raise BadRow("E_TEMPLATE", f"the chat template refused these messages: {why}; mend either") from None

    def _compiled(self, chat_template: str) -> Any:
        """Compiling already computes what is constant in a template, so it is limited too."""
        from serving.intake.sandbox import Sandbox

        try:
            with self._patience.limit():
                return Sandbox().from_string(chat_template)
        except OutOfTime:
            why = f"it takes over {self._patience.at_most_s:g} s to compile"
        except Exception as error:  # noqa: BLE001 (from Jinja, or from Python about what Jinja made of it)
            line = getattr(error, "lineno", None)
            why = f"line {line}: {escaped(str(error), 200)}" if line else escaped(str(error) or repr(error), 200)
        raise BadInput("E_TEMPLATE", f"the model's chat template cannot be used: {why}; mend chat_template.jinja")


def _tokenizer(tokenizer_json: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(tokenizer_json))
    except Exception as error:  # noqa: BLE001 (tokenizers raises nothing more precise)
        raise BadInput(
            "E_MODEL", f"{tokenizer_json}: no tokenizer ({escaped(str(error))}); get the file again"
        ) from None


def _joined(pieces: Iterator[str]) -> str:
    found: list[str] = []
    characters = 0
    for piece in pieces:
        found.append(piece)
        characters += len(piece)
        if characters > MAX_RENDERED_CHARACTERS:
            raise BadRow("E_TOO_LONG", f"renders to over {MAX_RENDERED_CHARACTERS} characters; shorten the messages")
    return "".join(found)
