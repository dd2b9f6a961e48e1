import functools
import hashlib
import json
import re
import socket
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from instruct import cli
from instruct.core.errors import DataError
from instruct.core.records import read_examples
from instruct.tools.import_data import import_data, read_sources

pytestmark = pytest.mark.usefixtures("warm_start")
ROOT = Path(__file__).parents[2]
BOOK = ROOT.parent / "shared" / "data" / "seed" / "instruction-data.json"
CONTENT = json.dumps([{"instruction": f"Say {i}.", "input": "", "output": f"é{i}"} for i in range(30)]).encode()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class CountingHandler(SimpleHTTPRequestHandler):
    seen: list[str]

    def log_message(self, *args):
        self.seen.append(self.path)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An HTTP server with one data set; `seen` are the paths that were asked for."""
    folder = tmp_path_factory.mktemp("www")
    (folder / "set.json").write_bytes(CONTENT)
    (folder / "other.json").write_bytes(b"[]")
    handler = type("Handler", (CountingHandler,), {"seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder))) as http:
        http.seen = handler.seen
        http.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield http
        http.shutdown()
        thread.join()


@pytest.fixture
def repository(tmp_path, tmp_path_factory, monkeypatch, server):
    """A Git and DVC repository with a table of two sources; `tiny` is right, `renewed` has another checksum."""
    for variable in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(variable, str(tmp_path_factory.mktemp("dvc")))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    (tmp_path / ".dvc").mkdir()
    for name in (".dvc/config", ".dvc/.gitignore"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "data").mkdir()
    write_sources(tiny=source(server, "set.json"), renewed=source(server, "set.json", sha256="0" * 64))
    return tmp_path


def source(server, name, **changes):
    values = {
        "about": "thirty records",
        "licence": "Apache-2.0",
        "url": f"{server.url}/{name}",
        "path": "data/tiny.json",
        "size": len(CONTENT),
        "sha256": SHA256,
    }
    return values | changes


def write_sources(**entries):
    Path("data/sources.yaml").write_text(yaml.safe_dump(entries), encoding="utf-8")


def files(folder):
    """All files that Git could see, with their content."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others"], cwd=folder, check=True, capture_output=True, text=True
    )
    names = [name for name in listed.stdout.splitlines() if not name.startswith((".dvc/tmp", ".dvc/cache"))]
    return {name: (folder / name).read_bytes() for name in names}


def run_cli(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["instruct", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.run()
    return stop.value.code


def test_import_brings_the_bytes_and_says_in_git_where_they_came_from(repository, server, monkeypatch, capfd):
    assert run_cli(monkeypatch, "import-data", "tiny") == 0
    out, err = capfd.readouterr()
    assert "data/tiny.json: verified; use it with `dvc exp run -S split.data=data/tiny.json`" in out
    assert err == ""
    assert (repository / "data/tiny.json").read_bytes() == CONTENT
    assert len(read_examples(Path("data/tiny.json"))) == 30
    note = yaml.safe_load((repository / "data/tiny.json.dvc").read_text())
    assert note["deps"][0]["path"] == f"{server.url}/set.json"
    assert note["outs"][0]["md5"] == hashlib.md5(CONTENT).hexdigest()
    assert note["frozen"] is True
    ignored = subprocess.run(["git", "check-ignore", "data/tiny.json", "data/tiny.json.dvc"], capture_output=True)
    assert ignored.stdout == b"data/tiny.json\n"
    assert str(repository) not in (repository / "data/tiny.json.dvc").read_text()


def test_data_set_that_is_here_already_needs_no_server(repository, server):
    import_data("tiny")
    before = list(server.seen)
    assert import_data("tiny") == Path("data/tiny.json")
    assert server.seen == before


def test_right_bytes_that_dvc_does_not_track_are_not_called_imported(repository):
    mine = repository / "data/tiny.json"
    mine.write_bytes(CONTENT)
    before = files(repository)
    with pytest.raises(DataError, match=r"^data/tiny\.json: .*data/tiny\.json\.dvc is missing; move"):
        import_data("tiny")
    assert files(repository) == before


def test_wrong_checksum_is_one_line_and_nothing_is_kept(repository, server, monkeypatch, capfd):
    before = files(repository)
    assert run_cli(monkeypatch, "import-data", "renewed") == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err == (
        f"instruct: {server.url}/set.json: has sha256 {SHA256[:16]}… instead of {'0' * 16}…; nothing was kept, "
        "correct data/sources.yaml if the data set was renewed on purpose\n"
    )
    assert files(repository) == before


@pytest.mark.parametrize("broken", ["checksum", "server"])
def test_failed_import_leaves_an_earlier_imports_note_as_it_was(repository, server, broken):
    write_sources(tiny=source(server, "set.json"))
    import_data("tiny")
    (repository / "data/tiny.json").unlink()
    before = files_but(repository, "data/sources.yaml")
    assert sorted(before) == [".dvc/.gitignore", ".dvc/config", "data/.gitignore", "data/tiny.json.dvc"]
    other = {"checksum": source(server, "other.json"), "server": source(server, "none.json")}
    write_sources(tiny=other[broken])
    with pytest.raises(DataError):
        import_data("tiny")
    assert files_but(repository, "data/sources.yaml") == before


def files_but(folder, name):
    return {key: value for key, value in files(folder).items() if key != name}


def test_another_file_in_its_place_is_never_overwritten(repository, server):
    mine = repository / "data/tiny.json"
    mine.write_text("my own records")
    before = list(server.seen)
    with pytest.raises(DataError, match=r"^data/tiny\.json: exists and is not the data set tiny; move it"):
        import_data("tiny")
    assert mine.read_text() == "my own records"
    assert server.seen == before


def test_unknown_name_is_answered_with_the_nearest(repository, monkeypatch, capfd):
    assert run_cli(monkeypatch, "import-data", "tinny") == 1
    assert capfd.readouterr().err == (
        'instruct: there is no data set "tinny" in data/sources.yaml; did you mean tiny?\n'
    )


def test_address_that_the_server_does_not_know_is_one_line(repository, server, monkeypatch, capfd):
    write_sources(gone=source(server, "none.json"))
    before = files(repository)
    assert run_cli(monkeypatch, "import-data", "gone") == 1
    err = capfd.readouterr().err
    assert err.startswith(f"instruct: {server.url}/none.json: dvc import-url failed (")
    assert "does not exist" in err
    assert err.count("\n") == 1
    assert files(repository) == before


def test_server_that_is_not_there_is_one_line(repository, server):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        write_sources(off=source(server, "x", url=f"http://127.0.0.1:{unused.getsockname()[1]}/set.json"))
        before = files(repository)
        with pytest.raises(DataError, match=r"dvc import-url failed .*check the address and the network") as error:
            import_data("off")
    assert "\n" not in str(error.value)
    assert files(repository) == before


def test_outside_of_a_dvc_repository_the_reason_is_told(repository):
    for name in (".dvc/config", ".dvc/.gitignore"):
        (repository / name).unlink()
    (repository / ".dvc").rename(repository / "no-dvc")
    with pytest.raises(DataError, match="not inside of a DVC repository"):
        import_data("tiny")
    assert not (repository / "data/tiny.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a table of sources"),
        ("- a\n", "not a table of sources"),
        ("tiny: {a: [\n", "not YAML"),
        ("tiny: {}\n", "tiny.about is missing"),
        ("tiny: 5\n", "must be a mapping of settings"),
        ("tiny: {abuot: a}\n", "tiny.abuot is not a setting; did you mean about?"),
    ],
)
def test_broken_table_of_sources_is_named(tmp_path, text, message):
    table = tmp_path / "sources.yaml"
    table.write_text(text)
    with pytest.raises(DataError) as error:
        read_sources(table)
    assert str(error.value).startswith(f"{table}:")
    assert message in str(error.value)


def test_projects_own_sources_are_pinned_to_a_commit_and_a_checksum():
    sources = read_sources(ROOT / "data" / "sources.yaml")
    assert {"book", "alpaca-52k"} <= set(sources)
    for found in sources.values():
        assert re.fullmatch(r"https://raw\.githubusercontent\.com/[^/]+/[^/]+/[0-9a-f]{40}/.+\.json", found.url)
        assert re.fullmatch(r"[0-9a-f]{64}", found.sha256)
        assert Path(found.path).parent == Path("data")
    assert len({found.path for found in sources.values()}) == len(sources)


@pytest.mark.skipif(not BOOK.exists(), reason="the folder ../shared/data is not here")
def test_checksum_of_the_books_data_is_that_of_the_real_file():
    book = read_sources(ROOT / "data" / "sources.yaml")["book"]
    content = BOOK.read_bytes()
    assert (book.sha256, book.size) == (hashlib.sha256(content).hexdigest(), len(content))
