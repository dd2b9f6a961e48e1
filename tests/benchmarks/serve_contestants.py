"""The other servers of bench_serve: `serve_contestants.py llamacpp|transformers WEIGHTS THREADS PORT`."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

SLOTS, CONTEXT = 32, 1024


def llamacpp(path: str, threads: int, port: int) -> None:
    """llama-server as xllamacpp builds it, with as many slots as there are clients."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.port = port
    params.n_parallel, params.n_ctx = SLOTS, SLOTS * CONTEXT
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers, params.verbosity = 0, -1  # a line for each request would be of its time
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    while True:
        time.sleep(3600)


def transformers(path: str, threads: int, port: int) -> None:
    """What one writes first: FastAPI, `generate`, one request after the other."""
    import torch
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.responses import StreamingResponse
    from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    app, turn = FastAPI(), threading.Lock()

    def answer(body: dict[str, Any]) -> Iterator[str]:
        with turn:
            inputs = tokenizer(body["prompt"], return_tensors="pt")
            streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
            made: list[Any] = []

            def work() -> None:
                with torch.inference_mode():
                    options = {"do_sample": False, "pad_token_id": 0, "streamer": streamer}
                    count = {"min_new_tokens": body["max_tokens"], "max_new_tokens": body["max_tokens"]}
                    made.append(model.generate(**inputs, **count, **options))

            thread = threading.Thread(target=work)
            thread.start()
            for text in streamer:
                yield f"data: {json.dumps({'choices': [{'text': text}]})}\n\n"
            thread.join()
            count = made[0].shape[1] - inputs["input_ids"].shape[1]
        yield f"data: {json.dumps({'choices': [], 'usage': {'completion_tokens': count}})}\n\ndata: [DONE]\n\n"

    @app.get("/health")
    def health() -> dict[str, str]:
        return {}

    @app.post("/v1/completions")
    async def complete(request: Request) -> StreamingResponse:
        return StreamingResponse(answer(await request.json()), media_type="text/event-stream")

    uvicorn.run(app, port=port, log_level="warning")


if __name__ == "__main__":
    {"llamacpp": llamacpp, "transformers": transformers}[sys.argv[1]](sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
