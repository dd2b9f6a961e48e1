"""Gathers all runs: the small files from Git, the answers from the working tree or from DVC's cache."""

from collections.abc import Sequence
from pathlib import Path

from instruct.viewing.revisions import Revision, list_revisions, read_files
from instruct.viewing.runs import ANSWERS, IN_GIT, JUDGEMENTS, Run, read_run
from instruct.viewing.stored import find_cache, locked_outputs, read_stored

STORED = (*ANSWERS.values(), JUDGEMENTS)


def collect_runs(root: Path, asked: Sequence[str] = ()) -> list[Run]:
    """Every run there is, in the order of `list_revisions`; a workspace equal to the branch at hand is left out."""
    revisions = list_revisions(root, asked)
    contents = read_files(root, revisions, IN_GIT)
    if len(contents) > 1 and contents[0] == contents[1]:
        revisions, contents = revisions[1:], contents[1:]
    return [read_run(one, files | _stored(root, one, files)) for one, files in zip(revisions, contents, strict=True)]


def _stored(root: Path, revision: Revision, files: dict[str, bytes]) -> dict[str, bytes]:
    """The outputs that Git does not hold; the workspace has them in place."""
    if not revision.commit:
        return {path: (root / path).read_bytes() for path in STORED if (root / path).is_file()}
    hashes = locked_outputs(files.get("dvc.lock", b""))
    found = {path: read_stored(find_cache(root), hashes[path]) for path in STORED if path in hashes}
    return {path: content for path, content in found.items() if content is not None}
