"""The evaluation loop, drawn from the answers and the metrics of the committed run."""

from dataclasses import dataclass
from pathlib import Path

from canvas import Canvas, line, rect, text, wrap

from instruct.core.errors import DataError
from instruct.core.files import read_json
from instruct.report.stop_or_go import stop_or_go
from instruct.results.headline import score_title, system_title
from instruct.results.runs import Run, read_run
from instruct.results.scores import Difference
from instruct.results.table import Scores

FOLLOWED = "8a7017fa0587"  # the record that docs/how-it-works follows
TIMES = {"answers": 0.5, "judge": 4.0, "scores": 8.0, "statistics": 12.0, "decision": 15.0}
OUTCOMES = {"won": "good", "lost": "bad", "both right": "learnt", "both wrong": "quiet"}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the run found of its primary system and the best baseline."""

    run: Run
    difference: Difference
    answers: dict[str, str]
    question: dict[str, str]
    right: dict[str, Scores]
    similar: dict[str, Scores]


def find(root: Path) -> Found:
    """Read the run; the systems are the base model, the best baseline and the primary one."""
    run = read_run("workspace", root)
    results = run.results
    shown = dict.fromkeys(["base", results.against, results.primary])
    rows = {system: row_of(root / answers_path(run, system)) for system in shown}
    measure = results.headline[0].name
    return Found(
        run=run,
        difference=results.headline[0].difference_of(results.primary),
        answers={system: row["response"] for system, row in rows.items()},
        question=rows[results.primary],
        right={system: run.table.scores[measure][system] for system in shown},
        similar={system: run.table.scores["similarity"][system] for system in shown},
    )


def answers_path(run: Run, system: str) -> str:
    """Where a system's answers are."""
    return next(one.answers for one in run.results.systems if one.name == system)


def row_of(path: Path) -> dict[str, str]:
    """The followed record with a system's answer."""
    rows: list[dict[str, str]] = read_json(path)
    for row in rows:
        if row["id"] == FOLLOWED:
            return row
    raise DataError(f"{path}: lacks the record {FOLLOWED}; run `dvc checkout`, or change FOLLOWED")


def draw(root: Path) -> str:
    """The whole animation."""
    found = find(root)
    canvas = Canvas(
        width=960,
        height=716,
        title="How answers become a decision",
        about="Each system answers the test records. A judge scores every answer, a paired test compares the scores, "
        "and its verdict decides what comes next.",
    )
    draw_answers(canvas, found)
    draw_judge(canvas, found)
    draw_scores(canvas, found)
    draw_statistics(canvas, found)
    draw_decision(canvas, found)
    return canvas.render()


def draw_answers(canvas: Canvas, found: Found) -> None:
    """The question and the systems' answers."""
    at = TIMES["answers"]
    canvas.panel((16, 16, 458, 236), "1  Answers: every system answers each test record", at)
    y = 66
    asked = f"{found.question['instruction']} {found.question['input']}"
    for part in wrap(asked, 58):
        canvas.add(text(30, y, part, "mono"), at)
        y += 18
    for system, answer in found.answers.items():
        y += 10
        canvas.add(text(30, y, system_title(system), "quiet"), at + 1)
        for part in wrap(answer, 56):
            y += 18
            canvas.add(text(44, y, part, "mono learnt"), at + 1)
        y += 14


def draw_judge(canvas: Canvas, found: Found) -> None:
    """What makes an answer right, and the verdict on each."""
    at = TIMES["judge"]
    canvas.panel((486, 16, 458, 236), "2  Judge: a rule or a model scores each answer", at)
    canvas.add(text(500, 64, "reference answer", "quiet"), at)
    y = 84
    for part in wrap(found.question["output"], 56):
        canvas.add(text(514, y, part, "mono"), at)
        y += 18
    for place, system in enumerate(found.answers):
        right, similar = found.right[system][FOLLOWED], found.similar[system][FOLLOWED]
        word, style = ("right", "good") if right else ("wrong", "bad")
        y = 122 + 30 * place
        canvas.add(text(500, y, system_title(system), "quiet"), at + 1)
        canvas.add(text(700, y, f"{'✓' if right else '✗'} {word}", f"{style}"), at + 1)
        canvas.add(text(800, y, f"similarity {similar:.1f}"), at + 2)
    note = ["Similarity counts equal words and letters. It can be", "high for a wrong answer, so the rule decides."]
    for place, part in enumerate(note):
        canvas.add(text(500, 216 + 20 * place, part), at + 2)


def draw_scores(canvas: Canvas, found: Found) -> None:
    """A square for each record, by who was right."""
    at, difference = TIMES["scores"], found.difference
    canvas.panel((16, 264, 928, 190), f"3  Scores: {difference.count} closed questions, one square each", at)
    base, sft = found.right[difference.against], found.right[difference.system]
    outcomes = [outcome_of(sft[id_], base[id_]) for id_ in sft if sft[id_] is not None]
    order = list(OUTCOMES)
    for place, outcome in enumerate(sorted(outcomes, key=order.index)):
        x, y = 30 + 15 * (place // 6), 300 + 15 * (place % 6)
        canvas.add(rect(x, y, 12, 12, OUTCOMES[outcome]), at + 0.5 + 0.5 * order.index(outcome))
    x = 30
    names = {
        "won": f"{difference.wins} only the {system_title(difference.system)} is right",
        "lost": f"{difference.losses} only the {system_title(difference.against)}",
        "both right": f"{outcomes.count('both right')} both right",
        "both wrong": f"{outcomes.count('both wrong')} both wrong",
    }
    for (outcome, note), width in zip(names.items(), (280, 300, 140, 140), strict=True):
        moment = at + 0.5 + 0.5 * order.index(outcome)
        canvas.add(rect(x, 405, 10, 10, OUTCOMES[outcome]) + text(x + 16, 415, note, "quiet"), moment)
        x += width
    canvas.add(text(30, 440, "The difference comes from the records that only one system answers right."), at + 2.5)


def outcome_of(sft: float | None, base: float | None) -> str:
    """Who was right about a record."""
    if sft and base:
        return "both right"
    return "won" if sft else "lost" if base else "both wrong"


def draw_statistics(canvas: Canvas, found: Found) -> None:
    """The mean difference and its interval beside zero."""
    at, one = TIMES["statistics"], found.difference
    canvas.panel((16, 466, 458, 234), "4  Statistics: is the difference more than chance?", at)
    if one.mean is None or one.low is None or one.high is None or one.p_value is None:
        raise SystemExit("no record has a score for both systems")
    least, most = min(0.0, one.low) - 2, max(0.0, one.high) + 2

    def place(value: float) -> float:
        return 40 + 410 * (value - least) / (most - least)

    canvas.add(line([(40, 560), (450, 560)]) + line([(place(0), 520), (place(0), 574)]), at)
    canvas.add(text(place(0), 592, "0: no difference", "quiet mid"), at)
    canvas.add(line([(place(one.low), 546), (place(one.high), 546)], "learnt thick"), at + 1)
    canvas.add(f'<circle cx="{place(one.mean):.1f}" cy="546" r="8" class="learnt"/>', at + 0.5)
    canvas.add(text(place(one.mean), 528, f"{one.mean:+.1f} points", "learnt mid"), at + 0.5)
    canvas.add(text(30, 628, f"95 % confidence interval {one.low:+.1f} to {one.high:+.1f}"), at + 1)
    canvas.add(text(30, 654, f"p = {one.p_value:.2g}: by chance alone, so large a difference"), at + 1.5)
    canvas.add(text(30, 674, f"would appear {one.p_value:.2%} of the time"), at + 1.5)


def draw_decision(canvas: Canvas, found: Found) -> None:
    """The verdict, and what the report suggests."""
    at, one, run = TIMES["decision"], found.difference, found.run
    canvas.panel((486, 466, 458, 234), "5  Decision: what the numbers suggest", at)
    style = {"better": "good", "worse": "bad"}.get(one.verdict, "")
    canvas.add(text(500, 520, f"The {system_title(one.system)} is {one.verdict}", f"big {style}"), at)
    canvas.add(text(500, 546, f"than the {system_title(one.against)} in"), at)
    canvas.add(text(500, 566, f"{score_title(run.results.headline[0].name)}."), at)
    rows = stop_or_go(run, run.results.judges[0])
    step = rows[-1]
    canvas.add(text(500, 600, "next step", "quiet") + text(590, 600, step.finding), at + 1)
    canvas.add(text(500, 624, "because", "quiet") + text(590, 624, step.suggestion), at + 1)
    canvas.add(text(500, 672, "↺  change one thing, run again, compare again", "learnt"), at + 2)
