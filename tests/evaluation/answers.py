"""Answers and settings written by hand, for tests of everything after generation."""

from typing import Any

from instruct.evaluation.settings import EvaluateParams, OllamaParams
from instruct.records import Response


def answer(id: str, response: str, output: str = "Paris", **fields: Any) -> Response:
    values: dict[str, Any] = {
        "instruction": f"What is the capital of {id}?",
        "input": "",
        "kind": "facts",
        "stop_reason": "end_of_text",
        "prompt_tokens": 20,
        "response_tokens": 3,
    }
    return Response(**{**values, "id": id, "response": response, "output": output, **fields})


def ollama_params(url: str, **fields: Any) -> OllamaParams:
    values: dict[str, Any] = {
        "model": "llama3", "num_ctx": 2048, "num_predict": 32, "seed": 123, "timeout": 5.0, "retries": 2,
    }  # fmt: skip
    return OllamaParams(**{**values, "url": url, **fields})


def evaluate_params(**fields: Any) -> EvaluateParams:
    values: dict[str, Any] = {
        "judge": "reference",
        "ollama": ollama_params("http://127.0.0.1:11434"),
        "resamples": 500,
        "seed": 123,
        "max_unscored": 0.05,
    }
    return EvaluateParams(**{**values, **fields})
