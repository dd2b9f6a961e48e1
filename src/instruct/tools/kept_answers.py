"""The answers of a run of `instruct questions`, so that the same run again needs no model and no judge's server."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from instruct.backbones.catalog import ModelParams, find_backbone
from instruct.core.errors import DataError
from instruct.core.files import checkpoint_files, read_json, write_json
from instruct.core.fingerprint import take_fingerprint
from instruct.core.params import load_params
from instruct.core.records import Example, Response
from instruct.core.runtime import RuntimeParams
from instruct.generation.settings import GenerateParams
from instruct.text.prompts import PromptParams
from instruct.tools.question_file import Question
from instruct.tools.questions import Answerer, answer_turns

FOLDER = Path("build/questions")
_GIVEN = [field.name for field in fields(Response) if field.name not in {one.name for one in fields(Example)}]


def place_of(questions: Sequence[Question], checkpoint: Path, max_new_tokens: int) -> Path:
    """The file for these questions to this checkpoint and its backbone, named by all that decides the answers.

    An adapter's config.json holds the checksums of what it was trained on.
    """
    backbone = find_backbone(load_params("model", ModelParams).backbone)
    settings = {
        "questions": [asdict(one) for one in questions],
        "backbone": backbone,
        "prompt": load_params("prompt", PromptParams),
        "runtime": load_params("runtime", RuntimeParams),
        "generate": load_params("generate", GenerateParams),
        "max_new_tokens": max_new_tokens,
    }
    files = checkpoint_files(checkpoint)
    parts = take_fingerprint(settings, files).parts
    return FOLDER / f"{sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]}.json"


def keep_answers(place: Path, answers: Mapping[str, Sequence[Response]]) -> None:
    """Write what each system answered, by the id of the turn."""
    kept = {
        system: {one.id: {name: getattr(one, name) for name in _GIVEN} for one in responses}
        for system, responses in answers.items()
    }
    write_json(place, kept)


def kept_answers(place: Path, questions: Sequence[Question]) -> dict[str, list[Response]]:
    """What each system answered to these questions; empty if nothing is kept, or the file is damaged."""
    try:
        kept = read_json(place)
        return {system: answer_turns(questions, _answerer(answers)) for system, answers in kept.items()}
    except (DataError, AttributeError, KeyError, TypeError):
        return {}


def _answerer(kept: Mapping[str, Any]) -> Answerer:
    given = {id_: {**values, "samples": tuple(values["samples"])} for id_, values in kept.items()}
    return lambda examples: [Response(**vars(one), **given[one.id]) for one in examples]
