"""Renders pages: one HTML file each, which needs no network and no other file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from instruct.core.files import read_text, write_text
from instruct.core.records import earlier_turns
from instruct.report.earlier import name_earlier
from instruct.results.headline import system_title

HERE = Path(__file__).parent


def template_environment(*folders: Path) -> Environment:
    """Templates of these folders and of this one; every text from data is escaped, every unknown name refused."""
    environment = Environment(
        loader=FileSystemLoader([*folders, HERE]),
        autoescape=lambda name: bool(name and name.endswith(".html")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["css"] = Markup(read_text(HERE / "style.css"))
    environment.filters |= {"title_of": system_title, "earlier": earlier_turns, "name_earlier": name_earlier}
    return environment


def write_page(path: Path, values: Mapping[str, Any]) -> None:
    """Write the page of one run."""
    write_rendered(path, template_environment().get_template("run.html").render(**values))


def write_rendered(path: Path, text: str) -> None:
    """Write a page or a comment; half a character, as JSON can hold one, is written as a question mark."""
    write_text(path, text.encode("utf-8", "replace").decode())
