"""On-policy pairs behind the stage `split`: its files, with answers written by hand in place of a model's."""

import json
import runpy
from hashlib import sha256
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from instruct.core.errors import DataError
from instruct.core.records import Response

ROOT = Path(__file__).parents[2]
SPLIT, PAIRS = (runpy.run_path(str(ROOT / f"src/{name}.py"), run_name="stage")["main"] for name in ("split", "pairs"))
STEPS = [Path(one) for one in ("data/split", "models/sft/best", "data/pairs", "metrics/preferred/pairs.json")]
COUNT = 40


@pytest.fixture
def make_pairs(tmp_path, monkeypatch):
    """Runs the stage with settings of `pairs.on_policy`, on answers of which the first is wrong and the last right.

    The wrong one is in the reference's words, the right one in others.
    """
    monkeypatch.chdir(tmp_path)
    records = [
        {
            "instruction": f"{sha256(bytes([n])).hexdigest()}?",  # no two are alike
            "input": "",
            "output": f"All of these horses have {4 * n} legs.",
            "check": {"type": "number", "value": 4 * n},
        }
        for n in range(1, COUNT + 1)
    ]
    Path("data.json").write_text(json.dumps(records))
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    params["split"] |= {"data": "data.json", "checks": str(ROOT / "data/checks.json")}
    params["split"]["duplicates"] |= {"mode": "report", "similarity": 100.0}
    params["pairs"] |= {"source": "on-policy", "max_alike": 100.0}
    params["runtime"] |= {"device": "cpu", "num_threads": 2}
    (tmp_path / "models").symlink_to(ROOT / "models")

    def answers(model, tokenizer, asked, *, journal, **rest):
        journal.begin({})
        texts = {"0": "All of these horses have 3 legs.", "1": ""}
        return [
            Response(
                **vars(one), response=texts[one.id[-1]] or one.output.split()[-2], stop_reason="end_of_text",
                prompt_tokens=9, response_tokens=3,
            )
            for one in asked
        ]  # fmt: skip

    for name, double in {
        "load_trained": lambda *given: (None, None), "make_ready": lambda *given: None,
        "with_end_of": lambda *given: None, "answer_together": answers,
    }.items():  # fmt: skip
        monkeypatch.setitem(PAIRS.__globals__, name, double)

    def run(**settings):
        params["pairs"]["on_policy"] |= {"samples": 2, **settings}
        with Path("params.yaml").open("w", encoding="utf-8") as file:
            YAML().dump(params, file)
        SPLIT(STEPS[0], Path("metrics/split.json"))
        PAIRS(*STEPS)

    return run


@pytest.mark.parametrize("rank", ["both", "checks"])
def test_closed_questions_of_train_are_ranked_by_the_checks_that_split_wrote(make_pairs, rank):
    make_pairs(rank=rank)
    train = json.loads(Path("data/split/train.json").read_text())
    made = [pair for part in ("train", "val") for pair in json.loads(Path(f"data/pairs/{part}.json").read_text())]
    assert len(made) == len(train) > COUNT // 2
    assert all(pair["output"].isdigit() and pair["rejected"].endswith("3 legs.") for pair in made)


def test_answers_are_kept_until_the_pairs_are_written(make_pairs):
    """Ranked by similarity, no two answers are so far apart."""
    with pytest.raises(DataError):
        make_pairs(rank="similarity", margin=100.0)
    assert list(Path("data").glob(".pairs.sampled.*"))
    make_pairs(rank="both", margin=20.0)
    assert Path("data/pairs/train.json").is_file() and not list(Path("data").glob(".pairs.sampled.*"))
