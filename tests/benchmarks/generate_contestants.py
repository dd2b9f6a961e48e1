"""The contestants of bench_generate.py, each the worker process that its name asks for.

A contestant takes the task and gives a function from the places of prompts in the task to their answers: each
exactly `new_tokens` greedy tokens long, as ids (or as text). Imports are inside: no environment has all.
"""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import harness

Task = dict[str, Any]
BATCH = 32  # of those that want one


@dataclass(frozen=True)
class Answerer:
    """What answers, and how it forgets earlier prompts before a run, where it would know them again."""

    answer_all: Callable[[Sequence[int], int], Sequence[str | list[int]]]
    forget: Callable[[], None] = lambda: None


def timed(contestant: Callable[[Task], Answerer]) -> Callable[[Task], Callable[..., dict[str, Any]]]:
    """A contestant as the harness runs it: for `count` prompts spread over all, or those from `start` on."""

    def set_up(task: Task) -> Callable[..., dict[str, Any]]:
        answerer = contestant(task)

        def run(
            *, count: int, new_tokens: int, start: int = 0, keep: bool = True, profiled: bool = False
        ) -> dict[str, Any]:
            among = max(task["timed_prompts"], count)
            places = [(start + i * among // count) % len(task["ids"]) for i in range(count)]
            answerer.forget()
            if profiled:
                return {"busy": harness.busy_seconds(task["device"], lambda: answerer.answer_all(places, new_tokens))}
            started = time.perf_counter()
            answers = answerer.answer_all(places, new_tokens)
            seconds = time.perf_counter() - started
            kept = dict(zip(map(str, places), answers, strict=True)) if keep else {}
            lengths = {len(answer) for answer in answers if not isinstance(answer, str)}
            assert lengths <= {new_tokens}, f"answers of {lengths} tokens instead of {new_tokens}"
            return {"seconds": seconds, "answers": kept}

        return run

    return set_up


def ours(task: Task, weights: str = "fp32", precision: str = "") -> Answerer:
    """`generate` of src/instruct/generation with the pipeline's own batch and cache, and no stops."""
    from dataclasses import fields, replace

    from instruct.core.params import load_params
    from instruct.core.runtime import RuntimeParams, start_runtime
    from instruct.generation.decode import generate
    from instruct.generation.settings import GenerateParams
    from instruct.generation.weights import make_ready
    from instruct.model.checkpoint import load_checkpoint
    from instruct.text.tokenizer import Tokenizer

    class Endless(Tokenizer):
        @property
        def stop_ids(self) -> frozenset[int]:
            return frozenset()

    runtime = start_runtime(
        RuntimeParams(device=task["device"], precision=precision or task["precision"], num_threads=task["threads"])
    )
    exact, tokenizer = load_checkpoint(Path(task["model"]), runtime.device)
    model = make_ready(exact, weights, runtime)
    endless = Endless(**{field.name: getattr(tokenizer, field.name) for field in fields(tokenizer)})
    params = replace(load_params("generate", GenerateParams), temperature=0.0, num_samples=1, max_repeats=0)

    def answer_all(places: Sequence[int], new_tokens: int) -> Sequence[str]:
        answers = generate(
            model, endless, {str(place): task["texts"][place] for place in places}, prefix=task["prefix"],
            stop_strings=(), params=replace(params, max_new_tokens=new_tokens), runtime=runtime,
        )  # fmt: skip
        assert all(answer.tokens == new_tokens for answer in answers.values())
        return [answer.text for answer in answers.values()]

    return Answerer(answer_all)


def transformers_generate(task: Task, batch: int) -> Answerer:
    """`generate` of transformers in left-padded batches of prompts of like length; 0 is one batch of all."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(task["threads"])
    device, dtype = task["device"], torch.bfloat16 if task["precision"] == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(task["model"], dtype=dtype).to(device).eval()
    pad = model.config.eos_token_id
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = pad

    def answer_batch(prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
        seen = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=seen, do_sample=False, max_new_tokens=new_tokens)
        return out[:, longest:].tolist()

    def answer_all(places: Sequence[int], new_tokens: int) -> Sequence[list[int]]:
        by_length = sorted(places, key=lambda place: len(task["ids"][place]))
        answers: dict[int, list[int]] = {}
        size = batch or len(by_length)
        for start in range(0, len(by_length), size):
            part = by_length[start : start + size]
            new = answer_batch([task["ids"][place] for place in part], new_tokens)
            answers |= zip(part, new, strict=True)
        return [answers[place] for place in places]

    return Answerer(answer_all)


def chapter(task: Task) -> Answerer:
    """The chapter's `generate` on its own GPTModel, given our weights by its own loader's layout, one by one."""
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(task["threads"])
    book, config = harness.import_chapter(task)
    model = book.GPTModel(config).eval()
    book.load_weights_into_gpt(model, chapter_weights(load_file(Path(task["model"]) / "model.safetensors"), config))

    def answer_all(places: Sequence[int], new_tokens: int) -> Sequence[list[int]]:
        answers = []
        for place in places:
            prompt = torch.tensor([task["ids"][place]])
            out = book.generate(model, prompt, max_new_tokens=new_tokens, context_size=config["context_length"])
            answers.append(out[0, prompt.shape[1] :].tolist())
        return answers

    return Answerer(answer_all)


def chapter_weights(tensors: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """A GPT-2 checkpoint in the nested layout of OpenAI's files, which the chapter's loader takes."""
    weights = {name.removeprefix("transformer."): tensor.numpy() for name, tensor in tensors.items()}

    def linear(name: str) -> dict[str, Any]:
        return {"w": weights[f"{name}.weight"], "b": weights[f"{name}.bias"]}

    def norm(name: str) -> dict[str, Any]:
        return {"g": weights[f"{name}.weight"], "b": weights[f"{name}.bias"]}

    blocks = [
        {
            "attn": {part: linear(f"h.{i}.attn.{part}") for part in ("c_attn", "c_proj")},
            "mlp": {part: linear(f"h.{i}.mlp.{part}") for part in ("c_fc", "c_proj")},
            "ln_1": norm(f"h.{i}.ln_1"),
            "ln_2": norm(f"h.{i}.ln_2"),
        }
        for i in range(config["n_layers"])
    ]
    return {"wpe": weights["wpe.weight"], "wte": weights["wte.weight"], "blocks": blocks, **norm("ln_f")}


def ctranslate2(task: Task, compute_type: str) -> Answerer:
    """CTranslate2 in batches of like length, with the common beginning of all prompts as its cached static prompt."""
    import ctranslate2 as library

    folder = Path(task["work"]) / "ctranslate2"
    if not folder.exists():
        converter = Path(sys.executable).with_name("ct2-transformers-converter")
        subprocess.run([converter, "--model", task["model"], "--output_dir", folder], check=True)
    generator = library.Generator(
        str(folder), device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=task["threads"]
    )
    vocabulary = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
    tokens = [[vocabulary[id_] for id_ in ids] for ids in task["ids"]]
    prefix = task["prefix_tokens"]

    def answer_all(places: Sequence[int], new_tokens: int) -> Sequence[list[int]]:
        results = generator.generate_batch(
            [tokens[place][prefix:] for place in places],
            static_prompt=tokens[0][:prefix] or None, cache_static_prompt=True, max_batch_size=BATCH,
            include_prompt_in_result=False, min_length=new_tokens, max_length=new_tokens, sampling_topk=1,
        )  # fmt: skip
        return [result.sequences_ids[0] for result in results]

    return Answerer(answer_all)


def llama_cpp(task: Task, file: str) -> Answerer:
    """llama.cpp's server inside this process, with a slot for each of 32 prompts; each keeps what prompts share."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = task[file]
    longest = max(map(len, task["ids"])) + task["new_tokens"]
    params.n_parallel, params.n_ctx = BATCH, BATCH * (-(-longest // 256) * 256)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = task["threads"]
    params.cache_ram_mib = 0  # or it would know the prompts of the last run
    params.slot_save_path = task["work"] + "/"  # without a place to save them, slots cannot be emptied
    params.fit_params, params.verbosity = False, 0
    server = xllamacpp.Server(params)

    def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as reply:
            return json.loads(reply.read())

    def answer_one(place: int, new_tokens: int) -> list[int]:
        wanted = {"temperature": 0, "n_predict": new_tokens, "ignore_eos": True, "return_tokens": True}
        return post("/completion", {"prompt": task["ids"][place], "cache_prompt": True, **wanted})["tokens"]

    def answer_all(places: Sequence[int], new_tokens: int) -> Sequence[list[int]]:
        with ThreadPoolExecutor(BATCH) as pool:
            return list(pool.map(partial(answer_one, new_tokens=new_tokens), places))

    def forget() -> None:
        for slot in range(BATCH):
            post(f"/slots/{slot}?action=erase", {})

    return Answerer(answer_all, forget)


if __name__ == "__main__":
    harness.serve(
        {
            "ours": timed(ours),
            "ours-fp32": timed(partial(ours, precision="fp32")),
            "ours-bf16": timed(partial(ours, precision="bf16")),
            "ours-int8": timed(partial(ours, weights="int8")),
            "transformers-1": timed(partial(transformers_generate, batch=1)),
            "transformers-32": timed(partial(transformers_generate, batch=BATCH)),
            "transformers-all": timed(partial(transformers_generate, batch=0)),
            "chapter": timed(chapter),
            "ctranslate2-fp32": timed(partial(ctranslate2, compute_type="float32")),
            "ctranslate2-int8": timed(partial(ctranslate2, compute_type="int8")),
            "llama.cpp-fp32": timed(partial(llama_cpp, file="gguf_fp32")),
            "llama.cpp-q4_1": timed(partial(llama_cpp, file="gguf_q4_1")),
        }
    )
