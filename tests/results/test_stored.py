"""Answers of a run in the working tree and in DVC's cache, wherever DVC keeps it."""

import os
import subprocess
import sys
from hashlib import md5

import pytest
from results.sample import answer, make_run, write_answers

from instruct.core.parsing import parse_yaml
from instruct.results.lock import lock_outs
from instruct.results.stored import Cache, read_answers

SCORES = {"x": {"base": [1.0], "sft": [2.0]}}


@pytest.fixture
def run(tmp_path):
    md5s = write_answers(tmp_path, {system: [answer("r0", f"by {system}")] for system in ("base", "sft")})
    outs = [{"path": "data/responses.json", "md5": md5s["sft"]}]
    return make_run("main", SCORES, md5s=md5s, lock={"stages": {"generate": {"outs": outs}}})


def test_the_answers_in_place_are_read_if_they_are_those_that_were_judged(run, tmp_path):
    (row,), reason = read_answers(run, "sft", Cache(tmp_path))
    assert (row.response, reason) == ("by sft", "")
    (tmp_path / "data/responses.json").write_text("[]")
    rows, reason = read_answers(run, "sft", Cache(tmp_path))
    assert rows == [] and "data/responses.json" in reason and "dvc repro" in reason
    (tmp_path / "data/responses.json").unlink()
    assert read_answers(run, "sft", Cache(tmp_path))[0] == []


@pytest.mark.slow
def test_the_cache_is_where_dvc_says(run, tmp_path):
    for arguments in (["init", "--no-scm", "-q"], ["cache", "dir", "--local", str(tmp_path / "elsewhere")]):
        environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=tmp_path, check=True, env=environment)
    content = (tmp_path / "data/responses.json").read_bytes()
    digest = md5(content).hexdigest()
    committed = make_run("main", SCORES, md5s={"sft": digest}, lock=run.lock)
    object.__setattr__(committed, "commit", "0" * 40)
    cache = Cache(tmp_path)
    assert cache.folder and cache.folder.resolve() == (tmp_path / "elsewhere").resolve()
    rows, reason = read_answers(committed, "sft", cache)
    assert rows == [] and "dvc fetch" in reason
    place = tmp_path / "elsewhere/files/md5" / digest[:2] / digest[2:]
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    assert read_answers(committed, "sft", cache)[0][0].response == "by sft"
    rows, reason = read_answers(committed, "base", cache)
    assert rows == [] and "data/baselines/base.json" in reason


def test_without_dvc_there_is_no_cache(tmp_path, warm_start):
    assert Cache(tmp_path).folder is None and Cache(tmp_path).find("0" * 32) is None


CONTENT = b'[{"id": "r0"}]'
DIGEST = md5(CONTENT).hexdigest()


@pytest.fixture
def cache(tmp_path):
    place = tmp_path / "cache" / "files" / "md5" / DIGEST[:2] / DIGEST[2:]
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    (tmp_path / "secret").write_bytes(CONTENT)
    found = Cache(tmp_path)
    found.folder = tmp_path / "cache"
    return found


def test_an_output_is_found_by_its_md5(cache):
    assert cache.find(DIGEST).read_bytes() == CONTENT
    assert cache.find("0" * 32) is None


def test_an_output_in_the_usual_cache_is_found_without_asking_dvc(tmp_path, monkeypatch):
    place = tmp_path / ".dvc/cache/files/md5" / DIGEST[:2] / DIGEST[2:]
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    monkeypatch.setattr(subprocess, "run", None)
    assert Cache(tmp_path).find(DIGEST).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "name", ["../../../../secret", "ab/../../../../../secret", "..", "", DIGEST.upper(), f"{DIGEST}/", "5"]
)
def test_no_branch_can_name_a_file_outside_of_the_cache(cache, name):
    assert cache.find(name) is None


@pytest.mark.parametrize("content", ["[]", "secret"])
def test_a_file_of_the_cache_with_other_bytes_than_its_md5_is_not_read(run, cache, content):
    object.__setattr__(run, "commit", "0" * 40)
    digest = run.results.system("sft").md5
    place = cache.folder / "files/md5" / digest[:2] / digest[2:]
    place.parent.mkdir(parents=True)
    place.write_bytes((cache.root / "data/responses.json").read_bytes())
    assert read_answers(run, "sft", cache)[0][0].response == "by sft"
    place.write_text(content)
    rows, reason = read_answers(run, "sft", cache)
    assert rows == [] and "data/responses.json" in reason


@pytest.mark.parametrize("lock", ["stages: 5", "stages: {x: {outs: 5}}", "stages: {x: {outs: [5]}}", "stages: [1]"])
def test_what_is_not_a_lock_file_names_nothing(lock):
    assert lock_outs(parse_yaml(lock, "dvc.lock")) == {}
