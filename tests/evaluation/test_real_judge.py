"""SmolLM2-135M as judge through the real llama.cpp: replies are read, and the controls say that it is none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation.answers import answer, evaluate_params
from ruamel.yaml import YAML
from servers.settings import calls, llamacpp_params

from instruct.backbones.fetch import ensure
from instruct.core.errors import JudgeError
from instruct.core.files import write_json
from instruct.core.records import as_row
from instruct.evaluation.human import write_rows
from instruct.evaluation.judges.model import Asking, PairJudge, ScoreJudge
from instruct.evaluation.rubrics import find_rubric
from instruct.evaluation.run import prepare_judges
from instruct.results.schema import load
from instruct.servers.llamacpp import LlamaCpp
from instruct.text.prompts import TEMPLATES

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
FACTS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Poland": "Warsaw"}
RECORDS = [answer(country, "I do not know.", output=f"The capital is {city}.") for country, city in FACTS.items()]
ANSWERS = {"base": RECORDS, "sft": [answer(one.id, one.output, output=one.output) for one in RECORDS]}


@pytest.fixture(scope="module")
def server(smollm2_backbone):
    pytest.importorskip("xllamacpp", reason="the extra llamacpp is not installed")
    server = LlamaCpp(llamacpp_params(str(ensure(smollm2_backbone)[0])), calls(read=300.0, total=300.0))
    yield server
    server.close()


def judge_by(server, rubric, *, expected=False, repeats=1, temperature=0.0):
    loaded = find_rubric(rubric)
    return (PairJudge if loaded.kind == "pair" else ScoreJudge)(
        "llamacpp", server, rubric_name=rubric, rubric=loaded, template=TEMPLATES["alpaca"], cache=None,
        asking=Asking(repeats=repeats, temperature=temperature, seed=1, expected=expected),
    )  # fmt: skip


@pytest.mark.parametrize("rubric", ["score-0-100", "score-1-5", "pairwise", "verbose"])
def test_the_schema_makes_replies_that_are_read(server, rubric):
    verdicts = judge_by(server, rubric).judge({name: some[:1] for name, some in ANSWERS.items()})
    for (verdict,) in verdicts.values():
        assert verdict.score is not None and 0 <= verdict.score <= 100, verdict
        assert isinstance(json.loads(verdict.raw_reply), dict)


def test_the_controls_refuse_a_model_that_cannot_judge(server):
    with pytest.raises(JudgeError, match="llamacpp is not fit to judge by the rubric score-0-100"):
        prepare_judges({"llamacpp": judge_by(server, "score-0-100")}, ANSWERS, evaluate_params(controls=3))


def test_the_expected_score_lies_between_levels_and_moves_with_the_answer(server):
    judge = judge_by(server, "score-1-5", expected=True)
    verdicts = judge.judge(ANSWERS)
    scores = [verdict.score for system in verdicts.values() for verdict in system]
    assert all(score is not None and 0 < score < 100 for score in scores)
    assert len({round(score, 6) for score in scores}) > 5  # where the likeliest level is much the same for all


def test_the_expected_score_of_numbers_written_digit_by_digit_is_refused(server):
    (verdict,) = judge_by(server, "score-0-100", expected=True).judge({"base": RECORDS[:1]})["base"]
    assert verdict.score is None
    assert "score-1-5" in verdict.problem


def test_repeats_differ_where_the_judge_is_warm_and_come_back_by_their_seed(server):
    judge = judge_by(server, "verbose", repeats=3, temperature=1.5)
    one, again = (judge.judge({"base": RECORDS[:1]})["base"][0] for _ in range(2))
    assert len(set(one.replies)) > 1
    assert one.replies == again.replies


def test_the_stage_runs_with_a_real_judge_and_says_that_it_is_not_fit(tmp_path, smollm2_backbone):
    pytest.importorskip("xllamacpp", reason="the extra llamacpp is not installed")
    params = YAML().load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["evaluate"] |= {"judges": ["reference", "llamacpp"], "controls": 1, "allow_unfit": True, "resamples": 500}
    params["servers"]["cache"] = False
    params["servers"]["llamacpp"] |= {"gguf": str(ensure(smollm2_backbone)[0]), "num_ctx": 1024}
    with (tmp_path / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(params, file)
    for system, records in ANSWERS.items():
        write_json(tmp_path / f"{system}.json", [as_row(one) for one in records])
    write_rows(tmp_path / "human.csv", [])
    arguments = ("human.csv", "j.json", "metrics", "base=base.json", "sft=sft.json")
    done = subprocess.run(
        [sys.executable, str(ROOT / "src/evaluate.py"), *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    results = load((tmp_path / "metrics/evaluate.json").read_text(encoding="utf-8"), "x")
    judge = results.judge("llamacpp")
    assert [one.scored for one in judge.systems] == [4, 4]
    assert judge.identity["model"].endswith(".gguf") and "/" not in judge.identity["model"]
    assert judge.controls.fit is False
    assert [(one.first, one.second, one.count) for one in results.agreement] == 2 * [("reference", "llamacpp", 4)]
