"""The reference model's log-probs of every answer, computed once, so that no training holds two models.

The file names by digests what it was made from, and is refused where that is not what training now has.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import Any

import torch

from instruct.core.errors import CheckpointError, DataError
from instruct.core.files import checkpoint_files, read_json, sha256_of, write_json
from instruct.core.progress import Progress
from instruct.core.runtime import Runtime
from instruct.model.decoder import Decoder
from instruct.preference.encode import PARTS, EncodedPair, FittedPairs
from instruct.preference.loss import batch_pairs, log_probs
from instruct.preference.settings import Fit
from instruct.text.prompts import Template
from instruct.training.loop import EVAL_TOKENS, pieces


def made_from(pairs: Path, checkpoint: Path, template: Template, fit: Fit, runtime: Runtime) -> dict[str, str]:
    """What log-probs depend on: the name of each, and its digest or value."""
    weights = checkpoint_files(checkpoint)
    return {
        "checkpoint": _digest({path.name: sha256_of(path) for path in weights}),
        "template": _digest(asdict(template)),
        **{f"pairs of {part}": sha256_of(pairs / f"{part}.json") for part in PARTS},
        "prefer.batching": fit.batching,
        "prefer.max_length": str(fit.max_length),
        "prefer.over_long": fit.over_long,
        "prefer.lora.base": fit.base,
        "runtime.precision": str(runtime.dtype).removeprefix("torch."),
    }


def _digest(value: Any) -> str:
    return sha256(dumps(value, sort_keys=True).encode()).hexdigest()


@torch.no_grad()
def measure(model: Decoder, pairs: Sequence[EncodedPair], fit: Fit, runtime: Runtime, pad_id: int) -> list[EncodedPair]:
    """The pairs with the model's log-probs of their answers, from the same batches as evaluations have.

    Raises CheckpointError for a log-prob that is not a number.
    """
    to_batch = batch_pairs(fit, runtime, pad_id)
    model.eval()
    measured: dict[str, EncodedPair] = {}
    by_length = sorted(pairs, key=lambda pair: pair.token_count)
    with Progress(len(pairs), "pair") as progress:
        for part in pieces(by_length, 0, EVAL_TOKENS):
            with runtime.autocast():
                chosen, rejected = log_probs(model, to_batch(part)).cpu().chunk(2)
            for pair, *found in zip(part, chosen.tolist(), rejected.tolist(), strict=True):
                if not all(map(math.isfinite, found)):
                    raise CheckpointError(f"pair {pair.id}: its log-probs are {found}; train the reference model again")
                measured[pair.id] = replace(pair, reference=(found[0], found[1]))
            progress.add(len(part))
    return [measured[pair.id] for pair in pairs]


def write_reference(path: Path, origin: Mapping[str, str], parts: Mapping[str, Sequence[EncodedPair]]) -> None:
    """Write the log-probs with every digit, since step 0 compares them with the same model's."""
    found = {name: {pair.id: pair.reference for pair in pairs} for name, pairs in parts.items()}
    write_json(path, {"made_from": dict(origin), **found})


def with_reference(
    fitted: Mapping[str, FittedPairs], path: Path, origin: Mapping[str, str]
) -> dict[str, Sequence[EncodedPair]]:
    """The pairs of each part with their log-probs; raises DataError where they were made from something else."""
    values = read_json(path)
    try:
        stored = {str(name): str(value) for name, value in values["made_from"].items()}
        different = sorted(name for name in stored.keys() | origin if stored.get(name) != origin.get(name))
        if different:
            raise DataError(
                f"{path}: was made from another {', another '.join(different)}; run the stage `reference` again"
            )
        return {
            name: [replace(pair, reference=_numbers(values[name][pair.id])) for pair in part.pairs]
            for name, part in fitted.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError(
            f"{path}: does not hold the log-probs of these pairs; run the stage `reference` again"
        ) from None


def _numbers(values: Sequence[Any]) -> tuple[float, float]:
    chosen, rejected = (float(value) for value in values)
    return chosen, rejected
