"""The settings of serving, without torch."""

from dataclasses import dataclass

from instruct.core.params import require


@dataclass(frozen=True, kw_only=True)
class ServeParams:
    """The section `serve` of params.yaml; no stage reads it.

    Each model answers at most `slots` requests at once, with a cache of at most `cache_tokens` tokens; `queue` more may
    wait. An answer has `max_tokens` tokens unless the request says otherwise. A client may send a body of `body_bytes`,
    and `requests_per_minute` requests (0: no limit). It has `patience` seconds for the headers of a request, and as
    many for the body. On SIGTERM running answers have `grace` seconds to finish. The variable `key_variable` holds the
    API key. `policy` is a file of patterns, or "".
    """

    host: str
    port: int
    key_variable: str
    slots: int
    cache_tokens: int
    queue: int
    max_tokens: int
    max_choices: int
    body_bytes: int
    requests_per_minute: int
    patience: float
    grace: float
    policy: str
    max_similarity: float

    def __post_init__(self) -> None:
        require("host", self.host, bool(self.host), "a name or an address")
        require("port", self.port, 0 <= self.port <= 65535, "from 0 to 65535")
        require("key_variable", self.key_variable, self.key_variable.isidentifier(), "the name of a variable")
        require("slots", self.slots, 1 <= self.slots <= 1024, "from 1 to 1024")
        require("cache_tokens", self.cache_tokens, self.cache_tokens >= 16, "at least 16")
        require("queue", self.queue, self.queue >= 0, "at least 0")
        require("max_tokens", self.max_tokens, self.max_tokens >= 1, "at least 1")
        require("max_choices", self.max_choices, 1 <= self.max_choices <= 128, "from 1 to 128")
        require("body_bytes", self.body_bytes, self.body_bytes >= 1024, "at least 1024")
        require("requests_per_minute", self.requests_per_minute, self.requests_per_minute >= 0, "at least 0")
        require("patience", self.patience, 0 < self.patience <= 3600, "above 0 and at most 3600")
        require("grace", self.grace, 0 <= self.grace <= 3600, "from 0 to 3600")
        require("max_similarity", self.max_similarity, 50 <= self.max_similarity <= 100, "from 50 to 100")
