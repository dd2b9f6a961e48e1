"""Answers prompts with an exported graph, in onnxruntime or in torch, and imports neither the project nor the other.

python run.py graph request.json reply.json

A request names the program (`onnx`, `pt2` or `torchscript`), the file, and for a graph with a cache the number of
layers and key heads and the head size. Prompts are made with the files beside the graph, and answers end at the tokens
that prompt.json names. A chat, which prompt.json has no form for, comes as tokens.

A graph takes input_ids (B, T), attention_mask (B, S + T), position_ids (B, T) and a key and a value
(B, heads, S, size) for each layer, and gives logits (B, T, vocab_size) and the keys and values of all S + T tokens.
Without a cache S is 0, and only the logits come out.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[list[Any]], list[Any]]


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Answer every prompt of the request greedily."""
    graph, read, stop_ids = Graph(asked), *_open_prompts(Path(asked["path"]).parent)
    answers, started = [], time.perf_counter()
    for prompt in asked["prompts"]:
        ids = read(prompt["question"]) if prompt["question"] else prompt["ids"]
        tokens = graph.greedy(ids, stop_ids, asked["max_new_tokens"])
        ended = tokens[-1] in stop_ids
        kept = tokens[:-1] if ended else tokens
        answers.append({"id": prompt["id"], "prompt": ids, "tokens": kept, "ended": ended})
    seconds = time.perf_counter() - started
    return {"answers": answers, "seconds": seconds, "runtime": graph.runtime, "imported": _ours()}


class Graph:
    """An exported graph and its cache."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self._cache = asked["cache"]
        self._run, self.runtime = _open(asked)

    def greedy(self, ids: list[int], stop_ids: set[int], most: int) -> list[int]:
        """The greedy answer to `ids`, with its end token."""
        tokens: list[int] = []
        new, past = ids, self.empty(1)
        while len(tokens) < most and not (tokens and tokens[-1] in stop_ids):
            seen = len(ids) + len(tokens) - len(new)
            logits, past = self.step(np.array([new]), np.ones((1, seen + len(new)), np.int64), past)
            tokens.append(int(logits[0, -1].argmax()))
            new = tokens[-1:] if self._cache else ids + tokens
        return tokens

    def empty(self, rows: int) -> list[Any]:
        if not self._cache:
            return []
        shape = (rows, self._cache["heads"], 0, self._cache["size"])
        return [np.zeros(shape, np.float32) for _ in range(2 * self._cache["layers"])]

    def step(self, ids: Any, mask: Any, past: Sequence[Any]) -> tuple[Any, list[Any]]:
        """(B, T) new ids and a mask of all tokens → (B, T, vocab_size) logits, and the extended cache."""
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -ids.shape[1] :]
        logits, *cache = self._run([ids.astype(np.int64), mask.astype(np.int64), positions.astype(np.int64), *past])
        return logits, cache


def _open_prompts(folder: Path) -> tuple[Callable[[dict[str, str]], list[int]], set[int]]:
    """A function from a question to its prompt's tokens, and the tokens that end an answer, by the export's files."""
    from tokenizers import Tokenizer

    form = json.loads((folder / "prompt.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def read(question: dict[str, str]) -> list[int]:
        before, _, rest = form["prompt_with_input" if question["input"] else "prompt"].partition("{instruction}")
        text = before + question["instruction"] + rest.replace("{input}", question["input"])
        ids: list[int] = tokenizer.encode(text).ids
        return ids

    return read, set(form["stop_token_ids"])


def _open(asked: dict[str, Any]) -> tuple[Run, dict[str, str]]:
    if asked["program"] == "onnx":
        return _open_onnx(asked)
    import torch

    torch.set_num_threads(asked["threads"])
    if asked["program"] == "torchscript":
        module = torch.jit.load(asked["path"])
    else:
        module = torch.export.load(asked["path"]).module()

    def run(inputs: list[Any]) -> list[Any]:
        with torch.inference_mode():
            out = module(*map(torch.from_numpy, inputs))
        return [one.numpy() for one in (out if isinstance(out, tuple) else (out,))]

    return run, {"name": "torch", "version": torch.__version__}


def _open_onnx(asked: dict[str, Any]) -> tuple[Run, dict[str, str]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = asked["threads"], 1
    session = onnxruntime.InferenceSession(asked["path"], options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(inputs: list[Any]) -> list[Any]:
        return session.run(None, dict(zip(names, inputs, strict=True)))

    return run, {"name": "onnxruntime", "version": version("onnxruntime")}


def _ours() -> list[str]:
    """Which of these packages were imported."""
    return [name for name in ("instruct", "onnxruntime", "torch", "transformers") if name in sys.modules]
