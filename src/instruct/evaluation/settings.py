"""The settings of evaluation."""

from dataclasses import dataclass
from typing import Literal, get_args

from instruct.core.errors import ParamsError
from instruct.core.params import did_you_mean, require
from instruct.results.schema import REFERENCE
from instruct.servers.settings import ServerName


@dataclass(frozen=True, kw_only=True)
class EvaluateParams:
    """The section `evaluate` of params.yaml.

    A judge is `reference`, or a server of the section `servers`, with another model behind a colon if wanted
    (`ollama:qwen2.5:7b`). Each answer is judged `repeats` times. Known answers to `controls` records are judged
    first, and a judge that scores them in the wrong order is refused unless `allow_unfit`. Intervals and tests draw
    `resamples` times from `seed`. More than the share `max_unscored` of verdicts without a score stops the stage.
    """

    judges: tuple[str, ...]
    rubric: str
    scoring: Literal["text", "expected"]
    repeats: int
    temperature: float
    controls: int
    allow_unfit: bool
    resamples: int
    seed: int
    max_unscored: float

    def __post_init__(self) -> None:
        require("judges", "an empty list", bool(self.judges), "a list of at least one judge")
        require("judges", list(self.judges), len(set(self.judges)) == len(self.judges), "a list without repetition")
        for name in self.judges:
            server_and_model(name)
        require("repeats", self.repeats, 1 <= self.repeats <= 1000, "from 1 to 1000")
        require("temperature", self.temperature, 0 <= self.temperature <= 2, "from 0 to 2")
        require("controls", self.controls, 1 <= self.controls <= 1000, "from 1 to 1000")
        require("resamples", self.resamples, 100 <= self.resamples <= 1_000_000, "from 100 to 1000000")
        require("seed", self.seed, self.seed >= 0, "at least 0")
        require("max_unscored", self.max_unscored, 0 <= self.max_unscored <= 1, "from 0 to 1")


def server_and_model(judge: str) -> tuple[ServerName, str] | None:
    """A judge's name as its server's and its model's, which is empty where the settings say it; None: no server.

    >>> server_and_model("ollama:qwen2.5:7b"), server_and_model("openai"), server_and_model("reference")
    (('ollama', 'qwen2.5:7b'), ('openai', ''), None)
    """
    if judge == REFERENCE:
        return None
    server, colon, model = judge.partition(":")
    for name in get_args(ServerName):
        if server == name and (model.strip() or not colon):
            return name, model
    raise ParamsError(f"judges: {judge} is not a judge{did_you_mean(server, (REFERENCE, *get_args(ServerName)))}")
