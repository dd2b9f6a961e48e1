"""The contestants of bench_data.py, each in a process of its own; see harness.py."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness

Run = Callable[..., dict[str, Any]]


def ours(task: dict[str, Any]) -> Run:
    """Groups by the project's own search: exact for small sets, MinHash beyond."""
    return _ours(task, "auto")


def ours_exact(task: dict[str, Any]) -> Run:
    """Groups by comparing all pairs."""
    return _ours(task, "exact")


def ours_minhash(task: dict[str, Any]) -> Run:
    """Groups by MinHash, whatever the size."""
    return _ours(task, "minhash")


def _ours(task: dict[str, Any], method: str) -> Run:
    from instruct.splitting.near_duplicates import find_duplicates, name_groups

    texts = list(read_texts(task))

    def find() -> list[int]:
        found = find_duplicates(texts, task["similarity"], method)
        return name_groups(len(texts), found.links)

    return timed(task, f"ours-{method}", find)


def stage(task: dict[str, Any]) -> Run:
    """The whole stage: read, validate, find, split, write."""
    import logging

    from instruct.core.parsing import read_yaml

    logging.disable(logging.INFO)
    folder = Path(task["work"])
    os.chdir(folder)
    sys.path.insert(0, str(harness.ROOT / "src"))
    import split

    params = read_yaml(harness.ROOT / "params.yaml")
    params["split"] |= {"data": str(task["records"]), "checks": "checks.json"}
    (folder / "checks.json").write_text("{}", encoding="utf-8")
    (folder / "params.yaml").write_text(json.dumps(params), encoding="utf-8")  # every JSON text is YAML too

    def run() -> list[int]:
        split.main(folder / "split", folder / "split.json")
        return []

    return timed(task, "stage", run)


def rensa(task: dict[str, Any]) -> Run:
    """The library rensa (Rust): MinHash of the same trigrams and as many hashes, groups by its LSH's answers."""
    import rensa

    texts = list(read_texts(task))
    bands, hashes = 40, 160

    def find() -> list[int]:
        sketches = []
        for start in range(0, len(texts), 10_000):
            padded = [f"  {text} " for text in texts[start : start + 10_000]]
            grams = [[text[i : i + 3] for i in range(len(text) - 2)] for text in padded]
            sketches += rensa.RMinHash.from_token_sets(grams, hashes, 42)
        index = rensa.RMinHashLSH(threshold=task["jaccard"], num_perm=hashes, num_bands=bands)
        index.insert_many(sketches)
        pairs = ((i, int(j)) for i, sketch in enumerate(sketches) for j in index.query(sketch))
        return group_pairs(
            len(texts), ((i, j) for i, j in pairs if sketches[i].jaccard(sketches[j]) >= task["jaccard"])
        )

    return timed(task, "rensa", find)


def chapter(task: dict[str, Any]) -> Run:
    """The book chapter's tool: cosine of character 1- to 3-grams over all pairs, above 0.9."""
    import importlib.util

    path = Path(task["chapter"]).resolve() / "ch07" / "02_dataset-utilities" / "find-near-duplicates.py"
    specification = importlib.util.spec_from_file_location("find_near_duplicates", path)
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    records = [{"id": i, "text": text} for i, text in enumerate(read_texts(task))]

    def find() -> list[int]:
        _, pairs = module.find_near_duplicates(records, threshold=0.9, key="text")
        return group_pairs(len(records), ((one["id"], other["id"]) for one, other, _ in pairs))

    return timed(task, "chapter", find)


def read_texts(task: dict[str, Any]) -> Iterator[str]:
    """What is compared, one a line, as a JSON string."""
    with Path(task["texts"]).open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def group_pairs(count: int, pairs: Iterator[tuple[int, int]]) -> list[int]:
    """The first member of each one's group."""
    up = list(range(count))

    def find(one: int) -> int:
        while up[one] != one:
            up[one] = up[up[one]]
            one = up[one]
        return one

    for one, other in pairs:
        one, other = find(one), find(other)
        up[max(one, other)] = min(one, other)
    return [find(one) for one in range(count)]


def timed(task: dict[str, Any], name: str, find: Callable[[], list[int]]) -> Run:
    """Run and time it, and leave the groups where bench_data.py reads them."""

    def run(warm_up: bool = False) -> dict[str, Any]:
        if warm_up:
            return {"seconds": 0.0}
        start = time.perf_counter()
        groups = find()
        seconds = time.perf_counter() - start
        memory = harness.peak_rss_mb()
        path = Path(task["work"]) / f"{name}.groups.json"
        path.write_text(json.dumps(groups), encoding="utf-8")
        return {"seconds": seconds, "groups": str(path), "search_rss_mb": memory}

    return run


if __name__ == "__main__":
    harness.serve({
        "ours": ours, "ours-exact": ours_exact, "ours-minhash": ours_minhash, "stage": stage, "rensa": rensa,
        "chapter": chapter,
    })  # fmt: skip
