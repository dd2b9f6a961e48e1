"""Reads answers over HTTP without trust: foreign bytes, statuses and headers."""

import io
import json
import time
from email.utils import parsedate_to_datetime
from typing import Any

from instruct.core.shown import printable

MOST_LINES = 20_000  # of a stream
SHOWN = 200  # characters of a foreign text in a message


def one_line(text: Any) -> str:
    """Foreign text in a message: on one line, not long, and without control characters."""
    return printable(" ".join(str(text).split()))[:SHOWN]


def json_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object in a body, or the sum of a stream's lines; None if there is none."""
    try:
        value = json.loads(body)
    except RecursionError:
        return None
    except ValueError:
        return _joined(_lines_of(body))
    return value if isinstance(value, dict) else None


def _lines_of(body: bytes) -> list[dict[str, Any]]:
    """The objects of a stream, one per line; empty if any line is not an object."""
    objects: list[dict[str, Any]] = []
    for line in io.BytesIO(body):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            return []
        if not isinstance(value, dict) or len(objects) == MOST_LINES:
            return []
        objects.append(value)
    return objects


def _joined(objects: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The last object of a stream with the joined texts, or the first error."""
    if len(objects) < 2:
        return None
    failed = next((one for one in objects if one.get("error")), None)
    texts = [one["message"].get("content") for one in objects if isinstance(one.get("message"), dict)]
    content = "".join(text for text in texts if isinstance(text, str))
    return failed or {**objects[-1], "message": {"role": "assistant", "content": content}}


def objects_in(value: Any) -> list[dict[str, Any]]:
    """The objects in a list; empty for anything else."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def reason_in(error: Any, text: str) -> str:
    """The server's error message: a text in Ollama, an object with a message elsewhere; `text` is the whole answer."""
    if isinstance(error, dict):
        error = error.get("message") or error
    return one_line(error or text) or "no reason given"


def retry_after(text: str) -> float:
    """Seconds to wait by a Retry-After header with seconds or a date; 0 if it has neither."""
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, LookupError, OverflowError, OSError):
        return 0.0


def advice_on(status: int) -> str:
    """The remedy for an error status."""
    if status in (401, 403):
        return "check the key and what it may do"
    return "the address is wrong or the server lacks the model; correct it" if status == 404 else "see its log"


def kind_of(error: BaseException) -> str:
    """The failure of a connection in words."""
    if isinstance(error, OSError) and (said := error.strerror or str(error)):
        return one_line(said)
    return type(error).__name__.removesuffix("Error")
