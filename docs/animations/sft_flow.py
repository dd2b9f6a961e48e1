"""The data flow of supervised fine-tuning, drawn from the first optimizer step of the committed run."""

import json
from dataclasses import dataclass
from pathlib import Path

from canvas import MONO, Canvas, line, rect, text, wrap

from instruct.backbones.catalog import ModelParams, find_backbone
from instruct.core.files import read_csv
from instruct.core.params import load_params
from instruct.core.records import Example, read_examples
from instruct.model.pretrained import load_tokenizer_of
from instruct.text.encoding import with_end_of
from instruct.text.prompts import PromptParams, Template
from instruct.text.tokenizer import Tokenizer
from instruct.training.collate import target_weights
from instruct.training.encode import EncodedExample, encode_all
from instruct.training.loop import draw_steps
from instruct.training.packing import shared_prefix
from instruct.training.settings import TrainParams

Row = dict[str, float]
TIMES = {"entry": 0.5, "prompt": 3.0, "batch": 6.0, "tokens": 9.5, "mask": 12.0, "update": 15.0}


@dataclass(frozen=True, kw_only=True)
class Step:
    """The first optimizer step: its records as encoded, and the one that is followed."""

    batch: list[EncodedExample]
    followed: Example
    encoded: EncodedExample
    template: Template
    tokenizer: Tokenizer
    params: TrainParams


def first_step(root: Path) -> Step:
    """The records that training draws first; the shortest with an input is followed."""
    params, template = load_params("train", TrainParams), load_params("prompt", PromptParams).chosen
    backbone = find_backbone(load_params("model", ModelParams).backbone)
    tokenizer = with_end_of(template, load_tokenizer_of(backbone))
    examples = read_examples(root / "data/augmented/train.json")
    fitted, _, _ = encode_all(
        examples, template, tokenizer, turns=params.turns, max_length=params.max_length, over_long=params.over_long
    )
    batch = next(draw_steps(fitted, params))
    by_id = {one.id: one for one in examples}
    encoded = min((one for one in batch if by_id[one.id].turns[0].input), key=lambda one: len(one.ids))
    return Step(
        batch=batch, followed=by_id[encoded.id], encoded=encoded, template=template, tokenizer=tokenizer, params=params
    )


def curve_of(path: Path) -> list[Row]:
    """The rows of a curve in metrics/curves."""
    return [{name: float(value) for name, value in row.items()} for row in read_csv(path)]


def draw(root: Path) -> str:
    """The whole animation."""
    step = first_step(root)
    train, val = (curve_of(root / f"metrics/curves/{part}.csv") for part in ("train", "val"))
    canvas = Canvas(
        width=960,
        height=800,
        title="How one record changes the model",
        about="A training record becomes a prompt, then tokens of a batch. The loss counts the targets of the answer "
        "alone, and its gradient updates the weights.",
    )
    draw_entry(canvas, step)
    draw_prompt(canvas, step)
    draw_batch(canvas, step)
    draw_targets(canvas, step)
    draw_update(canvas, step, train, val)
    return canvas.render()


def draw_entry(canvas: Canvas, step: Step) -> None:
    """The record as it is in the file."""
    at, turn = TIMES["entry"], step.followed.turns[0]
    canvas.panel((16, 16, 330, 216), "1  Entry: a record of train.json", at)
    y = 64
    fields = {"instruction": turn.instruction, "input": turn.input, "output": turn.output}
    for name, value in fields.items():
        canvas.add(text(30, y, f'"{name}":', "mono quiet"), at)
        for part in wrap(json.dumps(value, ensure_ascii=False), 38):
            y += 18
            canvas.add(text(44, y, part, "mono learnt" if name == "output" else "mono"), at)
        y += 24


def draw_prompt(canvas: Canvas, step: Step) -> None:
    """The record in the template."""
    at, turn = TIMES["prompt"], step.followed.turns[0]
    canvas.panel((362, 16, 582, 216), "2  Prompt: the record in the template, and its answer", at)
    y = 62
    for part in wrap(step.template.render(turn.instruction, turn.input).rstrip("\n"), 74):
        if part:
            canvas.add(text(376, y, part, "mono"), at)
        y += 16 if part else 8
    for part in wrap(turn.output, 74):
        canvas.add(text(376, y, part, "mono learnt"), at)
        y += 16


def draw_batch(canvas: Canvas, step: Step) -> None:
    """The records of the step as bars, with what they all begin with once."""
    at = TIMES["batch"]
    canvas.panel((16, 244, 330, 320), f"3  Batch: the {len(step.batch)} records of step 1", at)
    prefix = shared_prefix([one.ids[:-1] for one in step.batch])
    total = sum(len(one.ids) for one in step.batch)
    scale = 300 / max(len(one.ids) for one in step.batch)
    canvas.add(rect(30, 288, prefix * scale - 2, 16 * len(step.batch) + 8 * (len(step.batch) - 1), "ink"), at)
    for place, one in enumerate(step.batch):
        y = 288 + 24 * place
        own, answer = one.prompt_length - prefix, len(one.ids) - one.prompt_length
        canvas.add(rect(30 + prefix * scale, y, own * scale - 1, 16, "quiet"), at)
        canvas.add(rect(30 + one.prompt_length * scale, y, answer * scale, 16, "learnt"), at)
    y = 288 + 24 * len(step.batch) + 20
    notes = [
        ("ink", f"{prefix} tokens that all share, computed once"),
        ("quiet", "tokens of the question"),
        ("learnt", f"tokens of the answer; {total} tokens in all"),
    ]
    for style, note in notes:
        canvas.add(rect(30, y - 9, 10, 10, style) + text(46, y, note, "quiet"), at)
        y += 18


def draw_targets(canvas: Canvas, step: Step) -> None:
    """Tokens of the record and the target of each; the prompt's targets go when the mask comes."""
    at, masked = TIMES["tokens"], TIMES["mask"]
    canvas.panel((362, 244, 582, 320), "4  Masked targets: each token predicts the next one", at)
    one, prefix = step.encoded, shared_prefix([one.ids[:-1] for one in step.batch])
    weights = target_weights(one, step.params.prompt_loss_weight)
    names = [json.dumps(step.tokenizer.decode([token]), ensure_ascii=False)[1:-1] for token in one.ids]
    names[-1] = names[-1] or "end"
    x, y = 376.0, 294.0
    canvas.add(text(x, y, f"… {prefix} shared tokens, all masked", "quiet"), at)
    x, y = 376.0, y + 26
    for place in range(prefix, len(one.ids) - 1):
        learnt = weights[place] > 0
        width = max(len(names[place]), len(names[place + 1]), 4) * 11 * MONO + 10
        if x + width > 930:
            x, y = 376.0, y + 46
        style = "learnt" if learnt else "quiet"
        canvas.add(rect(x, y - 13, width, 38, f"chip {style if learnt else ''}"), at)
        middle = x + width / 2
        canvas.add(text(middle, y, visible(names[place]), "small mid"), at)
        target = text(middle, y + 18, visible(names[place + 1]), "small mid learnt")
        canvas.add(target, at + 1, 0 if learnt else masked)
        if not learnt:
            canvas.add(text(middle, y + 18, "−100", "small mid quiet"), masked)
        x += width + 4
    counted = sum(weight > 0 for weight in weights)
    note = f"{counted} targets count, {len(weights) - counted} are masked with −100 and count nothing"
    canvas.add(text(376, 550, note), masked)


def visible(name: str) -> str:
    """A token with its blanks shown."""
    return name.replace(" ", "␣")


def draw_update(canvas: Canvas, step: Step, train: list[Row], val: list[Row]) -> None:
    """The numbers of the step, and the loss of the whole run."""
    at, first = TIMES["update"], train[0]
    canvas.panel((16, 576, 928, 208), "5  Update: the loss of these targets moves all weights a little", at)
    counted = sum(sum(weight > 0 for weight in target_weights(one, 0.0)) for one in step.batch)
    norm, most = first["grad_norm"], step.params.max_grad_norm
    rows = [
        ("loss of step 1", f"{first['loss']:.4f} over {counted} targets"),
        ("gradient norm", f"{norm:.2f}" + (f", clipped to {most:g}" if norm > most else "")),
        ("learning rate", f"{first['lr']:g} (warm-up to {step.params.lr:g})"),
        ("steps", f"{len(train)}"),
        ("validation loss", f"{val[0]['loss']:.4f} before, {val[-1]['loss']:.4f} after"),
    ]
    for place, (name, value) in enumerate(rows):
        canvas.add(text(30, 632 + 28 * place, name, "quiet") + text(150, 632 + 28 * place, value), at)
    draw_curve(canvas, train, val, at)


def draw_curve(canvas: Canvas, train: list[Row], val: list[Row], at: float) -> None:
    """Train and validation loss by step."""
    left, right, top, bottom = 480, 920, 616, 752
    highest = max(row["loss"] for row in [*train, *val])
    last = train[-1]["step"]

    def place(row: Row) -> tuple[float, float]:
        return left + (right - left) * row["step"] / last, bottom - (bottom - top) * row["loss"] / highest

    canvas.add(line([(left, top), (left, bottom), (right, bottom)]), at)
    canvas.add(text(left - 8, top + 8, f"{highest:.1f}", "small end") + text(left - 8, bottom, "0", "small end"), at)
    canvas.add(text(right, bottom + 16, f"step {last:g}", "small end") + text(left, bottom + 16, "step 0", "small"), at)
    canvas.add(line([place(row) for row in train]), at + 0.5)
    canvas.add(line([place(row) for row in val], "learnt"), at + 1.0)
    for row in val:
        x, y = place(row)
        canvas.add(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="learnt"/>', at + 1.0)
    canvas.add(rect(700, 618, 14, 3, "ink") + text(720, 624, "loss of each step", "quiet"), at + 0.5)
    canvas.add(rect(700, 636, 14, 3, "learnt") + text(720, 642, "loss on validation records", "learnt"), at + 1.0)
