"""What src/prefer.py gives to the training loop: its pairs, its adapters, and what marks the state of a run.

And src/reference.py, which must measure the very pairs that it trains on.
"""

import runpy
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_preference import prefer_params
from small_training import BFLOAT16, FLOAT32, byte_tokenizer, drawn_adapters, lora_params
from training.test_train_script import CONFIG, ROOM, STOP, Trained, chatml_tokenizer, parts

from instruct.core.files import checkpoint_files, write_json
from instruct.core.pairs import Pair
from instruct.core.records import write_records
from instruct.model.checkpoint import random_model, save_checkpoint
from instruct.preference.encode import EncodedPair, FittedPairs
from instruct.preference.reference import made_from
from instruct.preference.settings import Fit
from instruct.text.prompts import TEMPLATES
from instruct.text.tokenizer import Tokenizer

SOURCE = Path(__file__).parents[2] / "src"
REFERENCE, SFT = Path("data/reference.json"), Path("models/sft/best")
PATHS = ("data/pairs", "data/described.json", REFERENCE, SFT, "models/dpo", "metrics/prefer.json", "metrics/preferred")
SHORT = Pair(id="short", instruction="Hi", input="", output="Yo", rejected="No")
OTHER = Pair(id="other", instruction="Hello", input="", output="Good day.", rejected="What?")
HELD_OUT = Pair(id="held out", instruction="Bye", input="", output="Bye!", rejected="Go.")
LONG = Pair(id="long", instruction="Hi", input="", output="Yo " * 200, rejected="No " * 200)
KNOWN = (-1.0, -2.0)
FIT = prefer_params().fit


def save_model(seed: int = 1, tokenizer: Tokenizer | None = None) -> None:
    save_checkpoint(random_model(CONFIG, seed=seed), tokenizer or byte_tokenizer(), SFT, None, TEMPLATES["phi3"])


def write_part(part: str, *pairs: Pair) -> None:
    write_records(Path(f"data/pairs/{part}.json"), pairs)


@pytest.fixture
def place(tmp_path, monkeypatch, one_thread) -> None:
    """A folder with pairs and an SFT checkpoint, in which the stage runs."""
    monkeypatch.chdir(tmp_path)
    write_part("train", SHORT, OTHER)
    write_part("val", HELD_OUT)
    write_json(Path("data/described.json"), {"baselines": {"longer": 50.0}})
    write_json(REFERENCE, {})
    save_model()


@pytest.fixture
def begin(place, monkeypatch) -> Callable[..., Mapping[str, Any]]:
    """Run the script up to its training; gives the arguments of the Trainer. Each pair's log-probs are KNOWN."""

    def run(*, template: str = "phi3", precision: str = "fp32", **changes: Any) -> Mapping[str, Any]:
        params = {
            "prompt": {"template": template, "system": "default"},
            "runtime": {"device": "cpu", "precision": precision, "num_threads": 1},
            "prefer": asdict(prefer_params(**{"max_length": 1000, **changes})),
        }
        Path("params.yaml").write_text(yaml.safe_dump({**params, "prefer": listed(params["prefer"])}), encoding="utf-8")
        bases: list[str] = []
        origins: list[Mapping[str, str]] = []
        main = runpy.run_path(str(SOURCE / "prefer.py"), run_name="stage")["main"]

        def with_reference(
            fitted: Mapping[str, FittedPairs], path: Path, origin: Mapping[str, str]
        ) -> dict[str, list[EncodedPair]]:
            assert path == REFERENCE
            origins.append(origin)
            return {part: [replace(pair, reference=KNOWN) for pair in found.pairs] for part, found in fitted.items()}

        def trainer(model: object, train_set: object, val_set: object, **rest: object) -> None:
            raise Trained(
                {
                    "bases": bases,
                    "origin": origins[0],
                    "model": model,
                    "train_set": train_set,
                    "val_set": val_set,
                    **rest,
                }
            )

        main.__globals__.update(
            with_reference=with_reference,
            start_runtime=lambda params: BFLOAT16 if params.precision == "bf16" else FLOAT32,
            quantise_frozen=lambda model, base, section: bases.append(base),
        )
        monkeypatch.setattr("instruct.training.outputs.Trainer", trainer)
        with pytest.raises(Trained) as caught:
            main(*map(Path, PATHS))
        arguments: Mapping[str, Any] = caught.value.args[0]
        return arguments

    return run


def listed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as YAML has them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()} | {
        "lora": {**values["lora"], "target_modules": list(values["lora"]["target_modules"])}
    }


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"lr": 0.002}, {"params prefer"}),
        ({"beta": 0.2}, {"params prefer"}),
        ({"seed": 7}, {"params prefer"}),
        ({"template": "alpaca"}, {"params origin"}),
        ({"precision": "bf16"}, {"params origin", "params runtime"}),
        ({"save_minutes": 7.0}, set()),
    ],
)
def test_state_is_of_another_run_where_a_setting_of_training_differs(begin, changes, names):
    before, now = parts(begin()), parts(begin(**changes))
    assert {name for name in before if before[name] != now[name]} == names


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda: write_part("train", SHORT, replace(OTHER, rejected="Who?")), "params origin"),
        (lambda: write_part("val", replace(HELD_OUT, rejected="Out!")), "params origin"),
        (lambda: save_model(seed=2), "params origin"),
        (lambda: write_json(REFERENCE, {"train": {}}), str(REFERENCE)),
    ],
)
def test_state_is_of_another_run_where_pairs_or_reference_differ(begin, change, name):
    before = parts(begin())
    change()
    now = parts(begin())
    assert {part for part in before if before[part] != now[part]} == {name}


def test_state_is_not_kept_where_fine_tuning_keeps_its_own(begin):
    assert begin()["store"].folder == Path("models/resume/dpo")


def test_pairs_to_learn_from_and_held_out_ones_come_with_the_log_probs_of_the_reference(begin):
    arguments = begin()
    assert [[pair.id for pair in arguments[part]] for part in ("train_set", "val_set")] == [
        ["short", "other"],
        ["held out"],
    ]
    assert {pair.reference for pair in [*arguments["train_set"], *arguments["val_set"]]} == {KNOWN}


def test_answers_end_with_the_end_token_of_the_template(begin):
    """Else generation, which waits for the template's, would meet a model that unlearnt it."""
    save_model(tokenizer=chatml_tokenizer())
    arguments = begin(template="chatml")
    pairs = [*arguments["train_set"], *arguments["val_set"]]
    assert {side.ids[-1] for pair in pairs for side in pair.sides} == {STOP}


@pytest.mark.parametrize(("most", "longest"), [(1000, ROOM + 1), (40, 40)])
def test_no_answer_is_longer_than_the_setting_or_than_the_model_has_room_for(begin, most, longest):
    """The last token is a target alone: it needs no place."""
    write_part("train", SHORT, LONG)
    pair = begin(max_length=most, over_long="truncate")["train_set"][1]
    assert [len(side.ids) for side in pair.sides] == [longest, longest]


def test_adapters_are_drawn_from_the_seed(begin):
    one, same, other = (drawn_adapters(begin(seed=seed, lora=lora_params(r=2))["model"]) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize("base", ["fp32", "nf4"])
def test_frozen_weights_are_kept_as_the_setting_says(begin, base):
    assert begin(lora=lora_params(r=2, base=base))["bases"] == [base]


@pytest.mark.parametrize(
    "changes",
    [
        {"template": "chatml"},
        {"precision": "bf16", "batching": "padded"},
        {"max_length": 40},
        {"lora": lora_params(r=2, base="nf4")},
    ],
)
def test_log_probs_are_of_the_pairs_that_are_trained_on(begin, changes):
    """Of the model that training starts from, too; else the margins of the first step are not zero."""
    write_part("train", SHORT, LONG)
    save_model(tokenizer=chatml_tokenizer())
    arguments = begin(over_long="truncate", **changes)
    bases, measured, written = list[str](), list[Any](), list[Any]()
    main = runpy.run_path(str(SOURCE / "reference.py"), run_name="stage")["main"]
    main.__globals__.update(
        start_runtime=lambda params: BFLOAT16 if params.precision == "bf16" else FLOAT32,
        quantise_frozen=lambda model, base, section: bases.append(base),
        measure=lambda model, pairs, fit, *rest: measured.append((pairs, fit)) or [],
        write_reference=lambda path, origin, parts: written.append(origin),
    )
    main(Path("data/pairs"), SFT, REFERENCE)
    assert written == [arguments["origin"]]
    assert {fit for _, fit in measured} == {arguments["params"].fit} and bases == [arguments["params"].lora.base]
    assert [[replace(pair, reference=KNOWN) for pair in pairs] for pairs, _ in measured] == [
        arguments["train_set"],
        arguments["val_set"],
    ]


def test_evaluations_take_as_many_held_out_pairs_as_the_setting_says(begin):
    assert begin(eval_pairs=3)["params"].evaluated == 3


def origin(fit: Fit = FIT, template: str = "phi3", precision: Any = FLOAT32) -> dict[str, str]:
    return made_from(Path("data/pairs"), SFT, TEMPLATES[template], fit, precision)


def give_it_another_tokenizer() -> None:
    (settings,) = (file for file in checkpoint_files(SFT) if file.name == "tokenizer.json")
    settings.write_text(settings.read_text(encoding="utf-8") + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "changes", "name"),
    [
        (lambda: write_part("train", OTHER, SHORT), {}, "pairs of train"),
        (lambda: write_part("val", OTHER), {}, "pairs of val"),
        (lambda: save_model(seed=2), {}, "checkpoint"),
        (give_it_another_tokenizer, {}, "checkpoint"),
        (None, {"template": "alpaca"}, "template"),
        (None, {"precision": BFLOAT16}, "runtime.precision"),
        (None, {"fit": replace(FIT, batching="padded")}, "prefer.batching"),
        (None, {"fit": replace(FIT, max_length=10)}, "prefer.max_length"),
        (None, {"fit": replace(FIT, over_long="truncate")}, "prefer.over_long"),
        (None, {"fit": replace(FIT, base="nf4")}, "prefer.lora.base"),
    ],
)
def test_log_probs_name_all_that_they_depend_on(place, change, changes, name):
    before = origin()
    if change:
        change()
    now = origin(**changes)
    assert {part for part in before if before[part] != now[part]} == {name}
