"""A checkpoint has the settings and scores of dvc.lock only if it is the one that dvc.lock names."""

import hashlib
import shutil
from pathlib import Path

import pytest
import yaml
from exporting.small import ROOT, config_of, small_tokenizer
from small_training import scrambled

from instruct.core.errors import CheckpointError, ParamsError
from instruct.exporting import commands
from instruct.exporting.source import open_source
from instruct.model.checkpoint import random_model, save_checkpoint
from instruct.results.lock import md5_of_folder
from instruct.text.prompts import PromptParams

BEST = Path("models/sft/best")
ALPACA, PIRATE = {"template": "alpaca", "system": "default"}, {"template": "chatml", "system": "You are a pirate."}
pytestmark = pytest.mark.usefixtures("one_thread")


def save(folder, prompt=ALPACA, seed=1):
    tokenizer = small_tokenizer()
    model = scrambled(random_model(config_of("gpt2", tokenizer), seed=seed), 8)
    save_checkpoint(model, tokenizer, folder, template=PromptParams(**prompt).chosen)


def md5(folder):
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return md5_of_folder({name: hashlib.md5(path.read_bytes()).hexdigest() for name, path in files.items()})


def stage(made="", read="", **settings):
    outs, deps = ([{"path": path, "md5": md5(Path(path))}] if path else [] for path in (made, read))
    return {"outs": outs, "deps": deps, "params": {"params.yaml": settings}}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project after its pipeline: checkpoints of training, and the function that writes dvc.lock for them.

    Its params.yaml was edited since.
    """
    monkeypatch.chdir(tmp_path)
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["train"]["seed"], params["prefer"]["methods"] = 99, ["dpo"]
    Path("params.yaml").write_text(yaml.safe_dump(params))
    shutil.copy(ROOT / ".dvcignore", tmp_path)
    save(BEST)
    save(Path("models/sft/last"), seed=2)

    def lock(prompt=ALPACA, **more):
        train = stage(made="models/sft", prompt=prompt, model={"backbone": "the base"}, train={"seed": 7})
        written = {"train": train, "generate": stage(read=BEST.as_posix()), **more}
        Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": written}))

    lock()
    return lock


def test_a_checkpoint_that_dvc_lock_names_has_its_settings_and_scores(project):
    best, last = open_source(Path(), BEST), open_source(Path(), Path("models/sft/last"))
    assert (best.answered, last.answered) == (True, False)
    for source in (best, last):
        assert source.params["train"] == {"seed": 7} and source.origin.base == "the base"
        assert source.origin.lock_sha256 == hashlib.sha256(Path("dvc.lock").read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["best", "last"])
def test_other_weights_in_the_place_of_those_of_dvc_lock_are_refused(project, name):
    save(Path("models/sft") / name, seed=3)
    for checkpoint in (BEST, Path("models/sft/last")):
        with pytest.raises(CheckpointError, match=r"^models/sft: .*dvc checkout"):
            open_source(Path(), checkpoint)


def test_a_copy_of_a_checkpoint_has_no_settings_and_no_scores(project):
    shutil.copytree(BEST, "copy")
    source = open_source(Path(), Path("copy"))
    assert (source.params, source.origin.base, source.origin.lock_sha256, source.answered) == ({}, "", "", False)
    assert source.template_name == "alpaca"


def test_a_checkpoint_that_dvc_lock_does_not_name_has_no_settings_and_no_scores(project):
    Path("dvc.lock").unlink()
    source = open_source(Path(), BEST)
    assert (source.params, source.origin.base, source.answered) == ({}, "", False)


def test_answers_of_earlier_weights_are_not_the_checkpoints(project):
    save(Path("earlier"), seed=3)
    earlier = stage(read="earlier")
    earlier["deps"][0]["path"] = BEST.as_posix()
    project(generate=earlier)
    source = open_source(Path(), BEST)
    assert not source.answered and source.params["train"] == {"seed": 7}


def test_files_that_dvc_ignores_do_not_make_another_checkpoint(project):
    (BEST / ".DS_Store").write_text("Finder's")
    assert open_source(Path(), BEST).answered


def test_the_settings_of_a_tuned_checkpoint_are_those_of_the_method_in_use(project):
    save(Path("models/dpo/best"), seed=3)
    made = {f"prefer@{name}": stage(made="models/dpo", prefer={"method": name}) for name in ("dpo", "simpo")}
    made["prefer@simpo"]["outs"][0]["md5"] = "0" * 32
    project(**made, **{"answer@dpo": stage(read="models/dpo/best")})
    source = open_source(Path(), Path("models/dpo/best"))
    assert source.answered and source.params["prefer"] == {"method": "dpo"}
    assert source.params["train"] == {"seed": 7}


@pytest.mark.parametrize("other", [PIRATE, PIRATE | {"system": "default"}])
def test_a_chat_template_other_than_that_of_dvc_lock_is_refused(project, other):
    save(BEST, PIRATE | {"system": ""})
    project(other)
    with pytest.raises(CheckpointError, match=rf"^{BEST}: .*dvc\.lock"):
        open_source(Path(), BEST)
    project(PIRATE | {"system": ""})
    assert open_source(Path(), BEST).prompt == PromptParams(template="chatml", system="")


@pytest.mark.parametrize("given", ["phi3", "alpaka"])
def test_a_template_that_the_checkpoint_was_not_trained_with_is_refused(project, given):
    with pytest.raises(ParamsError, match=r"^--template: .*alpaca"):
        open_source(Path(), BEST, given)
    assert open_source(Path(), BEST, "alpaca").answered


def test_exports_of_two_methods_share_no_default_folder_or_name(monkeypatch):
    """The second would replace the first, and its model in Ollama."""
    made = []
    monkeypatch.setattr("instruct.exporting.llamacpp.ollama_export", lambda *arguments: arguments)
    monkeypatch.setattr(commands, "_open", lambda *arguments: ("source", "check"))
    monkeypatch.setattr(commands, "_run", lambda export, *arguments: made.append((*export[3:], arguments[-1])))
    for checkpoint in ("models/sft/best", "models/sft/last", "models/dpo/best"):
        commands.ollama(checkpoint=Path(checkpoint))
    commands.ollama(checkpoint=Path("models/dpo/best"), name="mine", out=Path("here"))
    of = {"sft": Path("build/export/ollama-f16"), "dpo": Path("build/export/dpo-ollama-f16")}
    sft, dpo = (("instruct-" + name, place, place) for name, place in of.items())
    assert made == [sft, sft, dpo, ("mine", Path("here"), Path("here"))]
