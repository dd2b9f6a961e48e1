"""On-policy pairs behind the stage `split`: its files, with answers written by hand in place of a model's."""

import json
import runpy
from hashlib import sha256
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from instruct.core.records import Response

ROOT = Path(__file__).parents[2]
SPLIT, PAIRS = (runpy.run_path(str(ROOT / f"src/{name}.py"), run_name="stage")["main"] for name in ("split", "pairs"))
STEPS = [Path(one) for one in ("data/split", "models/sft/best", "data/pairs", "metrics/preferred/pairs.json")]
COUNT = 40


@pytest.mark.parametrize("rank", ["both", "checks"])
def test_closed_questions_of_train_are_ranked_by_the_checks_that_split_wrote(tmp_path, monkeypatch, rank):
    """Each record is answered in the reference's words but wrongly, and in other words but rightly."""
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
    params["pairs"]["on_policy"] |= {"rank": rank, "samples": 2}
    params["runtime"] |= {"device": "cpu", "num_threads": 2}
    with Path("params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(params, file)
    (tmp_path / "models").symlink_to(ROOT / "models")

    def answers(model, tokenizer, asked, **rest):
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
    SPLIT(STEPS[0], Path("metrics/split.json"))
    PAIRS(*STEPS)
    train = json.loads(Path("data/split/train.json").read_text())
    made = [pair for part in ("train", "val") for pair in json.loads(Path(f"data/pairs/{part}.json").read_text())]
    assert len(made) == len(train) > COUNT // 2
    assert all(pair["output"].isdigit() and pair["rejected"].endswith("3 legs.") for pair in made)
