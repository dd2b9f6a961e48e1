"""YAML and JSON that anyone may have written, to plain values; whatever is wrong with a text is one line."""

import json
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from instruct.core.errors import DataError

DEEPEST = 100  # levels of lists and mappings; far more than any file of ours, far fewer than Python can walk


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML 1.2 text; raises DataError that begins with `where`."""
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise DataError(f"{where}{f':{mark.line + 1}' if mark else ''}: is not YAML; correct it") from None
    # What ruamel.yaml lets through from Python: a date of month 13, `!!int abc`, `!!int ''`, ten thousand brackets.
    except (ValueError, LookupError, RecursionError) as error:
        raise DataError(f"{where}: holds a value that cannot be read ({_words(error)}); correct it") from None
    return _not_too_deep(value, where)


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text; raises DataError that begins with `where`."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}:{error.lineno}: not JSON ({error.msg}); run the stage that writes it") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({_words(error)}); run the stage that writes it") from None
    return _not_too_deep(value, where)


def mapping(value: Any) -> dict[str, Any]:
    """What stands there by name; empty for anything else."""
    return value if isinstance(value, dict) else {}


def _not_too_deep(value: Any, where: str) -> Any:
    level = [value]
    for _ in range(DEEPEST):
        inner = [
            one
            for outer in level
            if isinstance(outer, dict | list)
            for one in (outer.values() if isinstance(outer, dict) else outer)
        ]
        level = list({id(one): one for one in inner}.values())  # what YAML names twice is looked at once
        if not level:
            return value
    raise DataError(f"{where}: is nested over {DEEPEST} levels deep, or holds itself; correct it")


def _words(error: Exception) -> str:
    return "nested too deep" if isinstance(error, RecursionError) else str(error).splitlines()[0][:100]
