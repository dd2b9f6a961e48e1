"""`instruct fetch NAME --pin`: what came first is written into the table, and nothing else of it changes."""

import hashlib
import sys
from pathlib import Path

import pytest
import yaml
from backbones.conftest import DATA

from instruct import cli
from instruct.backbones.catalog import find_backbone, read_table, unpinned
from instruct.backbones.fetch import ensure, take_local
from instruct.backbones.pin import pin_files, write_pin
from instruct.core.errors import BackboneError

FILES = {"config.json": b'{"model_type": "llama"}', "tokenizer.json": b"[1, 2]", "model.safetensors": DATA}
TEXT = """# A comment before all.

other:  # not this one
  family: gpt2
  format: safetensors
  licence: MIT
  about: another
  files:
    - name: model.safetensors
      size: 5
      sha256: {zeros}

mine:
  family: llama   # a comment inside
  format: safetensors
  licence: MIT
  about: 'a test: of pins'
  {source}
  files:
    # comments stay
    - name: config.json
    - name: tokenizer.json   # this one too
    - name: model.safetensors
      size: {size}
      sha256: {sha256}

last:
  family: gpt2
  format: random
  licence: MIT
  about: without files
  files: []
"""


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A folder with a table in which two of three files are not pinned."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()

    def write(source: str) -> Path:
        path = Path("models/backbones.yaml")
        digest = hashlib.sha256(DATA).hexdigest()
        path.write_text(TEXT.format(source=source, size=len(DATA), sha256=digest, zeros="a" * 64))
        return path

    return write


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def added_lines(name: str) -> list[str]:
    content = FILES[name]
    return [f"      size: {len(content)}", f"      sha256: {hashlib.sha256(content).hexdigest()}"]


def assert_pinned(path: Path, before: str) -> None:
    """The new lines alone are new, right behind the name of their file."""
    expected = []
    for line in before.splitlines():
        expected.append(line)
        for name in ("config.json", "tokenizer.json"):
            if line.strip().startswith(f"- name: {name}"):
                expected += added_lines(name)
    assert path.read_text().splitlines() == expected
    assert unpinned(find_backbone("mine")) == []


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["instruct", "fetch", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.run()
    return int(caught.value.code or 0)


def test_first_download_is_pinned_and_said(server, cache, table, monkeypatch, capsys):
    path = table(f"url: {server.url}")
    before = path.read_text()
    server.files = {f"/weights/{name}": content for name, content in FILES.items()}
    assert run(monkeypatch, "mine", "--pin") == 0
    printed = capsys.readouterr().out
    for name in ("config.json", "tokenizer.json"):
        assert f"pinned {name}, {len(FILES[name])} bytes, sha256 {hashlib.sha256(FILES[name]).hexdigest()}" in printed
    assert printed.count("mine: pinned") == 2 and printed.count("verified") == 3
    assert_pinned(path, before)
    assert {name: (cache / "mine" / name).read_bytes() for name in FILES} == FILES
    assert {one.name for one in (cache / "mine").iterdir()} == set(FILES), "no lock and no part stays"
    again = path.read_bytes()
    assert run(monkeypatch, "mine", "--pin") == 0 and path.read_bytes() == again
    assert "mine: pinned" not in capsys.readouterr().out


def test_what_is_pinned_is_held_against_later_downloads(server, cache, table, monkeypatch):
    table(f"url: {server.url}")
    server.files = {f"/weights/{name}": content for name, content in FILES.items()}
    assert run(monkeypatch, "mine", "--pin") == 0
    (cache / "mine" / "config.json").write_bytes(b'{"model_type": "evil_"}')
    server.files["/weights/config.json"] = b'{"model_type": "evil_"}'
    with pytest.raises(BackboneError, match=r"config\.json has sha256"):
        ensure(find_backbone("mine"))


def test_files_from_a_folder_are_pinned(cache, table, folder, monkeypatch, capsys):
    path = table("url: http://127.0.0.1:9/nowhere")
    before = path.read_text()
    assert run(monkeypatch, "mine", "--pin", "--from", str(folder)) == 0
    assert capsys.readouterr().out.count("mine: pinned") == 2
    assert_pinned(path, before)
    assert {name: (cache / "mine" / name).read_bytes() for name in FILES} == FILES


@pytest.mark.parametrize("way", ["ensure", "take_local", "command", "command --from"])
def test_an_unpinned_entry_is_refused_with_the_command_that_pins_it(
    cache,
    table,
    folder,
    monkeypatch,
    capsys,
    way,
):
    path = table("url: http://127.0.0.1:9/nowhere")
    before, mine = path.read_bytes(), find_backbone("mine")
    if way.startswith("command"):
        assert run(monkeypatch, "mine", *(["--from", str(folder)] if "--from" in way else [])) == 1
        text = capsys.readouterr().err
    else:
        with pytest.raises(BackboneError) as caught:
            ensure(mine) if way == "ensure" else take_local(mine, folder)
        text = str(caught.value)
    assert "config.json, tokenizer.json" in text and "`instruct fetch mine --pin`" in text
    assert text.strip().count("\n") == 0 and path.read_bytes() == before
    assert not (cache / "mine").exists() or not list((cache / "mine").iterdir())


def test_stages_and_checks_refuse_an_unpinned_backbone(table):
    from instruct.model.pretrained import load_tokenizer_of
    from instruct.tools.check import backbone_lines

    table("url: http://127.0.0.1:9/nowhere")
    for look in (lambda: load_tokenizer_of(find_backbone("mine")), lambda: backbone_lines("mine")):
        with pytest.raises(BackboneError, match="--pin"):
            look()


@pytest.mark.parametrize(
    ("source", "script", "named"),
    [
        ("url: {url}/nowhere", [], "404"),
        ("url: {url}", ["status 401"], "--from"),
        ("url: {url}", ["status 403"], "--from"),
        ("url: http://127.0.0.1:9", [], "cannot be reached"),
        ("seed: 0", [], "--from PATH` --pin"),
    ],
)
def test_a_failure_pins_nothing(server, cache, table, monkeypatch, capsys, source, script, named):
    path = table(source.format(url=server.url))
    before, server.script = path.read_bytes(), script
    server.files = {f"/weights/{name}": content for name, content in FILES.items()}
    assert run(monkeypatch, "mine", "--pin") == 1
    text = capsys.readouterr().err
    assert named in text and len(text.splitlines()) == 1
    assert path.read_bytes() == before


def test_a_download_that_is_cut_off_pins_nothing(server, cache, table):
    path = table(f"url: {server.url}")
    before = path.read_bytes()
    server.files = {f"/weights/{name}": content for name, content in FILES.items()}
    server.script = ["well", *["cut 5"] * 20]
    with pytest.raises(BackboneError, match=r"config\.json: download incomplete"):
        pin_files(find_backbone("mine"), None)
    assert path.read_bytes() == before


def test_a_pinned_file_has_no_bytes_of_an_earlier_download(server, cache, table):
    table(f"url: {server.url}")
    server.files = {f"/weights/{name}": content for name, content in FILES.items()}
    (cache / "mine").mkdir(parents=True)
    (cache / "mine" / "config.json.part").write_bytes(b"of another")
    pin_files(find_backbone("mine"), None)
    assert (cache / "mine" / "config.json").read_bytes() == FILES["config.json"]


def test_a_missing_local_file_is_named(cache, table, folder):
    path = table("url: http://127.0.0.1:9")
    before = path.read_bytes()
    (folder / "config.json").unlink()
    with pytest.raises(BackboneError, match=r"config\.json: there is no such file"):
        pin_files(find_backbone("mine"), folder)
    assert path.read_bytes() == before


def test_a_table_in_another_form_is_left_alone_with_the_lines_to_write(cache, table, folder):
    path = table("url: http://127.0.0.1:9")
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(values, default_flow_style=True))
    before = path.read_bytes()
    with pytest.raises(BackboneError, match=r"write `size: \d+` and `sha256: [0-9a-f]{64}` .* by hand") as caught:
        pin_files(find_backbone("mine"), folder)
    assert path.read_bytes() == before and "\n" not in str(caught.value)


def test_a_pin_that_is_there_is_replaced(table):
    path = table("url: http://127.0.0.1:9")
    [other] = find_backbone("other").files
    new = type(other)(name=other.name, size=77, sha256="b" * 64)
    before = path.read_text()
    write_pin(find_backbone("other"), new)
    expected = before.replace("      size: 5\n", "      size: 77\n", 1).replace("a" * 64, "b" * 64, 1)
    assert path.read_text() == expected
    assert read_table(path)["mine"].files[2].size == len(DATA)


def test_the_list_says_what_is_not_pinned(table, monkeypatch, capsys):
    table("url: http://127.0.0.1:9")
    assert run(monkeypatch) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "not pinned" in lines["mine"] and "not pinned" not in lines["other"]


def test_every_unpinned_file_of_the_real_table_can_be_written(tmp_path):
    root = Path(__file__).parents[2]
    path = tmp_path / "backbones.yaml"
    path.write_bytes((root / "models" / "backbones.yaml").read_bytes())
    count = 0
    for entry in read_table(path).values():
        for file in entry.files:
            if file.sha256 is None:
                write_pin(entry, type(file)(name=file.name, size=9, sha256="a" * 64, member=file.member), path)
                count += 1
    assert count and not any(unpinned(entry) for entry in read_table(path).values())
    old, new = (text.read_text().splitlines() for text in (root / "models" / "backbones.yaml", path))
    assert [line for line in new if line not in ("      size: 9", f"      sha256: {'a' * 64}")] == old
