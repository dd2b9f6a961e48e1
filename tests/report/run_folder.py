"""What the other stages leave for `plot`, written by hand into a folder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from results.sample import answer, write_answers, write_results, write_training

from instruct.core.files import write_json
from instruct.results.runs import EVALUATE
from instruct.results.schema import REFERENCE, Results, dump

PARAMS = """
model: {backbone: smollm2-135m}
plot: {examples: 3}
prompt: {template: alpaca, system: default}
"""
OLLAMA = {"judge": "ollama", "model": "llama3:8b", "digest": "365c0bd3", "num_ctx": "4096"}
SIMILARITY = {"judge": REFERENCE, "score": "similarity to the reference answer"}
Scores = Sequence[float | None]


def make_run(
    folder: Path,
    base: Scores,
    sft: Scores,
    *,
    judges: Sequence[str] = (REFERENCE,),
    identity: dict[str, str] = SIMILARITY,
    judge: dict[str, Any] | None = None,
    extra: dict[str, Any] | None = None,
    **fields: str,
) -> Results:
    """One record per pair of scores; `fields` go into every record, `judge` into every judge's results."""
    (folder / "params.yaml").write_text(PARAMS)
    scores = {"base": base, "sft": sft}
    answers = {
        system: [answer(f"r{i}", **{"text": f"{system} answer {i}", **fields}) for i in range(len(base))]
        for system in scores
    }
    found = write_results(
        folder,
        dict.fromkeys(judges, scores),
        kinds=["facts"] * len(base),
        identities=dict.fromkeys(judges, identity),
        md5s=write_answers(folder, answers),
        **(judge or {}),
    )
    found = replace(found, **(extra or {}))
    write_json(folder / EVALUATE, dump(found))
    write_training(folder)
    return found
