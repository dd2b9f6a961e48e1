"""The counters of `/metrics`, in Prometheus's text format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from instruct.serving.loop import EngineLoop

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The counters of one server."""

    def __init__(self, engine: EngineLoop) -> None:
        self.registry = CollectorRegistry()
        kept = self.registry
        self.requests = Counter("instruct_requests", "Requests by path and status", ["path", "status"], registry=kept)
        self.prompt_tokens = Counter("instruct_prompt_tokens", "Tokens of prompts", ["model"], registry=kept)
        self.answer_tokens = Counter("instruct_answer_tokens", "Tokens of answers", ["model"], registry=kept)
        self.policy = Counter("instruct_policy", "Rules of the policy that applied", ["rule", "action"], registry=kept)
        self.hung_up = Counter("instruct_hung_up", "Clients that disconnected before their answer", registry=kept)
        first = "Seconds until the first token"
        self.first_token = Histogram("instruct_first_token_seconds", first, ["model"], buckets=SECONDS, registry=kept)
        self.seconds = Histogram(
            "instruct_request_seconds", "Seconds of a request", ["path"], buckets=SECONDS, registry=kept
        )
        Gauge("instruct_unfinished", "Answers waiting or in progress", registry=kept).set_function(
            lambda: engine.unfinished
        )
        Gauge("instruct_active", "Answers in progress", registry=kept).set_function(lambda: engine.active)

    def text(self) -> bytes:
        """All of them as text."""
        return generate_latest(self.registry)
