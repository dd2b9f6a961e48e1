"""Models for the tests on a GPU, whose heads are as large as its kernels want them, and a counter of launches."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from small_recorded import recorded_step
from small_training import END
from torch.utils._python_dispatch import TorchDispatchMode

from instruct.core.runtime import Runtime
from instruct.model.checkpoint import Model, random_model
from instruct.model.gpt2 import GPT2Config
from instruct.model.llama import LlamaConfig
from instruct.model.lora import add_lora, dropout_of
from instruct.model.settings import LoraParams
from instruct.training.collate import B
from instruct.training.objective import E, Objective
from instruct.training.recorded import RecordedStep
from instruct.training.settings import LoopParams

CUDA = torch.device("cuda")
RUNTIMES = {"fp32": Runtime(CUDA, torch.float32), "bf16": Runtime(CUDA, torch.bfloat16)}
CONFIGS = {
    "gpt2": GPT2Config(vocab_size=97, n_positions=64, n_embd=64, n_layer=2, n_head=4, eos_token_id=END),
    "llama": LlamaConfig(
        vocab_size=97, max_position_embeddings=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, eos_token_id=END,
    ),
}  # fmt: skip


def gpu_model(family: str, lora: LoraParams | None = None) -> Model:
    model = random_model(CONFIGS[family], seed=1)
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 5 if weight.ndim > 1 else 1
    if lora:
        add_lora(model, lora, seed=0)
    return model.to(CUDA)


def model_for(family: str, params: LoopParams) -> Model:
    """The model as the Trainer sets it up."""
    model = gpu_model(family, params.lora if params.lora.r else None)
    model.recompute = params.recompute_activations
    model.dropout = dropout_of(model)
    return model


def gpu_step(
    model: Model,
    steps: Sequence[Sequence[E]],
    objective: Objective[E, B],
    params: LoopParams,
    runtime: Runtime,
    *,
    record: bool,
) -> RecordedStep[E, B]:
    """The step as the Trainer makes it, and all of its graphs recorded if asked for."""
    step = recorded_step(model, steps, objective, params, runtime)
    if record:
        step.record(steps)
        assert step._graphs.keys() == {None, *step._buckets}, "the run would go on operation by operation"
    return step


def walk(
    steps: Sequence[Sequence[E]], step: RecordedStep[E, B], count: int = 6, more: Callable[[], tuple[Any, ...]] = tuple
) -> list[tuple[Any, ...]]:
    """Loss and norm of so many steps, each followed by what `more` gives."""
    results = []
    for number, examples in enumerate(steps[:count]):
        torch.manual_seed(number)
        step.begin(examples, 0.001)
        step.prepare(steps[number + 1])
        results.append((*step.read(), *more()))
    return results


class Count(TorchDispatchMode):
    """Counts the operations that are dispatched one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.operations += 1
        return function(*args, **(kwargs or {}))
