"""The training loop: steps, evaluation, best and last checkpoint, curves.

It knows nothing about files: what should happen at an evaluation is passed in.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from tqdm import tqdm

from instruct.errors import InstructError
from instruct.model.decoder import Decoder
from instruct.runtime import Runtime
from instruct.training.collate import Batch, collate
from instruct.training.encode import EncodedExample
from instruct.training.loss import loss_sum
from instruct.training.schedule import WarmupCosine
from instruct.training.settings import TrainParams

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainPoint:
    """One optimizer step: `loss` and `grad_norm` are from before its update; `tokens` are all real ones so far."""

    step: int
    epoch: float
    tokens: int
    lr: float
    loss: float
    grad_norm: float


@dataclass(frozen=True, kw_only=True)
class ValPoint:
    """Loss on all of val after `step` optimizer steps."""

    step: int
    epoch: float
    tokens: int
    loss: float


@dataclass(kw_only=True)
class History:
    """What a run went through."""

    train: list[TrainPoint] = field(default_factory=list)
    val: list[ValPoint] = field(default_factory=list)
    stopped_early: bool = False

    @property
    def best(self) -> ValPoint:
        """The evaluation with the lowest loss, the earliest of several."""
        return min(self.val, key=lambda point: point.loss)


def train(
    model: Decoder,
    train_set: Sequence[EncodedExample],
    val_set: Sequence[EncodedExample],
    *,
    params: TrainParams,
    runtime: Runtime,
    pad_id: int,
    on_best: Callable[[], None],
    on_evaluation: Callable[[ValPoint], None],
) -> History:
    """Train `model` in place; `on_best` is called whenever val is lower than ever before, step 0 apart.

    Raises InstructError where the loss stops being a number, naming the step and its records.
    """
    steps_per_epoch = math.ceil(len(train_set) / (params.micro_batch_size * params.grad_accum_steps))
    total_steps = steps_per_epoch * params.epochs
    schedule = WarmupCosine(
        peak=params.lr, floor=params.lr_floor, warmup_steps=params.warmup_steps, total_steps=total_steps
    )
    optimizer = make_optimizer(model, params)
    history = History()
    tokens = 0
    without_better = 0
    started = time.perf_counter()

    def evaluate_now(step: int) -> None:
        loss = evaluate(model, val_set, params=params, runtime=runtime, pad_id=pad_id)
        point = ValPoint(step=step, epoch=step / steps_per_epoch, tokens=tokens, loss=loss)
        history.val.append(point)
        on_evaluation(point)

    evaluate_now(0)
    with tqdm(total=total_steps, unit="step", disable=None) as bar:
        for step, examples in enumerate(draw_steps(train_set, params), start=1):
            batches = [
                collate(part, pad_id=pad_id, prompt_loss_weight=params.prompt_loss_weight)
                for part in chunks(examples, params.micro_batch_size)
            ]
            lr = schedule(step - 1)
            loss, grad_norm = take_step(model, optimizer, batches, lr=lr, params=params, runtime=runtime)
            if not math.isfinite(loss) or not math.isfinite(grad_norm):
                ids = ", ".join(example.id for example in examples)
                raise InstructError(f"step {step}: the loss is {loss}; lower train.lr or look at the records {ids}")
            tokens += sum(batch.tokens for batch in batches)
            epoch = step / steps_per_epoch
            history.train.append(
                TrainPoint(step=step, epoch=epoch, tokens=tokens, lr=lr, loss=loss, grad_norm=grad_norm)
            )
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", val=f"{history.val[-1].loss:.3f}")
            if step % params.eval_every and step != total_steps:
                continue
            lowest = min((point.loss for point in history.val[1:]), default=math.inf)
            evaluate_now(step)
            without_better = 0 if history.val[-1].loss < lowest else without_better + 1
            if not without_better:
                on_best()
            if params.patience and without_better >= params.patience:
                history.stopped_early = step < total_steps
                break
    seconds = time.perf_counter() - started
    log.info("trained %d steps in %.0f s, %.0f tokens a second", len(history.train), seconds, tokens / seconds)
    return history


def make_optimizer(model: nn.Module, params: TrainParams) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter, 2019) that decays matrices only, not norms and biases."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in weights if w.ndim >= 2], "weight_decay": params.weight_decay},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=params.lr, fused=True)


def draw_steps(examples: Sequence[EncodedExample], params: TrainParams) -> Iterator[list[EncodedExample]]:
    """The examples of each optimizer step: every epoch a new order from the named seed, nothing left out."""
    generator = torch.Generator().manual_seed(params.seed)
    for _ in range(params.epochs):
        order = torch.randperm(len(examples), generator=generator).tolist()
        yield from chunks([examples[i] for i in order], params.micro_batch_size * params.grad_accum_steps)


def chunks(examples: Sequence[EncodedExample], size: int) -> Iterator[list[EncodedExample]]:
    """Consecutive pieces of at most `size` examples."""
    for start in range(0, len(examples), size):
        yield list(examples[start : start + size])


def take_step(
    model: Decoder,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    *,
    lr: float,
    params: TrainParams,
    runtime: Runtime,
) -> tuple[float, float]:
    """One optimizer step over its micro-batches: the loss before it, and the gradient's norm before clipping.

    Each label counts by its weight over the weight of the whole step, whatever the micro-batches' lengths.
    """
    model.train()
    weight = sum(float(batch.weights.sum()) for batch in batches)
    total = 0.0
    for batch in batches:
        with runtime.autocast():
            loss = loss_sum(model, batch.to(runtime.device)) / weight
        loss.backward()
        total += float(loss.detach())
    grad_norm = float(nn.utils.clip_grad_norm_(model.parameters(), params.max_grad_norm))
    for group in optimizer.param_groups:
        group["lr"] = lr
    if math.isfinite(grad_norm):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total, grad_norm


@torch.inference_mode()
def evaluate(
    model: Decoder, examples: Sequence[EncodedExample], *, params: TrainParams, runtime: Runtime, pad_id: int
) -> float:
    """The loss over all of `examples`, each label by its weight; batches are only for speed."""
    model.eval()
    by_length = sorted(examples, key=lambda example: len(example.ids))
    total = weight = 0.0
    for part in chunks(by_length, params.micro_batch_size):
        batch = collate(part, pad_id=pad_id, prompt_loss_weight=params.prompt_loss_weight)
        with runtime.autocast():
            total += float(loss_sum(model, batch.to(runtime.device)))
        weight += float(batch.weights.sum())
    return total / weight
