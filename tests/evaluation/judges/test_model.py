"""A judge behind a server, with a server in this process that says what the test wants."""

import json
from math import log
from statistics import pstdev

import pytest
from evaluation.answers import ScriptedServer, answer

from instruct.core.errors import JudgeError
from instruct.evaluation.judges.model import Asking, PairJudge, ScoreJudge
from instruct.evaluation.rubrics import find_rubric, prompt_hash
from instruct.evaluation.score import check_unscored, judge_all
from instruct.servers.base import Reply, Token
from instruct.text.prompts import TEMPLATES


def judge_by(reply, rubric="score-0-100", *, make=ScoreJudge, cache=None, **asking):
    server = ScriptedServer(reply)
    options = {"repeats": 1, "temperature": 0.0, "seed": 7, "expected": False, **asking}
    judge = make(
        "mine", server, rubric_name=rubric, rubric=find_rubric(rubric), template=TEMPLATES["alpaca"],
        asking=Asking(**options), cache=cache,
    )  # fmt: skip
    return judge, server


def in_turn(*replies):
    rest = iter(replies)
    return lambda request: next(rest)


ONE = {"base": [answer("r0", "Lyon")], "tuned": [answer("r0", "Paris")]}


def test_scores_come_back_to_their_answers_in_order():
    def by_answer(request):
        return json.dumps({"score": 90 if "Paris\nRESPONSE" in request.messages[0][1] else 10})

    judge, server = judge_by(by_answer)
    found = judge.judge(ONE)
    assert {system: [one.score for one in verdicts] for system, verdicts in found.items()} == {
        "base": [10], "tuned": [90],
    }  # fmt: skip
    assert len(server.asked) == 2


def test_the_prompt_is_the_rendered_rubric_and_its_hash_stands_in_the_verdict():
    judge, server = judge_by(lambda request: '{"score": 1}')
    verdict = judge.judge({"base": [answer("r0", "Lyon", input="Europe")]})["base"][0]
    ((role, prompt),) = server.asked[0].messages
    assert role == "user"
    assert "What is the capital of r0?\n\n### Input:\nEurope\nTASK" in prompt  # as the models saw it, without a header
    assert "### Response" not in prompt
    assert verdict.prompt_sha256 == prompt_hash(prompt)
    assert judge.prompts({"base": [answer("r0", "Lyon", input="Europe")]}) == [prompt]
    assert server.asked[0].schema == find_rubric("score-0-100").schema
    assert (server.asked[0].max_tokens, server.asked[0].seed) == (32, 7)


@pytest.mark.parametrize(("said", "score"), [(1, 0), (2, 25), (3, 50), (4, 75), (5, 100)])
def test_levels_are_told_from_0_to_100(said, score):
    judge, _ = judge_by(lambda request: json.dumps({"score": said}), "score-1-5")
    assert judge.judge(ONE)["base"][0].score == score


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ("I will not.", "no score from 0 to 100 in it"),
        ('{"score": 850}', "no score from 0 to 100 in it"),
        ('{"score": -1}', "no score from 0 to 100 in it"),
        (Reply(text='{"score": 8', problem="cut off after 32 tokens"), "cut off after 32 tokens"),
        (Reply(text="", problem="the server answers 500"), "the server answers 500"),
    ],
)
def test_what_holds_no_score_is_kept_with_its_cause(reply, problem):
    judge, _ = judge_by(lambda request: reply)
    verdict = judge.judge(ONE)["tuned"][0]
    assert (verdict.score, verdict.problem, verdict.failed) == (None, problem, 1)
    assert verdict.raw_reply == (reply if isinstance(reply, str) else reply.text)


def test_half_a_surrogate_pair_can_be_written():
    judge, _ = judge_by(lambda request: "\ud800")
    assert judge.judge(ONE)["base"][0].raw_reply == "\\ud800"


def test_repeats_give_mean_and_spread_and_keep_every_reply():
    judge, server = judge_by(in_turn("10", "20", "none", "60", "60", "60"), repeats=3, temperature=0.7)
    found = judge.judge(ONE)
    base, tuned = found["base"][0], found["tuned"][0]
    assert (base.score, base.spread, base.failed) == (15, pstdev([10, 20]), 1)
    assert base.replies == ("10", "20", "none")
    assert base.problem
    assert (tuned.score, tuned.spread, tuned.failed, tuned.problem) == (60, 0, 0, "")
    assert [request.repeat for request in server.asked] == [0, 1, 2, 0, 1, 2]
    assert {request.temperature for request in server.asked} == {0.7}


def test_expected_scores_ask_for_probabilities_and_use_them():
    top = (("4", log(0.5)), ("2", log(0.5)))
    tokens = tuple(
        Token(text=text, logprob=log(0.5), top=top if text == "4" else ()) for text in ('{"score": ', "4", "}")
    )
    judge, server = judge_by(lambda request: Reply(text='{"score": 4}', logprobs=tokens), "score-1-5", expected=True)
    assert judge.judge(ONE)["base"][0].score == pytest.approx(50)  # 3 on the scale from 1 to 5
    assert server.asked[0].top_logprobs == 20


def test_a_server_without_probabilities_gives_no_expected_score():
    judge, _ = judge_by(lambda request: '{"score": 4}', "score-1-5", expected=True)
    verdict = judge.judge(ONE)["base"][0]
    assert verdict.score is None
    assert "evaluate.scoring: text" in verdict.problem


@pytest.mark.parametrize(
    ("forward", "backward", "base", "tuned"),
    [
        ("A", "B", 100, 0),  # base first and preferred, base second and preferred
        ("B", "A", 0, 100),
        ("A", "A", 50, 50),  # whoever stands first
        ("B", "B", 50, 50),
        ("tie", "tie", 50, 50),
        ("B", "tie", 25, 75),
    ],
)
def test_a_pair_is_judged_in_both_orders(forward, backward, base, tuned):
    judge, server = judge_by(in_turn(forward, backward), "pairwise", make=PairJudge)
    found = judge.judge(ONE)
    assert (found["base"][0].score, found["tuned"][0].score) == (base, tuned)
    assert found["tuned"][0].choices == (forward, backward)
    first, second = (request.messages[0][1] for request in server.asked)
    assert first.index("Lyon\nRESPONSE A") < first.index("Paris\nRESPONSE B")
    assert second.index("Paris\nRESPONSE A") < second.index("Lyon\nRESPONSE B")


def test_a_pair_with_one_order_unread_has_no_score():
    judge, _ = judge_by(in_turn("A", "both have merits"), "pairwise", make=PairJudge)
    found = judge.judge(ONE)
    for system in ("base", "tuned"):
        verdict = found[system][0]
        assert (verdict.score, verdict.failed, verdict.problem) == (None, 1, "no choice of A, B or tie in it")
        assert verdict.replies == ("A", "both have merits")


def test_a_pair_without_a_score_is_one_failed_verdict_of_each_system():
    judge, _ = judge_by(in_turn("A", "?", "?", "?", "A", "B"), "pairwise", make=PairJudge)
    base, tuned = ([answer(f"r{i}", text) for i in range(3)] for text in ("x", "y"))
    verdicts = judge_all({"mine": judge}, {"base": base, "tuned": tuned})
    assert [one.failed for one in verdicts] == 2 * [1, 1, 0]
    check_unscored(verdicts, 4 / 6)
    with pytest.raises(JudgeError, match="mine: 4 of 6 verdicts"):
        check_unscored(verdicts, 0.6)


def test_repeats_of_a_pair_are_counted_by_their_two_orders():
    judge, _ = judge_by(in_turn("A", "A", "?", "B", "?", "B"), "pairwise", make=PairJudge, repeats=3, temperature=1.0)
    verdicts = judge_all({"mine": judge}, ONE)  # first order A, A and unread; second B, unread and B
    assert [(one.score, one.failed) for one in verdicts] == [(100, 2), (0, 2)]
    with pytest.raises(JudgeError, match="mine: 4 of 6 verdicts"):
        check_unscored(verdicts, 0.6)


def test_pairs_of_several_records_keep_their_places():
    answers = {"base": [answer("r0", "Lyon"), answer("r1", "Rome")], "tuned": [answer("r0", "x"), answer("r1", "y")]}
    judge, _ = judge_by(in_turn("A", "B", "B", "A"), "pairwise", make=PairJudge)
    found = judge.judge(answers)
    assert [one.score for one in found["base"]] == [100, 0]
    assert [one.score for one in found["tuned"]] == [0, 100]


def test_the_identity_names_server_rubric_and_way_of_asking():
    judge, _ = judge_by(lambda request: "1", "score-1-5", repeats=2, temperature=0.5, expected=True)
    identity = judge.identity
    assert identity.about == {
        "judge": "mine", "server": "scripted", "model": "scripted", "digest": "00ff",
        "repeats": "2", "temperature": "0.5", "scoring": "expected",
    }  # fmt: skip
    assert (identity.rubric, identity.rubric_sha256) == ("score-1-5", find_rubric("score-1-5").sha256)
