"""Runs src/train.py and src/generate.py as DVC does, in a scratch folder, and says where their seconds went.

    python tests/gpu/stage.py RESULT.json --shape gpt2-355m --device cuda --records 935
    python tests/gpu/stage.py RESULT.json --pairs 400          src/reference.py and src/prefer.py instead

The backbone is a file with the shape's random weights, read as one from the hub would be. Records are drawn from the
repository's data, whose lengths are the book's (59 tokens a record, against 56). Training runs twice, to see whether it
ends in the same bytes. Each line of a stage is shown with the second at which it came.
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from hashlib import file_digest, sha256
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
SIZES = {
    "tiny": {"n_embd": 64, "n_layer": 2, "n_head": 4},
    "gpt2-124m": {"n_embd": 768, "n_layer": 12, "n_head": 12},
    "gpt2-355m": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
}
BACKBONE = "random-weights"
PARTS = {"val": 55, "test": 110}  # records, as in the book


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--shape", choices=SIZES, default="gpt2-355m")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--records", type=int, default=935, help="trained on")
    parser.add_argument("--pairs", type=int, default=0, help="tune a model of random weights on so many pairs instead")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="instruct-stage-") as name:
        folder = Path(name)
        prepare(folder, options)
        (tune if options.pairs else fine_tune)(folder, options)


def fine_tune(folder: Path, options: argparse.Namespace) -> None:
    """Train, answer, and train again."""
    write_parts(folder / "data" / "split", options.records)
    runs = Runs(folder, options.result)

    def train(name: str) -> str:
        paths = "data/split", f"models/{name}", "metrics/train.json", "metrics/curves"
        return runs.train(name, "speed.json", "train", *paths)

    first = train("sft")
    runs.run("generate", "data/split/test.json", "models/sft/best", "data/responses.json")
    runs.compare(first, train("again"))


def tune(folder: Path, options: argparse.Namespace) -> None:
    """Compute the reference's log-probs, and tune twice."""
    write_pairs(folder, options.pairs)
    runs, sft, reference = Runs(folder, options.result), "models/sft/best", "data/reference.json"

    def prefer(name: str) -> str:
        given = "data/pairs", "metrics/preferred/pairs.json", reference, sft
        made = f"models/{name}", "metrics/preferred/prefer.json", "metrics/preferred"
        return runs.train(name, f"speed-{name}.json", "prefer", *given, *made)

    runs.run("reference", "data/pairs", sft, reference)
    runs.compare(prefer("dpo"), prefer("again"))


class Runs:
    """What was run so far, written after each run."""

    def __init__(self, folder: Path, result: Path) -> None:
        self._folder, self._result = folder, result
        self._runs: list[dict[str, Any]] = []

    def run(self, script: str, *paths: str) -> None:
        """Run a stage."""
        self._runs.append(run_stage(self._folder, script, *paths))
        self._save()

    def train(self, name: str, speed: str, script: str, *paths: str) -> str:
        """Run a stage that trains models/`name`; gives the sha256 of its weights, best and last."""
        self.run(script, *paths)
        digest = speed_and_bytes(self._folder, self._runs[-1], name, speed)
        self._save()
        return digest

    def compare(self, first: str, second: str) -> None:
        """Note whether the last run ended in the same bytes as the one before."""
        self._runs[-1]["note"] = "the same bytes as before" if first == second else "OTHER BYTES than before"
        self._save()

    def _save(self) -> None:
        self._result.write_text(json.dumps({"runs": self._runs}, indent=1) + "\n", encoding="utf-8")


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """Settings and the table of backbones in a folder of their own."""
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["model"]["backbone"] = BACKBONE
    params["runtime"] |= {"device": options.device, "precision": "auto", "num_threads": min(8, os.cpu_count() or 1)}
    params["train"] |= {"epochs": 2, "micro_batch_size": 8, "grad_accum_steps": 1}
    params["train"]["lora"]["r"] = 0
    params["prefer"] |= {"methods": ["dpo"], "epochs": 1, "micro_batch_size": 8, "grad_accum_steps": 1}
    for place in ("data/split", "models", "metrics"):
        (folder / place).mkdir(parents=True)
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(params, file)
    with (folder / "models" / "backbones.yaml").open("w", encoding="utf-8") as file:
        yaml.dump({BACKBONE: write_backbone(folder / "cache", SIZES[options.shape])}, file)


def write_backbone(cache: Path, sizes: dict[str, int]) -> dict[str, Any]:
    """Put random weights where fetched ones lie; gives their entry in the table of backbones."""
    from instruct.model.checkpoint import random_model, save_checkpoint
    from instruct.model.gpt2 import GPT2Config
    from instruct.text.tokenizer import gpt2_tokenizer

    path = cache / BACKBONE / "model.safetensors"
    save_checkpoint(random_model(GPT2Config(**sizes), 123), gpt2_tokenizer(), path.parent)
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    return {
        "family": "gpt2", "format": "safetensors", "licence": "Apache-2.0", "about": "random weights", "config": sizes,
        "files": [{"name": path.name, "size": path.stat().st_size, "sha256": digest}],
    }  # fmt: skip


def write_parts(folder: Path, records: int) -> None:
    """Train, val and test of so many records, drawn from the repository's data; more than there are begin again."""
    data = json.loads((ROOT / "data" / "instructions.json").read_text(encoding="utf-8"))
    random.Random(123).shuffle(data)
    start = 0
    for part, count in {"train": records, **{part: min(count, records) for part, count in PARTS.items()}}.items():
        chosen = [{**data[(start + i) % len(data)], "id": f"{part}-{i}"} for i in range(count)]
        (folder / f"{part}.json").write_text(json.dumps(chosen, indent=1), encoding="utf-8")
        start += count


def write_pairs(folder: Path, count: int) -> None:
    """The backbone as the model to tune, and pairs: a record's own answer is better than the next record's."""
    from instruct.core.pairs import Pair
    from instruct.core.records import write_records

    shutil.copytree(folder / "cache" / BACKBONE, folder / "models" / "sft" / "best")
    data = json.loads((ROOT / "data" / "instructions.json").read_text(encoding="utf-8"))
    random.Random(123).shuffle(data)
    rows = [
        Pair(id=f"p{i}", instruction=one["instruction"], input=one["input"], output=one["output"], rejected=rejected)
        for i, (one, rejected) in enumerate((one, other["output"]) for one, other in pairwise(data))
        if one["output"] != rejected
    ]
    pairs, described = folder / "data" / "pairs", folder / "metrics" / "preferred"
    for place in (pairs, described):
        place.mkdir()
    write_records(pairs / "train.json", rows[:count])
    write_records(pairs / "val.json", rows[count : count + max(2, count // 10)])
    (described / "pairs.json").write_text(json.dumps({"baselines": {"longer": 50.0}}), encoding="utf-8")


def run_stage(folder: Path, script: str, *paths: str) -> dict[str, Any]:
    """Run a stage; exits with its last lines where it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, ROOT / "src" / f"{script}.py", *paths], cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, "INSTRUCT_CACHE": str(folder / "cache")},
    )  # fmt: skip
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        print(f"{time.perf_counter() - started:6.1f} {line}", end="", flush=True)
    code, seconds = process.wait(), time.perf_counter() - started
    print(f"{script}: {seconds:.1f} s", flush=True)
    if code:
        sys.exit(f"{script}.py ended with exit status {code}")
    return {"name": f"src/{script}.py", "seconds": seconds, "phases": told_phases("".join(lines)), "note": ""}


def told_phases(output: str) -> str:
    """What a stage says of its own time: `110 tokens in 3.2 s`."""
    told = re.findall(r"^\d+ tokens in [\d.]+ s", output, re.MULTILINE)
    return told[-1] if told else ""


def speed_and_bytes(folder: Path, run: dict[str, Any], name: str, speed: str) -> str:
    """Add the phases of a file of models/ to the run; gives the sha256 of the weights in models/`name`."""
    path = folder / "models" / speed
    if path.exists():
        run["speed"] = json.loads(path.read_text(encoding="utf-8"))
        run["phases"] = ", ".join(f"{phase} {seconds} s" for phase, seconds in run["speed"]["seconds"].items())
    digest = sha256()
    for file in sorted((folder / "models" / name).glob("*/*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
