"""Answers prompts with a GGUF file through llama.cpp's server, like its users: chat template, text, tokens.

python run.py llamacpp request.json reply.json
"""

import json
import time
import urllib.request
from importlib.metadata import version
from typing import Any

import xllamacpp


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Answer every prompt of the request as the file says: at the temperature in it, which is 0."""
    server = _start(asked)
    url = server.listening_address
    answers = []
    seconds = 0.0
    for prompt in asked["prompts"]:
        text = _post(url, "/apply-template", {"messages": prompt["messages"]})["prompt"]
        # The text lacks the begin token that the GGUF file asks for: /completion adds it.
        read = _post(url, "/tokenize", {"content": text, "parse_special": True, "add_special": True})["tokens"]
        started = time.perf_counter()
        body = {"prompt": text, "n_predict": asked["max_new_tokens"], "return_tokens": True, "cache_prompt": False}
        said = _post(url, "/completion", body)
        seconds += time.perf_counter() - started
        tokens = said["tokens"]
        ended = bool(tokens) and tokens[-1] in asked["stop_ids"]
        kept = tokens[:-1] if ended else tokens
        answers.append({"id": prompt["id"], "prompt": read, "tokens": kept, "ended": ended})
    return {"answers": answers, "seconds": seconds, "runtime": _runtime()}


def _start(asked: dict[str, Any]) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = asked["path"]
    params.n_ctx, params.n_parallel, params.n_gpu_layers = asked["context"], 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = asked["threads"]
    if asked["options"].get("exact"):  # by default both compute attention in float16
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if adapter := asked["options"].get("adapter"):
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0)]
    params.ctx_shift = params.cache_prompt = params.ui = params.fit_params = False
    params.cache_ram_mib, params.verbosity = 0, -1
    return xllamacpp.Server(params)


def _post(url: str, path: str, body: dict[str, Any]) -> Any:
    data, head = json.dumps(body).encode(), {"Content-Type": "application/json"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url + path, data, head), timeout=600) as answer:
        return json.load(answer)


def _runtime() -> dict[str, str]:
    return {"name": "llama.cpp", "version": f"xllamacpp {version('xllamacpp')}"}
