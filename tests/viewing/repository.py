"""Repositories with runs in them, written with Git alone, as DVC leaves them."""

import json
import random
import subprocess
from hashlib import md5
from pathlib import Path

import yaml
from results.sample import ANSWERS, SIMILARITY, write_results

CONFIG = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
PARAMS = {"model": {"backbone": "smollm2-135m"}, "train": {"seed": 123, "lr": 2e-4, "epochs": 1, "lora": {"r": 0}}}
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><path d="M0 0L9 9" stroke="#000"/></svg>'
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

    def write(
        self,
        *,
        lr=2e-4,
        mean=50.0,
        judges=("reference",),
        keep=True,
        seed=0,
        steps=40,
        text="answer",
        right=None,
        **fields,
    ):
        """A finished run in the workspace; with `keep` its answers lie in DVC's cache too.

        `right` are right and wrong answers by system.
        """
        draw = random.Random(seed)
        ids = [f"r{i}" for i in range(self.records)]
        base = [round(min(100.0, max(0.0, draw.gauss(30, 20))), 4) for _ in ids]
        sft = [round(min(100.0, max(0.0, draw.gauss(mean, 10))), 4) for _ in ids]
        params = {**PARAMS, "train": {**PARAMS["train"], "lr": lr, **fields}}
        self.put("params.yaml", yaml.safe_dump(params))
        self.put_json(
            "metrics/train.json",
            {
                "best_val_loss": round(60 / mean, 4),
                "steps": steps,
                "initial_val_loss": 3.0,
                "details": [{"best_step": 9, "last_train_loss": 0.9, "last_val_loss": 2.0}],
            },
        )
        self.put_json("metrics/split.json", {"train": 6, "val": 2, "test": self.records})
        for name in ("loss", "learning_rate", "scores"):
            self.put(f"metrics/report/{name}.svg", SVG)
        for name, loss in (("train", 3.0), ("val", 2.5)):
            rows = [[i, 100 * i, round(loss * 0.97**i * 50 / mean, 5), round(lr / (i + 1), 9)] for i in range(steps)]
            lines = [["step", "tokens", "loss", "lr"], *rows]
            self.put(f"metrics/curves/{name}.csv", "".join(",".join(map(str, line)) + "\n" for line in lines))
        outs = {
            system: self.put_json(
                ANSWERS[system],
                [response(id_, f"{text} of {system}{said}", place) for place, id_ in enumerate(ids)],
                keep=keep,
            )
            for system, said in (("base", ""), ("sft", f" {seed}"))
        }
        write_results(
            self.folder,
            {judge: {"base": base, "sft": sft} for judge in judges} | ({"accuracy": right} if right else {}),
            ids=ids,
            groups=[""] * len(ids),
            kinds=[KINDS[place % 3] for place in range(len(ids))],
            identities=dict.fromkeys(judges, SIMILARITY),
            md5s={system: out["md5"] for system, out in outs.items()},
        )
        stages = {"evaluate": {"cmd": "x", "outs": list(outs.values())}}
        self.put("dvc.lock", yaml.safe_dump({"schema": "2.0", "stages": stages}))

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
