"""Right answers come first, and the best baseline is what a tuned model must beat: with answers planted to show it."""

import json
from pathlib import Path

import pytest
from evaluation.answers import answer, evaluate_params

from instruct.checks.rules import is_right
from instruct.checks.schema import parse_check
from instruct.checks.signature import accuracy_signature, code_of
from instruct.core.errors import ParamsError
from instruct.core.records import Turn
from instruct.evaluation.controls import Fitness
from instruct.evaluation.judges.reference import ReferenceJudge
from instruct.evaluation.measured import choose_pair, score_all
from instruct.evaluation.score import judge_all
from instruct.evaluation.summary import make_table, summarise
from instruct.evaluation.systems import Systems, name_systems
from instruct.results.headline import BLIND, form_lines, headline_lines, headline_rows
from instruct.results.schema import dump, load
from instruct.results.summary import MOST, summary_of
from instruct.results.table import column, load_table, table_columns, table_rows
from instruct.statistics import mean_interval, paired_test
from instruct.text.prompts import PromptParams

PROMPT = PromptParams(template="alpaca", system="default")
CLOSED, OPEN = range(30, 70), range(70, 90)
CHECKS = {
    **{f"r{n}": parse_check({"type": "number", "value": n}, "here") for n in CLOSED},
    **{f"r{n}": parse_check({"type": "open"}, "here") for n in OPEN[:10]},  # the others have none, which is the same
}


def said(text_of):
    """One answer to each record: what `text_of` makes of the right number."""
    return [
        answer(f"r{n}", text_of(n), output=f"The answer is {n}.", instruction=f"Which number is no. {n - 7}?")
        for n in (*CLOSED, *OPEN)
    ]


WRONG, FORM = said(lambda n: str(n + 1)), said(lambda n: f"The answer is {n + 1}.")
TRUE = said(lambda n: str(n) if n % 4 else str(n + 1))
ALL = dict.fromkeys(("base", "few", "sft", "dpo"), TRUE)
TABLE = make_table(ALL, {}, {}, score_all(ALL, CHECKS))  # tells the groups of the records


def results_of(checks=CHECKS, baselines=("base",), **answers):
    systems = Systems(files=dict.fromkeys(answers, Path(__file__)), baselines=baselines)
    scores, judge = score_all(answers, checks), ReferenceJudge()
    fitness = Fitness(scores={"reference": 100.0}, count=1, unscored=0, problems=())
    judged = {"reference": (judge.identity, fitness)}
    verdicts = judge_all({"reference": judge}, answers)
    nobody = {system: {} for system in answers}
    return summarise(verdicts, judged, answers, systems, scores, checks, nobody, PROMPT, evaluate_params())


def test_a_recipe_that_changes_the_form_alone_gains_similarity_and_no_accuracy_and_that_is_said():
    results = results_of(base=WRONG, sft=FORM)
    accuracy, _, near = results.measured
    assert [one.mean for one in accuracy.systems] == [0, 0] and accuracy.difference_of("sft").verdict != "better"
    assert near.difference_of("sft").verdict == "better" and near.difference_of("sft").mean > 30
    lines = list(headline_lines(results, TABLE))
    assert [line for line in lines if "form, not truth" in line] == list(form_lines(results)) != []
    assert [line for line in lines if "does not beat base model" in line]


def test_of_right_answers_that_rise_by_what_may_be_chance_it_is_said_that_nothing_is_shown():
    some = [one if n % 10 else right for n, (one, right) in enumerate(zip(FORM, said(str), strict=True))]
    results = results_of(base=WRONG, sft=some)
    right = results.measured[0].difference_of("sft")
    assert right.mean > 0 and right.verdict == "not distinguishable"
    assert results.measured[2].difference_of("sft").verdict == "better"
    (line,) = form_lines(results)
    assert "whether more answers are right is not shown" in line and "truth" not in line


def test_a_recipe_that_finds_the_truth_is_better_whatever_its_form():
    results = results_of(base=FORM, sft=TRUE)
    assert results.measured[0].difference_of("sft").verdict == "better"
    assert results.measured[2].difference_of("sft").verdict == "worse"
    assert list(form_lines(results)) == [] and "better" in next(headline_lines(results, TABLE))


def test_accuracy_is_the_mean_of_the_rule_over_closed_questions_and_its_tests_are_those_of_the_statistics():
    results = results_of(base=WRONG, sft=TRUE)
    right = [100.0 * is_right(CHECKS[one.id], one.response, one.instruction) for one in TRUE if not _open(one.id)]
    accuracy, similar, _ = results.measured
    of, difference = accuracy.scores_of("sft"), accuracy.difference_of("sft")
    interval = mean_interval(right, resamples=500, seed=123)
    assert (of.mean, of.low, of.high) == pytest.approx((interval.mean, interval.low, interval.high), abs=1e-4)
    paired = paired_test([0.0] * len(right), right, resamples=500, seed=123)
    assert difference.p_value == pytest.approx(paired.p_value, abs=1e-6)
    assert (of.scored, of.unscored, similar.systems[0].scored) == (len(CLOSED), 0, len(OPEN))
    assert results.headline == (accuracy, similar)
    assert load(json.dumps(dump(results)), "x") == results


def _open(id_):
    return id_ not in CHECKS or CHECKS[id_].is_open


def test_only_closed_questions_have_an_accuracy_in_the_table():
    answers = {"base": WRONG, "sft": TRUE}
    measured = score_all(answers, CHECKS)
    table = make_table(answers, {"reference": measured["similarity"]}, {}, measured)
    rows = {row["id"]: row for row in table_rows(table)}
    assert {id_ for id_, row in rows.items() if column("accuracy", "sft") in row} == {f"r{n}" for n in CLOSED}
    results = results_of(**answers)
    head = ",".join(table_columns(list(table.scores), ("base", "sft")))
    lines = [",".join(str(row.get(name, "")) for name in head.split(",")) for row in rows.values()]
    read = load_table("\n".join([head, *lines]), "x", results).scores
    assert read["accuracy"]["sft"]["r30"] == 100 and read["accuracy"]["sft"][f"r{OPEN[0]}"] is None


def test_a_chat_is_checked_like_its_turns_in_one_question():
    said, asked, text = "Tom has 3 bags of 4 apples.", "How many apples is that?", "3 bags of 4 apples give 12 apples."
    one_turn = answer("r1", text, instruction=f"{said} {asked}")
    chat = answer("r1", text, instruction=asked, history=(Turn(said, "", "I see."),))
    check = parse_check({"type": "number", "value": 12, "unit": "apples"}, "here")
    scores = [score_all({"sft": [one]}, {"r1": check})["accuracy"]["sft"]["r1"] for one in (one_turn, chat)]
    assert scores == [100, 100]


def test_without_checks_similarity_is_the_headline_and_says_what_it_does_not_see():
    results = results_of({}, base=WRONG, sft=FORM)
    assert [one.name for one in results.measured] == ["similarity"]
    assert BLIND in headline_lines(results, TABLE) and "accuracy" not in results.measures
    assert BLIND not in headline_lines(results_of(base=WRONG, sft=TRUE), TABLE)


def test_the_best_baseline_by_the_primary_score_is_what_the_others_are_compared_with():
    """By similarity it would be `base`; and a model that does not beat it is not called better."""
    few = said(lambda n: str(n) if n % 4 else "I do not know")
    results = results_of(baselines=("base", "few"), base=FORM, few=few, sft=TRUE)
    assert (results.against, results.shown) == ("few", ("base", "few", "sft"))
    assert {one.against for judge in (*results.judges, *results.measured) for one in judge.differences} == {"few"}
    lines = list(headline_lines(results, TABLE))
    assert [line for line in lines if "does not beat the best of 2 baselines, few," in line]
    head, *rows = headline_rows(results)
    assert [row[0] for row in rows] == ["base", "few", "sft"] and head[-1] == "against few"
    assert choose_pair(score_all({"base": FORM, "few": few, "sft": TRUE}, {}), _systems())[0] == "base"


def _systems():
    return Systems(files=dict.fromkeys(("base", "few", "sft"), Path("x")), baselines=("base", "few"))


def test_the_summary_holds_the_headline_of_six_systems():
    names = ("base", "base-chat", "base-few-shot", "echo", "nearest")
    results = results_of(baselines=names, **dict.fromkeys(names, WRONG), sft=TRUE)
    summary = summary_of(results)
    assert len(summary) == MOST and {f"accuracy_{name}" for name in (*names, "sft")} <= set(summary)
    found = results.measured[0].difference_of("sft")
    assert summary[f"difference_{found.against}"] == found.mean
    assert summary["open_similarity_sft"] == results.measured[1].scores_of("sft").mean


def test_a_folder_of_baselines_is_one_system_a_file_in_alphabetical_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("some").mkdir()
    for name in ("echo.json", "base.json", "base-chat.json", "notes.txt"):
        (tmp_path / "some" / name).touch()
    found = name_systems([Path(one) for one in ("checks=c.json", "baselines=some", "sft=s.json")])
    assert list(found.files) == ["base", "base-chat", "echo", "sft"] and found.files["echo"] == Path("some/echo.json")
    assert (found.baselines, found.checks) == (("base", "base-chat", "echo"), Path("c.json"))
    for wrong in (["baselines=none", "sft=s"], ["baselines=some"], ["sft=s", "baselines=some"], ["base=x", "checks=c"],
                  ["baselines=some", "echo=x", "sft=s"], ["checks=a", "checks=b", "base=x", "sft=s"]):  # fmt: skip
        with pytest.raises(ParamsError):
            name_systems([Path(one) for one in wrong])


def test_the_signature_tells_other_rules_and_checks_but_no_other_words_or_order():
    assert accuracy_signature(CHECKS) == accuracy_signature(dict(reversed(CHECKS.items())))
    one = {**CHECKS, "r30": parse_check({"type": "number", "value": 31}, "here")}
    assert accuracy_signature(one) != accuracy_signature(CHECKS)
    code = 'def f():\n    """Words."""\n    return 1  # why\n'
    assert code_of(code) == code_of("def f():\n    return 1\n") != code_of("def f():\n    return 2\n")
