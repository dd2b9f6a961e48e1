import json
import os
import runpy
from hashlib import md5
from pathlib import Path

import pytest
import warm
from evaluation.answers import answer
from evaluation.ollama_server import DIGEST, OllamaServer
from ruamel.yaml import YAML

from instruct.core.errors import DataError
from instruct.core.files import write_json
from instruct.core.records import as_row, read_responses
from instruct.evaluation.human import blank_rows, write_rows
from instruct.evaluation.reference import compare
from instruct.evaluation.rubrics import prompt_hash
from instruct.results.schema import load
from instruct.results.table import load_table

ROOT = Path(__file__).parents[2]
BASE, SFT, HUMAN = "base_responses.json", "responses.json", "human-scores.csv"
SYSTEMS = (f"base={BASE}", f"sft={SFT}")
ARGUMENTS = (HUMAN, "judgements.json", "metrics", *SYSTEMS)
MAIN = runpy.run_path(str(ROOT / "src/evaluate.py"), run_name="stage")["main"]


@pytest.fixture
def folder(tmp_path):
    """params.yaml as it is shipped, and both systems' answers to four records."""
    params = YAML().load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["evaluate"] |= {"resamples": 500, "judges": ["reference"], "controls": 1}
    write_params(tmp_path, params)
    references = ["Paris", "Rome", "東京", "-5"]
    write_rows(tmp_path / HUMAN, [])
    write_answers(tmp_path / BASE, ["I do not know", "Rome", "", "5"], references)
    write_answers(tmp_path / SFT, ["Paris", "Rome.", "東京", "-5"], references)
    return tmp_path


def write_params(folder, params):
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(params, file)


def change_params(folder, ollama=None, **changes):
    params = YAML().load((folder / "params.yaml").read_text(encoding="utf-8"))
    params["evaluate"] |= changes
    params["servers"]["calls"] |= {"retries": 0, "read": 10.0, "total": 20.0}
    params["servers"]["ollama"] |= ollama or {}
    write_params(folder, params)


def write_answers(path, texts, references):
    records = zip(texts, references, strict=True)
    write_json(path, [as_row(answer(f"r{i}", text, output=output)) for i, (text, output) in enumerate(records)])


def evaluate(folder, *arguments, **environment):
    env = {**os.environ, "INSTRUCT_REPLIES": str(folder / "replies.sqlite"), **environment}
    return warm.python(ROOT / "src/evaluate.py", *(arguments or ARGUMENTS), cwd=folder, env=env)


def read(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_two_files_of_answers_become_judgements_and_metrics(folder):
    done = evaluate(folder)
    assert done.returncode == 0, done.stderr
    judgements = read(folder, "judgements.json")
    assert [(one["system"], one["id"]) for one in judgements] == [
        (system, f"r{i}") for system in ("base", "sft") for i in range(4)
    ]
    almost = round(compare("Rome.", "Rome").similarity, 4)
    base_5 = round(compare("5", "-5").similarity, 4)
    assert [one["score"] for one in judgements[4:]] == [100, almost, 100, 100]
    assert [one["score"] for one in judgements[1:4]] == [100, 0, base_5]
    results = results_of(folder)
    assert [(one.name, one.answers) for one in results.systems] == [("base", BASE), ("sft", SFT)]
    assert results.system("sft").md5 == md5((folder / SFT).read_bytes()).hexdigest()
    (judge,), measures = results.judges, results.system("sft").measures
    assert judge.identity == {"judge": "reference", "score": "similarity to the reference answer"}
    assert judge.controls.scores["reference"] == 100
    sft, difference = judge.scores_of("sft"), judge.difference_of("sft")
    assert sft.mean == measures["similarity"] == pytest.approx((300 + almost) / 4, abs=1e-4)
    assert (sft.scored, sft.unscored, measures["exact_match"]) == (4, 0, 75)
    assert (difference.count, difference.wins, difference.losses) == (4, 3, 1)
    assert f"reference, sft: mean {sft.mean:.1f} over 4 of 4 (0 not scored)" in done.stdout
    assert read(folder, "metrics/summary.json")["similarity_sft"] == sft.mean
    table = load_table((folder / "metrics/scores.csv").read_text(encoding="utf-8"), "x", results)
    assert list(table.scores["reference"]["sft"].values()) == [100, almost, 100, 100]


def test_checks_and_a_folder_of_baselines_come_first_in_log_results_and_table(folder):
    (folder / "baselines").mkdir()
    for name, texts in {"base": ["Paris", "Oslo", "", "5"], "echo": ["", "", "", ""]}.items():
        write_answers(folder / f"baselines/{name}.json", texts, ["Paris", "Rome", "東京", "-5"])
    checks = {"r0": {"type": "accept", "accept": ["Paris"]}, "r1": {"type": "accept", "accept": ["Rome"]},
              "r2": {"type": "open"}, "gone": {"type": "open"}}  # fmt: skip
    write_json(folder / "checks.json", checks)
    done = evaluate(folder, *ARGUMENTS[:3], "checks=checks.json", "baselines=baselines", f"sft={SFT}")
    assert done.returncode == 0, done.stderr
    results = results_of(folder)
    assert (results.names, results.against) == (("base", "echo", "sft"), "base")
    assert [one.mean for one in results.measured[0].systems] == [50, 0, 100]
    lines = done.stdout.splitlines()
    (place,) = [i for i, line in enumerate(lines) if line.startswith("system ") and "right answers" in line]
    assert [line.split()[:2] for line in lines[place + 1 : place + 4]] == [
        ["base", "50.0"],
        ["echo", "0.0"],
        ["sft", "100.0"],
    ]
    assert any(
        "does not beat the best of 2 baselines" in line for line in lines[place + 4 :]
    )  # two records tell nothing
    table = load_table((folder / "metrics/scores.csv").read_text(encoding="utf-8"), "x", results)
    assert list(table.scores["accuracy"]["base"].values()) == [100, 0, None, None]
    write_json(folder / "checks.json", {"r0": {"type": "set"}})
    line = one_line_of(evaluate(folder, *ARGUMENTS[:3], "checks=checks.json", *SYSTEMS))
    assert "checks.json: r0" in line and "items" in line


def results_of(folder):
    return load((folder / "metrics/evaluate.json").read_text(encoding="utf-8"), "x")


def test_two_runs_in_two_processes_leave_the_same_bytes(folder):
    for name, seed in (("one", {}), ("two", {"PYTHONHASHSEED": "1"})):
        done = evaluate(folder, HUMAN, f"{name}/judgements.json", name, *SYSTEMS, **seed)
        assert done.returncode == 0, done.stderr
    for name in ("judgements.json", "evaluate.json", "summary.json", "scores.csv"):
        assert (folder / "one" / name).read_bytes() == (folder / "two" / name).read_bytes()


def test_two_judges_judge_the_same_answers_and_every_reply_is_kept(folder):
    with OllamaServer(content='{"score": 70}') as server:
        change_params(folder, judges=["reference", "ollama"], allow_unfit=True, ollama={"url": server.url})
        done = evaluate(folder, HTTP_PROXY="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert server.breaches == []
    judgements = read(folder, "judgements.json")
    assert [one["judge"] for one in judgements] == ["reference"] * 8 + ["ollama"] * 8
    assert {one["raw_reply"] for one in judgements[8:]} == {'{"score": 70}'}
    sent = {prompt_hash(body["messages"][0]["content"]) for body in server.verdicts}
    assert {one["prompt_sha256"] for one in judgements[8:]} <= sent
    results = results_of(folder)
    ollama = results.judge("ollama")
    assert [one.mean for one in ollama.systems] == [70, 70] and ollama.difference_of("sft").p_value == 1
    assert ollama.identity["digest"] == DIGEST
    assert (ollama.rubric, ollama.controls.fit) == ("score-0-100", False)
    assert [(one.first, one.second, one.count) for one in results.agreement] == 2 * [("reference", "ollama", 4)]
    table = load_table((folder / "metrics/scores.csv").read_text(encoding="utf-8"), "x", results)
    assert list(table.scores)[:3] == ["reference", "ollama", "similarity"] and len(table.kinds) == 4


def test_what_was_judged_once_is_not_asked_again(folder):
    with OllamaServer(content='{"score": 70}') as server:
        change_params(folder, judges=["ollama"], allow_unfit=True, ollama={"url": server.url})
        assert evaluate(folder).returncode == 0
        asked, first = len(server.verdicts), (folder / "metrics/evaluate.json").read_bytes()
        assert evaluate(folder).returncode == 0
        assert len(server.verdicts) == asked
    assert (folder / "metrics/evaluate.json").read_bytes() == first


def test_a_judge_that_is_not_fit_stops_the_stage_before_any_answer_is_judged(folder):
    (folder / "judgements.json").write_text("old")
    with OllamaServer(content='{"score": 70}') as server:
        change_params(folder, judges=["ollama"], ollama={"url": server.url})
        done = evaluate(folder)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "ollama is not fit to judge by the rubric score-0-100" in done.stderr
    assert "an empty answer gets 70.0, the reference answer itself 70.0" in done.stderr
    assert (folder / "judgements.json").read_text() == "old"


def test_too_many_replies_without_score_fail_with_the_replies_and_keep_them(folder):
    (folder / "metrics").mkdir()
    (folder / "metrics/evaluate.json").write_text("{}")
    with OllamaServer(content="I would say about eighty.") as server:
        change_params(folder, judges=["ollama"], allow_unfit=True, ollama={"url": server.url})
        done = evaluate(folder)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "8 of 8 verdicts have no score" in done.stderr
    assert "base r0: no score from 0 to 100 in it: I would say about eighty." in done.stderr
    assert len(read(folder, "judgements.json")) == 8
    assert read(folder, "metrics/evaluate.json") == {}  # no number is made of nothing


def test_with_leave_everything_may_be_unscored_and_is_counted(folder):
    with OllamaServer(content="no") as server:
        change_params(folder, judges=["ollama"], allow_unfit=True, max_unscored=1.0, ollama={"url": server.url})
        done = evaluate(folder)
    assert done.returncode == 0, done.stderr
    assert "ollama, sft: no mean over 0 of 4 (4 not scored)" in done.stdout
    (judge,) = results_of(folder).judges
    assert (judge.scores_of("base").unscored, judge.difference_of("sft").count, len(judge.unscored)) == (4, 0, 8)
    summary = read(folder, "metrics/summary.json")
    assert "score_sft" not in summary and summary["unscored"] == 8 and "similarity_sft" in summary


def test_people_s_scores_stand_beside_the_judges(folder):
    answers = {
        name: read_responses(folder / f"{file}responses.json") for name, file in (("base", "base_"), ("sft", ""))
    }
    rows = blank_rows(answers, 4, 1)
    for row in rows:
        row["score"] = "100" if row["response"] == row["reference"] else "0"
    write_rows(folder / HUMAN, [*rows, {**rows[0], "answer": "gone"}])
    done = evaluate(folder)
    assert done.returncode == 0, done.stderr
    assert "8 answers scored by people; 1 scores are of other answers" in done.stdout
    assert [(one.second, one.count) for one in results_of(folder).agreement] == 2 * [("human", 4)]
    header = (folder / "metrics/scores.csv").read_text(encoding="utf-8").splitlines()[0]
    assert "human_base,human_sft" in header


def one_line_of(done):
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("evaluate.py: ")
    return lines[0]


def test_a_judge_that_is_not_running_is_one_line_and_loses_nothing(folder):
    (folder / "judgements.json").write_text("old")
    change_params(folder, judges=["ollama"], ollama={"url": "http://127.0.0.1:9"})
    assert "ollama serve" in one_line_of(evaluate(folder))
    assert (folder / "judgements.json").read_text() == "old"


def test_a_model_that_was_not_pulled_is_one_line(folder):
    with OllamaServer() as server:
        change_params(folder, judges=["ollama"], ollama={"url": server.url, "model": "mistral"})
        assert "`ollama pull mistral`" in one_line_of(evaluate(folder))


def test_an_unknown_judge_is_one_line_with_the_choice(folder):
    change_params(folder, judges=["refrence"])
    line = one_line_of(evaluate(folder))
    assert "evaluate.judges" in line
    assert "did you mean reference?" in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        ("", "empty"),
        ("[{", "not JSON"),
        ("{}", "not a file of responses"),
        ("[]", "different records"),
        ('[{"id": "r0"}]', "not a file of responses"),
        ("[3]", "not a file of responses"),
    ],
)
def test_a_file_of_responses_that_is_none_is_one_line_and_loses_nothing(folder, monkeypatch, content, words):
    """In this process: that the stage prints it as one line is tested above."""
    (folder / "judgements.json").write_text("old")
    (folder / SFT).unlink()
    if content is not None:
        (folder / SFT).write_text(content)
    monkeypatch.chdir(folder)
    with pytest.raises(DataError) as refused:
        MAIN(*map(Path, ARGUMENTS))
    line = str(refused.value)
    assert words in line and "\n" not in line
    assert "dvc repro" in line or SFT in line
    assert (folder / "judgements.json").read_text() == "old"
