"""One optimizer step and one evaluation, operation by operation; which examples a step takes."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from instruct.core.runtime import Runtime
from instruct.training.collate import B, Batch, collate, without_targets
from instruct.training.distributed import Parallel
from instruct.training.objective import E
from instruct.training.settings import LoopParams, StepSize, TrainParams

EVAL_TOKENS = 2048  # of a batch of val on one process


def batch_maker(params: TrainParams, runtime: Runtime, pad_id: int) -> partial[Batch]:
    """The function that makes batches as the settings want them, on the device in use."""
    return partial(
        collate,
        batching=params.batching,
        pad_id=pad_id,
        prompt_loss_weight=params.prompt_loss_weight,
        device=runtime.device,
    )


def make_optimizer(model: nn.Module, params: LoopParams, *, recorded: bool = False) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter, 2019) that decays matrices only, not norms and biases.

    With `recorded` its learning rate is a tensor beside the weights, and a CUDA graph can hold its step.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in weights if w.ndim >= 2], "weight_decay": params.weight_decay},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    lr = torch.tensor(params.lr, device=weights[0].device) if recorded else params.lr
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=lr,
        fused=True,
        capturable=recorded and weights[0].device.type == "cuda",
    )


def draw_steps(examples: Sequence[E], params: LoopParams) -> Iterator[list[E]]:
    """The examples of each optimizer step: every epoch a new order from the named seed, nothing left out."""
    generator = torch.Generator().manual_seed(params.seed)
    for _ in range(params.epochs):
        order = torch.randperm(len(examples), generator=generator).tolist()
        yield from pieces([examples[i] for i in order], params.examples_per_step, params.step_size.tokens)


def pieces(examples: Sequence[E], size: int, tokens: int) -> list[list[E]]:
    """Consecutive pieces of at most `tokens` tokens, or of at most `size` examples where `tokens` is 0.

    An example that is longer than `tokens` makes its own piece.
    """
    cut: list[list[E]] = []
    held = 0
    for example in examples:
        held += example.token_count
        full = held > tokens if tokens else bool(cut) and len(cut[-1]) == size
        if full or not cut:
            cut.append([])
            held = example.token_count
        cut[-1].append(example)
    return cut


def split_step(examples: Sequence[E], size: StepSize, parallel: Parallel, rank: int = 0) -> list[list[E]]:
    """The examples of a rank's micro-batches in one step."""
    count = max(size.examples // parallel.world_size, 1)
    tokens = math.ceil(size.tokens / (size.micro_batches * parallel.world_size))
    return pieces(parallel.share(examples, rank), count, tokens)


def micro_batches(
    examples: Sequence[E],
    to_batch: Callable[[Sequence[E]], B],
    *,
    size: StepSize,
    parallel: Parallel,
) -> list[B]:
    """This rank's micro-batches of one step, equally many on every rank.

    A rank that the last, smaller step leaves without examples computes one that counts for nothing.
    """
    shares = [split_step(examples, size, parallel, rank) for rank in range(parallel.world_size)]
    batches = [to_batch(part) for part in shares[parallel.rank]]
    missing = max(map(len, shares)) - len(batches)
    filler = [without_targets(to_batch(examples[:1]))] if missing else []
    return batches + filler * missing


def take_step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    examples: Sequence[E],
    to_batch: Callable[[Sequence[E]], B],
    *,
    lr: float,
    params: LoopParams,
    runtime: Runtime,
    parallel: Parallel,
) -> tuple[float, float]:
    """One optimizer step: the loss before it, and the gradient's norm before clipping.

    Each target counts by its weight over the weight of the whole step, whatever the micro-batches' lengths and
    the number of ranks.
    """
    module.train()
    batches = micro_batches(examples, to_batch, size=params.step_size, parallel=parallel)
    weight = parallel.total(sum(float(batch.weights.sum()) for batch in batches))
    total = 0.0
    for i, batch in enumerate(batches):
        with parallel.accumulating(module, last=i == len(batches) - 1):
            with runtime.autocast():
                loss = module(batch) / weight
            # DDP and FSDP average over ranks where the sum is wanted.
            (loss * parallel.world_size).backward()
        total += float(loss.detach())
    for group in optimizer.param_groups:
        group["lr"] = lr
    norm = clip_and_update(optimizer, params.max_grad_norm)
    optimizer.zero_grad(set_to_none=True)
    return parallel.total(total), float(norm)


@torch.no_grad()
def clip_and_update(optimizer: torch.optim.Optimizer, max_norm: float) -> Tensor:
    """Update with gradients scaled so that their common norm is at most `max_norm`; gives the norm before, a scalar.

    Both happen in the optimizer's own fused kernel, so that the gradients are not written again. A norm that is not
    a number leaves the weights alone.
    """
    assert getattr(optimizer, "_step_supports_amp_scaling", False), "only a fused optimizer scales its gradients"
    weights = (weight for group in optimizer.param_groups for weight in group["params"])
    norm = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    scale = ((norm + 1e-6) / max_norm).clamp(min=1.0)
    vars(optimizer).update(grad_scale=scale, found_inf=(~norm.isfinite()).float())
    optimizer.step()
    return norm


@torch.no_grad()
def evaluate(
    module: nn.Module,
    examples: Sequence[E],
    to_batch: Callable[[Sequence[E]], B],
    *,
    runtime: Runtime,
    parallel: Parallel,
) -> float:
    """The loss over all of `examples`, each target by its weight; how they are batched does not matter."""
    module.eval()
    total = weight = 0.0
    by_length = sorted(examples, key=lambda example: example.token_count)
    # Larger than in training, since no activations are kept: common beginnings are computed less often.
    size = StepSize(0, 1, EVAL_TOKENS * parallel.world_size)
    for part in pieces(by_length, 0, size.tokens):
        for batch in micro_batches(part, to_batch, size=size, parallel=parallel):
            with runtime.autocast():
                total += float(module(batch))
            weight += float(batch.weights.sum())
    parallel.shard_again(module)
    return parallel.total(total) / parallel.total(weight)
