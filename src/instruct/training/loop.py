"""The training loop: steps, evaluation, best weights, curves, and the state to go on from.

It knows nothing about files but the state to resume from: what else should happen is passed in.
"""

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from instruct.core.errors import InstructError, ParamsError
from instruct.core.runtime import Runtime
from instruct.model.decoder import Decoder
from instruct.training.collate import Batch, collate, without_targets
from instruct.training.distributed import Parallel
from instruct.training.encode import EncodedExample
from instruct.training.loss import LossModule
from instruct.training.resume import ResumeStore
from instruct.training.schedule import WarmupCosine
from instruct.training.settings import TrainParams
from instruct.training.throughput import Stopwatch

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
    """What a run went through so far; everything that decides how it goes on, weights apart."""

    train: list[TrainPoint] = field(default_factory=list)
    val: list[ValPoint] = field(default_factory=list)
    without_better: int = 0
    stopped_early: bool = False

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return len(self.train)

    @property
    def tokens(self) -> int:
        """Tokens of the examples trained on."""
        return self.train[-1].tokens if self.train else 0

    @property
    def best(self) -> ValPoint:
        """The evaluation of the best checkpoint: the lowest loss since training began, the earliest of several."""
        return min((point for point in self.val if point.step), key=lambda point: point.loss)

    def add_evaluation(self, point: ValPoint) -> bool:
        """Note an evaluation; says whether it is the best since training began."""
        self.val.append(point)
        better = bool(point.step) and self.best is point
        self.without_better = 0 if better or not point.step else self.without_better + 1
        return better

    @classmethod
    def restore(cls, values: dict[str, Any]) -> "History":
        """From the JSON of `asdict`, to the bit: JSON keeps every digit of a float."""
        return cls(
            train=[TrainPoint(**point) for point in values["train"]],
            val=[ValPoint(**point) for point in values["val"]],
            without_better=values["without_better"],
            stopped_early=values["stopped_early"],
        )


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What happens outside the loop: `on_best` keeps the present weights, `on_evaluation` shows how it goes."""

    on_best: Callable[[], None]
    on_evaluation: Callable[[ValPoint], None]


def train(
    model: Decoder,
    train_set: Sequence[EncodedExample],
    val_set: Sequence[EncodedExample],
    *,
    params: TrainParams,
    runtime: Runtime,
    parallel: Parallel,
    pad_id: int,
    store: ResumeStore,
    hooks: Hooks,
    stopwatch: Stopwatch,
) -> History:
    """Train `model` in place, from the stored state on if there is one.

    Raises InstructError where a loss stops being a number, naming the step and its records, and
    KeyboardInterrupt at the end of the step in which Ctrl-C or SIGTERM came, after the state was saved.
    """
    steps = list(draw_steps(train_set, params))
    total_steps = len(steps)
    epochs = [examples / len(train_set) for examples in accumulate(map(len, steps), initial=0)]  # after each step
    schedule = WarmupCosine(
        peak=params.lr, floor=params.lr * params.lr_floor, warmup_steps=params.warmup_steps, total_steps=total_steps
    )
    model.recompute = params.recompute_activations
    loss_module = LossModule(model)
    module = parallel.wrap(model, loss_module)
    optimizer = make_optimizer(model, params)
    to_batch = batch_maker(params, runtime, pad_id)
    progress = store.load(model, optimizer)
    history = History.restore(progress) if progress else History()
    if progress and parallel.is_main:
        log.info("going on after step %d of %d", history.step, total_steps)

    def evaluate_now() -> bool:
        with stopwatch.phase("evaluate"):
            loss = evaluate(module, val_set, to_batch, params=params, runtime=runtime, parallel=parallel)
            if not math.isfinite(loss):
                raise InstructError(
                    f"step {history.step}: the loss on val is {loss}; lower train.lr{store.kept_best()}"
                )
            point = ValPoint(step=history.step, epoch=epochs[history.step], tokens=history.tokens, loss=loss)
            better = history.add_evaluation(point)
            hooks.on_evaluation(point)
        return better

    def save_state() -> None:
        with stopwatch.phase("save"):
            store.save(model, optimizer, asdict(history), write=parallel.is_main)

    if not history.val:
        evaluate_now()
    with interrupt_flag() as interrupted, progress_bar(total_steps, history, parallel) as bar:
        for examples in steps[history.step :]:
            step = history.step + 1
            lr = schedule(history.step)
            # Dropout draws from a seed of the step's own, so that going on needs no random state.
            torch.manual_seed(params.seed + step * parallel.world_size + parallel.rank)
            with stopwatch.phase("train", examples=examples):
                loss, grad_norm = take_step(
                    module, optimizer, examples, to_batch, lr=lr, params=params, runtime=runtime, parallel=parallel
                )
            if not math.isfinite(loss) or not math.isfinite(grad_norm):
                raise InstructError(
                    f"step {step}: the loss is {loss} and the gradient's norm {grad_norm}; lower train.lr or look at "
                    f"the records {', '.join(example.id for example in examples)}{store.kept_best()}"
                )
            tokens = history.tokens + sum(len(example.ids) for example in examples)
            point = TrainPoint(step=step, epoch=epochs[step], tokens=tokens, lr=lr, loss=loss, grad_norm=grad_norm)
            history.train.append(point)
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", val=f"{history.val[-1].loss:.3f}")
            last = step == total_steps
            if step % params.eval_every == 0 or last:
                if evaluate_now():
                    with stopwatch.phase("save"):
                        hooks.on_best()
                if params.patience and history.without_better >= params.patience:
                    history.stopped_early = not last
                    break
            if last:
                break
            stop = parallel.any(bool(interrupted))
            if stop or (params.save_every and step % params.save_every == 0):
                save_state()
            if stop:
                raise KeyboardInterrupt(
                    f"state saved after step {step} of {total_steps}; `dvc repro` goes on from there"
                )
    stopwatch.flops = loss_module.needed_flops
    return history


@contextmanager
def interrupt_flag() -> Iterator[list[float]]:
    """A list that Ctrl-C (or SIGTERM) fills, so that a step is never cut in two; another a second later ends at once.

    Under torchrun one Ctrl-C comes twice: from the terminal, and passed on by torchrun.
    """
    came: list[float] = []

    def note(number: int, frame: object) -> None:
        now = time.monotonic()
        if came and now - came[0] > 1:
            raise KeyboardInterrupt
        came.append(now)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def progress_bar(total: int, history: History, parallel: Parallel) -> Iterator[Any]:
    """A bar on a terminal, nothing elsewhere."""
    with tqdm(total=total, initial=history.step, unit="step", disable=None if parallel.is_main else True) as bar:
        yield bar


def batch_maker(params: TrainParams, runtime: Runtime, pad_id: int) -> Callable[[Sequence[EncodedExample]], Batch]:
    """The function that makes batches as the settings want them, on the device in use.

    Raises ParamsError where the device has no kernel for them.
    """
    if params.batching == "packed-blocks" and runtime.device.type != "cuda":
        raise ParamsError(
            f"params.yaml: train.batching is packed-blocks, which needs CUDA; on {runtime.device.type} set it to packed"
        )
    return partial(
        collate,
        batching=params.batching,
        pad_id=pad_id,
        prompt_loss_weight=params.prompt_loss_weight,
        device=runtime.device,
    )


def make_optimizer(model: nn.Module, params: TrainParams) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter, 2019) that decays matrices only, not norms and biases."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in weights if w.ndim >= 2], "weight_decay": params.weight_decay},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=params.lr, fused=True)


def draw_steps(examples: Sequence[EncodedExample], params: TrainParams) -> Iterator[list[EncodedExample]]:
    """The examples of each optimizer step: every epoch a new order from the named seed, nothing left out."""
    generator = torch.Generator().manual_seed(params.seed)
    for _ in range(params.epochs):
        order = torch.randperm(len(examples), generator=generator).tolist()
        yield from pieces([examples[i] for i in order], params.examples_per_step, params.tokens_per_step)


def pieces(examples: Sequence[EncodedExample], size: int, tokens: int) -> list[list[EncodedExample]]:
    """Consecutive pieces of at most `tokens` tokens, or of at most `size` examples where `tokens` is 0.

    An example that is longer than `tokens` makes a piece of its own.
    """
    cut: list[list[EncodedExample]] = []
    held = 0
    for example in examples:
        held += len(example.ids)
        full = held > tokens if tokens else bool(cut) and len(cut[-1]) == size
        if full or not cut:
            cut.append([])
            held = len(example.ids)
        cut[-1].append(example)
    return cut


def micro_batches(
    examples: Sequence[EncodedExample],
    to_batch: Callable[[Sequence[EncodedExample]], Batch],
    *,
    params: TrainParams,
    parallel: Parallel,
) -> list[Batch]:
    """This rank's micro-batches of one step, equally many on every rank.

    A rank that the last, smaller step leaves without examples computes one that counts for nothing.
    """
    size = max(params.micro_batch_size // parallel.world_size, 1)
    tokens = math.ceil(params.tokens_per_step / (params.grad_accum_steps * parallel.world_size))
    shares = [pieces(parallel.share(examples, rank), size, tokens) for rank in range(parallel.world_size)]
    batches = [to_batch(part) for part in shares[parallel.rank]]
    missing = max(map(len, shares)) - len(batches)
    filler = [without_targets(to_batch(examples[:1]))] if missing else []
    return batches + filler * missing


def take_step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    examples: Sequence[EncodedExample],
    to_batch: Callable[[Sequence[EncodedExample]], Batch],
    *,
    lr: float,
    params: TrainParams,
    runtime: Runtime,
    parallel: Parallel,
) -> tuple[float, float]:
    """One optimizer step: the loss before it, and the gradient's norm before clipping.

    Each target counts by its weight over the weight of the whole step, whatever the micro-batches' lengths and
    the number of ranks.
    """
    module.train()
    batches = micro_batches(examples, to_batch, params=params, parallel=parallel)
    weight = parallel.total(sum(float(batch.weights.sum()) for batch in batches))
    total = 0.0
    for i, batch in enumerate(batches):
        with parallel.accumulating(module, last=i == len(batches) - 1):
            with runtime.autocast():
                loss = module(batch) / weight
            # DDP and FSDP average over ranks where the sum is wanted.
            (loss * parallel.world_size).backward()
        total += float(loss.detach())
    grad_norm = clip(module, params.max_grad_norm)
    for group in optimizer.param_groups:
        group["lr"] = lr
    if math.isfinite(grad_norm):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return parallel.total(total), grad_norm


def clip(module: nn.Module, max_norm: float) -> float:
    """Scale all gradients so that their common norm is at most `max_norm`; gives the norm before."""
    norm: Tensor = nn.utils.clip_grad_norm_(module.parameters(), max_norm)
    return float(norm.full_tensor()) if hasattr(norm, "full_tensor") else float(norm)


@torch.no_grad()
def evaluate(
    module: nn.Module,
    examples: Sequence[EncodedExample],
    to_batch: Callable[[Sequence[EncodedExample]], Batch],
    *,
    params: TrainParams,
    runtime: Runtime,
    parallel: Parallel,
) -> float:
    """The loss over all of `examples`, each target by its weight; how they are batched does not matter."""
    module.eval()
    total = weight = 0.0
    by_length = sorted(examples, key=lambda example: len(example.ids))
    for part in pieces(by_length, params.examples_per_step, params.tokens_per_step):
        for batch in micro_batches(part, to_batch, params=params, parallel=parallel):
            with runtime.autocast():
                total += float(module(batch))
            weight += float(batch.weights.sum())
    parallel.shard_again(module)
    return parallel.total(total) / parallel.total(weight)
