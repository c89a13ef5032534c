"""From messages to the tokens that an engine is fed: the model's own chat template, in a sandbox, and its tokenizer."""

import json
from pathlib import Path
from typing import Any, NoReturn, Protocol

from serving.intake.body import BadRow
from serving.models.folder import BadModelFolder
from serving.records import Endpoint, Message

MAX_RENDERED_CHARACTERS = 4 * 2**20


class Renderer(Protocol):
    """Turns messages into the text and the tokens of a prompt; the tokens are None where the model is remote."""

    def render(self, endpoint: Endpoint, messages: tuple[Message, ...]) -> tuple[str, tuple[int, ...] | None]: ...


class PlainRenderer:
    """For a model whose tokenizer is not at hand: the server renders, so the messages themselves are the identity."""

    def render(self, endpoint: Endpoint, messages: tuple[Message, ...]) -> tuple[str, None]:
        return json.dumps([[message.role, message.content] for message in messages], ensure_ascii=False), None


class ModelRenderer:
    """Renders and tokenizes exactly as the engine would, once, before the engine exists."""

    def __init__(self, tokenizer_json: Path, chat_template: str | None, special_tokens: dict[str, str]) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(tokenizer_json))
        self._template = None if chat_template is None else _compiled(chat_template)
        self._special_tokens = special_tokens

    def render(self, endpoint: Endpoint, messages: tuple[Message, ...]) -> tuple[str, tuple[int, ...]]:
        """Raises BadRow if the template refuses these messages."""
        chat = endpoint is Endpoint.CHAT
        text = self._chat(messages) if chat else messages[0].content
        # A chat template writes its own special tokens; a bare prompt gets the tokenizer's.
        return text, tuple(self._tokenizer.encode(text, add_special_tokens=not chat).ids)

    def _chat(self, messages: tuple[Message, ...]) -> str:
        if self._template is None:
            raise BadRow("E_TEMPLATE", f"this model has no chat template; send its rows to {Endpoint.COMPLETION}")
        from jinja2.exceptions import TemplateError

        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self._template.render(messages=turns, add_generation_prompt=True, **self._special_tokens)
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise BadRow("E_TEMPLATE", f"the chat template refused these messages: {str(error)[:200]}") from None
        if len(text) > MAX_RENDERED_CHARACTERS:
            raise BadRow("E_TOO_LONG", f"renders to {len(text)} characters; at most {MAX_RENDERED_CHARACTERS}")
        return str(text)


def _compiled(chat_template: str) -> Any:
    """The template under the settings that chat templates are written for (those of transformers)."""
    from jinja2.exceptions import TemplateSyntaxError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = _refuse
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    try:
        return environment.from_string(chat_template)
    except TemplateSyntaxError as error:
        raise BadModelFolder(f"the chat template cannot be used: line {error.lineno}: {error.message}") from None


def _refuse(message: str) -> NoReturn:
    from jinja2.exceptions import TemplateError

    raise TemplateError(message)
