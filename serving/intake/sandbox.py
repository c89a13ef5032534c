"""Jinja for chat templates: the settings that they are written for (those of transformers), and no way out."""

import json
from typing import Any, NoReturn

from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Sandbox(ImmutableSandboxedEnvironment):
    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        self.globals["raise_exception"] = _refuse
        self.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """Jinja itself gives a value that prints as nothing: the attack fails, and its prompt is sent all the same."""
        raise SecurityError(f"{attribute} of a {type(obj).__name__} is out of bounds")


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
