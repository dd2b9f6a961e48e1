"""What an answer over HTTP holds, whatever it holds: foreign bytes, statuses and headers, read without trust."""

import json
import time
from email.utils import parsedate_to_datetime
from typing import Any

from urllib3.exceptions import HTTPError


def one_line(text: Any) -> str:
    """Foreign text in an error message: on one line, and not long."""
    return " ".join(str(text).split())[:200]


def json_object(body: bytes) -> dict[str, Any] | None:
    """The object in a body, or the one that the lines of a stream add up to; None where there is none."""
    try:
        return _object(json.loads(body))
    except RecursionError:
        return None
    except ValueError:
        pass
    try:
        lines = [_object(json.loads(line)) for line in body.splitlines() if line.strip()]
    except (ValueError, RecursionError):
        return None
    objects = [line for line in lines if line is not None]
    if len(objects) < 2 or len(objects) != len(lines):
        return None
    failed = next((line for line in objects if line.get("error")), None)
    texts = [line["message"].get("content") for line in objects if isinstance(line.get("message"), dict)]
    content = "".join(text for text in texts if isinstance(text, str))
    return failed or {**objects[-1], "message": {"role": "assistant", "content": content}}


def _object(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


def reason_in(error: Any, body: bytes) -> str:
    """What a server says is wrong: Ollama a text, others an object with a message."""
    if isinstance(error, dict):
        error = error.get("message") or error
    return one_line(error if error else body[:200].decode("utf-8", "replace")) or "no reason given"


def retry_after(text: str) -> float:
    """Seconds to wait by a Retry-After header, which holds seconds or a date; 0 where it holds neither."""
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def advice_on(status: int) -> str:
    """What to do about a status that is no success."""
    if status in (401, 403):
        return "check the key and what it may do"
    return "the address is wrong or the server lacks the model; correct it" if status == 404 else "see its log"


def kind_of(error: HTTPError) -> str:
    """The failure in words, without the addresses of objects that urllib3's texts hold."""
    reason: BaseException = error
    while reason.__cause__ or (reason.args and isinstance(reason.args[-1], BaseException)):
        reason = reason.__cause__ or reason.args[-1]
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return type(reason).__name__.removesuffix("Error")
