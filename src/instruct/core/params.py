"""params.yaml, read as DVC reads it (YAML 1.2), into frozen dataclasses that refuse unknown settings.

Each stage keeps its dataclass beside the code that uses it and loads only its own section, so that
`dvc.yaml` can list exactly the sections that a stage reads.
"""

import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from instruct.core.errors import DataError, ParamsError
from instruct.core.parsing import read_yaml

PARAMS_FILE = Path("params.yaml")
T = TypeVar("T")


def read_params(path: Path = PARAMS_FILE) -> dict[str, Any]:
    """All of params.yaml as plain values, by YAML 1.2 rules: `1e-05` is a number, `no` is a string."""
    if not path.exists():
        raise ParamsError(f"{path}: there is no such file; run from the repository's root")
    try:
        values = read_yaml(path)
    except DataError as error:
        raise ParamsError(str(error)) from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: must be a mapping of sections, is {describe(values)}")
    return values


def load_params(section: str, cls: type[T], path: Path = PARAMS_FILE) -> T:
    """The section `section` of params.yaml as an instance of the dataclass `cls`.

    Raises ParamsError for a missing or unknown key (with the nearest known name), a value of the wrong type,
    and anything that the dataclass's `__post_init__` refuses.
    """
    values = read_params(path)
    if section not in values:
        raise ParamsError(f'{path}: the section "{section}" is missing{did_you_mean(section, values)}')
    return build(cls, values[section], where=f"{path}: {section}")


def build(cls: type[T], values: Any, *, where: str) -> T:
    """Make the dataclass `cls` from a mapping; `where` starts every error message."""
    assert is_dataclass(cls)
    if not isinstance(values, Mapping):
        raise ParamsError(f"{where}: must be a mapping of settings, is {describe(values)}")
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in fields(cls)}
    for key in values:
        if key not in known:
            raise ParamsError(f"{where}.{key} is not a setting{did_you_mean(str(key), known)}")
    arguments: dict[str, Any] = {}
    for name, field in known.items():
        if name in values:
            arguments[name] = convert(values[name], hints[name], where=f"{where}.{name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ParamsError(f"{where}.{name} is missing; add it")
    try:
        return typing.cast(T, cls(**arguments))
    except ParamsError as error:
        raise ParamsError(f"{where}.{error}") from None


def load_entries(cls: type[T], path: Path) -> dict[str, T]:
    """The entries of a YAML file by name, each a dataclass with the field `name`.

    Raises DataError for a file that is not YAML, and ParamsError for anything else in it.
    """
    entries = read_yaml(path)
    if not isinstance(entries, Mapping):
        raise ParamsError(f"{path}: must map the names of entries to their settings, is {describe(entries)}")
    table = {}
    for name, entry in entries.items():
        named = {**entry, "name": str(name)} if isinstance(entry, Mapping) else entry
        table[str(name)] = build(cls, named, where=f"{path}: {name}")
    return table


def convert(value: Any, wanted: Any, *, where: str) -> Any:
    """`value` as the annotated type `wanted`; only an integer that is wanted as a float changes its type."""
    origin = get_origin(wanted)
    if origin is Literal:
        return _one_of(value, get_args(wanted), where)
    if origin in (types.UnionType, typing.Union):
        return _any_of(value, get_args(wanted), where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ParamsError(f"{where} must be a list, is {describe(value)}")
        item = get_args(wanted)[0]
        return tuple(convert(one, item, where=f"{where}[{i}]") for i, one in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ParamsError(f"{where} must be a mapping, is {describe(value)}")
        _require_text_keys(value, where)
        return dict(value)
    if is_dataclass(wanted) and isinstance(wanted, type):
        return build(wanted, value, where=where)
    if wanted is float and type(value) is int and abs(value) < 1 << 63:
        return float(value)
    if type(value) is wanted:
        return value
    raise ParamsError(f"{where} must be {_NAMES.get(wanted, wanted)}, is {describe(value)}")


def _one_of(value: Any, choices: tuple[Any, ...], where: str) -> Any:
    if value in choices and type(value) in {type(choice) for choice in choices}:
        return value
    hint = did_you_mean(str(value), [str(choice) for choice in choices])
    listed = ", ".join(str(choice) for choice in choices)
    raise ParamsError(f"{where} must be one of {listed}; is {describe(value)}{hint}")


def _require_text_keys(value: Any, where: str) -> None:
    """Refuse values that YAML allows and JSON does not, at any depth."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ParamsError(f"{where} has the key {describe(key)}; put it in quotes")
            _require_text_keys(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            _require_text_keys(inner, f"{where}[{place}]")


def _any_of(value: Any, choices: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in choices:
        return None
    remaining = [choice for choice in choices if choice is not type(None)]
    assert len(remaining) == 1, "a setting's type is a type, or that type and None"
    return convert(value, remaining[0], where=where)


def require(name: str, value: Any, ok: bool, rule: str) -> None:
    """Refuse a value out of range; for the `__post_init__` of a settings dataclass."""
    if not ok:
        raise ParamsError(f"{name} must be {rule}, is {str(value)[:200]}")


_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def describe(value: Any) -> str:
    """A value and its kind, for error messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'the text "{value[:60]}"'
    if isinstance(value, int | float):
        return f"the number {str(value)[:60]}"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list) else f"{value}, a {type(value).__name__}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean x?` for the nearest known name, or the list of known names."""
    names = [str(name) for name in known]
    nearest = get_close_matches(word, names, n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]}?" if nearest else f"; there are {', '.join(sorted(names))}"
