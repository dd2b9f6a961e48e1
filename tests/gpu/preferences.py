"""Chooses the settings of preference tuning by evidence: on folds of train and val, never on test.

    python src/split.py data/split metrics/split.json
    python tests/gpu/preferences.py OUT.json --workers 8
    python tests/gpu/preferences.py OUT.json --table        prints what OUT.json holds

The folds are those of recipes.py. On each, the committed recipe trains an SFT model on the other folds, with a seed of
its own, draws answers to their prompts, and makes pairs of them. Every setting tunes that model on those pairs and
answers the fold's records; scores are compared record by record with the SFT model's.
"""

import argparse
import json
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from recipes import ROOT, answer, begin, divide, scored, share_out, show, train

FOLDS = 4
SFT = "sft"
SETTINGS: dict[str, dict[str, Any]] = {
    "committed": {},
    "lr 2e-5": {"lr": 2e-5},
    "lr 5e-5": {"lr": 5e-5},
    "lr 2e-5, beta 0.3": {"lr": 2e-5, "beta": 0.3},
    "lr 2e-5, sft weight 0.2": {"lr": 2e-5, "sft_weight": 0.2},
    "lr 5e-5, beta 0.3": {"lr": 5e-5, "beta": 0.3},
    "lr 2e-5, 2 epochs": {"lr": 2e-5, "epochs": 2},
    "ipo, lr 2e-5": {"lr": 2e-5, "loss": "ipo"},
    "lr 1e-5": {"lr": 1e-5},
    "lr 1e-6": {"lr": 1e-6},
    "lr 2e-5, beta 0.03": {"lr": 2e-5, "beta": 0.03},
    "lr 5e-5, sft weight 0.2": {"lr": 5e-5, "sft_weight": 0.2},
}


def main() -> None:
    options = parse_arguments()
    if options.worker is not None:
        work(options)
        return
    if not options.table:
        share_out(__file__, options)
    found = json.loads(options.out.read_text(encoding="utf-8"))
    show(found, [SFT, *SETTINGS])
    show_pairs(found)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--records", type=int, help="only so many, to see that this script works")
    parser.add_argument("--samples", type=int, help="of each prompt; as params.yaml says by default")
    parser.add_argument("--settings", default="", help="names, with semicolons; all by default")
    parser.add_argument("--workers", type=int, default=FOLDS, help=f"a multiple of {FOLDS}")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no setting after so many")
    parser.add_argument("--table", action="store_true", help="only print what was found")
    return parser.parse_args()


def work(options: argparse.Namespace) -> None:
    """One fold's SFT model and pairs, and this worker's share of the settings."""
    from instruct.text.prompts import PromptParams

    started = time.monotonic()
    params, runtime, model, tokenizer, pool = begin(options)
    if options.samples:
        params["pairs"]["on_policy"]["samples"] = options.samples
    template = PromptParams(template=params["prompt"]["template"], system="default").chosen
    fold, share = options.worker % FOLDS, options.worker // FOLDS
    held, others = divide(pool, fold, FOLDS)
    train(params, {}, template, model, tokenizer, runtime, others, seed=123 + fold)
    rows: list[dict[str, Any]] = []

    def keep(name: str, begun: float, **found: Any) -> None:
        rows.append({"recipe": name, "fold": fold, "seconds": round(time.monotonic() - begun, 1), **found})
        options.out.write_text(json.dumps(rows), encoding="utf-8")
        print(f"fold {fold} · {name}: {rows[-1]['seconds']} s, {time.monotonic() - started:.0f} s in all", flush=True)

    if not share:
        keep(SFT, started, records=scored(held, answer(params, template, model, tokenizer, runtime, held)))
    pairs, told = draw_pairs(params, template, model, tokenizer, runtime, others)
    print(f"fold {fold}: {told}, {time.monotonic() - started:.0f} s in all", flush=True)
    names = [name for name in options.settings.split(";") if name] or list(SETTINGS)
    for name in names[share :: options.workers // FOLDS]:
        begun = time.monotonic()
        if begun - started > options.seconds:
            break
        tuned = deepcopy(model)
        best = tune(params, SETTINGS[name], template, tuned, tokenizer, runtime, pairs, seed=123 + fold)
        texts = answer(params, template, tuned, tokenizer, runtime, held)
        keep(name, begun, pairs=told, **best, records=scored(held, texts))
        del tuned


def draw_pairs(
    params: Mapping[str, Any], template: Any, model: Any, tokenizer: Any, runtime: Any, examples: Any
) -> tuple[dict[str, Any], dict[str, int]]:
    """Pairs for training and held out, with the model's log-probs, as the stages `pairs` and `reference` make them."""
    from instruct.checks.schema import read_checks
    from instruct.core.params import build
    from instruct.core.records import Response
    from instruct.evaluation.reference import compare
    from instruct.pairs.checking import check_pairs
    from instruct.pairs.dividing import divide_pairs
    from instruct.pairs.sampling import Ranking, ask_again, pair_samples
    from instruct.pairs.settings import PairsParams
    from instruct.preference.encode import fit_pairs
    from instruct.preference.reference import measure
    from instruct.preference.settings import PreferParams
    from instruct.text.encoding import with_end_of

    settings = build(PairsParams, params["pairs"], where="pairs")
    own = settings.on_policy
    asked = ask_again(examples, own.samples)
    answers = answer(
        params, template, model, tokenizer, runtime, asked, temperature=own.temperature, top_p=own.top_p, top_k=0,
        num_samples=1, seed=settings.seed,
    )  # fmt: skip
    ranking = Ranking(
        rank=own.rank, checks=read_checks(ROOT / "data" / "checks.json"),
        similarity=lambda text, reference: compare(text, reference).similarity,
    )  # fmt: skip
    responses = [
        Response(
            **vars(one), response=found.text, stop_reason=found.stop_reason, prompt_tokens=found.prompt_tokens,
            response_tokens=found.tokens,
        )
        for one, found in ((one, answers[one.id]) for one in asked)
    ]  # fmt: skip
    pairs, without = pair_samples(examples, responses, ranking, own)
    checked = check_pairs(pairs, [], settings)
    fit = build(PreferParams, params["prefer"], where="prefer").fit
    parts = {}
    for part, chosen in zip(("train", "val"), divide_pairs(checked.pairs, settings.val, settings.seed), strict=True):
        end = with_end_of(template, tokenizer)
        fitted = fit_pairs(chosen, template, end, fit, room=model.block_size + 1, path=Path(part))
        parts[part] = measure(model, fitted.pairs, fit, runtime, end.eos_id)
    return parts, {**{part: len(found) for part, found in parts.items()}, **without}


def tune(
    params: Mapping[str, Any], changes: Mapping[str, Any], template: Any, model: Any, tokenizer: Any, runtime: Any,
    pairs: Mapping[str, Any], *, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Tune `model` on pairs as the stage `prefer` does; it ends with its best weights. Gives what was measured."""
    from instruct.core.fingerprint import Fingerprint
    from instruct.core.params import build
    from instruct.preference.loss import preferring
    from instruct.preference.settings import PreferParams
    from instruct.text.encoding import with_end_of
    from instruct.training.distributed import start_parallel
    from instruct.training.resume import ResumeStore
    from instruct.training.throughput import Stopwatch
    from instruct.training.trainer import Trainer

    settings = replace(build(PreferParams, params["prefer"], where="prefer"), **changes, seed=seed)
    pad_id = with_end_of(template, tokenizer).eos_id
    with (
        TemporaryDirectory() as folder,
        start_parallel("none", examples_per_step=settings.examples_per_step, device=runtime.device) as parallel,
    ):
        trainer = Trainer(
            model, pairs["train"], pairs["val"], objective=preferring(settings, runtime, pad_id), params=settings,
            runtime=runtime, parallel=parallel, store=ResumeStore(Path(folder) / "resume", Fingerprint(parts={})),
            stopwatch=Stopwatch(),
        )  # fmt: skip
        history = trainer.fit()
        assert trainer.best is not None
        model.load_state_dict(trainer.best.tensors(), strict=False)
    best = {name: round(value, 4) for name, value in history.best.measures.items()}
    return {"best_step": history.best.step, "steps": history.step, "loss": round(history.best.loss, 4), "best": best}


def show_pairs(rows: list[dict[str, Any]]) -> None:
    """What each setting did to the held-out pairs, the mean of its folds."""
    print("| setting | best step | loss | accuracy | margin | chosen log-prob | kl |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in SETTINGS:
        if own := [row for row in rows if row["recipe"] == name]:
            measures = [{**row["best"], "loss": row["loss"], "step": row["best_step"]} for row in own]
            keys = ("step", "loss", "accuracy", "margin", "chosen_log_prob", "kl")
            cells = [f"{sum(one[key] for one in measures) / len(own):.3f}" for key in keys]
            print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
