import math
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Literal

import pytest
import yaml as pyyaml
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from small_pipeline import edit_params

from instruct.core.errors import ParamsError
from instruct.core.params import build, load_params, read_params, require
from instruct.tools.check import SECTIONS

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Inner:
    url: str
    retries: int

    def __post_init__(self):
        require("retries", self.retries, 0 <= self.retries <= 20, "from 0 to 20")


@dataclass(frozen=True, kw_only=True)
class Outer:
    epochs: int
    lr: float
    shuffle: bool
    name: str
    order: Literal["raise", "drop"]
    inner: Inner
    note: str | None = None
    sizes: tuple[int, ...] = ()

    def __post_init__(self):
        require("lr", self.lr, 0 < self.lr < 1, "between 0 and 1")


GOOD = {
    "epochs": 2,
    "lr": 0.5,
    "shuffle": True,
    "name": "a",
    "order": "drop",
    "inner": {"url": "http://x", "retries": 4},
}


def build_with(**changes):
    return build(Outer, {**GOOD, **changes}, where="params.yaml: train")


def write(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_values_arrive_unchanged_and_nested():
    assert asdict(build_with(sizes=[1, 2], note="n")) == {**GOOD, "sizes": (1, 2), "note": "n"}
    assert build_with().note is None
    assert build_with(note=None).note is None


@pytest.mark.parametrize(
    ("changes", "place", "nearest"),
    [
        ({"epoch": 1}, "train.epoch", "epochs"),
        ({"shufle": True}, "train.shufle", "shuffle"),
        ({"zzz": 1}, "train.zzz", "epochs, inner, lr, name, note, order, shuffle, sizes"),
        ({1: 1}, "train.1", ""),
        ({"inner": {"url": "u", "retries": 1, "retry": 2}}, "train.inner.retry", "retries"),
    ],
)
def test_unknown_key_is_refused_with_the_nearest_name(changes, place, nearest):
    with pytest.raises(ParamsError, match=rf"^params\.yaml: {place} ") as error:
        build(Outer, {**GOOD, **changes}, where="params.yaml: train")
    assert nearest in str(error.value)


def test_missing_key_is_named():
    values = {key: value for key, value in GOOD.items() if key != "lr"}
    with pytest.raises(ParamsError, match=r"^params\.yaml: train\.lr is missing"):
        build(Outer, values, where="params.yaml: train")
    with pytest.raises(ParamsError, match=r"train\.inner\.retries is missing"):
        build_with(inner={"url": "u"})


@pytest.mark.parametrize(
    ("key", "value", "wanted", "given"),
    [
        ("epochs", True, "a whole number", "true"),
        ("epochs", False, "a whole number", "false"),
        ("epochs", 2.0, "a whole number", "the number 2.0"),
        ("epochs", "2", "a whole number", 'the text "2"'),
        ("epochs", None, "a whole number", "null"),
        ("lr", True, "a number", "true"),
        ("lr", "1e-5", "a number", 'the text "1e-5"'),
        ("lr", [0.1], "a number", "a list"),
        ("shuffle", 1, "true or false", "the number 1"),
        ("shuffle", "yes", "true or false", 'the text "yes"'),
        ("name", 5, "text", "the number 5"),
        ("name", None, "text", "null"),
        ("note", 5, "text", "the number 5"),
        ("inner", 5, "a mapping of settings", "the number 5"),
        ("inner", None, "a mapping of settings", "null"),
        ("sizes", 5, "a list", "the number 5"),
        ("sizes", [1, "b"], "a whole number", 'the text "b"'),
        ("order", "Drop", "one of raise, drop", 'the text "Drop"; did you mean drop?'),
        ("order", True, "one of raise, drop", "true"),
    ],
)
def test_wrong_type_is_refused_and_both_types_are_named(key, value, wanted, given):
    with pytest.raises(ParamsError) as error:
        build_with(**{key: value})
    message = str(error.value)
    assert message.startswith(f"params.yaml: train.{key}")
    assert f"must be {wanted}" in message
    assert f"is {given}" in message


def test_place_in_a_list_is_named():
    with pytest.raises(ParamsError, match=r"train\.sizes\[1\] must be a whole number"):
        build_with(sizes=[1, None])


def test_whole_number_is_accepted_where_a_number_is_wanted():
    with pytest.raises(ParamsError, match=r"train\.lr must be between 0 and 1, is 1\.0$"):
        build_with(lr=1)
    value = build(Settings, {"x": 3}, where="here").x
    assert (value, type(value)) == (3.0, float)


@dataclass(frozen=True, kw_only=True)
class Settings:
    x: float


@given(value=st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats() | st.text() | st.lists(st.none()))
def test_a_number_is_a_number_and_nothing_else_is(value):
    numeric = isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool))
    if numeric:
        found = build(Settings, {"x": value}, where="here").x
        assert type(found) is float
        assert found == value or (math.isnan(found) and math.isnan(value))
    else:
        with pytest.raises(ParamsError, match=r"^here\.x must be a number, is "):
            build(Settings, {"x": value}, where="here")


def test_out_of_range_names_file_section_and_rule():
    with pytest.raises(ParamsError, match=r"^params\.yaml: train\.lr must be between 0 and 1, is 2\.0$"):
        build_with(lr=2.0)
    with pytest.raises(ParamsError, match=r"^params\.yaml: train\.inner\.retries must be from 0 to 20, is 21$"):
        build_with(inner={"url": "u", "retries": 21})


# The YAML 1.1 trap: `dvc exp run -S train.lr=1e-5` writes `1e-05`, which PyYAML reads as text.


@pytest.mark.parametrize("text", ["1e-05", "1e-5", "2E4", "1e5"])
def test_a_number_with_an_exponent_but_no_dot_is_a_number_here_and_text_in_pyyaml(tmp_path, text):
    assert pyyaml.safe_load(f"lr: {text}") == {"lr": text}
    value = read_params(write(tmp_path, f"lr: {text}\n"))["lr"]
    assert (value, type(value)) == (float(text), float)


@pytest.mark.parametrize(("text", "in_pyyaml"), [("no", False), ("yes", True), ("on", True), ("off", False)])
def test_words_stay_words_here_and_are_booleans_in_pyyaml(tmp_path, text, in_pyyaml):
    assert pyyaml.safe_load(f"name: {text}") == {"name": in_pyyaml}
    assert read_params(write(tmp_path, f"name: {text}\n")) == {"name": text}


def test_values_are_those_that_dvc_itself_reads():
    from dvc.utils.serialize import load_yaml

    assert read_params(ROOT / "params.yaml") == load_yaml(str(ROOT / "params.yaml"))


def test_missing_section_is_named_with_the_nearest(tmp_path):
    path = write(tmp_path, "trian: {x: 1}\nsplit: {}\n")
    with pytest.raises(ParamsError, match=r'params\.yaml: the section "train" is missing; did you mean trian\?$'):
        load_params("train", Settings, path)


def test_empty_section_is_called_null(tmp_path):
    with pytest.raises(ParamsError, match=r"params\.yaml: train: must be a mapping of settings, is null"):
        load_params("train", Settings, write(tmp_path, "train:\n"))


@pytest.mark.parametrize(
    ("text", "found"), [("", "null"), ("- a\n", "a list"), ("just words\n", 'the text "just words"'), ("5", "5")]
)
def test_file_that_is_no_mapping_is_refused(tmp_path, text, found):
    with pytest.raises(ParamsError, match=rf"params\.yaml: must be a mapping of sections, is .*{found}"):
        read_params(write(tmp_path, text))


def test_missing_file_says_where_to_run(tmp_path):
    with pytest.raises(ParamsError, match=r"params\.yaml: there is no such file; run from the repository's root"):
        read_params(tmp_path / "params.yaml")


def test_wrong_encoding_is_one_message(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes("name: café\n".encode("latin-1"))
    with pytest.raises(ParamsError, match=r"params\.yaml: .*0xe9"):
        read_params(path)


# Every section of the project's own params.yaml.


def project_params(tmp_path, section, changes):
    path = tmp_path / "params.yaml"
    edit_params(ROOT / "params.yaml", path, {f"{section}.{key}": value for key, value in changes.items()})
    return path


@pytest.mark.parametrize("section", list(SECTIONS))
def test_the_projects_own_params_are_valid_and_unchanged_by_reading(section):
    in_file = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))[section]
    assert as_lists(asdict(load_params(section, SECTIONS[section], ROOT / "params.yaml"))) == in_file


def as_lists(value):
    if isinstance(value, dict):
        return {key: as_lists(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value


def with_default(cls, where):
    for field in fields(cls):
        if field.default is not MISSING or field.default_factory is not MISSING:
            yield f"{where}.{field.name}"
        if is_dataclass(field.type):
            yield from with_default(field.type, f"{where}.{field.name}")


def test_no_setting_has_a_default_in_code_too():
    assert [name for section, cls in SECTIONS.items() for name in with_default(cls, section)] == []


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("prompt", {"template": "alpacca"}, "prompt.template must be one of alpaca, phi3"),
        ("runtime", {"device": "gpu"}, "runtime.device must be one of auto, cpu, cuda, mps"),
        ("runtime", {"precision": "fp16"}, "runtime.precision must be one of auto, fp32, bf16"),
        ("runtime", {"num_threads": 0}, "runtime.num_threads must be from 1 to 1024, is 0"),
        ("split", {"strategy": "random"}, "split.strategy must be one of grouped, positional, shuffled"),
        ("split", {"train": 0.0, "test": 0.95}, "split.train must be a fraction between 0 and 1"),
        ("split", {"val": 1.0}, "split.val must be a fraction between 0 and 1"),
        ("split", {"train": 0.85, "val": 0.1, "test": 0.1}, "split.train + val + test must be 1, is 1.05"),
        ("split", {"stratify": 1}, "split.stratify must be true or false, is the number 1"),
        ("split", {"duplicates.on": "answer"}, "split.duplicates.on must be one of instruction, input, output, prompt"),
        ("split", {"duplicates.similarity": 0.9}, "split.duplicates.similarity must be from 50 to 100, is 0.9"),
        ("split", {"duplicates.similarity": 101}, "split.duplicates.similarity must be from 50 to 100, is 101.0"),
        ("split", {"duplicates.mode": "mark"}, "split.duplicates.mode must be one of report, drop, group"),
        ("split", {"duplicates.method": "lsh"}, "split.duplicates.method must be one of auto, exact, minhash"),
        ("split", {"invalid": "skip"}, "split.invalid must be one of raise, drop"),
        ("train", {"epochs": 0}, "train.epochs must be at least 1, is 0"),
        ("train", {"epochs": 10**12}, "train.epochs must be at most "),
        ("train", {"micro_batch_size": 0}, "train.micro_batch_size must be at least 1"),
        ("train", {"grad_accum_steps": -1}, "train.grad_accum_steps must be at least 1"),
        ("train", {"eval_every": 0}, "train.eval_every must be at least 1"),
        ("train", {"lr": 0}, "train.lr must be between 0 and 1, is 0.0"),
        ("train", {"lr": -1e-5}, "train.lr must be between 0 and 1"),
        ("train", {"lr_floor": 1.5}, "train.lr_floor must be from 0 to 1, a share of lr"),
        ("train", {"warmup_steps": -1}, "train.warmup_steps must be at least 0"),
        ("train", {"weight_decay": 1.0}, "train.weight_decay must be from 0 to below 1"),
        ("train", {"max_grad_norm": 0.0}, "train.max_grad_norm must be above 0"),
        ("train", {"prompt_loss_weight": 1.5}, "train.prompt_loss_weight must be from 0 to 1"),
        ("train", {"max_length": 1}, "train.max_length must be at least 2"),
        ("train", {"over_long": "cut"}, "train.over_long must be one of raise, truncate, drop"),
        ("train", {"patience": -1}, "train.patience must be at least 0"),
        ("train", {"sample_tokens": -1}, "train.sample_tokens must be at least 0"),
        ("train", {"seed": -1}, "train.seed must be at least 0"),
        ("train", {"save_minutes": -1}, "train.save_minutes must be at least 0"),
        ("train", {"batching": "pack"}, "train.batching must be one of packed, padded; is the text"),
        ("train", {"recompute_activations": 1}, "train.recompute_activations must be true or false, is the number 1"),
        ("train", {"parallel": "dp"}, "train.parallel must be one of none, ddp, fsdp"),
        ("train", {"lora.r": -1}, "train.lora.r must be at least 0"),
        ("train", {"lora.alpha": 0}, "train.lora.alpha must be above 0"),
        ("train", {"lora.dropout": 1.0}, "train.lora.dropout must be from 0 to below 1"),
        ("train", {"lora.target_modules": "c_attn"}, "train.lora.target_modules must be a list, is the text"),
        ("generate", {"max_new_tokens": 0}, "generate.max_new_tokens must be at least 1"),
        ("generate", {"temperature": -0.1}, "generate.temperature must be from 0 to 10"),
        ("generate", {"top_k": -1}, "generate.top_k must be at least 0"),
        ("generate", {"top_p": 0.0}, "generate.top_p must be above 0 and at most 1"),
        ("generate", {"top_p": 1.01}, "generate.top_p must be above 0 and at most 1"),
        ("generate", {"seed": -1}, "generate.seed must be at least 0"),
        ("generate", {"batch_size": 0}, "generate.batch_size must be at least 1"),
        ("generate", {"cache_tokens": 0}, "generate.cache_tokens must be at least 1"),
        ("generate", {"max_repeats": 1}, "generate.max_repeats must be 0 or from 2 to 1000, is 1"),
        ("generate", {"num_samples": 0}, "generate.num_samples must be at least 1"),
        ("generate", {"num_samples": 2, "temperature": 0.0}, "generate.num_samples must be 1 where temperature is 0"),
        ("generate", {"over_long": "drop"}, "generate.over_long must be one of raise, truncate"),
        ("launch", {"train": None}, "launch.train must be text, is null"),
        ("evaluate", {"judges": ["olama"]}, "evaluate.judges: olama is not a judge; did you mean ollama?"),
        ("evaluate", {"judges": ["reference:x"]}, "evaluate.judges: reference:x is not a judge"),
        ("evaluate", {"judges": ["ollama:"]}, "evaluate.judges: ollama: is not a judge"),
        ("evaluate", {"judges": []}, "evaluate.judges must be a list of at least one judge"),
        ("evaluate", {"judges": ["ollama", "ollama"]}, "evaluate.judges must be a list without repetition"),
        ("evaluate", {"scoring": "logits"}, "evaluate.scoring must be one of text, expected"),
        ("evaluate", {"repeats": 0}, "evaluate.repeats must be from 1 to 1000"),
        ("evaluate", {"temperature": 2.1}, "evaluate.temperature must be from 0 to 2"),
        ("evaluate", {"controls": 0}, "evaluate.controls must be from 1 to 1000"),
        ("evaluate", {"resamples": 99}, "evaluate.resamples must be from 100 to 1000000"),
        ("evaluate", {"seed": -1}, "evaluate.seed must be at least 0"),
        ("evaluate", {"max_unscored": 1.1}, "evaluate.max_unscored must be from 0 to 1"),
        ("plot", {"examples": -1}, "plot.examples must be from 0 to 1000"),
        ("plot", {"examples": 1001}, "plot.examples must be from 0 to 1000"),
        ("model", {"backbone": 135}, "model.backbone must be text, is the number 135"),
    ],
)
def test_each_section_refuses_what_is_out_of_range(tmp_path, section, changes, message):
    path = project_params(tmp_path, section, changes)
    with pytest.raises(ParamsError) as error:
        load_params(section, SECTIONS[section], path)
    assert str(error.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("split", {"train": 0.85, "val": 0.05, "test": 0.1}),
        ("split", {"train": 0.7, "val": 0.2, "test": 0.1}),
        ("split", {"duplicates.similarity": 50}),
        ("split", {"duplicates.similarity": 100}),
        ("train", {"prompt_loss_weight": 1, "lr": 1e-5, "lr_floor": 0}),
        ("train", {"max_length": 2, "warmup_steps": 0, "weight_decay": 0}),
        ("generate", {"temperature": 10, "top_p": 1}),
        ("evaluate", {"max_unscored": 1, "temperature": 2, "repeats": 1000, "controls": 1}),
        ("plot", {"examples": 0}),
    ],
)
def test_the_edges_of_the_ranges_are_allowed(tmp_path, section, changes):
    found = asdict(load_params(section, SECTIONS[section], project_params(tmp_path, section, changes)))
    for key, value in changes.items():
        place = found
        for name in key.split("."):
            place = place[name]
        assert place == value


@pytest.mark.parametrize("section", list(SECTIONS))
def test_every_section_refuses_an_unknown_key_and_an_absent_one(tmp_path, section):
    cls = SECTIONS[section]
    first = fields(cls)[0].name
    with pytest.raises(ParamsError, match=rf"{section}\.{first}x is not a setting; did you mean {first}\?"):
        load_params(section, cls, project_params(tmp_path, section, {f"{first}x": 1}))
    values = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    del values[section][first]
    with (tmp_path / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(values, file)
    with pytest.raises(ParamsError, match=rf"{section}\.{first} is missing; add it"):
        load_params(section, cls, tmp_path / "params.yaml")


@dataclass(frozen=True, kw_only=True)
class Free:
    body: dict[str, object]


@pytest.mark.parametrize(
    ("body", "where"), [("{1: 2, a: 3}", "body"), ("{a: {true: 1}}", "body.a"), ("{a: [0, {null: 1}]}", "body.a[1]")]
)
def test_key_that_json_cannot_say_is_refused_at_any_depth(tmp_path, body, where):
    path = write(tmp_path, f"free:\n  body: {body}\n")
    with pytest.raises(ParamsError, match=f"free.{where}".replace("[", r"\[") + " has the key"):
        load_params("free", Free, path)
