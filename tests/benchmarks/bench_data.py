"""Times the search for near-duplicates and the split stage, and measures what they find, at three sizes.

    python tests/benchmarks/bench_data.py --json FILE --sizes 1100,52000,1000000 --chapter PATH

The records are the project's own, perturbed (near_duplicate_records.py), so the near-duplicates are known. recall is
the share of planted pairs with a similarity of 90 or more that stand in one group; precision the share of members of
groups that are similar to another member, or were planted with it. `sampled` takes records at random and compares
each with all others by rapidfuzz, so that pairs which nobody planted count too.
"""

import json
import math
import random
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import harness
import outcome
from harness import OTHER_PYTHON, Contestant, Measured, Race
from near_duplicate_records import write_records

WORKERS = Path(__file__).with_name("data_contestants.py")
SIMILARITY = 90.0
JACCARD = 0.57  # of the trigrams of two texts at that similarity whose changes all stand apart
ALL_PAIRS_LIMIT = 20_000


def main() -> None:
    parser = harness.argument_parser(__doc__)
    parser.add_argument("--sizes", default="1100,52000,1000000", metavar="COUNTS")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--sample", type=int, default=100, help="records compared with all others")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for size in map(int, options.sizes.split(",")):
        with TemporaryDirectory(prefix="bench-data-") as folder:
            results[str(size)] = race_at(size, Path(folder), options)
        print_results(size, results[str(size)])
    growth = growth_of({int(size): result for size, result in results.items()})
    for name, value in growth.items():
        print(f"{name}: time grows as n log n times {value:.2f}")
    outcome.write_summary({"sizes": results, "growth": growth}, options.json)


def race_at(size: int, folder: Path, options: Any) -> dict[str, Any]:
    """The results of all contestants at one size."""
    originals, texts = make_task(size, folder, options)
    one = {"warm_up": {"warm_up": True}, "run": {}}
    here = Path(sys.executable)
    too_many = (
        f"it compares all pairs: {size:,} records take too long, and the chapter's tool {8 * size**2 / 1e9:.0f} GB"
    )
    why_no_pairs = too_many if size > ALL_PAIRS_LIMIT else ""
    contestants = {
        "ours": Contestant(python=here, **one),
        "ours-minhash": Contestant(python=here, **one),
        "ours-exact": Contestant(python=here, **one, why_not=why_no_pairs),
        "stage": Contestant(python=here, **one),
        "rensa": Contestant(python=OTHER_PYTHON, **one),
        "chapter": Contestant(
            python=OTHER_PYTHON, **one, why_not=why_no_pairs or harness.why_no_chapter(options.chapter, "")
        ),
    }
    only = harness.chosen(options.only, contestants)
    race = Race(contestants, only, WORKERS, folder / "task.json", options.threads)
    try:
        measured = race.measure(options.repeats)
    finally:
        race.close()
    summary = outcome.summarise(measured, race.skipped, records=size, tokens=0)
    for values in summary["contestants"].values():
        del values["tokens_per_s"], values["peak_gpu_mb"]
    return summary | {"found": judge_all(measured, originals, texts, options.sample)}


def make_task(size: int, folder: Path, options: Any) -> tuple[list[int], list[str]]:
    """Write the records and the task; gives the original of each record and the text by which it is compared."""
    from instruct.core.records import Example
    from instruct.splitting.near_duplicates import compared_text

    real = json.loads((harness.ROOT / "data" / "instructions.json").read_text(encoding="utf-8"))
    originals = write_records(folder / "records.jsonl", real, size, harness.SEED)
    texts = []
    with (folder / "records.jsonl").open(encoding="utf-8") as records, (folder / "texts").open("w") as out:
        for line in records:
            texts.append(compared_text(Example(**json.loads(line)), "prompt"))
            out.write(json.dumps(texts[-1]) + "\n")
    shutil.copy(harness.ROOT / "params.yaml", folder)
    task = {
        "records": str(folder / "records.jsonl"), "texts": str(folder / "texts"), "work": str(folder),
        "chapter": str(options.chapter), "similarity": SIMILARITY, "jaccard": JACCARD,
    }  # fmt: skip
    (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
    return originals, texts


def judge_all(
    measured: dict[str, Measured], originals: list[int], texts: list[str], sample: int
) -> dict[str, dict[str, float]]:
    """What each contestant found of the planted pairs, of all pairs of a sample, and how much of it is right."""
    planted, alike = planted_pairs(originals, texts), sampled_pairs(texts, sample)
    found = {}
    for name, result in measured.items():
        if groups := json.loads(Path(result.runs[-1]["groups"]).read_text(encoding="utf-8")):
            found[name] = {
                "recall": share(groups[i] == groups[j] for i, j in planted),
                "sampled_recall": share(groups[i] == groups[j] for i, j in alike),
                "precision": precision_of(groups, originals, texts),
                "groups": len(set(groups)),
            }
    return found


def planted_pairs(originals: list[int], texts: list[str]) -> list[tuple[int, int]]:
    """Pairs of records of one original that are as similar as asked for."""
    from rapidfuzz import fuzz

    families: dict[int, list[int]] = defaultdict(list)
    for record, original in enumerate(originals):
        families[original].append(record)
    return [
        (one, other)
        for members in families.values()
        for place, one in enumerate(members)
        for other in members[place + 1 :]
        if fuzz.ratio(texts[one], texts[other]) >= SIMILARITY
    ]


def sampled_pairs(texts: list[str], sample: int) -> list[tuple[int, int]]:
    """Of records drawn at random all pairs that are as similar as asked for."""
    from rapidfuzz import fuzz, process

    drawn = random.Random(harness.SEED).sample(range(len(texts)), min(sample, len(texts)))
    return [
        (one, other)
        for one in drawn
        for _, _, other in process.extract(texts[one], texts, scorer=fuzz.ratio, score_cutoff=SIMILARITY, limit=None)
        if other != one
    ]


def precision_of(groups: list[int], originals: list[int], texts: list[str]) -> float:
    """The share of those who joined a group that are of one original with, or similar to, another of its members."""
    from rapidfuzz import fuzz

    members: dict[int, list[int]] = defaultdict(list)
    for record, group in enumerate(groups):
        members[group].append(record)
    # A group of thousands has been joined wrongly almost everywhere; its first thousand members stand for it.
    return share(
        any(
            originals[one] == originals[other] or fuzz.ratio(texts[one], texts[other]) >= SIMILARITY
            for other in those[:1000]
            if other != one
        )
        for those in members.values()
        if len(those) > 1
        for one in those[:1000]
    )


def share(those: Any) -> float:
    """How many of some truths are true, from 0 to 1."""
    listed = list(those)
    return round(sum(listed) / len(listed), 5) if listed else 1.0


def growth_of(results: dict[int, dict[str, Any]]) -> dict[str, float]:
    """Seconds per n log n at the largest size against the one before; 1 is as n log n grows."""
    sizes = sorted(results)
    if len(sizes) < 2:
        return {}
    small, large = sizes[-2:]
    times = [{name: one["median_s"] for name, one in results[size]["contestants"].items()} for size in (small, large)]
    expected = large * math.log(large) / (small * math.log(small))
    return {name: round(times[1][name] / times[0][name] / expected, 3) for name in times[0] if name in times[1]}


def print_results(size: int, results: dict[str, Any]) -> None:
    """A table in Markdown for one size."""
    print(f"\n{outcome.describe_machine(results['machine'])}\n{size:,} records, similarity {SIMILARITY:.0f}\n")
    print("| contestant | seconds | records/s | peak MB | recall | sampled recall | precision |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, values in results["contestants"].items():
        found = results["found"].get(name)
        cells = [f"{found[key]:.4f}" for key in ("recall", "sampled_recall", "precision")] if found else [""] * 3
        numbers = [f"{values['median_s']:.2f}", f"{values['records_per_s']:.0f}", f"{values['peak_rss_mb']:.0f}"]
        print(f"| {' | '.join([name, *numbers, *cells])} |")
    for name, reason in results["skipped"].items():
        print(f"skipped {name}: {reason}")


if __name__ == "__main__":
    main()
