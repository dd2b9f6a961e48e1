"""Runs made by hand, as objects and as the files that the stages leave; results and scores agree with each other."""

import math
from collections.abc import Mapping, Sequence
from hashlib import md5
from pathlib import Path
from statistics import mean, quantiles
from typing import Any

from instruct.core.files import write_csv, write_json
from instruct.core.records import Response, write_records
from instruct.results.runs import EVALUATE, SCORES, SPLIT, TRAIN, Run
from instruct.results.schema import (
    ACCURACY,
    MEASURES,
    REFERENCE,
    VERSION,
    Controls,
    JudgeResults,
    Results,
    System,
    TestSet,
    Unscored,
    dump,
)
from instruct.results.scores import Difference, Slice, SliceChange, SliceScore, SystemScores
from instruct.results.table import HUMAN, Table, table_columns, table_rows

ANSWERS = {"base": "data/baselines/base.json", "sft": "data/responses.json", "dpo": "data/preferred/dpo.json"}
TEST = {"sha256": "a" * 64, "template": "alpaca", "template_sha256": "b" * 64}
IDENTITY = {"judge": "ollama", "model": "llama3:8b", "digest": "365c0bd3"}
SIMILARITY = {"judge": REFERENCE, "score": "similarity to the reference answer"}
SIGNATURES = {"chrf": "nrefs:1|v:2.6.0"}
PARAMS = {"train": {"seed": 123, "lr": 0.0002}, "prompt": {"template": "alpaca"}, "evaluate": {"seed": 123}}
NO_DATA = md5(b"").hexdigest()

Numbers = Sequence[float | None]


def make_table(
    scores: Mapping[str, Mapping[str, Numbers]],
    *,
    ids: Sequence[str] = (),
    groups: Sequence[str] = (),
    kinds: Sequence[str] = (),
) -> Table:
    """Scores by name and system, in the order of the ids."""
    count = len(next(iter(next(iter(scores.values())).values())))
    ids = ids or [f"r{i}" for i in range(count)]
    return Table(
        kinds=dict(zip(ids, kinds or ["riddle"] * count, strict=True)),
        groups=dict(zip(ids, groups or ids, strict=True)),
        scores={
            name: {system: dict(zip(ids, values, strict=True)) for system, values in systems.items()}
            for name, systems in scores.items()
        },
    )


def make_results(
    table: Table,
    *,
    identities: Mapping[str, Mapping[str, str]] | None = None,
    test: Mapping[str, Any] | None = None,
    signatures: Mapping[str, str] = SIGNATURES,
    md5s: Mapping[str, str] | None = None,
    **judge: Any,
) -> Results:
    """Results that agree with a table; `judge` are fields of every judge in place of the usual ones."""
    names = [name for name in table.scores if name not in (*MEASURES, HUMAN)] or [REFERENCE]
    systems = list(next(iter(table.scores.values())))
    usual = {REFERENCE: SIMILARITY}
    return Results(
        version=VERSION,
        test=TestSet(**{**TEST, "records": len(table.kinds), **(test or {})}),
        systems=tuple(make_system(name, table, (md5s or {}).get(name, NO_DATA)) for name in systems),
        judges=tuple(
            make_judge(name, table, dict((identities or {}).get(name, usual.get(name, IDENTITY))), **judge)
            for name in names
        ),
        signatures=dict(signatures),
    )


def measures_of(scores: Any) -> list[str]:
    """The measures of a run: accuracy only if it is given."""
    return [name for name in MEASURES if name in scores or name != ACCURACY]


def make_system(name: str, table: Table, digest: str) -> System:
    count = len(table.kinds)
    measures = {key: mean_of(table.scores.get(key, {}).get(name, {}).values()) for key in measures_of(table.scores)}
    stopped = {"end_of_text": count - 1, "length": 1, "repetition": 0, "stop_string": 0}
    return System(
        name=name, answers=ANSWERS.get(name, f"data/{name}.json"), md5=digest, mean_tokens=8.5, stopped=stopped,
        measures=measures | {"bleu": 5.0},
    )  # fmt: skip


def make_judge(name: str, table: Table, identity: dict[str, str], **fields: Any) -> JudgeResults:
    scores = table.scores.get(name) or next(iter(table.scores.values()))
    first, *others = scores
    rubric = {} if name == REFERENCE else {"rubric": "score-0-100", "rubric_sha256": "c" * 16}
    usual = {
        "rubric": "",
        "rubric_sha256": "",
        **rubric,
        "controls": Controls(fit=True, count=8, unscored=0, scores={"reference": 100.0, "empty": 0.0}),
        "systems": tuple(make_scores(system, list(one.values())) for system, one in scores.items()),
        "differences": tuple(make_difference(first, other, scores) for other in others),
        "slices": tuple(make_slice(kind, table, scores) for kind in dict.fromkeys(table.kinds.values())),
        "unscored": tuple(
            Unscored(id=id_, system=system, problem="no number", raw_reply=f"reply {id_}")
            for system, one in scores.items()
            for id_, score in one.items()
            if score is None
        ),
    }
    return JudgeResults(name=name, identity=identity, **{**usual, **fields})


def make_scores(system: str, scores: Numbers, **fields: Any) -> SystemScores:
    known = [score for score in scores if score is not None]
    counts = {"scored": len(known), "unscored": len(scores) - len(known)}
    if not known:
        return SystemScores(system=system, **counts)
    q1, median, q3 = quantiles(known, n=4, method="inclusive") if len(known) > 1 else known * 3
    worst = sum(known) / len(scores)
    numbers = {
        "mean": mean(known), "low": mean(known) - 9, "high": mean(known) + 9, "q1": q1, "median": median, "q3": q3,
        "worst_case": worst, "best_case": worst + 100 * counts["unscored"] / len(scores),
    }  # fmt: skip
    return SystemScores(system=system, **counts, **{**numbers, **fields})


def make_difference(against: str, system: str, scores: Mapping[str, Mapping[str, float | None]]) -> Difference:
    pairs = [(a, scores[system][id_]) for id_, a in scores[against].items()]
    changes = [b - a for a, b in pairs if a is not None and b is not None]
    if not changes:
        return Difference(system=system, against=against, count=0)
    clear = len(changes) > 6 and (min(changes) > 0 or max(changes) < 0)
    middle = mean(changes)
    return Difference(
        system=system, against=against, count=len(changes), mean=middle, low=middle - 9, high=middle + 9,
        p_value=0.001 if clear else 0.5, wins=sum(c > 0 for c in changes), ties=changes.count(0),
        losses=sum(c < 0 for c in changes), worst_case=middle, best_case=middle,
    )  # fmt: skip


def make_slice(kind: str, table: Table, scores: Mapping[str, Mapping[str, float | None]]) -> Slice:
    own = {system: [one[id_] for id_ in one if table.kinds[id_] == kind] for system, one in scores.items()}
    known = {system: [score for score in one if score is not None] for system, one in own.items()}
    means = {system: mean(one) if one else None for system, one in known.items()}
    first, *others = scores
    changes = {
        other: [b - a for a, b in zip(own[first], own[other], strict=True) if a is not None and b is not None]
        for other in others
    }
    return Slice(
        property="kind",
        value=kind or "(none)",
        systems=tuple(
            SliceScore(system=system, records=len(one), scored=len(known[system]), mean=means[system])
            for system, one in own.items()
        ),
        differences=tuple(
            SliceChange(system=other, against=first, count=len(one), mean=mean(one) if one else None)
            for other, one in changes.items()
        ),
    )


def make_run(name: str, scores: Mapping[str, Mapping[str, Numbers]], *, params: Any = PARAMS, **fields: Any) -> Run:
    """A run with just these scores."""
    about = {key: fields.pop(key) for key in ("ids", "groups", "kinds") if key in fields}
    table = make_table(scores, **about)
    of_run = {key: fields.pop(key) for key in ("curves", "train", "quality", "stale", "lock") if key in fields}
    return Run(name=name, params=params, results=make_results(table, **fields), table=table, **of_run)


def write_results(root: Path, scores: Mapping[str, Mapping[str, Numbers]], **fields: Any) -> Results:
    """metrics/evaluate.json and metrics/scores.csv of one run; measures that are not given are 50 throughout.

    Accuracy is there only if it is given.
    """
    about = {key: fields.pop(key) for key in ("ids", "groups", "kinds") if key in fields}
    first = next(iter(scores.values()))
    flat = {system: [50.0] * len(values) for system, values in first.items()}
    judges = {name: one for name, one in scores.items() if name not in MEASURES} or {REFERENCE: first}
    table = make_table({**judges, **{name: scores.get(name, flat) for name in measures_of(scores)}}, **about)
    results = make_results(table, **fields)
    write_json(root / EVALUATE, dump(results))
    write_csv(root / SCORES, table_columns(list(table.scores), results.names), table_rows(table))
    return results


def write_training(root: Path, *, steps: int = 6) -> None:
    """What the stages split and train leave in metrics."""
    write_json(root / SPLIT, {"train": 12, "val": 3, "test": 3, "read": 18, "kept": 18})
    details = [{"best_step": 4, "last_val_loss": 1.75, "last_train_loss": 0.9}]
    write_json(root / TRAIN, {"steps": steps, "initial_val_loss": 3.25, "best_val_loss": 1.5, "details": details})
    train = [
        {"step": i, "epoch": i / steps, "tokens": 100 * i, "lr": 1e-4 / i, "loss": 3 * math.exp(-i / 9), "grad_norm": 1}
        for i in range(1, steps + 1)
    ]
    val = [{"step": i, "epoch": i / steps, "tokens": 100 * i, "loss": 3.2 - i / 5} for i in range(0, steps + 1, 2)]
    write_csv(root / "metrics/curves/train.csv", list(train[0]), train)
    write_csv(root / "metrics/curves/val.csv", list(val[0]), val)


def answer(id_: str, text: str, **fields: Any) -> Response:
    values = {
        "id": id_, "instruction": f"What is the capital of {id_}?", "input": "", "output": f"right {id_}",
        "kind": "facts", "response": text, "stop_reason": "end_of_text", "prompt_tokens": 20, "response_tokens": 3,
    }  # fmt: skip
    return Response(**{**values, **fields})


def write_answers(root: Path, answers: Mapping[str, Sequence[Response]]) -> dict[str, str]:
    """Each system's answers in its file; returns their md5 by system."""
    for system, responses in answers.items():
        write_records(root / ANSWERS[system], responses)
    return {system: md5((root / ANSWERS[system]).read_bytes()).hexdigest() for system in answers}


def mean_of(values: Any) -> float:
    known = [value for value in values if value is not None]
    return mean(known) if known else 0.0
