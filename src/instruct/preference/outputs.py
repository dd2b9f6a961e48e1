"""What preference tuning shows and leaves: checkpoints, metrics and curves."""

import logging
from collections.abc import Mapping
from pathlib import Path

from instruct.core.files import write_json
from instruct.model.checkpoint import Model
from instruct.preference.encode import FittedPairs
from instruct.preference.rules import Rules, hardest, in_words
from instruct.text.prompts import Template
from instruct.text.tokenizer import Tokenizer
from instruct.training.distributed import Parallel
from instruct.training.history import History, ValPoint
from instruct.training.outputs import Outputs, describe_run, rounded, write_curve
from instruct.training.resume import ResumeStore

log = logging.getLogger(__name__)

CLEAR_FALL = 0.1  # nats a token: the chosen answers became a tenth less likely at every token


class PreferOutputs(Outputs):
    """What preference tuning shows and writes; adapters are of the SFT checkpoint."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        template: Template,
        sft: Path,
        parallel: Parallel,
        store: ResumeStore,
        rules: Rules,
    ) -> None:
        super().__init__(model, tokenizer, template, sft, parallel, store)
        self._rules = in_words(rules)

    def show(self, point: ValPoint) -> None:
        if self._parallel.is_main:
            accuracy, *others = (point.measures[name] for name in ("accuracy", "margin", "chosen_log_prob", "kl"))
            told = "step %d: held-out loss %.4f, accuracy %.2f (%s), margin %.3f, chosen log-prob %.3f a token, kl %.4f"
            log.info(told, point.step, point.loss, accuracy, self._rules, *others)


def write_results(
    metrics: Path, curves: Path, history: History, fitted: Mapping[str, FittedPairs], rules: Rules
) -> None:
    """Write the metrics, beside them what simple rules tell, and a CSV each for the curves of both parts."""
    parts = {part: _count(found) for part, found in fitted.items()}
    ends = {"initial": rounded(history.val[0].measures), "last": rounded(history.val[-1].measures)}
    values = describe_run(history, {**ends, **parts, "warnings": find_warnings(history, rules)})
    write_json(metrics, {**values, "best": rounded(history.best.measures), "baselines": dict(rules)})
    write_curve(curves / "train.csv", history.train)
    write_curve(curves / "val.csv", history.val)


def _count(found: FittedPairs) -> dict[str, int]:
    return {
        "pairs": len(found.pairs),
        "truncated": found.truncated,
        "dropped": found.dropped,
        "identical": found.identical,
        "tokens": sum(pair.token_count for pair in found.pairs),
        "response_tokens": sum(pair.response_tokens for pair in found.pairs),
    }


def find_warnings(history: History, rules: Rules) -> list[str]:
    """What speaks against the best weights, ready to print."""
    first, best = history.val[0], history.best
    lines = []
    before, after = (point.measures["chosen_log_prob"] for point in (first, best))
    if before - after > CLEAR_FALL:
        lines.append(
            f"the chosen answers became less likely: from {before:.3f} to {after:.3f} nats a token on held-out pairs; "
            "look at the answers, and try prefer.sft_weight above 0, a larger prefer.beta or a lower prefer.lr"
        )
    rule, share = hardest(rules)
    if best.measures["accuracy"] <= share:
        lines.append(
            f"the reward accuracy on held-out pairs is {best.measures['accuracy']:.2f}, and {rule} alone tells "
            f"{share:.2f}: that shows no preference learnt"
        )
    if best.loss >= first.loss:
        lines.append(
            f"the loss on held-out pairs never fell below the SFT model's ({best.loss:.4f}, before {first.loss:.4f})"
        )
    return lines
