"""Shows one training batch token by token: what goes in, what must come out, how much it counts."""

from instruct.text.tokenizer import Tokenizer
from instruct.training.collate import IGNORE_INDEX, Batch


def batch_lines(batch: Batch, tokenizer: Tokenizer) -> list[str]:
    """A table with a line for each place of each row; padding says so."""
    lines = []
    for row in range(batch.input_ids.shape[0]):
        lines += [f"row {row}", f"{'place':>5}  {'token':<24} {'target':<24} {'weight':>6}"]
        labels = batch.labels[row].tolist()
        for place, (token, label) in enumerate(zip(batch.input_ids[row].tolist(), labels, strict=True)):
            target = "" if label == IGNORE_INDEX else spell(tokenizer, label)
            weight = float(batch.weights[row, place])
            lines.append(f"{place:>5}  {spell(tokenizer, token):<24} {target:<24} {weight:>6.2f}")
    total = float(batch.weights.sum())
    share = total / batch.labels.numel()
    lines.append(
        f"{batch.tokens} tokens, weight of targets {total:g} ({share:.0%} of all {batch.labels.numel()} places)"
    )
    return lines


def spell(tokenizer: Tokenizer, token: int) -> str:
    """A token as Python would print it, with its id."""
    return f"{tokenizer.decode([token])!r} {token}"
