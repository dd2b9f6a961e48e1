"""One greedy answer while training runs, to see with one's own eyes whether it learns."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile

import torch
import torch.nn.functional as F
from torch import Tensor

from instruct.core.records import Example
from instruct.model.decoder import Decoder, attend_causally, repeat_keys
from instruct.text.encoding import encode_prompt
from instruct.text.prompts import Template
from instruct.text.tokenizer import Tokenizer
from instruct.training.recorded import beside, capture


@dataclass
class SamplePrompt:
    """The example that is answered at each evaluation, with at most `max_new_tokens` tokens; 0 for none."""

    example: Example
    template: Template
    max_new_tokens: int
    _greedy: "Greedy | None" = field(default=None, init=False)

    def answer(self, model: Decoder, tokenizer: Tokenizer) -> str:
        """The question and what the model says to it now, ready to print."""
        example = self.example
        if self._greedy is None:
            prompt = encode_prompt(tokenizer, self.template.prompt(example.turns, example.system))
            self._greedy = Greedy(model, prompt, self.max_new_tokens)
        answer = self._greedy.answer(tokenizer.stop_ids)
        return f"{example.instruction} {example.input} -> {tokenizer.decode(answer).strip()}"


class Greedy:
    """The most likely response to one prompt, as often as asked for, by the model's weights at the time.

    It is at most `max_new_tokens` long and as the model has room for. On a GPU the step from one token to the next is
    recorded as a CUDA graph, since launching its kernels takes ten times as long as running them.
    """

    def __init__(self, model: Decoder, prompt: list[int], max_new_tokens: int) -> None:
        self._model = model
        self._count = max(min(max_new_tokens, model.block_size - len(prompt)), 0)
        self._prompt = torch.tensor([prompt], device=model.device)
        self._cache: dict[int, tuple[Tensor, Tensor]] = {}  # keys and values of a layer, each (1, H/G, places, D)
        self._places = torch.arange(len(prompt) + self._count, device=model.device)
        self._token, self._place = self._prompt.new_zeros(1, 1), self._prompt.new_zeros(1)  # the newest, and where
        self._answer = torch.zeros_like(self._places)  # at the places behind the prompt
        self._replay: Callable[[], None] | None = None

    @torch.no_grad()
    def answer(self, stop_ids: frozenset[int]) -> list[int]:
        """The tokens of the response, without the one that ends it."""
        return list(takewhile(lambda token: token not in stop_ids, self._tokens()))

    def _tokens(self) -> Iterator[int]:
        if not self._count:
            return
        if self._model.device.type != "cuda":
            self._begin()
            for left in reversed(range(self._count)):
                yield int(self._token)
                if left:
                    self._step()
            return
        step = self._replay = self._replay or self._record()
        self._begin()
        for _ in range(self._count - 1):
            step()
        yield from self._answer.tolist()[self._prompt.shape[1] :]

    def _begin(self) -> None:
        """Read the prompt, and choose the first token."""
        length = self._prompt.shape[1]
        hidden = self._model.hidden_states(self._prompt, self._places[None, :length], self._read)
        self._place.fill_(length)
        self._choose(hidden)

    def _step(self) -> None:
        """From the newest token to the next; its shapes never change, and it waits for nothing."""
        hidden = self._model.hidden_states(self._token, self._place[None], self._attend)
        self._place.add_(1)
        self._choose(hidden)

    def _choose(self, hidden: Tensor) -> None:
        self._token.copy_(self._model.logits(hidden[:, -1]).argmax(-1, keepdim=True))
        self._answer.index_copy_(0, self._place, self._token[0])

    def _read(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        length = self._prompt.shape[1]
        if layer not in self._cache:
            shape = (*k.shape[:2], len(self._places), k.shape[3])
            self._cache[layer] = k.new_zeros(shape), v.new_zeros(shape)
        keys, values = self._cache[layer]
        keys[:, :, :length] = k
        values[:, :, :length] = v
        return attend_causally(layer, q, k, v)

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self._cache[layer]
        keys.index_copy_(2, self._place, k)
        values.index_copy_(2, self._place, v)
        seen = (self._places <= self._place)[None, None, None]
        return F.scaled_dot_product_attention(q, repeat_keys(q, keys), repeat_keys(q, values), attn_mask=seen)

    def _record(self) -> Callable[[], None]:
        self._begin()
        beside(self._step)
        try:
            return capture(self._step, None).replay
        except RuntimeError:
            torch.cuda.synchronize()
            return self._step
