"""The check of an export: the program that will run it answers the test set, compared with the checkpoint's answers.

`proof.json` records what was written, from which checkpoint, and how the answers compare.
`metrics/evaluate.json` and `metrics/scores.csv` hold scores in the schema of a run, with the systems `checkpoint` and
`export`, so that code that reads runs also reads an export (`proof_run`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from instruct.checks import schema
from instruct.core.errors import DataError
from instruct.core.files import read_json, write_csv, write_json
from instruct.core.parsing import mapping
from instruct.core.records import Example, Response, write_records
from instruct.evaluation.controls import make_controls, run_controls
from instruct.evaluation.judges.reference import ReferenceJudge
from instruct.evaluation.measured import score_all
from instruct.evaluation.score import judge_all
from instruct.evaluation.settings import EvaluateParams
from instruct.evaluation.summary import judge_scores, make_table, summarise
from instruct.evaluation.systems import Systems
from instruct.exporting.greedy import Parting, answer_ours, answer_theirs, cut_answer, find_parting
from instruct.exporting.running import Run, Runner, request_of, run_export
from instruct.exporting.source import Source
from instruct.exporting.whole import ANSWERS, CHECKPOINT, EXPORT, PROOF
from instruct.generation.settings import GenerateParams
from instruct.results.revisions import WORKSPACE
from instruct.results.runs import EVALUATE, SCORES, read_run
from instruct.results.runs import Run as ScoredRun
from instruct.results.schema import HEADLINE, REFERENCE, Results, dump
from instruct.results.scores import ScoreResults
from instruct.results.table import table_columns, table_rows

_SHOWN = 3  # differences that are printed; the file has all


@dataclass(frozen=True, kw_only=True)
class Check:
    """The records to answer, the size of the test set, and the settings; without records the check is skipped.

    `checks` say by record id what makes an answer right; a record without one is scored by similarity alone.
    """

    examples: Sequence[Example]
    total: int
    checks: Mapping[str, schema.Check]
    generate: GenerateParams
    evaluate: EvaluateParams
    threads: int

    @property
    def words(self) -> str:
        """The check in the export's metadata."""
        if not self.examples:
            return "skipped: no answers of this file were compared with the checkpoint's"
        return f"{len(self.examples)} of {self.total} test records, see {PROOF}"


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The result of the check; `rounding` and `how` are the runner's.

    The program generated so many `tokens`; its answers are cut where generation would have ended them. `same_tokens`
    counts no answer to a prompt that the program read as other tokens.
    """

    run: Run
    tokens: int
    rounding: float
    how: str
    prompts_alike: int
    same_tokens: int
    same_texts: int
    partings: tuple[Parting, ...]
    results: Results

    @property
    def speed(self) -> float:
        """Tokens per second on this machine; 0 if it took no time."""
        return self.tokens / self.run.seconds if self.run.seconds else 0.0

    @property
    def verdict(self) -> str:
        """The export against the checkpoint, by the first score: right answers where there are any."""
        return self.verdict_on(self.results.headline[0])

    def verdict_on(self, score: ScoreResults) -> str:
        """The export against the checkpoint on one score."""
        if self.same_texts == len(self.run.said):
            return "the same answers"
        return score.difference_of(EXPORT).verdict


def spread_over(examples: Sequence[Example], count: int | None) -> list[Example]:
    """`count` examples spread evenly over the test set; all of them for None."""
    if count is None or count >= len(examples):
        return list(examples)
    return [examples[i * len(examples) // count] for i in range(count)]


def prove(source: Source, runner: Runner, check: Check, folder: Path, known: Sequence[Response] = ()) -> Proof:
    """Answer the records with both, and write answers and scores to the folder of the export.

    `known` are answers of the checkpoint that need not be generated again.
    """
    request = request_of(source, check.examples, check.generate.max_new_tokens, check.threads)
    run = run_export(runner, request, folder.parent)
    cut = [cut_answer(source, said, check.generate) for said in run.said]
    theirs = [answer_theirs(source, one, said, reason) for one, (said, reason) in zip(check.examples, cut, strict=True)]
    answers = {CHECKPOINT: answer_rest(source, check, known), EXPORT: theirs}
    partings = [find_parting(source, said, runner.rounding) for said, _ in cut]
    alike = [said.prompt == tuple(one["ids"]) for said, one in zip(run.said, request["prompts"], strict=True)]
    return Proof(
        run=replace(run, said=tuple(said for said, _ in cut)),
        tokens=sum(len(said.tokens) for said in run.said),
        rounding=runner.rounding,
        how=runner.how,
        prompts_alike=sum(alike),
        same_tokens=sum(same and parting is None for same, parting in zip(alike, partings, strict=True)),
        same_texts=sum(a.response == b.response for a, b in zip(*answers.values(), strict=True)),
        partings=tuple(one for one in partings if one),
        results=write_scores(source, answers, check, folder),
    )


def answer_rest(source: Source, check: Check, known: Sequence[Response]) -> list[Response]:
    """The checkpoint's answers to all records, in order; only those that are not `known` are generated."""
    answers = {one.id: one for one in known}
    rest = [one for one in check.examples if one.id not in answers]
    answers |= {one.id: one for one in answer_ours(source, rest, check.generate)}
    return [answers[one.id] for one in check.examples]


def write_scores(source: Source, answers: dict[str, list[Response]], check: Check, folder: Path) -> Results:
    """Score both systems by right answers and by similarity to the references, in the files that a run has."""
    params, judge = replace(check.evaluate, judges=(REFERENCE,), repeats=1), ReferenceJudge()
    for name, responses in answers.items():
        (folder / "answers").mkdir(exist_ok=True)
        write_records(folder / ANSWERS[name], responses)
    verdicts, measured = judge_all({REFERENCE: judge}, answers), score_all(answers, check.checks)
    controls = make_controls(answers[CHECKPOINT], params.controls)
    fitness = run_controls(judge, controls, max_unscored=params.max_unscored)
    files = {name: folder / path for name, path in ANSWERS.items()}
    judged_by = {REFERENCE: (judge.identity, fitness)}
    systems = Systems(files=files, baselines=(CHECKPOINT,))
    results = summarise(verdicts, judged_by, answers, systems, measured, check.checks, {}, source.prompt, params)
    named = [replace(one, answers=ANSWERS[one.name]) for one in results.systems]
    results = replace(results, systems=tuple(named))
    table = make_table(answers, judge_scores(verdicts, [REFERENCE]), {}, measured)
    write_json(folder / EVALUATE, dump(results))
    write_csv(folder / SCORES, table_columns(list(table.scores), results.names), table_rows(table))
    return results


def proof_run(path: Path) -> ScoredRun:
    """The scores of an export as a run, by its folder or the proof.json in it.

    Its settings are those that the checkpoint was trained with. Where they are not known its weights are its seed.
    Raises DataError for a folder that is not an export, or one whose check was skipped.
    """
    folder = path.parent if path.name == PROOF else path
    if not (folder / PROOF).is_file():
        raise DataError(f"{folder}: has no {PROOF}, so it is not an export; give the folder of an export")
    if not (folder / EVALUATE).is_file():
        raise DataError(f"{folder / PROOF}: the check was skipped; export again with --check all")
    document = mapping(read_json(folder / PROOF))
    unknown = {"train": {"seed": str(mapping(document.get("origin")).get("weights_sha256", "unknown"))}}
    return replace(
        read_run(WORKSPACE, folder), name=str(folder), params=mapping(document.get("params")) or unknown, stale=()
    )


def proof_document(proof: Proof | None, check: Check, size: int) -> dict[str, Any]:
    """The check in proof.json; times and memory depend on this machine."""
    about: dict[str, Any] = {"check": {"records": len(check.examples), "of": check.total, "words": check.words}}
    if proof is None:
        return about
    return about | {
        "runtime": {**proof.run.runtime, "rounding": proof.rounding, "how": proof.how},
        "agreement": {
            "prompts_of_the_same_tokens": proof.prompts_alike,
            "answers_of_the_same_tokens": proof.same_tokens,
            "answers_of_the_same_text": proof.same_texts,
            "ties": sum(one.tie for one in proof.partings),
            "partings": [asdict(one) for one in proof.partings],
        },
        "verdict": proof.verdict,
        "scores": [_score(proof, one) for one in proof.results.headline],
        "cost_here": {
            "bytes": size,
            "tokens": proof.tokens,
            "seconds": round(proof.run.seconds, 3),
            "tokens_per_second": round(proof.speed, 2),
            "peak_memory_bytes": proof.run.peak_bytes,
            "threads": check.threads,
        },
    }


def _score(proof: Proof, one: ScoreResults) -> dict[str, Any]:
    difference = one.difference_of(EXPORT)
    return {
        "name": one.name,
        "what": HEADLINE[one.name],
        "records": difference.count,
        **{name: _interval(one.scores_of(name)) for name in (CHECKPOINT, EXPORT)},
        "difference": {**_interval(difference), "p_value": difference.p_value},
        "verdict": proof.verdict_on(one),
    }


def _interval(one: Any) -> dict[str, float]:
    return {"mean": one.mean, "low": one.low, "high": one.high}


def proof_lines(proof: Proof, check: Check, size: int) -> Iterator[str]:
    """The lines to print about the check."""
    count, runtime = len(check.examples), " ".join(proof.run.runtime.values())
    ties = sum(one.tie for one in proof.partings)
    how = f" ({proof.how})" if proof.how else ""
    yield f"{runtime}{how}: {proof.prompts_alike} of {count} prompts have the same tokens"
    yield (
        f"answers: {proof.same_tokens} of {count} the same token for token, {proof.same_texts} the same text; "
        f"{ties} first differ where the checkpoint's logits tie, {len(proof.partings) - ties} elsewhere"
    )
    for one in proof.partings[:_SHOWN]:
        yield f"  {one.id}, token {one.place}: {one.checkpoint!r} became {one.export!r}, {one.margin:g} apart"
    for score in proof.results.headline:
        yield from _score_lines(proof, score)
    yield f"here: {size / 1e6:,.1f} MB, {proof.speed:,.1f} tokens/s, {proof.run.peak_bytes / 1e6:,.0f} MB of memory"


def _score_lines(proof: Proof, score: ScoreResults) -> Iterator[str]:
    difference = score.difference_of(EXPORT)
    ours, theirs = (score.scores_of(name) for name in (CHECKPOINT, EXPORT))
    yield (
        f"{HEADLINE[score.name]} ({difference.count}): checkpoint {ours.mean:.1f} ({ours.low:.1f} to {ours.high:.1f}), "
        f"export {theirs.mean:.1f} ({theirs.low:.1f} to {theirs.high:.1f})"
    )
    yield (
        f"  export - checkpoint: {difference.mean:+.2f} (95 % interval {difference.low:+.2f} to "
        f"{difference.high:+.2f}), p = {difference.p_value:.2g}: {proof.verdict_on(score)}"
    )
