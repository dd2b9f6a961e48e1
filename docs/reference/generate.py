"""Write the pages that come from the code: settings.md from the dataclasses and params.yaml, commands.md from the CLI.

python docs/reference/generate.py     # `make reference`; a test fails where the committed pages are not what it writes
"""

import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer.main

from instruct.cli import app
from instruct.core.files import write_text
from instruct.core.parsing import read_yaml
from instruct.tools.check import SECTIONS

ROOT = Path(__file__).parents[2]
WRITTEN = "<!-- Written by `make reference` from the code. Edit the code, then run it again. -->"
NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false"}


def pages(root: Path) -> dict[str, str]:
    """The text of each generated page by its name in docs/reference."""
    return {"settings.md": settings_page(root), "commands.md": commands_page(root)}


# Settings


def settings_page(root: Path) -> str:
    """Every setting of every section: its committed value, what it may be, and the comment of params.yaml."""
    text = (root / "params.yaml").read_text(encoding="utf-8")
    values, comments = read_yaml(root / "params.yaml"), dict(comments_of(text))
    readers = stages_by_section(read_yaml(root / "dvc.yaml"))
    lines = [
        "# Settings",
        WRITTEN,
        "",
        "All settings are in [params.yaml](../../params.yaml), one section per stage. The values below are the",
        "committed ones. Change one for a single run with `dvc exp run -S train.lr=1e-4`, or for good in the file.",
        "`instruct check` validates all of them in seconds and refuses an unknown setting with the nearest right",
        "name.",
    ]
    for name, section in SECTIONS.items():
        lines += ["", f"## {name}", *section_head(comments.get(name, ""), readers.get(name, []))]
        lines += table(
            ["setting", "value", "type or choices", "meaning"], setting_rows(section, values, name, comments)
        )
    return "\n".join(lines) + "\n"


def section_head(comment: str, stages: list[str]) -> list[str]:
    """What the section is about, and which stages a change re-runs."""
    read_by = f"Read by the stages: {', '.join(stages)}." if stages else "No stage reads it."
    return [*([f"{comment[:1].upper()}{comment[1:]}."] if comment else []), read_by, ""]


def setting_rows(cls: Any, values: Any, path: str, comments: Mapping[str, str]) -> Iterator[list[str]]:
    """A row for each setting of a dataclass, those of nested ones under their full name."""
    hints = typing.get_type_hints(cls)
    given = value_at(values, path)
    for field in fields(cls):
        name, wanted = f"{path}.{field.name}", hints[field.name]
        if is_dataclass(wanted):
            yield from setting_rows(wanted, values, name, comments)
            continue
        value = given.get(field.name, default_of(field)) if isinstance(given, Mapping) else default_of(field)
        shown = code(yaml_of(value)) if not isinstance(value, Mapping) or not value else "see the file"
        yield [code(name), shown, kind_of(wanted), comments.get(name, "")]


def value_at(values: Any, path: str) -> Any:
    """What params.yaml holds under a dotted name; None if nothing."""
    for part in path.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def default_of(field: "Field[Any]") -> Any:
    """The value of a setting that params.yaml may leave out."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    return None if field.default is MISSING else field.default


def kind_of(wanted: Any) -> str:
    """A type in words, or the choices."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin is Literal:
        return ", ".join(code(str(one)) for one in inner)
    if origin is tuple:
        return f"list of {kind_of(inner[0])}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join("null" if one is type(None) else kind_of(one) for one in inner)
    return "mapping" if origin is dict or wanted is dict else NAMES.get(wanted, str(wanted))


def yaml_of(value: Any) -> str:
    """A value as it is written in params.yaml."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(yaml_of, value))}]"
    return '""' if value == "" else str(value)


def comments_of(text: str) -> Iterator[tuple[str, str]]:
    """The comment on each setting's line by its dotted name, joined with the comment lines below that go on."""
    path: list[tuple[int, str]] = []
    name, comment = "", ""
    for line in text.splitlines():
        key = re.match(r"( *)([\w-]+):", line)
        said = re.search(r"(?:^|\s)# ?(.*)$", line)
        if key:
            yield name, comment
            path = [one for one in path if one[0] < len(key[1])] + [(len(key[1]), key[2])]
            name, comment = ".".join(part for _, part in path), said[1].strip() if said else ""
        elif said and line.startswith(" "):
            comment = f"{comment} {said[1].strip()}".strip()
    yield name, comment


def stages_by_section(pipeline: Any) -> dict[str, list[str]]:
    """The stages that read each section of params.yaml, in the pipeline's order."""
    found: dict[str, list[str]] = {}
    for stage, what in pipeline["stages"].items():
        body = what.get("do", what)
        names = [one for one in body.get("params", []) if isinstance(one, str)]
        used = re.findall(r"\$\{(\w+)\.", str(body.get("cmd", "")))
        for name in dict.fromkeys([one.split(".")[0] for one in (*names, *used)]):
            found.setdefault(name, []).append(stage)
    return found


# Commands


def commands_page(root: Path) -> str:
    """Every command of `instruct` with its arguments and options, then every target of make."""
    lines = [
        "# Commands",
        WRITTEN,
        "",
        "`source .venv/bin/activate` puts `instruct` and `dvc` on the path. The pipeline itself is `dvc repro`.",
        "The exit status is 0 for success, 1 for a mistake that one line explains, 2 for a wrong command line, and",
        "3 where `instruct compare --fail-if` holds.",
    ]
    for name, command in commands_of(typer.main.get_command(app), "instruct"):
        lines += ["", f"## {name}", *help_of(command), "", "```", usage_of(name, command), "```"]
        rows = [row for one in command.params if one.name != "help" and (row := parameter_row(one))]
        lines += ["", *table(["argument or option", "default", "meaning"], rows)] if rows else []
    lines += ["", "## make", "Each target first makes `.venv` if it must.", ""]
    return "\n".join([*lines, *table(["target", "what it does"], targets(root))]) + "\n"


def commands_of(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Each command that does something, under its full name."""
    for part, inner in getattr(command, "commands", {}).items():
        if hasattr(inner, "commands"):
            yield from commands_of(inner, f"{name} {part}")
        else:
            yield f"{name} {part}", inner


def help_of(command: Any) -> list[str]:
    """The help text, a paragraph in a line."""
    return "\n\n".join(re.sub(r"\s+", " ", part) for part in (command.help or "").strip().split("\n\n")).split("\n")


def usage_of(name: str, command: Any) -> str:
    """The command line with its arguments, those that may be left out in brackets."""
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    shown = [one.name.upper() + "…" * (one.nargs == -1) for one in arguments]
    parts = [text if one.required else f"[{text}]" for text, one in zip(shown, arguments, strict=True)]
    return " ".join([name, *parts, *(["[OPTIONS]"] if len(command.params) > len(arguments) else [])])


def parameter_row(one: Any) -> list[str]:
    """Name, default and meaning of an argument or option."""
    names = [one.name.upper()] if one.param_type_name == "argument" else [*one.opts, *one.secondary_opts]
    default = one.default() if callable(one.default) else one.default
    flag = getattr(one, "is_flag", False) and not one.secondary_opts
    shown = "" if default in (None, "", [], ()) or flag or one.required else code(yaml_of(default))
    return [", ".join(map(code, names)), "required" if one.required else shown, one.help or ""]


def targets(root: Path) -> list[list[str]]:
    """The targets of the Makefile with their comments, as `make help` prints them."""
    found = re.findall(r"^([a-z-]+):.*?## (.+)$", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    return [[code(f"make {name}"), what] for name, what in found]


# Markdown


def table(head: list[str], rows: typing.Iterable[list[str]]) -> list[str]:
    """A table; a bar within a cell is escaped."""
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]


def code(text: str) -> str:
    """Text in code marks."""
    return f"`{text}`"


def main() -> None:
    """Write both pages."""
    for name, text in pages(ROOT).items():
        write_text(Path(__file__).with_name(name), text)


if __name__ == "__main__":
    main()
