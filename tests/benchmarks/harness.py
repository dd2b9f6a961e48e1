"""What both benchmarks share: contestants in processes of their own, run in turn, and the table of their times.

Each contestant is a worker process that sets itself up, warms up, and then waits to be told when to run. So its
threads and its peak memory are its own, runs of all contestants alternate, and no start-up is in any time. Workers
may belong to another environment (`.venv-bench`), which is why this module imports nothing but the standard
library at its top.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OTHER_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
SIZES = {  # of the GPT-2 shapes, whose weights are random
    "tiny": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    "gpt2-124m": {},
    "gpt2-355m": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
    "gpt2-1558m": {"n_embd": 1600, "n_layer": 48, "n_head": 25},
}
SHAPES = (*SIZES, "smollm2")
OURS = "ours"
SEED = 123


class Unavailable(Exception):
    """This contestant cannot take part; the message is the reason, for the list of those skipped."""


# What a worker does


def serve(contestants: Mapping[str, Callable[[dict[str, Any]], Callable[..., dict[str, Any]]]]) -> None:
    """Be the contestant named on the command line: set up for the task, then run once for each line of stdin."""
    name, task = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not get between the replies

    def reply(**values: Any) -> None:
        print(json.dumps(values), file=replies, flush=True)

    try:
        run = contestants[name](task)
    except Unavailable as reason:
        reply(unavailable=str(reason))
        return
    reply(ready=True)
    for line in sys.stdin:
        result = run(**json.loads(line))
        reply(**result, peak_rss_mb=peak_rss_mb(), peak_gpu_mb=peak_gpu_mb())


def peak_rss_mb() -> float:
    """The most memory this process held. Linux's `ru_maxrss` would begin with that of the process that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        kilobytes = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]
        return int(kilobytes) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def peak_gpu_mb() -> float:
    """The most memory that tensors of this process held on a GPU."""
    torch = sys.modules.get("torch")
    return torch.cuda.max_memory_allocated() / 1e6 if torch and torch.cuda.is_available() else 0.0


def finish(device: str) -> None:
    """Wait until the device has done what it was told: launches return before their kernels end."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def busy_seconds(device: str, work: Callable[[], object]) -> float:
    """Seconds of `work` in which at least one kernel ran on the GPU, by torch's profiler; 0 on a CPU.

    The profiler slows launches down, so these seconds belong beside those of a run without it.
    """
    if device != "cuda":
        return 0.0
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
        finish(device)
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events() or ()
        if event.device_type == DeviceType.CUDA
    )
    return covered(spans) / 1e6


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """The length of what intervals, in order of their starts, cover together."""
    total, end = 0.0, float("-inf")
    for start, stop in spans:
        total += max(stop - max(start, end), 0.0)
        end = max(end, stop)
    return total


# Starting workers and running them in turn


class Worker:
    """A contestant's process; raises Unavailable where it cannot start, or ends before it answers."""

    def __init__(self, name: str, script: Path, task: Path, *, python: Path, threads: int, device: str = "cpu") -> None:
        if not python.exists():
            raise Unavailable(f"{python.relative_to(ROOT)} is missing; run `make bench-train` or `make bench-generate`")
        self.name, self._ready = name, False
        self._log = task.with_name(f"{name}.log")
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        quiet = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        hidden = {} if device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [python, script, name, task],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT,
                env={**os.environ, **limits, **quiet, **offline, **hidden},
            )  # fmt: skip

    def run(self, **command: Any) -> dict[str, Any]:
        """Run once and wait for the result; the first time, until it has set itself up too."""
        assert self._process.stdin is not None
        if not self._ready:
            self._read()
            self._ready = True
        try:
            print(json.dumps(command), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise Unavailable(self._last_words()) from None
        return self._read()

    def close(self) -> None:
        """End the process, which ends by itself when it is told nothing more."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def said(self, count: int) -> list[str]:
        """The last lines that it printed."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line for line in lines if line.strip()][-count:]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Unavailable(self._last_words())
        result: dict[str, Any] = json.loads(line)
        if "unavailable" in result:
            raise Unavailable(result["unavailable"])
        return result

    def _last_words(self) -> str:
        code = self._process.wait()
        return f"ended with exit status {code}: {' · '.join(self.said(3)) or 'it said nothing'}"


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """Who takes part: by whose Python, what a warm-up and a run are, and how many times a run is of the whole task.

    `why_not` says why it cannot take part. `scale` is 1 where a run is the whole task, 10 where it is a tenth.
    """

    python: Path
    warm_up: Mapping[str, Any]
    run: Mapping[str, Any]
    scale: float = 1.0
    why_not: str = ""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All results of one contestant: of its warm-up, and of each run in order."""

    warm_up: dict[str, Any]
    runs: list[dict[str, Any]]
    scale: float

    @property
    def seconds(self) -> list[float]:
        """Seconds of the whole task in each run."""
        return [run["seconds"] * self.scale for run in self.runs]


class Race:
    """The workers of one benchmark; one that fails on the way leaves the race and is listed as skipped."""

    def __init__(
        self,
        contestants: Mapping[str, Contestant],
        only: Sequence[str],
        script: Path,
        task: Path,
        threads: int,
        device: str = "cpu",
    ) -> None:
        self.contestants, self._device = contestants, device
        self.skipped: dict[str, str] = {}
        self.workers: dict[str, Worker] = {}
        self.warm_ups: dict[str, dict[str, Any]] = {}
        # On a CPU one after the other, so that the memory of no two setups adds up; on a GPU, whose time is dear, at
        # once.
        at_once = [list(contestants)] if device == "cuda" else [[name] for name in contestants]
        for names in at_once:
            for name in names:
                self._try(name, partial(self._start, name, only, script, task, threads, device))
            for name in names:
                if name in self.workers:
                    self._try(name, partial(self._warm_up, name))

    def _start(self, name: str, only: Sequence[str], script: Path, task: Path, threads: int, device: str) -> None:
        contestant = self.contestants[name]
        if only and name not in only:
            raise Unavailable("not asked for")
        if contestant.why_not:
            raise Unavailable(contestant.why_not)
        say(f"starting {name}")
        self.workers[name] = Worker(name, script, task, python=contestant.python, threads=threads, device=device)

    def _warm_up(self, name: str) -> None:
        self.warm_ups[name] = self.workers[name].run(**self.contestants[name].warm_up)

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Unavailable as reason:
            self._drop(name, reason)

    def measure(
        self, repeats: int, after_round: Callable[[dict[str, Measured]], None] = lambda measured: None
    ) -> dict[str, Measured]:
        """Everyone runs once, then everyone once again, and so on; `after_round` is given what there is so far."""
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in self.workers}
        for repeat in range(repeats):
            for name in list(self.workers):
                try:
                    result = self.workers[name].run(**self.contestants[name].run)
                except Unavailable as reason:
                    self._drop(name, reason)
                    continue
                runs[name].append(result)
                say(f"round {repeat + 1} of {repeats}: {name} {result['seconds']:.2f} s")
            after_round(self._results(runs))
        return self._results(runs)

    def measure_busy(self) -> dict[str, float]:
        """Seconds in which the GPU computes in one more run of each contestant."""
        busy = {}
        for name in list(self.workers):
            try:
                result = self.workers[name].run(**self.contestants[name].run, profiled=True)
            except Unavailable as reason:
                say(f"{name}: not profiled: {reason}")
                continue
            busy[name] = result["busy"] * self.contestants[name].scale
        return busy

    def _results(self, runs: Mapping[str, list[dict[str, Any]]]) -> dict[str, Measured]:
        return {
            name: Measured(warm_up=self.warm_ups[name], runs=runs[name], scale=self.contestants[name].scale)
            for name in self.workers
            if runs[name]
        }

    def close(self) -> None:
        """End all workers; on a GPU they may have said how they prepared themselves."""
        for name, worker in self.workers.items():
            worker.close()
            for line in worker.said(3) if self._device == "cuda" else ():
                say(f"{name} said: {line}")

    def _drop(self, name: str, reason: Unavailable) -> None:
        if name == OURS:
            self.close()
            raise SystemExit(f"{name}: {reason}")
        self.skipped[name] = str(reason)
        if name in self.workers:
            self.workers.pop(name).close()


def say(line: str) -> None:
    """How it goes, for whoever waits."""
    print(line, file=sys.stderr, flush=True)


# What both benchmarks are asked and compute on


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """The options that both have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here too")
    parser.add_argument("--shape", choices=SHAPES, default="gpt2-124m")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", metavar="NAMES", help="contestants beside ours, with commas")
    chapter = os.environ.get("CHAPTER_DIR")
    parser.add_argument(
        "--chapter", type=Path, metavar="PATH", default=Path(chapter) if chapter else None,
        help="a checkout of github.com/rasbt/LLMs-from-scratch; also by CHAPTER_DIR",
    )  # fmt: skip
    return parser


def chosen(only: str, contestants: Mapping[str, Contestant]) -> list[str]:
    """The names of `--only`, ours always among them; none at all means everyone."""
    names = [name for name in only.split(",") if name]
    unknown = [name for name in names if name not in contestants]
    if unknown:
        raise SystemExit(f"--only: there is no {unknown[0]}; the contestants are {', '.join(contestants)}")
    return [OURS, *names] if names else []


def python_with(library: str) -> Path:
    """The Python that has a library: the benchmarks' own environment, or this one."""
    import importlib.util

    here = not OTHER_PYTHON.exists() and importlib.util.find_spec(library) is not None
    return Path(sys.executable) if here else OTHER_PYTHON


def why_no_chapter(chapter: Path | None, shape: str) -> str:
    """Why the chapter's own loop cannot take part, or nothing."""
    if shape == "smollm2":
        return "the chapter's model is a GPT-2"
    if chapter is None:
        return "give a checkout of github.com/rasbt/LLMs-from-scratch by --chapter or CHAPTER_DIR"
    script = chapter_code(chapter) / "gpt_instruction_finetuning.py"
    return "" if script.exists() else f"{script} does not exist; is {chapter} a checkout of rasbt/LLMs-from-scratch?"


def chapter_code(chapter: Path) -> Path:
    """The folder of the chapter's scripts."""
    return chapter.resolve() / "ch07" / "01_main-chapter-code"


def import_chapter(task: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The chapter's script as a module, and the config of its GPTModel in the shape of the task's model."""
    import importlib
    import types

    sys.path.insert(0, str(chapter_code(Path(task["chapter"]))))
    # It downloads published weights by TensorFlow, which random ones do without.
    download = types.ModuleType("gpt_download")
    download.download_and_load_gpt2 = None  # type: ignore[attr-defined]
    sys.modules["gpt_download"] = download
    shape = json.loads((Path(task["model"]) / "config.json").read_text(encoding="utf-8"))
    config = {
        "vocab_size": shape["vocab_size"], "context_length": shape["n_positions"], "emb_dim": shape["n_embd"],
        "n_layers": shape["n_layer"], "n_heads": shape["n_head"], "drop_rate": 0.0, "qkv_bias": True,
    }  # fmt: skip
    return importlib.import_module("gpt_instruction_finetuning"), config


def save_model(shape: str, folder: Path, device: str = "cpu") -> Any:
    """Write the checkpoint that all contestants load, and give its tokenizer.

    GPT-2 shapes have random weights, which need no download; SmolLM2 has its own, since llama.cpp wants its file.
    """
    import torch

    from instruct.model.checkpoint import save_checkpoint
    from instruct.model.pretrained import load_backbone
    from instruct.text.tokenizer import END_OF_TEXT, gpt2_tokenizer

    if shape == "smollm2":
        model, tokenizer = load_backbone(smollm2(), torch.device("cpu"))
    else:
        model, tokenizer = draw_model(SIZES[shape], device), gpt2_tokenizer()
    save_checkpoint(model, tokenizer, folder)
    # As published tokenizers have it; CTranslate2 wants these two.
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "bos_token": END_OF_TEXT, "unk_token": END_OF_TEXT}), encoding="utf-8")
    return tokenizer


def draw_model(sizes: Mapping[str, int], device: str) -> Any:
    """A GPT-2 with random weights; on a GPU drawn there, where a billion take no time."""
    import torch

    from instruct.model.checkpoint import empty_model, random_model
    from instruct.model.gpt2 import GPT2Config

    if device == "cpu":
        return random_model(GPT2Config(**sizes), SEED)
    model = empty_model(GPT2Config(**sizes)).to_empty(device=device)
    torch.manual_seed(SEED)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.02)
            else:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
    return model.cpu()


def smollm2() -> Any:
    """The project's embedded backbone."""
    from instruct.backbones.catalog import find_backbone

    return find_backbone("smollm2-135m", ROOT / "models" / "backbones.yaml")


def draw_records(count: int) -> list[Any]:
    """Examples of the project's own data in a fixed order; more than there are begin anew."""
    from instruct.core.records import read_examples

    examples = read_examples(ROOT / "data" / "instructions.json")
    random.Random(SEED).shuffle(examples)
    return [examples[i % len(examples)] for i in range(count)]
