"""What pages are made of: a template in which every value is escaped, and one style."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from .writers import printable

_STYLE: Final = "page.css"


def render(template: Traversable, **values: Any) -> str:
    """The template with these values; in it `style` is what goes into <style>."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_printable,
    )
    style = Markup(files(__package__).joinpath(_STYLE).read_text("utf-8"))
    return environment.from_string(template.read_text("utf-8")).render(style=style, **values)


def _printable(value: Any) -> Any:
    """What Jinja is to show for a value; what has __html__ is markup of ours."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
