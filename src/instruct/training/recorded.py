"""One optimizer step on a GPU as a few replays: no launches, and one read of loss and norm.

A GPU computes a step of a small language model in milliseconds, and launching its thousands of kernels one by one
takes ten times as long. So the forward and backward pass over each bucket's row is recorded once as a CUDA graph, and
the update (norm, clipping, AdamW) as another, whatever the objective. Where that fails or gives other gradients, the
same operations run one by one, as they do on a CPU for tests.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from instruct.core.runtime import Runtime
from instruct.training.buckets import Bucket, Slots, choose_buckets, join
from instruct.training.collate import B
from instruct.training.distributed import Parallel
from instruct.training.loop import clip_and_update, micro_batches, split_step
from instruct.training.loss import LossModule, operations
from instruct.training.objective import E, Objective
from instruct.training.packing import TreeAttend
from instruct.training.settings import LoopParams

log = logging.getLogger(__name__)

ALONE = Parallel("none", 0, 1, 0)
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Prepared(Generic[B]):
    """A micro-batch, and what goes into its bucket's slots; without a bucket it runs operation by operation."""

    batch: B
    bucket: Bucket | None
    joined: Mapping[torch.dtype, Tensor]


class RecordedStep(Generic[E, B]):
    """Optimizer steps of a single process, from buffers that stay where they are.

    `optimizer` comes from `make_optimizer(recorded=True)`, with its state restored if there is one. `begin` starts a
    step without waiting for it, `read` waits and gives its loss and gradient norm. `module` counts the operations that
    were needed, and measures what is told beside the loss.
    """

    def __init__(
        self,
        module: LossModule,
        optimizer: torch.optim.Optimizer,
        steps: Sequence[Sequence[E]],
        *,
        objective: Objective[E, B],
        params: LoopParams,
        runtime: Runtime,
    ) -> None:
        """`module` is the objective's; `steps` are all examples of the run, from which the buckets are chosen."""
        self._module, self._optimizer, self._objective = module, optimizer, objective
        self._params, self._runtime = params, runtime
        self._cuda = runtime.device.type == "cuda"
        zeros = partial(torch.zeros, dtype=torch.float64)
        self._weight, self._loss, self._report = (zeros(shape, device=runtime.device) for shape in ((), (), 2))
        self._host = zeros(2, pin_memory=self._cuda)
        self._buckets = self._choose(steps)
        self._slots: dict[Bucket, Slots[B]] = {}
        self._graphs: dict[Bucket | None, torch.cuda.CUDAGraph] = {}
        self._ready: tuple[Sequence[E], float, list[Prepared[B]]] | None = None
        self._of_token, self._of_target = operations(module.model)
        weights = [weight for weight in module.parameters() if weight.requires_grad]
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        self._gradients = [weight.grad for weight in weights if weight.grad is not None]
        fill_state(optimizer, weights)

    def _choose(self, steps: Sequence[Sequence[E]]) -> list[Bucket]:
        if self._params.batching != "packed":
            return []
        parts = (part for step in steps for part in split_step(step, self._params.step_size, ALONE))
        return choose_buckets(map(self._objective.row_size, parts))

    def prepare(self, examples: Sequence[E]) -> tuple[float, list[Prepared[B]]]:
        """Make a step's batches while the GPU still computes the one before; `begin` then finds them."""
        if self._ready is None or self._ready[0] is not examples:
            batches = micro_batches(examples, self._objective.to_row, size=self._params.step_size, parallel=ALONE)
            weight = sum(float(batch.weights.sum()) for batch in batches)
            self._ready = examples, weight, [self._prepare(batch) for batch in batches]
        return self._ready[1:]

    def _prepare(self, batch: B) -> Prepared[B]:
        size = batch.input_ids.numel(), len(batch.places)
        bucket = next((one for one in self._buckets if one.holds(*size)), None)
        if bucket is None or not isinstance(batch.attend, TreeAttend):
            return Prepared(batch, None, {})
        row = self._objective.fill_up(batch, bucket)
        if bucket not in self._slots:
            self._slots[bucket] = Slots(row, self._runtime.device)
        joined = join(row)
        return Prepared(batch, bucket, {key: one.pin_memory() for key, one in joined.items()} if self._cuda else joined)

    def begin(self, examples: Sequence[E], lr: float) -> None:
        """Start one step: each target counts by its weight over the weight of the whole step."""
        self._module.train()
        weight, prepared = self.prepare(examples)
        self._ready = None
        self._weight.fill_(weight)
        for one in prepared:
            tokens, targets = one.batch.input_ids.numel(), len(one.batch.places)
            self._module.needed_flops += self._of_token * tokens + self._of_target * targets
            if one.bucket is None:
                self._accumulate(one.batch.to(self._runtime.device))
            else:
                self._slots[one.bucket].fill(one.joined)
                self._run(one.bucket, partial(self._accumulate_slots, one.bucket))
        for group in self._optimizer.param_groups:
            group["lr"].fill_(lr)
        self._run(None, self._update)
        self._host.copy_(self._report, non_blocking=True)

    def read(self) -> tuple[float, float]:
        """The loss of the step begun last, before its update, and the gradient's norm before clipping."""
        if self._cuda:
            torch.cuda.current_stream().synchronize()
        loss, norm = self._host.tolist()
        return loss, norm

    def _run(self, key: Bucket | None, operations: Callable[[], None]) -> None:
        if key in self._graphs:
            self._graphs[key].replay()
        else:
            operations()

    def _accumulate_slots(self, bucket: Bucket) -> None:
        self._accumulate(self._slots[bucket].batch())

    def _accumulate(self, batch: B) -> None:
        with self._runtime.autocast():
            loss = self._module.loss(batch) / self._weight
        loss.backward()
        self._loss.add_(loss.detach())

    def _update(self) -> None:
        norm = clip_and_update(self._optimizer, self._params.max_grad_norm)
        self._report.copy_(torch.stack((self._loss, norm.to(self._loss.dtype))))
        self._clear()

    def _clear(self) -> None:
        self._loss.zero_()
        self._optimizer.zero_grad(set_to_none=False)

    def record(self, steps: Sequence[Sequence[E]]) -> None:
        """Record the graphs, each checked on the first of the steps' micro-batches that goes into it."""
        if not self._cuda:
            return
        pool = torch.cuda.graph_pool_handle()
        try:
            for one in self._firsts(steps):
                self._record_bucket(one, pool)
            self._graphs[None] = capture(self._update, pool)
        except RuntimeError as error:
            self._give_up(str(error).splitlines()[0])
        else:
            sizes = ", ".join(f"{bucket.tokens} tokens" for bucket in self._buckets)
            log.info("steps recorded as CUDA graphs%s", f", for rows of {sizes}" if sizes else "")
        finally:
            self._module.clear_measures()

    def _firsts(self, steps: Sequence[Sequence[E]]) -> Iterator[Prepared[B]]:
        missing = set(self._buckets)
        for step in steps:
            if not missing:
                return
            for part in split_step(step, self._params.step_size, ALONE):
                one = self._prepare(self._objective.to_row(part))
                if one.bucket in missing:
                    missing.discard(one.bucket)
                    yield one
        self._buckets = [bucket for bucket in self._buckets if bucket not in missing]  # no row goes into it after all

    def _record_bucket(self, one: Prepared[B], pool: Any) -> None:
        """Run once operation by operation, record, then take the replay's gradients off again: nothing may be left.

        Raises RuntimeError if something is.
        """
        assert one.bucket is not None
        operations = partial(self._accumulate_slots, one.bucket)
        self._module.train()
        self._slots[one.bucket].fill(one.joined)
        self._weight.fill_(float(one.batch.weights.sum()))
        torch.manual_seed(0)  # dropout draws the same numbers both times
        beside(operations)
        norms, loss = self._norms(), float(self._loss)
        graph = capture(operations, pool)
        self._weight.neg_()
        torch.manual_seed(0)
        graph.replay()
        rest, tolerance = self._norms(), TOLERANCE[self._runtime.dtype]
        same = (rest <= tolerance * (norms + 0.01 * norms.norm())).all() and abs(self._loss) <= tolerance * abs(loss)
        self._clear()
        if not same:
            worst = float((rest / (norms + 0.01 * norms.norm())).max())
            raise RuntimeError(f"gradients differ by {worst:.2g} of their norm")
        self._graphs[one.bucket] = graph

    def _norms(self) -> Tensor:
        return torch.stack([gradient.norm() for gradient in self._gradients])

    def _give_up(self, reason: str) -> None:
        torch.cuda.synchronize()
        self._graphs.clear()
        self._clear()
        for group in self._optimizer.param_groups:
            group["capturable"] = False
        log.info("steps cannot be recorded as CUDA graphs (%s); each operation is launched, which is slower", reason)


def capture(operations: Callable[[], None], pool: Any) -> torch.cuda.CUDAGraph:
    """The graph of some operations, which are recorded and not run; graphs of one pool share its memory."""
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on: one of them may be writing a state.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        operations()
    return graph


def beside(operations: Callable[[], None]) -> None:
    """Run on a separate stream, as torch asks for before a recording: libraries set themselves up there."""
    stream, here = torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(here)
    with torch.cuda.stream(stream):
        operations()
    here.wait_stream(stream)


def fill_state(optimizer: torch.optim.Optimizer, weights: Sequence[Tensor]) -> None:
    """Give AdamW the zeros that it would make at its first step: a recording must not make them again each time."""
    for weight in weights:
        if not optimizer.state[weight]:
            optimizer.state[weight] = {
                "step": torch.zeros((), dtype=torch.float32, device=weight.device),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }


@contextmanager
def same_bytes(device: torch.device) -> Iterator[None]:
    """Let CUDA use only kernels that give the same bytes each time, on the same card with the same versions.

    Attention's backward pass would otherwise add up its parts in the order in which they end.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first product
    settings: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = False
    try:
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        settings.fill_uninitialized_memory = before[1]
