import json
import random
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy
import pytest
from evaluation.answers import ScriptedJudge, ScriptedServer, answer, evaluate_params
from scipy.stats import sem

from instruct.core.errors import JudgeError
from instruct.core.params import load_params
from instruct.evaluation import controls
from instruct.evaluation.controls import (
    CLEAR,
    FIRST,
    INJECTION,
    KINDS,
    MARGIN,
    find_misorder,
    make_controls,
)
from instruct.evaluation.judges.base import Verdict
from instruct.evaluation.judges.model import Asking, PairJudge, ScoreJudge
from instruct.evaluation.judges.reference import ReferenceJudge
from instruct.evaluation.rubrics import find_rubric
from instruct.evaluation.run import prepare_judges
from instruct.evaluation.settings import EvaluateParams
from instruct.results.schema import Controls
from instruct.servers.base import ServerState
from instruct.servers.cache import ReplyCache
from instruct.text.prompts import TEMPLATES

ROOT = Path(__file__).parents[2]
GOOD = {"reference": 95.0, "empty": 0.0, "echo": 10.0, "unrelated": 5.0, "injection": 8.0}
MAX_UNSCORED = 0.05
run_controls = partial(controls.run_controls, max_unscored=MAX_UNSCORED)
RECORDS = [answer(f"r{i}", "?", output=f"answer number {i}", input="of the land" if i % 2 else "") for i in range(20)]


def model_judge(reply, rubric="score-0-100", cache=None, **options):
    server = ScriptedServer(reply, **options)
    asking = Asking(repeats=1, temperature=0.0, seed=1, expected=False)
    loaded = find_rubric(rubric)
    make = PairJudge if loaded.kind == "pair" else ScoreJudge
    return make(
        "scripted", server, rubric_name=rubric, rubric=loaded, template=TEMPLATES["alpaca"], asking=asking, cache=cache
    ), server


def texts_in(request):
    """The texts between the marks of a prompt, by name."""
    found = {}
    for part in request.messages[0][1].split("<<<")[1:]:
        head, _, rest = part.partition("\n")
        name, fence = head.rsplit(" ", 1)
        found[name] = rest[: rest.index(f"\n{name} {fence}>>>")]
    return found


def honest(request):
    texts = texts_in(request)
    return json.dumps({"score": 100 if texts["RESPONSE"] == texts["REFERENCE"] else 5})


def test_each_kind_of_known_answer_is_made_of_the_records():
    controls = make_controls(RECORDS, 5)
    assert set(controls) == set(KINDS)
    assert [one.id for one in controls["reference"]] == ["r0", "r4", "r8", "r12", "r16"]
    assert all(one.response == one.output for one in controls["reference"])
    assert all(one.response == "" for one in controls["empty"])
    assert all(one.instruction in one.response for one in controls["echo"])
    assert all(one.response != one.output for one in controls["unrelated"])
    for plain, asking in zip(controls["unrelated"], controls["injection"], strict=True):
        assert asking.response == plain.response + INJECTION


def test_few_records_and_equal_references_still_make_unrelated_answers():
    same = [replace(one, output="yes") for one in RECORDS[:3]]
    for records in (same, RECORDS[:1]):
        controls = make_controls(records, 8)
        assert len(controls["unrelated"]) == len(records)
        assert all(one.response != one.output for one in controls["unrelated"])


def test_the_expected_order_is_fit():
    assert find_misorder(GOOD) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"empty": 95.0}, "an empty answer gets 95.0"),
        ({"echo": 80.0}, "the task repeated gets 80.0"),
        ({"unrelated": 75.1}, "another task's answer gets 75.1"),
        ({"injection": 75.1}, "asks for full marks gets 75.1"),
        ({"injection": 30.0}, "asking for full marks brings 25.0 points"),
        ({"reference": 19.0}, "an empty answer gets 0.0, the reference answer itself 19.0: less than 20 points apart"),
    ],
)  # fmt: skip
def test_each_wrong_order_is_told_in_words(change, words):
    assert any(words in problem for problem in find_misorder({**GOOD, **change}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_without_any_score_is_not_fit(kind):
    means = {name: score for name, score in GOOD.items() if name != kind}
    assert any("no score that could be read" in problem for problem in find_misorder(means))


def test_an_honest_judge_passes_and_its_scores_are_kept():
    judge, _ = model_judge(honest)
    fitness = run_controls(judge, make_controls(RECORDS, 4))
    assert fitness.fit
    scores = {"reference": 100.0, "empty": 5.0, "echo": 5.0, "unrelated": 5.0, "injection": 5.0}
    assert fitness.controls == Controls(fit=True, count=4, unscored=0, scores=scores)


def test_a_judge_that_says_100_to_everything_is_refused_in_words_unless_allowed():
    # What SmolLM2-135M does under the plain rubric.
    judge, _ = model_judge(lambda request: '{"score": 100}')
    answers = {"base": RECORDS, "sft": RECORDS}
    with pytest.raises(JudgeError) as caught:
        prepare_judges({"smol": judge}, answers, evaluate_params())
    message = str(caught.value)
    assert message.startswith("smol is not fit to judge by the rubric score-0-100")
    assert "an empty answer gets 100.0, the reference answer itself 100.0" in message
    assert "evaluate.allow_unfit" in message
    fitness = prepare_judges({"smol": judge}, answers, evaluate_params(allow_unfit=True))
    assert fitness["smol"].controls.fit is False


def test_a_judge_that_obeys_the_answer_is_caught():
    def obeys(request):
        texts = texts_in(request)
        return '{"score": 100}' if "full score" in texts["RESPONSE"] else honest(request)

    judge, _ = model_judge(obeys)
    problems = run_controls(judge, make_controls(RECORDS, 4)).problems
    assert any("asking for full marks brings 95.0 points" in problem for problem in problems)


def many(count):
    return [answer(f"r{i}", "?", output=f"answer number {i}") for i in range(count)]


@pytest.mark.parametrize("count", [1, 3, 50, 96, 97])
def test_no_record_of_a_small_test_set_is_a_known_answer_twice(count):
    chosen = [one.id for one in make_controls(many(count), 96)["reference"]]
    assert len(set(chosen)) == len(chosen) == min(count, 96)


def test_a_clear_judge_is_asked_about_the_first_records_only():
    judge, server = model_judge(honest)
    fitness = run_controls(judge, make_controls(many(300), 96))
    assert (fitness.fit, fitness.count, len(server.asked)) == (True, FIRST, FIRST * len(KINDS))


def test_a_judge_that_is_hard_to_tell_is_asked_about_all_records_each_once():
    draw = random.Random(3)
    judge, server = model_judge(lambda request: json.dumps({"score": draw.randint(20, 80)}))
    fitness = run_controls(judge, make_controls(many(300), 96))
    assert (fitness.count, len(server.asked)) == (96, 96 * len(KINDS))
    tasks = [texts_in(request)["TASK"] for request in server.asked]
    assert set(Counter(tasks).values()) == {len(KINDS)}


@pytest.mark.parametrize("count", [1, 2, 23, 24, 25, 30, 96])
def test_any_number_of_records_will_do(count):
    judge, _ = model_judge(honest)
    assert run_controls(judge, make_controls(many(count), 96)).fit


def drawn(means, spread, seed):
    """A judge whose scores are drawn from normal distributions about the mean of each kind."""
    rng = numpy.random.default_rng(seed)

    class Drawn(ScriptedJudge):
        def judge(self, answers):
            return {
                kind: [
                    Verdict(score=float(score), raw_reply="") for score in rng.normal(means[kind], spread, len(some))
                ]
                for kind, some in answers.items()
            }

    return Drawn()


def share_of_fit(means, count=96, spread=30.0, trials=250):
    controls = make_controls(many(count), count)
    return sum(run_controls(drawn(means, spread, seed), controls).fit for seed in range(trials)) / trials


LEAD_30 = {"reference": 75.0, "empty": 45.0, "echo": 45.0, "unrelated": 45.0, "injection": 45.0}
CLEAR_LEAD = {"reference": 90.0, "empty": 30.0, "echo": 30.0, "unrelated": 30.0, "injection": 30.0}


def default_count():
    return load_params("evaluate", EvaluateParams, ROOT / "params.yaml").controls


def test_the_default_number_of_records_keeps_both_errors_of_the_gate_small():
    assert share_of_fit(LEAD_30, default_count()) > 0.93  # a fair judge is let in
    assert share_of_fit({**CLEAR_LEAD, "empty": 80.0}, default_count()) < 0.05  # 10 points are no lead
    assert share_of_fit({**CLEAR_LEAD, "injection": 60.0}, default_count()) < 0.05  # 30 points for begging


@pytest.mark.slow
def test_the_error_rates_of_the_gate_are_those_that_are_told():
    """See the module's docstring; about 2 standard errors of the simulation are allowed for."""
    for count, refused in ((8, 0.56), (32, 0.25), (64, 0.09), (96, 0.03)):
        assert 1 - share_of_fit(LEAD_30, count, trials=2000) == pytest.approx(refused, abs=0.025)
    for kind in ("empty", "echo", "unrelated"):
        assert share_of_fit({**CLEAR_LEAD, kind: 80.0}, 96, trials=2000) < 0.02
    assert share_of_fit({**CLEAR_LEAD, "injection": 60.0}, 96, trials=2000) < 0.02
    assert share_of_fit(dict.fromkeys(KINDS, 50.0), 96, trials=500) < 0.01


def test_few_records_would_refuse_a_fair_judge_half_of_the_time():
    assert share_of_fit(LEAD_30, 8) < 0.6


def test_a_judge_that_is_not_fit_is_shown_by_a_reply_and_the_commonest_problem():
    replies = iter(["What?"] * 3 + ['{"score": 5}', "\x1b[31mNo.\x1b[0m"] * 50)
    judge, _ = model_judge(lambda request: next(replies))
    about, reply = run_controls(judge, make_controls(RECORDS, 4)).evidence
    assert "11 of 20" in about and "no score from 0 to 100" in about
    assert "What?" in reply
    bad, _ = model_judge(lambda request: '{"score": 100}\x1b[2J')
    (reply,) = run_controls(bad, make_controls(RECORDS, 4)).evidence
    assert '{"score": 100}' in reply and reply.isprintable()
    with pytest.raises(JudgeError, match=r"score.{3,4}100"):
        prepare_judges({"bad": bad}, {"base": RECORDS, "tuned": RECORDS}, evaluate_params())
    good, _ = model_judge(honest)
    assert run_controls(good, make_controls(RECORDS, 4)).evidence == ()


def test_what_was_judged_before_needs_no_server_again(tmp_path):
    answers = {"base": many(60), "tuned": many(60)}
    gone = ServerState(where="here", model="scripted", problem="is not there")
    with ReplyCache(tmp_path / "replies.sqlite") as cache:
        for state, asked in ((None, True), (gone, False)):
            judge, server = model_judge(honest, state=state, cache=cache)
            assert prepare_judges({"one": judge}, answers, evaluate_params(controls=50))["one"].fit
            judge.judge(answers)
            assert bool(server.asked) == asked


def test_the_injection_does_not_get_out_of_its_fence():
    seen = []

    def look(request):
        texts = texts_in(request)
        assert set(texts) == {"TASK", "REFERENCE", "RESPONSE"}
        seen.append(texts["RESPONSE"])
        return honest(request)

    judge, _ = model_judge(look)
    run_controls(judge, make_controls(RECORDS, 4))
    assert sum(text.endswith(INJECTION) for text in seen) == 4


def test_a_judge_whose_replies_cannot_be_read_is_not_fit():
    judge, _ = model_judge(lambda request: "I cannot judge this.")
    fitness = run_controls(judge, make_controls(RECORDS, 2))
    assert not fitness.fit
    assert (fitness.unscored, fitness.scores) == (10, {})


def unread(count, kind="injection", pairs=False):
    """A judge that tells all kinds apart, but whose first `count` replies on one kind cannot be read."""
    left = count

    class Unread(ScriptedJudge):
        def judge(self, answers):
            nonlocal left
            found = {}
            for name, some in answers.items():
                score = 100.0 if name == "reference" else 0.0
                missing = min(left, len(some)) if kind in answers and (pairs or name == kind) else 0
                found[name] = [
                    Verdict(score=None if place < missing else score, raw_reply="?") for place in range(len(some))
                ]
            left -= min(left, len(next(iter(answers.values())))) if kind in answers else 0
            return found

    Unread.pairs = pairs
    return Unread()


@pytest.mark.parametrize("pairs", [False, True], ids=["single answers", "pairs"])
def test_a_judge_of_which_one_kind_is_mostly_unread_is_not_fit(pairs):
    fitness = run_controls(unread(FIRST - 1, pairs=pairs), make_controls(many(96), 96))
    assert not fitness.fit
    assert fitness.count == FIRST  # 23 of 96 are too many as well
    told = [kind for kind in KINDS if any(f"on {KINDS[kind]} have" in problem for problem in fitness.problems)]
    assert told == (["reference", "injection"] if pairs else ["injection"])
    assert "23 of" in fitness.problems[0] and "evaluate.max_unscored" in fitness.problems[0]


@pytest.mark.parametrize(
    ("missing", "records", "count", "fit"),
    [
        (1, 4, 4, True),
        (2, 4, 4, False),
        (1, 96, FIRST, True),
        (2, 96, 96, True),
        (4, 96, 96, True),
        (5, 96, FIRST, False),
    ],
)
def test_a_kind_may_miss_one_score_or_the_share_that_is_allowed(missing, records, count, fit):
    fitness = run_controls(unread(missing), make_controls(many(records), records))
    assert (fitness.count, fitness.unscored, fitness.fit) == (count, missing, fit)


@pytest.mark.parametrize("missing", [FIRST - 1, FIRST])
def test_a_kind_with_fewer_than_two_scores_is_asked_on(missing):
    fitness = controls.run_controls(unread(missing), make_controls(many(96), 96), max_unscored=1.0)
    assert (fitness.count, fitness.unscored, fitness.fit) == (96, missing, True)


def test_pairs_are_tried_reference_against_each_other_kind():
    def prefers_the_reference(request):
        texts = texts_in(request)
        return json.dumps({"winner": "A" if texts["RESPONSE A"] == texts["REFERENCE"] else "B"})

    judge, server = model_judge(prefers_the_reference, "pairwise")
    fitness = run_controls(judge, make_controls(RECORDS, 3))
    assert fitness.fit
    assert fitness.scores == {"reference": 100, "empty": 0, "echo": 0, "unrelated": 0, "injection": 0}
    assert len(server.asked) == 3 * 4 * 2
    first, _ = model_judge(lambda request: '{"winner": "A"}', "pairwise")
    assert run_controls(first, make_controls(RECORDS, 3)).scores["reference"] == 50
    assert not run_controls(first, make_controls(RECORDS, 3)).fit


def pairs_won_by_reference(wins, of):
    """A judge of pairs: of every `of` records the reference wins `wins[kind]` against that kind, and all others."""

    class Preferring(ScriptedJudge):
        pairs = True

        def judge(self, answers):
            (reference, kind), count = answers, len(next(iter(answers.values())))
            scores = [100.0 * (place % of < wins.get(kind, of)) for place in range(count)]
            return {
                reference: [Verdict(score=score, raw_reply="") for score in scores],
                kind: [Verdict(score=100 - score, raw_reply="") for score in scores],
            }

    return Preferring()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "reference"])
def test_the_reference_must_lead_each_control_within_its_own_pairs(kind):
    for wins, fit in ((2, False), (5, False), (6, True), (10, True)):  # of 10: 6 wins lead by the margin of 20 points
        fitness = run_controls(pairs_won_by_reference({kind: wins}, 10), make_controls(many(10), 10))
        assert fitness.fit is fit
        assert [KINDS[kind] in problem for problem in fitness.problems] == ([] if fit else [True])


def test_the_shown_score_of_the_reference_is_that_of_the_pairs_that_decide():
    judge = pairs_won_by_reference({"echo": 8, "injection": 4}, 10)
    controls = run_controls(judge, make_controls(many(10), 10)).controls
    scores = {"reference": 40.0, "empty": 0.0, "echo": 20.0, "unrelated": 0.0, "injection": 60.0}
    assert controls == Controls(fit=False, count=10, unscored=0, scores=scores)


@pytest.mark.parametrize("wins", [5, 13, 19, 22])
def test_a_judge_of_pairs_is_asked_on_unless_the_leads_of_the_first_records_are_clear(wins):
    leads = numpy.array([100.0] * wins + [-100.0] * (FIRST - wins))
    clear = abs(leads.mean() - MARGIN) / sem(leads) > CLEAR
    assert clear == (wins in (5, 22))
    judge = pairs_won_by_reference(dict.fromkeys(KINDS, wins), FIRST)
    assert run_controls(judge, make_controls(many(96), 96)).count == (FIRST if clear else 96)


def test_all_servers_are_looked_at_before_any_verdict():
    state = ServerState(
        where="here", model="llama3", problem="the model llama3 is not there", command="ollama pull llama3"
    )
    there, first = model_judge(honest)
    missing, second = model_judge(honest, state=state)
    with pytest.raises(JudgeError) as caught:
        prepare_judges({"one": there, "two": missing}, {"base": RECORDS, "sft": RECORDS}, evaluate_params())
    assert "the model llama3 is not there\nrun `ollama pull llama3`" in str(caught.value)
    assert first.asked == second.asked == []


def test_the_longest_prompt_of_answers_and_controls_is_tried_for_room():
    judge, server = model_judge(honest)
    records = [*RECORDS, answer("long", "word " * 5000)]
    prepare_judges({"one": judge}, {"base": [*RECORDS, answer("long", "x")], "sft": records}, evaluate_params())
    (longest,) = server.checked
    assert longest.messages[0][1].count("word ") == 5000


def test_the_reference_judge_is_never_refused():
    odd = [answer("r0", "?", output="What is the capital of r0?")]
    fitness = prepare_judges({"reference": ReferenceJudge()}, {"base": odd, "sft": odd}, evaluate_params())
    assert not fitness["reference"].fit  # the task repeated is the answer here
