"""Chooses the default recipe by evidence: each recipe is trained and answers on folds of train and val, never on test.

    python src/split.py data/split metrics/split.json
    python tests/gpu/recipes.py OUT.json --workers 4
    python tests/gpu/recipes.py OUT.json --table        prints what OUT.json holds

The records of train and val are cut into folds by group. Each recipe is trained once for each fold, on the others, with
a seed of its own, and answers the fold's records: so every record is answered by a model that has not seen it, and
each recipe has as many seeds as there are folds. Scores are compared record by record with the first recipe's.
"""

import argparse
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[2]
RECIPES: dict[str, dict[str, Any]] = {
    "committed": {},
    **{
        f"lr {lr:g}, {epochs} epochs": {"lr": lr, "epochs": epochs}
        for epochs in (1, 2, 3)
        for lr in (5e-5, 1e-4, 2e-4, 4e-4)
        if (lr, epochs) != (2e-4, 1)
    },
    "lr 0.0008": {"lr": 8e-4},
    "prompt loss 0.1": {"prompt_loss_weight": 0.1},
    "prompt loss 1": {"prompt_loss_weight": 1.0},
    "steps of 4": {"micro_batch_size": 4},
    "steps of 16": {"micro_batch_size": 16},
    "lora 16, lr 0.0005": {"lora.r": 16, "lr": 5e-4},
    "lora 16, lr 0.001": {"lora.r": 16, "lr": 1e-3},
    "lora 16, lr 0.001, 3 epochs": {"lora.r": 16, "lr": 1e-3, "epochs": 3},
    "chatml": {"template": "chatml"},
    "chatml, lr 0.0001": {"template": "chatml", "lr": 1e-4},
    "chatml, lr 0.0004": {"template": "chatml", "lr": 4e-4},
    "chatml, lr 0.0001, 3 epochs": {"template": "chatml", "lr": 1e-4, "epochs": 3},
    "chatml, no system prompt": {"template": "chatml", "system": ""},
    "phi3": {"template": "phi3"},
}


def main() -> None:
    options = parse_arguments()
    if not options.table:
        if options.worker is None:
            share_out(__file__, options)
        else:
            work(options)
            return
    show(json.loads(options.out.read_text(encoding="utf-8")), RECIPES)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipes", default="", help="names, with semicolons; all by default")
    parser.add_argument("--records", type=int, help="only so many, to see that this script works")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no job after so many")
    parser.add_argument("--table", action="store_true", help="only print what was found")
    return parser.parse_args()


def share_out(script: str, options: argparse.Namespace) -> None:
    """Run the script's workers side by side and join what they found."""
    with TemporaryDirectory(prefix="instruct-recipes-") as folder:
        parts = [Path(folder) / f"{worker}.json" for worker in range(options.workers)]
        running = [
            subprocess.Popen([sys.executable, script, part, *sys.argv[2:], "--worker", str(worker)], cwd=ROOT)
            for worker, part in enumerate(parts)
        ]
        failed = [worker for worker, process in enumerate(running) if process.wait()]
        rows = [row for part in parts if part.exists() for row in json.loads(part.read_text(encoding="utf-8"))]
    options.out.write_text(json.dumps(rows) + "\n", encoding="utf-8")
    if failed:
        print(f"workers {failed} failed", file=sys.stderr)


def begin(options: argparse.Namespace) -> tuple[dict[str, Any], Any, Any, Any, list[Any]]:
    """The settings, the runtime, the backbone with its tokenizer, and the records of train and val."""
    from instruct.backbones.catalog import find_backbone
    from instruct.core.params import read_params
    from instruct.core.records import read_examples
    from instruct.core.runtime import RuntimeParams, start_runtime
    from instruct.model.pretrained import load_backbone

    logging.basicConfig(level=logging.WARNING)
    params = read_params(ROOT / "params.yaml")
    runtime = start_runtime(RuntimeParams(device=options.device, precision="fp32", num_threads=2))
    model, tokenizer = load_backbone(find_backbone(params["model"]["backbone"]), runtime.device)
    pool = [one for part in ("train", "val") for one in read_examples(ROOT / "data" / "split" / f"{part}.json")]
    return params, runtime, model, tokenizer, pool[: options.records]


def divide(pool: list[Any], fold: int, folds: int) -> tuple[list[Any], list[Any]]:
    """The records of a fold, and all others."""
    places = [fold_of(one.group or one.id, folds) for one in pool]
    held, others = (
        [one for one, at in zip(pool, places, strict=True) if (at == fold) == part] for part in (True, False)
    )
    return held, others


def work(options: argparse.Namespace) -> None:
    """This worker's share of the jobs; every recipe's first fold comes before any second one."""
    import torch

    params, runtime, model, tokenizer, pool = begin(options)
    names = [name for name in options.recipes.split(";") if name] or list(RECIPES)
    jobs = [(name, fold) for fold in range(options.folds) for name in names]
    started, rows = time.monotonic(), []
    for name, fold in jobs[options.worker :: options.workers]:
        if time.monotonic() - started > options.seconds:
            break
        held, others = divide(pool, fold, options.folds)
        begun = time.monotonic()
        row = run(params, RECIPES[name], deepcopy(model), tokenizer, runtime, others, held, seed=123 + fold)
        rows.append({"recipe": name, "fold": fold, "seconds": round(time.monotonic() - begun, 1), **row})
        options.out.write_text(json.dumps(rows), encoding="utf-8")
        print(f"{name} · fold {fold}: {rows[-1]['seconds']} s", flush=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def fold_of(group: str, folds: int) -> int:
    return int(sha256(group.encode()).hexdigest()[:8], 16) % folds


def run(
    params: Mapping[str, Any], recipe: Mapping[str, Any], model: Any, tokenizer: Any, runtime: Any, train_set: Any,
    held: Any, *, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Train by the recipe, answer the held records, score each answer."""
    from instruct.model.lora import merge_lora
    from instruct.text.prompts import PromptParams

    prompt = PromptParams(
        template=recipe.get("template", params["prompt"]["template"]), system=recipe.get("system", "default")
    )
    history = train(params, recipe, prompt.chosen, model, tokenizer, runtime, train_set, seed=seed)
    if recipe.get("lora.r", 0):
        merge_lora(model)
    texts = answer(params, prompt.chosen, model, tokenizer, runtime, held)
    return {"val_loss": round(history.best.loss, 4), "records": scored(held, texts)}


def train(
    params: Mapping[str, Any], recipe: Mapping[str, Any], template: Any, model: Any, tokenizer: Any, runtime: Any,
    train_set: Any, *, seed: int,
) -> Any:  # fmt: skip
    """Fine-tune `model` by the recipe; it ends with its best weights. Gives the history of the run."""
    from instruct.core.fingerprint import Fingerprint
    from instruct.core.params import build
    from instruct.model.lora import add_lora
    from instruct.text.encoding import with_end_of
    from instruct.training.distributed import start_parallel
    from instruct.training.encode import encode_example
    from instruct.training.resume import ResumeStore
    from instruct.training.settings import TrainParams
    from instruct.training.supervised import supervised
    from instruct.training.throughput import Stopwatch
    from instruct.training.trainer import Trainer

    settings = build(TrainParams, params["train"], where="train")
    own = {key: value for key, value in recipe.items() if "." not in key and key not in ("template", "system")}
    lora = replace(settings.lora, r=recipe.get("lora.r", 0))
    settings = replace(settings, **own, lora=lora, seed=seed, sample_tokens=0)
    tokenizer = with_end_of(template, tokenizer)
    if lora.r:
        add_lora(model, lora, seed)
    # Which step is best is decided by records of neither side.
    val_examples, train_examples = [
        [
            encode_example(one, template, tokenizer)
            for one in train_set
            if (fold_of(f"val {one.group or one.id}", 12) == 0) == part
        ]
        for part in (True, False)
    ]
    with (
        TemporaryDirectory() as folder,
        start_parallel("none", examples_per_step=settings.examples_per_step, device=runtime.device) as parallel,
    ):
        trainer = Trainer(
            model, train_examples, val_examples, objective=supervised(settings, runtime, tokenizer.eos_id),
            params=settings, runtime=runtime, parallel=parallel,
            store=ResumeStore(Path(folder) / "resume", Fingerprint(parts={})), stopwatch=Stopwatch(),
        )  # fmt: skip
        history = trainer.fit()
        assert trainer.best is not None
        model.load_state_dict(trainer.best.tensors(), strict=False)
    return history


def answer(
    params: Mapping[str, Any], template: Any, model: Any, tokenizer: Any, runtime: Any, examples: Any, **changes: Any
) -> dict[str, Any]:
    """The model's answer to each record, by the settings of `generate` but for `changes`; the model stays as it is."""
    from instruct.core.params import build
    from instruct.generation.decode import generate
    from instruct.generation.settings import GenerateParams
    from instruct.generation.weights import make_ready
    from instruct.text.encoding import with_end_of

    return generate(
        make_ready(deepcopy(model), "fp32", runtime), with_end_of(template, tokenizer),
        {one.id: template.prompt(one.turns, one.system) for one in examples},
        prefix=template.prefix_pieces, stop_strings=template.stop_strings,
        params=replace(build(GenerateParams, params["generate"], where="generate"), **changes), runtime=runtime,
        on_answer=lambda id_, answer: None, known=0, shown=False,
    )  # fmt: skip


def scored(held: Any, answers: Mapping[str, Any]) -> list[dict[str, Any]]:
    from instruct.checks.rules import is_right
    from instruct.checks.schema import parse_check
    from instruct.evaluation.reference import compare

    checks = json.loads((ROOT / "data" / "checks.json").read_text(encoding="utf-8"))
    rows = []
    for one in held:
        text, check = answers[one.id].text, parse_check(checks[one.id], one.id)
        right = None if check.is_open else int(is_right(check, text, f"{one.instruction}\n{one.input}"))
        rows.append({"id": one.id, "group": one.group or one.id, "right": right,
                     "similarity": round(compare(text, one.output).similarity, 2)})  # fmt: skip
    return rows


def show(rows: list[dict[str, Any]], names: Iterable[str]) -> None:
    """Each recipe's scores, and their paired differences from the first recipe on the records that both answered."""
    from instruct.statistics import paired_test

    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["recipe"], {}).update({one["id"]: one for one in row["records"]})
    first, *others = [name for name in names if name in found]
    print("| recipe | seeds | closed records right, % | difference | similarity | difference | seconds |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in (first, *others):
        own = [row for row in rows if row["recipe"] == name]
        cells = [name, str(len(own))]
        for measure in ("right", "similarity"):
            scale = 100 if measure == "right" else 1
            mine = {id_: scale * one[measure] for id_, one in found[name].items() if one[measure] is not None}
            cells.append(f"{sum(mine.values()) / len(mine):.1f}")
            ids = sorted(set(mine) & {id_ for id_, one in found[first].items() if one[measure] is not None})
            theirs = [float(scale * found[first][id_][measure]) for id_ in ids]
            groups = [found[name][id_]["group"] for id_ in ids]
            paired = paired_test(theirs, [float(mine[id_]) for id_ in ids], resamples=10_000, seed=123, groups=groups)
            one = paired.difference
            cells.append("" if name == first else f"{one.mean:+.1f} ({one.low:+.1f} to {one.high:+.1f})")
        cells.append(f"{sum(row['seconds'] for row in own) / len(own):.0f}")
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
