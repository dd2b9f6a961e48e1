"""One JSON call over HTTP, with retries.

Retried: broken connections, 408, 425, 429 and 5xx, and an error or an early end inside a 200, which are a 500 or a
broken connection after the status was sent. Not retried: silence (the server may still be working on the first
request), refusals, and answers that are not JSON. 401 and 404 apply to every request and end a run; any other status
fails one request.
"""

import json
import logging
import random
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from http.client import HTTPException, IncompleteRead
from typing import Any, TypeVar

from instruct.core.errors import ServerError
from instruct.servers.answers import advice_on, json_object, kind_of, one_line, reason_in, retry_after
from instruct.servers.base import Reply
from instruct.servers.exchange import MAX_BYTES, Exchanges, TooLongError, TooSlowError, UnreachableError
from instruct.servers.secret import Mask
from instruct.servers.settings import CallParams

log = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_PAUSE_S = 30.0  # of our own choice
LONGEST_WAIT_S = 600.0  # that a server may ask for by Retry-After
TOLD_S = 2.0  # a longer wait is logged
REFUSED = frozenset({400, 413, 422})  # this one request; other requests may be fine
PASSING = frozenset({408, 425, 429})
LASTING = frozenset({501, 505})  # of 5xx
FOR_ALL = frozenset({401, 404})  # no key, no model: no request can succeed


class HttpError(ServerError):
    """A call failed after so many attempts; `reached` is whether an answer came back at all."""

    attempts = 1
    reached = True


class FailedError(HttpError):
    """This one request failed, for good."""


class RefusedError(FailedError):
    """The server refuses this one request."""


class UnansweredError(FailedError):
    """No usable answer."""


class AgainError(Exception):
    """A failure that is worth a retry; `wait` is the number of seconds that the server asked for."""

    def __init__(self, problem: str, wait: float = 0.0, *, reached: bool = True) -> None:
        super().__init__(problem)
        self.wait, self.reached = wait, reached


class Http:
    """Calls below one address, from any number of threads; `section` of params.yaml is named in messages.

    The `secret` in the headers is masked in every message. A reply's text is never edited: one that repeats the secret
    is a problem.
    """

    def __init__(
        self, url: str, calls: CallParams, section: str, *, headers: Mapping[str, str], secret: str = ""
    ) -> None:
        self.url = url.rstrip("/")
        self._calls, self._section, self._mask = calls, section, Mask(secret)
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", **headers}
        self._exchanges = Exchanges(self.url, calls)
        self._lock = threading.Lock()
        self._closed_until = 0.0

    def get(self, path: str, *, retries: int | None = None) -> dict[str, Any]:
        """The JSON object at `path`."""
        return self._call("GET", path, None, self._masked, retries)[0]

    def post(self, path: str, body: Any, *, retries: int | None = None) -> dict[str, Any]:
        """The JSON object that answers `body`."""
        return self._call("POST", path, body, self._masked, retries)[0]

    def ask(self, path: str, body: Any, read: Callable[[dict[str, Any]], Reply]) -> Reply:
        """The reply that `read` parses from the answer, or one with a problem; `read` may raise AgainError.

        Raises ServerError for errors that affect every request.
        """
        try:
            reply, attempts = self._call("POST", path, body, partial(self._reply, read), None)
        except FailedError as error:
            answered = isinstance(error, RefusedError)
            return Reply(text="", problem=str(error), answered=answered, attempts=error.attempts)
        return replace(reply, attempts=attempts)

    def _call(
        self, method: str, path: str, body: Any, read: Callable[[dict[str, Any]], T], retries: int | None
    ) -> tuple[T, int]:
        """The result of `read`, and the number of attempts."""
        url = self.url + path
        data = None if body is None else json.dumps(body).encode()
        attempts = 1 + (self._calls.retries if retries is None else retries)
        problem, reached = "", False
        for attempt in range(1, attempts + 1):
            self._wait_until_open()
            try:
                return read(self._value(url, *self._exchange(method, url, data))), attempt
            except FailedError as error:
                error.attempts = attempt
                raise
            except AgainError as error:
                problem, reached = str(error), error.reached
                if attempt < attempts:
                    self._pause(attempt, error.wait, f"{url} {problem}")
        tried = f" after {attempts} attempts" if attempts > 1 else ""
        failure = UnansweredError(f"{url} {problem}{tried}; see {self._section}.url and the log of the server")
        failure.attempts, failure.reached = attempts, reached
        raise failure

    def _exchange(self, method: str, url: str, data: bytes | None) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of one attempt."""
        try:
            return self._exchanges.run(method, url, data, self._headers)
        except TooSlowError as error:
            raise self._too_slow(url, error.setting) from None
        except TooLongError:
            raise UnansweredError(f"{url} answers more than {MAX_BYTES // 1_000_000} MB; is this the server?") from None
        except UnreachableError as error:
            raise self._unreachable(url, error.__cause__) from None
        except (OSError, IncompleteRead) as error:
            raise AgainError(f"broke off the connection ({kind_of(error)})", reached=False) from None
        except (HTTPException, ValueError) as error:
            raise UnansweredError(f"{url} answers what is not HTTP ({kind_of(error)})") from None

    def _unreachable(self, url: str, cause: BaseException | None) -> Exception:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return ServerError(f"{url} cannot be trusted ({one_line(cause)}); see its certificate")
        assert cause is not None
        return AgainError(f"cannot be reached ({kind_of(cause)}); is the server running?", reached=False)

    def _value(self, url: str, status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        """The JSON object of a good answer."""
        value = json_object(body)
        error = self._masked(value.get("error")) if value else None
        reason = reason_in(error, self._mask.text(body.decode("utf-8", "replace")))
        if status in PASSING or (status >= 500 and status not in LASTING):
            raise self._again(f"answers {status} ({reason})", headers)
        if status in REFUSED:
            raise RefusedError(f"{url} answers {status} ({reason}); change {self._section} or the request")
        if not 200 <= status < 300:
            kind = HttpError if status in FOR_ALL else UnansweredError
            raise kind(f"{url} answers {status} ({reason}); {advice_on(status)} or change {self._section}")
        if error:
            raise self._inner_error(url, error, reason)
        if value is None and body.lstrip()[:1] in (b"{", b""):
            raise AgainError("ended its answer too early")
        if value is None:
            raise UnansweredError(f"{url} answers no JSON object ({reason}); is this the right server?")
        return value

    def _masked(self, value: Any) -> Any:
        """A JSON value without the secret."""
        try:
            return self._mask.value(value)
        except RecursionError:
            raise UnansweredError(
                f"{self.url} answers JSON that is nested too deeply; is this the right server?"
            ) from None

    def _reply(self, read: Callable[[dict[str, Any]], Reply], value: dict[str, Any]) -> Reply:
        """The reply in an answer, or a problem where its text or its tokens repeat the secret."""
        masked = self._masked(value)
        reply = read(masked)
        whole = reply if masked == value else read(value)
        said = (whole.text, "".join(token.text for token in whole.logprobs or ()))
        if whole.text == reply.text and all(self._mask.text(one) == one for one in said):
            return reply
        return Reply(text="", problem="the reply repeats the API key, so it is not kept; see the log of the server")

    def _inner_error(self, url: str, error: Any, reason: str) -> Exception:
        """An error inside a 200 has a status too, if it says so."""
        code = error.get("code") if isinstance(error, dict) else None
        if isinstance(code, int) and 400 <= code < 500 and code not in PASSING:
            return RefusedError(f"{url} answers the error {code} ({reason}); change {self._section} or the request")
        return AgainError(f"answers an error ({reason})")

    def _again(self, problem: str, headers: Mapping[str, str]) -> Exception:
        wait = retry_after(headers.get("Retry-After", ""))
        if wait > LONGEST_WAIT_S:
            return UnansweredError(f"{self.url} {problem} and asks to wait {wait:.0f} s; run this again later")
        return AgainError(problem, wait)

    def _too_slow(self, url: str, setting: str) -> UnansweredError:
        what = "no whole answer" if setting == "total" else "nothing"
        seconds = getattr(self._calls, setting)
        error = UnansweredError(
            f"{url}: {what} within {seconds:g} s; raise servers.calls.{setting} or ask for less at once"
        )
        error.reached = False
        return error

    def _pause(self, attempt: int, wait: float, problem: str) -> None:
        """Wait before the next attempt, the longer the more there were; Retry-After holds for all threads."""
        most = wait or min(self._calls.backoff * 2 ** (attempt - 1), LONGEST_PAUSE_S)
        if most >= TOLD_S:
            log.info("%s; waits %.0f s before attempt %d", problem, most, attempt + 1)
        if wait:
            with self._lock:
                self._closed_until = max(self._closed_until, time.monotonic() + wait)
        else:
            time.sleep(most * random.uniform(0.5, 1.0))  # so that many workers do not retry at the same moment

    def _wait_until_open(self) -> None:
        while (left := self._closed_until - time.monotonic()) > 0:
            time.sleep(left)
