"""Rubrics: what a judge is told. Each is a file in `rubrics/`, and a prompt is rendered here and nowhere else."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from instruct.core.errors import ParamsError
from instruct.core.params import build, did_you_mean, read_params, require
from instruct.evaluation.judges.parse import Scale

FOLDER = Path(__file__).with_name("rubrics")
HASH = 16  # hexadecimal digits of a hash in results

_PLACE = re.compile(r"\{(task|reference|response|response_a|response_b)\}")
_NAMES = {
    "score": {"task", "reference", "response"},
    "pair": {"task", "reference", "response_a", "response_b"},
}


@dataclass(frozen=True, kw_only=True)
class Rubric:
    """One way to judge: a score from `low` to `high` for one response, or a choice between a pair of them.

    `reasoned` replies give a reason before the score. `fenced` puts each text between marks that it cannot contain.
    `schema` is the JSON schema of the reply, and at most `max_tokens` of it are waited for.
    """

    kind: Literal["score", "pair"]
    reasoned: bool
    fenced: bool
    max_tokens: int
    schema: dict[str, Any] | None
    prompt: str
    low: int = 0
    high: int = 100

    def __post_init__(self) -> None:
        require("max_tokens", self.max_tokens, 1 <= self.max_tokens <= 100_000, "from 1 to 100000")
        require("high", self.high, 0 <= self.low < self.high <= 1000, "above low, and both from 0 to 1000")
        found, wanted = set(_PLACE.findall(self.prompt)), _NAMES[self.kind]
        rule = f"a text with {', '.join('{' + name + '}' for name in sorted(wanted))} in it"
        require("prompt", f"one with {', '.join(sorted(found)) or 'none of them'}", found == wanted, rule)

    @property
    def scale(self) -> Scale:
        return Scale(self.low, self.high)

    @cached_property
    def sha256(self) -> str:
        """The hash of everything in it."""
        return sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:HASH]

    def render(self, texts: Mapping[str, str]) -> str:
        """The judge's prompt.

        The fence is a digest of the texts, so none of them can be made to contain it. Braces in the texts stay text.
        """
        fence = sha256("\x1f".join(texts[name] for name in sorted(texts)).encode()).hexdigest()[:HASH]

        def put(match: re.Match[str]) -> str:
            name, text = match[1], texts[match[1]]
            mark = name.upper().replace("_", " ")
            return f"<<<{mark} {fence}\n{text}\n{mark} {fence}>>>" if self.fenced else text

        return _PLACE.sub(put, self.prompt)


def find_rubric(name: str, folder: Path = FOLDER) -> Rubric:
    """The rubric of this name; raises ParamsError that names the nearest one, or what is wrong in its file."""
    path = folder / f"{name}.yaml"
    names = [file.stem for file in folder.glob("*.yaml")]
    if name not in names:
        raise ParamsError(f"evaluate.rubric: {name} is not a rubric{did_you_mean(name, names)}")
    return build(Rubric, read_params(path), where=str(path.name))


def prompt_hash(prompt: str) -> str:
    """The hash of a rendered prompt, as every verdict holds it."""
    return sha256(prompt.encode("utf-8", "backslashreplace")).hexdigest()[:HASH]
