"""Answers prompts with a Hugging Face folder through transformers, as the model card describes.

python run.py hub request.json reply.json
"""

import time
from typing import Any

import torch
import transformers


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Answer every prompt of the request with the folder's own template, tokenizer and generation settings."""
    torch.set_num_threads(asked["threads"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(asked["path"])
    model = transformers.AutoModelForCausalLM.from_pretrained(asked["path"], dtype="auto").eval()
    answers, started = [], time.perf_counter()
    for prompt in asked["prompts"]:
        inputs: Any = tokenizer.apply_chat_template(
            prompt["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=asked["max_new_tokens"])
        read = inputs["input_ids"][0].tolist()
        tokens = out[0, len(read) :].tolist()
        ended = bool(tokens) and tokens[-1] in asked["stop_ids"]
        kept = tokens[:-1] if ended else tokens
        answers.append({"id": prompt["id"], "prompt": read, "tokens": kept, "ended": ended})
    seconds = time.perf_counter() - started
    runtime = {"name": "transformers", "version": transformers.__version__}
    return {"answers": answers, "seconds": seconds, "runtime": runtime}
