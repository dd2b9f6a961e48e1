"""One export from start to end: written, checked and described; a failed export leaves no files."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from instruct.checks.schema import read_checks
from instruct.core.errors import ParamsError
from instruct.core.files import sha256_of, write_json
from instruct.core.params import load_params
from instruct.core.records import Response, read_examples
from instruct.core.runtime import RuntimeParams
from instruct.evaluation.settings import EvaluateParams
from instruct.exporting.greedy import answer_ours
from instruct.exporting.proof import Check, proof_document, proof_lines, prove, spread_over
from instruct.exporting.running import Runner, require_packages
from instruct.exporting.source import Source
from instruct.exporting.whole import PROOF, whole_folder
from instruct.generation.settings import GenerateParams
from instruct.text.encoding import encode_prompt

VERSION = 2
CHECKS = "checks.json"  # beside the test set, as the stage `split` writes it
MANY, TIMED = 40, 2  # from so many records on the time is told once the checkpoint has answered so few
BOTH = 1.5  # the program's time and the checkpoint's, which answers many records at once


@dataclass(frozen=True, kw_only=True)
class Export:
    """What an export writes, and how it runs.

    `write` fills the folder and returns lines to print; `runner` is the program for the check. `bytes_needed` must be
    free on disk. `needs` are the packages that writing uses. `scratch` files serve only the check and are removed.
    """

    kind: str
    settings: Mapping[str, Any]
    write: Callable[[Path], list[str]]
    runner: Callable[[Path], Runner]
    bytes_needed: int
    needs: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    scratch: tuple[str, ...] = ()


def read_check(asked: str, root: Path, data: Path) -> Check:
    """How many test records to answer: a number, `all`, or 0 for none.

    Raises ParamsError for anything else, DataError if the test set is missing or its checks cannot be read.
    """
    if asked != "all" and not asked.isdecimal():
        raise ParamsError(f"--check: must be all or a number of records, is {asked}")
    count = None if asked == "all" else int(asked)
    examples = [] if count == 0 else read_examples(root / data)
    params, beside = root / "params.yaml", root / data.with_name(CHECKS)
    return Check(
        examples=spread_over(examples, count),
        total=len(examples),
        checks=read_checks(beside) if examples and beside.is_file() else {},
        generate=load_params("generate", GenerateParams, params),
        evaluate=load_params("evaluate", EvaluateParams, params),
        threads=load_params("runtime", RuntimeParams, params).num_threads,
    )


def only_fitting(source: Source, check: Check) -> Check:
    """The check without the records whose prompts leave no room for an answer: programs do not cut them as we do."""
    room = source.model.block_size - check.generate.max_new_tokens
    prompts = (source.template.prompt(one.turns, one.system) for one in check.examples)
    lengths = [len(encode_prompt(source.tokenizer, prompt)) for prompt in prompts]
    fitting = [one for one, length in zip(check.examples, lengths, strict=True) if length <= room]
    return replace(check, examples=fitting)


def make_export(export: Export, source: Source, check: Check, out: Path) -> Iterator[str]:
    """Write the export to the folder `out` and check it; yields lines for the user.

    Raises InstructError, and leaves no partial files, if a package or disk space is missing or the program fails.
    """
    require_packages(export.needs)
    if check.examples:
        require_packages(export.runner(out).needs)
    known: list[Response] = []
    if len(check.examples) >= MANY:
        known, line = answer_few(source, check)
        yield line
    with whole_folder(out, export.bytes_needed) as folder:
        lines = export.write(folder)
        files = {name: one for name, one in describe_files(folder).items() if name not in export.scratch}
        size = sum(one["bytes"] for one in files.values())
        proof = prove(source, export.runner(folder), check, folder, known) if check.examples else None
        for name in export.scratch:
            (folder / name).unlink(missing_ok=True)
        write_json(folder / PROOF, {**_document(export, source, files), **proof_document(proof, check, size)})
    for name, one in files.items():
        yield f"{out / name}: {one['bytes'] / 1e6:,.1f} MB"
    yield from lines
    if proof is None:
        yield f"check {check.words}"
    else:
        yield from proof_lines(proof, check, size)
        yield f"proof: {out / PROOF}"


def answer_few(source: Source, check: Check) -> tuple[list[Response], str]:
    """The checkpoint's answers to the first few records, and a line that says how many will come and how long it takes.

    The few are spread over the test set and answered one by one, as the export answers.
    """
    few, started = spread_over(check.examples, TIMED), time.perf_counter()
    answers = [answer for one in few for answer in answer_ours(source, [one], check.generate)]
    minutes = BOTH * (time.perf_counter() - started) / len(few) * len(check.examples) / 60
    return answers, (
        f"the checkpoint and the export answer {len(check.examples)} of {check.total} test records, in about "
        f"{max(round(minutes), 1)} min here; --check N answers fewer, --check 0 none"
    )


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file, by name."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in paths
    }


def _document(export: Export, source: Source, files: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "version": VERSION,
        "kind": export.kind,
        "settings": dict(export.settings),
        "about": dict(export.about),
        "files": dict(files),
        "origin": {name: value for name, value in asdict(source.origin).items() if value},
        "template": source.template_name,
        "params": dict(source.params),
    }
