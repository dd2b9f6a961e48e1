"""Log-probs of answers, and the loss of pairs (DPO, Rafailov et al., 2023; IPO, Azar et al., 2023).

P pairs · A = 2 P answers, those chosen first · N targets
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from instruct.core.runtime import Runtime
from instruct.model.decoder import Decoder
from instruct.preference.collate import PairBatch, collate_pairs, exact, fill_up_pairs, pair_row_size
from instruct.preference.encode import EncodedPair
from instruct.preference.settings import Fit, PreferParams
from instruct.training.collate import Batch
from instruct.training.loss import LossModule, target_losses
from instruct.training.objective import Objective

SUMS = 9  # of a batch, from which `describe` makes measures
ROUNDING = 1e-5  # of a log-prob: in fp32 no more differs between a model and itself in another batch


def log_probs(model: Decoder, batch: PairBatch) -> Tensor:
    """The log-prob of each answer with its end token, summed over its tokens, in nats: (A,)."""
    of_targets = -target_losses(model, batch).to(batch.reference.dtype)  # (N,)
    # A GPU sums a mask's rows, and its columns for the gradient, in a fixed order; index_add has none there.
    return of_targets.expand_as(batch.in_answer).masked_fill(~batch.in_answer, 0.0).sum(1)


def pair_losses(policy: Tensor, batch: PairBatch, params: PreferParams) -> tuple[Tensor, Tensor]:
    """From (A,) log-probs of the policy the loss of each pair, (P,), and the reward of each answer, (A,).

    Rewards are what the loss compares: by the sum over an answer's tokens for `sigmoid`, else by their mean.
    """
    per_token = policy / batch.lengths
    ratios = policy - batch.reference
    rewards = params.beta * (ratios if params.loss == "sigmoid" else ratios / batch.lengths)
    chosen, rejected = rewards.chunk(2)
    margins = chosen - rejected
    if params.loss == "ipo":
        losses = (margins / params.beta - 1 / (2 * params.beta)) ** 2
    else:
        losses = -F.logsigmoid(margins)
        if params.label_smoothing:
            losses = losses * (1 - params.label_smoothing) - F.logsigmoid(-margins) * params.label_smoothing
    if params.sft_weight:
        losses = losses - params.sft_weight * per_token.chunk(2)[0]
    return losses, rewards


class PairLoss(LossModule):
    """The loss of pairs, summed over a batch; what is told beside it is kept until it is asked for."""

    def __init__(self, model: Decoder, params: PreferParams) -> None:
        super().__init__(model)
        self._params = params
        self._sums = torch.zeros(SUMS, dtype=exact(model.device), device=model.device)

    def loss(self, batch: Batch) -> Tensor:
        """The sum over the pairs of a batch, by their weights."""
        assert isinstance(batch, PairBatch)
        policy = log_probs(self.model, batch)
        losses, rewards = pair_losses(policy, batch, self._params)
        self._sums += sums_of(policy.detach(), rewards.detach(), batch)
        return (losses * batch.weights).sum()

    def take_measures(self, totals: Callable[[Sequence[float]], list[float]]) -> dict[str, float]:
        """What is told beside the loss, by name, of all batches since the last call; `totals` adds up over ranks."""
        sums = totals(self._sums.tolist())
        self.clear_measures()
        return describe(sums)

    def clear_measures(self) -> None:
        """Forget what was measured since the last call of `take_measures`."""
        self._sums.zero_()


def sums_of(policy: Tensor, rewards: Tensor, batch: PairBatch) -> Tensor:
    """What `describe` needs of a batch, summed over its pairs: (SUMS,)."""
    (chosen, rejected), lengths = rewards.chunk(2), batch.lengths.to(policy.dtype)
    moved = ((policy - batch.reference).abs() > ROUNDING * (1 + batch.reference.abs())).unflatten(0, (2, -1)).any(0)
    right = (torch.sign(chosen - rejected) * moved + 1) / 2  # a tie is half right, as a coin would be
    sums = [torch.ones_like(right), chosen, rejected, right]
    sums += [part for whole in (policy, lengths) for part in whole.chunk(2)]
    sums.append((batch.reference - policy).unflatten(0, (2, -1)).sum(0))
    return (torch.stack(sums) * batch.weights.to(policy.dtype)).sum(1)


def describe(sums: Sequence[float]) -> dict[str, float]:
    """Means over pairs, and of log-probs over tokens, from the sums of batches.

    `kl` is how far the policy is from the reference, in nats a token: what it took from the log-prob of the answers.
    It estimates KL(reference || policy) where the answers are the reference model's own, though best and worst are a
    selection of those, and can be below 0 where they are not.
    """
    pairs, chosen, rejected, right, chosen_sum, rejected_sum, chosen_tokens, rejected_tokens, lost = sums
    return {
        "reward_chosen": chosen / pairs,
        "reward_rejected": rejected / pairs,
        "margin": (chosen - rejected) / pairs,
        "accuracy": right / pairs,
        "chosen_log_prob": chosen_sum / chosen_tokens,
        "rejected_log_prob": rejected_sum / rejected_tokens,
        "kl": lost / (chosen_tokens + rejected_tokens),
        "chosen_tokens": chosen_tokens / pairs,
        "rejected_tokens": rejected_tokens / pairs,
    }


def batch_pairs(fit: Fit, runtime: Runtime, pad_id: int) -> partial[PairBatch]:
    """What makes a batch of pairs."""
    return partial(collate_pairs, batching=fit.batching, pad_id=pad_id, device=runtime.device)


def preferring(params: PreferParams, runtime: Runtime, pad_id: int) -> Objective[EncodedPair, PairBatch]:
    """What `prefer` trains for, by its settings."""
    to_batch = batch_pairs(params.fit, runtime, pad_id)
    return Objective(
        to_batch=to_batch,
        to_row=partial(to_batch, device=torch.device("cpu"), flat=True),
        fill_up=partial(fill_up_pairs, pairs=params.micro_batch_size),
        row_size=pair_row_size,
        module=partial(PairLoss, params=params),
    )
