"""Errors in requests, in OpenAI's form: `{"error": {message, type, param, code}}`."""

from typing import Any

from instruct.core.errors import InstructError


class Problem(InstructError):
    """A request that is refused; `param` names the field, `code` the kind, `wait` the seconds until it may succeed."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        kind: str = "",
        wait: int = 1,
    ) -> None:
        super().__init__(message)
        self.param, self.code, self.status, self.wait = param, code, status, wait
        self.kind = kind or ("invalid_request_error" if status < 500 else "server_error")

    def body(self) -> dict[str, Any]:
        """The error body for the client."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}
