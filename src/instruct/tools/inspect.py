"""Shows one training batch token by token: input, target and weight."""

from collections.abc import Sequence

from instruct.text.tokenizer import Tokenizer
from instruct.training.collate import IGNORE_INDEX, pad_rows
from instruct.training.encode import EncodedExample


def batch_lines(examples: Sequence[EncodedExample], tokenizer: Tokenizer, prompt_loss_weight: float) -> list[str]:
    """A table with a line for each place of each row of the padded batch, which trains the same as the packed one."""
    rows = pad_rows(examples, pad_id=tokenizer.eos_id, prompt_loss_weight=prompt_loss_weight)
    input_ids, all_labels, all_weights = rows
    lines = []
    for row in range(len(examples)):
        lines += [f"row {row}", f"{'place':>5}  {'token':<24} {'target':<24} {'weight':>6}"]
        labels = all_labels[row].tolist()
        for place, (token, label) in enumerate(zip(input_ids[row].tolist(), labels, strict=True)):
            target = "" if label == IGNORE_INDEX else spell(tokenizer, label)
            weight = float(all_weights[row, place])
            lines.append(f"{place:>5}  {spell(tokenizer, token):<24} {target:<24} {weight:>6.2f}")
    total = float(all_weights.sum())
    share = total / all_labels.numel()
    tokens = sum(len(example.ids) for example in examples)
    lines.append(f"{tokens} tokens, weight of targets {total:g} ({share:.0%} of all {all_labels.numel()} places)")
    return lines


def spell(tokenizer: Tokenizer, token: int) -> str:
    """A token as Python would print it, with its id."""
    return f"{tokenizer.decode([token])!r} {token}"
