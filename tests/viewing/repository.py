"""Repositories with runs in them, written with Git alone, as DVC leaves them."""

import csv
import json
import random
import subprocess
from hashlib import md5
from io import StringIO
from pathlib import Path

import yaml

CONFIG = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
PARAMS = {"model": {"backbone": "smollm2-135m"}, "train": {"seed": 123, "lr": 2e-4, "epochs": 1, "lora": {"r": 0}}}
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><path d="M0 0L9 9" stroke="#000"/></svg>'
TEMPLATE = {"template": "alpaca", "template_sha256": md5(b"alpaca").hexdigest()}
KINDS = ("facts", "sums", "spelling")


def git(folder, *arguments, **options):
    command = ["git", *CONFIG, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, **options).stdout.strip()


class Repository:
    """A folder under Git in which runs are committed as revisions or kept as experiments."""

    def __init__(self, folder: Path, records: int = 8):
        self.folder, self.records = folder, records
        folder.mkdir(parents=True, exist_ok=True)
        git(folder, "init", "--quiet", "--initial-branch=main")
        (folder / ".gitignore").write_text("/data/\n/.dvc/\n/build/\n")
        (folder / ".dvc").mkdir(exist_ok=True)
        (folder / ".dvc/config").write_text("[core]\n    analytics = false\n")

    def write(self, *, lr=2e-4, mean=50.0, judges=("reference",), keep=True, seed=0, steps=40, text="answer", **fields):
        """A finished run in the workspace; with `keep` its answers lie in DVC's cache too."""
        draw = random.Random(seed)
        ids = [f"r{i}" for i in range(self.records)]
        base = [min(100.0, max(0.0, draw.gauss(30, 20))) for _ in ids]
        tuned = [min(100.0, max(0.0, draw.gauss(mean, 10))) for _ in ids]
        params = {**PARAMS, "train": {**PARAMS["train"], "lr": lr, **fields}}
        self.put("params.yaml", yaml.safe_dump(params))
        self.put_json(
            "metrics/train.json",
            {
                "best_val_loss": round(60 / mean, 4),
                "last_train_loss": 0.9,
                "steps": steps,
                "best_step": 9,
                "initial_val_loss": 3.0,
                "last_val_loss": 2.0,
            },
        )
        self.put_json("metrics/split.json", {"train": 6, "val": 2, "test": self.records})
        for name in ("loss", "learning_rate", "scores"):
            self.put(f"metrics/report/{name}.svg", SVG)
        self.put_json("metrics/evaluate.json", evaluate_json(ids, base, tuned, judges))
        self.put("metrics/scores.csv", scores_csv(ids, base, tuned, judges))
        for name, loss in (("train", 3.0), ("val", 2.5)):
            rows = [[i, 100 * i, round(loss * 0.97**i * 50 / mean, 5), round(lr / (i + 1), 9)] for i in range(steps)]
            lines = [["step", "tokens", "loss", "lr"], *rows]
            self.put(f"metrics/curves/{name}.csv", "".join(",".join(map(str, line)) + "\n" for line in lines))
        outs = []
        for system, path in (("base", "data/base_responses.json"), ("tuned", "data/responses.json")):
            rows = [
                response(id_, f"{text} of {system} {seed if system == 'tuned' else ''}", place)
                for place, id_ in enumerate(ids)
            ]
            outs.append(self.put_json(path, rows, keep=keep))
        scored = zip(("base", "tuned"), (base, tuned), strict=True)
        judged = [
            {"id": id_, "system": system, "judge": judge, "score": score, "problem": "", "raw_reply": ""}
            for judge in judges for system, scores in scored for id_, score in zip(ids, scores, strict=True)
        ]  # fmt: skip
        outs.append(self.put_json("data/judgements.json", judged, keep=keep))
        self.put("dvc.lock", yaml.safe_dump({"schema": "2.0", "stages": {"evaluate": {"cmd": "x", "outs": outs}}}))

    def put(self, path, text):
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def put_json(self, path, value, *, keep=False):
        """Write a file, also into the cache if asked, and return its entry of dvc.lock."""
        text = json.dumps(value, ensure_ascii=False)
        self.put(path, text)
        digest = md5(text.encode()).hexdigest()
        if keep:
            self.put(f".dvc/cache/files/md5/{digest[:2]}/{digest[2:]}", text)
        return {"path": path, "hash": "md5", "md5": digest, "size": len(text.encode())}

    def commit(self, message="a run"):
        git(self.folder, "add", "--all")
        git(self.folder, "commit", "--quiet", "--allow-empty", "-m", message)
        return git(self.folder, "rev-parse", "HEAD")

    def keep_as_experiment(self, name):
        """Put the workspace away as an experiment of HEAD's, and restore HEAD."""
        head = git(self.folder, "rev-parse", "HEAD")
        commit = self.commit(name)
        git(self.folder, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}", commit)
        git(self.folder, "reset", "--quiet", "--hard", head)
        return commit


def response(id_, text, place=0, **fields):
    values = {
        "id": id_, "instruction": f"Question {id_}?", "input": "", "output": f"right {id_}", "kind": KINDS[place % 3],
        "group": "", "origin": "", "parent": "", "response": text,
        "stop_reason": "end_of_text" if place % 4 else "length", "prompt_tokens": 9, "response_tokens": 3,
        "truncated_tokens": 5 if place == 1 else 0, "samples": [],
    }  # fmt: skip
    return {**values, **fields}


def evaluate_json(ids, base, tuned, judges):
    def part(scores):
        mean = sum(scores) / len(scores)
        about = {"low": mean - 3, "high": mean + 3, "q1": mean, "median": mean, "q3": mean}
        return {"mean": mean, "scored": len(scores), "unscored": 0, "worst_case": mean, "best_case": mean, **about}

    gain = sum(tuned) / len(ids) - sum(base) / len(ids)
    wins = sum(b > a for a, b in zip(base, tuned, strict=True))
    difference = {"count": len(ids), "mean": gain, "low": gain - 3, "high": gain + 3, "p_value": 0.01}
    difference |= {"wins": wins, "ties": 0, "losses": len(ids) - wins}
    one = {"identity": {"judge": "reference", "score": "similarity"}, "base": part(base), "tuned": part(tuned)}
    measured = {"exact_match": 10.0, "token_f1": 20.0, "rouge_l": 30.0, "chrf": 40.0}
    return {
        "test": {"records": len(ids), "sha256": md5("".join(ids).encode()).hexdigest(), **TEMPLATE},
        "judges": {judge: {**one, "difference": difference} for judge in judges},
        "reference": {
            "base": measured,
            "tuned": {key: value + 5 for key, value in measured.items()},
            "signatures": {"chrf": "nrefs:1|nc:6"},
        },
    }


def scores_csv(ids, base, tuned, judges):
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id", "kind", "group", *(f"{judge}.{system}" for judge in judges for system in ("base", "tuned"))])
    for place, id_ in enumerate(ids):
        writer.writerow([id_, KINDS[place % 3], "", *(value for _ in judges for value in (base[place], tuned[place]))])
    return out.getvalue()
