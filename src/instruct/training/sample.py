"""One greedy answer while training runs, to see with one's own eyes whether it learns."""

from dataclasses import dataclass

import torch

from instruct.core.records import Example
from instruct.model.decoder import Decoder, KVCache
from instruct.text.prompts import Template
from instruct.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class SamplePrompt:
    """The example that is answered at each evaluation, with at most `max_new_tokens` tokens; 0 for none."""

    example: Example
    template: Template
    max_new_tokens: int

    def answer(self, model: Decoder, tokenizer: Tokenizer) -> str:
        """The question and what the model says to it now, ready to print."""
        example = self.example
        prompt = self.template.render(example.instruction, example.input)
        return f"{example.instruction} {example.input} -> " + sample_answer(
            model, tokenizer, prompt, self.max_new_tokens
        )


@torch.inference_mode()
def sample_answer(model: Decoder, tokenizer: Tokenizer, prompt: str, max_new_tokens: int) -> str:
    """The most likely response to one prompt, at most `max_new_tokens` long and as the model has room for."""
    ids = tokenizer.encode(prompt)
    max_new_tokens = min(max_new_tokens, model.block_size - len(ids))
    if max_new_tokens <= 0:
        return ""
    cache = KVCache([0], len(ids) + max_new_tokens, model.device)
    new = ids
    answer: list[int] = []
    for _ in range(max_new_tokens):
        input_ids = torch.tensor([new], device=model.device)
        cache.begin(len(new))
        positions = torch.arange(cache.length, cache.length + len(new), device=model.device)[None]
        hidden = model.hidden_states(input_ids, positions, cache)
        cache.end()
        token = int(model.logits(hidden[:, -1]).argmax())
        if token in tokenizer.stop_ids:
            break
        answer.append(token)
        new = [token]
    return tokenizer.decode(answer).strip()
