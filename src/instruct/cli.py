"""The command `instruct`: the tools around the pipeline, which `dvc repro` runs."""

import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instruct.core.errors import DataError, InstructError, ParamsError
from instruct.core.terminal import guard_output, make_site_cache_private, print_error
from instruct.exporting.commands import app as exports

if TYPE_CHECKING:
    from instruct.results.runs import Run

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__, rich_markup_mode=None
)


def run() -> None:
    """Run the command line; a user's mistake is one line and exit status 1.

    Characters that the terminal cannot encode are printed as question marks.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    guard_output()
    make_site_cache_private()
    try:
        app()
    except InstructError as error:
        print_error(f"instruct: {error}")
        sys.exit(1)


@app.callback()
def before_each_command() -> None:
    """Check, inspect, compare and use the models; `dvc repro` runs the pipeline."""
    from instruct.tools.programs import mend

    mend(Path.cwd())


@app.command()
def check(
    data: Annotated[Path | None, typer.Argument(help="a data file instead of split.data")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="print problems only")] = False,
    every: Annotated[bool, typer.Option("--all", help="print all settings, not only uncommitted ones")] = False,
) -> None:
    """Validate params.yaml, the backbone's entry and the data; print settings that differ from the committed ones."""
    from instruct.tools.check import check_all

    checked = check_all(data, every=every)
    if not quiet:
        print("\n".join(checked.lines))
    if problems := checked.problems:
        raise ParamsError("\n".join([*problems, f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"]))
    if not quiet:
        print("no problems found")


@app.command()
def inspect(
    data: Annotated[Path | None, typer.Argument(help="a data file instead of split.data")] = None,
    records: Annotated[int, typer.Option("--records", "-n", min=1, help="how many records, from the first")] = 2,
) -> None:
    """Print one training batch: token, target, weight."""
    from instruct.backbones.catalog import ModelParams, find_backbone
    from instruct.core.params import load_params
    from instruct.core.records import group_lines
    from instruct.formats.rows import check_rows
    from instruct.model.pretrained import load_tokenizer_of
    from instruct.splitting.partition import SplitParams
    from instruct.text.encoding import with_end_of
    from instruct.text.prompts import PromptParams
    from instruct.tools.inspect import batch_lines
    from instruct.training.encode import encode_all
    from instruct.training.settings import TrainParams

    params = load_params("train", TrainParams)
    template = load_params("prompt", PromptParams).chosen
    tokenizer = with_end_of(template, load_tokenizer_of(find_backbone(load_params("model", ModelParams).backbone)))
    split = load_params("split", SplitParams)
    examples, problems = check_rows(data or Path(split.data), split.columns)
    lines = group_lines([line for found in problems.values() for line in found])
    if lines and (data or split.invalid == "raise"):
        raise DataError("\n".join(lines))
    print("\n".join(f"left out: {line}" for line in lines), end="\n" * bool(lines))
    fitted, _, _ = encode_all(
        examples[:records], template, tokenizer,
        turns=params.turns, max_length=params.max_length, over_long=params.over_long,
    )  # fmt: skip
    print("\n".join(batch_lines(fitted, tokenizer, params.prompt_loss_weight)))


@app.command()
def fetch(
    name: Annotated[str | None, typer.Argument(help="a backbone; without it, list all")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="take it from a local file or folder")] = None,
    pin: Annotated[bool, typer.Option("--pin", help="write missing sizes and sha256 into the table")] = False,
) -> None:
    """Fetch a backbone's weights: resumes downloads, verifies sha256, never unpickles.

    Reads OpenAI's GPT-2 folder (model.ckpt.index, …) without TensorFlow.
    """
    from instruct.backbones.catalog import find_backbone, read_table, unpinned
    from instruct.backbones.fetch import ensure, take_local
    from instruct.backbones.openai import is_openai_folder, take_openai
    from instruct.backbones.pin import pin_files
    from instruct.text.tokenizer import GPT2_FILES

    if name is None:
        for backbone in read_table().values():
            megabytes = sum(file.size or 0 for file in backbone.files) / 1e6
            size = "not pinned" if unpinned(backbone) else f"{megabytes:7.0f} MB"
            print(f"{backbone.name:18} {size:>10}  {backbone.licence:11} {backbone.about}")
        return
    backbone = find_backbone(name)
    lines: list[str] = []
    if not backbone.files:
        print(f"{name}: needs no files")
    elif source and is_openai_folder(source):
        lines = take_openai(backbone, source, GPT2_FILES)
    else:
        lines = pin_files(backbone, source) if pin else []
        if source:
            take_local(find_backbone(name), source)
    print("\n".join(lines), end="\n" * bool(lines))
    for path in ensure(find_backbone(name)):
        print(f"{path}: verified")


@app.command()
def duplicates(
    files: Annotated[list[Path], typer.Argument(help="data files; duplicates are found within and across them")],
    on: Annotated[str | None, typer.Option(help="instruction, input, output, prompt or whole")] = None,
    similarity: Annotated[float | None, typer.Option(help="0-100, from 50")] = None,
    mode: Annotated[str | None, typer.Option(help="report, drop or group; drop and group write --out")] = None,
    method: Annotated[str | None, typer.Option(help="auto, exact or minhash")] = None,
    out: Annotated[Path | None, typer.Option(help="a JSON file for the kept records with their groups")] = None,
    show: Annotated[int, typer.Option(min=0, help="how many groups to print, the largest first")] = 10,
) -> None:
    """Find exact and near-duplicates; other settings default to split.duplicates, but with mode: report."""
    from dataclasses import asdict

    from instruct.core.params import build, load_params
    from instruct.splitting.near_duplicates import DuplicatesParams
    from instruct.splitting.partition import SplitParams
    from instruct.tools.duplicates import find_in_files

    params = load_params("split", SplitParams)
    given = {"on": on, "similarity": similarity, "mode": mode or "report", "method": method}
    values = {**asdict(params.duplicates), **{name: value for name, value in given.items() if value is not None}}
    chosen = build(DuplicatesParams, values, where="instruct duplicates")
    print("\n".join(find_in_files(files, chosen, params.columns, out=out, show=show)))


@app.command("import-data")
def import_data(name: Annotated[str, typer.Argument(help="a name from data/sources.yaml")]) -> None:
    """Import another data set with `dvc import-url` and verify its checksum."""
    from instruct.tools.import_data import import_data as run_import

    path = run_import(name)
    print(f"{path}: verified; use it with `dvc exp run -S split.data={path}`")


@app.command()
def judge(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the prompts, send nothing")] = False,
    check: Annotated[bool, typer.Option("--check", help="check server and model, and judge the controls")] = False,
    name: Annotated[str | None, typer.Option("--judge", help="instead of evaluate.judges")] = None,
    rubric: Annotated[str | None, typer.Option(help="instead of evaluate.rubric")] = None,
    scoring: Annotated[str | None, typer.Option(help="text or expected, instead of evaluate.scoring")] = None,
    record: Annotated[str | None, typer.Option(help="the id of the record to show (default: the first)")] = None,
) -> None:
    """Check the judges before a run; `dvc repro evaluate` runs them."""
    from instruct.core.errors import JudgeError
    from instruct.tools import judge as judging

    params = judging.load_settings(name, rubric, scoring)
    if dry_run == check:
        raise ParamsError("instruct judge needs --dry-run or --check; to judge, run `dvc repro evaluate`")
    if dry_run:
        for line in judging.dry_run(params, record):
            print(line)
        return
    problems = []
    for line, good in judging.check_judges(params):
        print(line) if good else problems.append(line)
    if problems:
        raise JudgeError("\n".join(problems))


@app.command()
def questions(
    file: Annotated[Path, typer.Argument(help="questions in MT-Bench's format")] = Path("data/questions.jsonl"),
    checkpoint: Annotated[Path, typer.Option(help="the SFT model")] = Path("models/sft/best"),
    name: Annotated[str | None, typer.Option("--judge", help="instead of evaluate.judges")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="of each answer")] = 256,
    out: Annotated[Path | None, typer.Option(help="a JSON file for answers and verdicts")] = None,
) -> None:
    """Ask the base model and the SFT model open questions; a language model judges the answers."""
    from instruct.core.errors import CheckpointError
    from instruct.core.files import write_json
    from instruct.tools import questions as asking
    from instruct.tools.judge import load_settings
    from instruct.tools.question_file import read_questions

    params, known = load_settings(name, asking.RUBRIC, None), read_questions(file)
    params = asking.without_reference(params)
    if not (checkpoint / "model.safetensors").is_file():
        raise CheckpointError(f"{checkpoint}: has no model.safetensors; run `dvc repro train` or give --checkpoint")
    systems = {"base": None, "sft": checkpoint}
    answers = {
        system: asking.answer_turns(known, asking.open_system(place, max_new_tokens))
        for system, place in systems.items()
    }
    judgements = asking.judge_questions(answers, params)
    if out:
        write_json(out, asking.rows_of(answers, judgements))
    print("\n".join(asking.table(judgements)))


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="the question")],
    input: Annotated[str, typer.Option(help="the text that the question is about, like the data's field input")] = "",
    system: Annotated[list[str] | None, typer.Option(help="base, sft or dpo; repeat for several")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="ask all systems with a checkpoint, one after the other")
    ] = False,
) -> None:
    """Ask the newest model one question; the answer is streamed."""
    from instruct.serving.ask import ask as run_ask

    for piece in run_ask(question, input, system or [], every=every):
        print(piece, end="", flush=True)


@app.command()
def chat(system: Annotated[str, typer.Option(help="base, sft or dpo (default: the newest)")] = "") -> None:
    """Chat with a model in the terminal or through a pipe; /help lists the commands."""
    from instruct.serving.open_chat import open_chat

    typed = sys.stdin.isatty()
    for piece in open_chat(system, input if typed else None):
        print(piece, end="", flush=True)


@app.command()
def serve(
    system: Annotated[
        list[str] | None, typer.Option(help="base, sft or dpo; repeat for several (default: all)")
    ] = None,
    host: Annotated[str | None, typer.Option(help="instead of serve.host")] = None,
    port: Annotated[int | None, typer.Option(help="instead of serve.port; 0 takes a free one")] = None,
) -> None:
    """Serve OpenAI's API, with a page to chat with all models side by side."""
    from instruct.serving.start import start

    start(system or [], host, port)


policy = typer.Typer(no_args_is_help=True, help="The filter of prompts and answers: serve.policy.")
app.add_typer(policy, name="policy")


@policy.callback()
def before_each_policy_command() -> None:
    """The filter of prompts and answers: serve.policy."""


@policy.command("test")
def policy_test(
    file: Annotated[Path, typer.Argument(help="labelled probes, one JSON object per line")],
    rules: Annotated[Path | None, typer.Option("--policy", help="instead of serve.policy")] = None,
) -> None:
    """Measure the filter: its recall on labelled probes, and its false positives on the reference answers."""
    from instruct.serving.policy_test import read_probes, report
    from instruct.serving.start import policy_of

    print("\n".join(report(policy_of(rules), read_probes(file))))


app.add_typer(exports, name="export")

human = typer.Typer(no_args_is_help=True, help="Scores by people, to compare the judges with.")
app.add_typer(human, name="human")


@human.command()
def blank(
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="records, each with both systems' answers")] = 25,
    seed: Annotated[int, typer.Option(help="seed of selection and order")] = 123,
) -> None:
    """Write answers to score into data/human-scores.csv, without the system's name; existing scores stay."""
    from instruct.core.records import read_responses
    from instruct.tools.human import FILE, make_blank
    from instruct.tools.judge import ANSWERS

    answers = {system: read_responses(path) for system, path in ANSWERS.items()}
    waiting, scored = make_blank(answers, count=count, seed=seed)
    print(f"{FILE}: {waiting} answers to score, {scored} scored; fill the column score, or run `instruct human fill`")


@human.command()
def fill() -> None:
    """Score the answers in data/human-scores.csv one by one."""
    from instruct.tools import human as people

    left = people.fill(input, print)
    print(f"{people.FILE}: {left} left; `dvc repro evaluate` reads the scores")


@app.command()
def replies(
    export: Annotated[Path | None, typer.Option("--export", help="write all replies to this JSON-lines file")] = None,
    load: Annotated[Path | None, typer.Option("--import", help="add the replies of an exported file")] = None,
) -> None:
    """Show the cache of replies, export or import it; the same replies export as the same bytes."""
    from instruct.servers.cache import ReplyCache, cache_file

    with ReplyCache(cache_file()) as cache:
        if load:
            new, total = cache.load(load)
            print(f"{load}: {total} replies, {new} of them new")
        if export:
            print(f"{export}: {cache.export(export)} replies")
        print(f"{cache.path}: {cache.count()} replies")


@app.command()
def smoke(
    keep: Annotated[Path | None, typer.Option(help="a new folder to run in and keep")] = None,
    prefer: Annotated[bool, typer.Option("--prefer", help="with preference tuning")] = False,
) -> None:
    """Run all stages with a tiny random model in a scratch copy; tracked results do not change."""
    from instruct.tools.smoke import run_smoke

    folder = run_smoke(Path.cwd(), keep, prefer=prefer)
    print(f"the smoke run finished{f'; its results are in {folder}' if keep else ''}")


@app.command()
def view(
    revisions: Annotated[list[str] | None, typer.Argument(help="more branches, tags or commits to show")] = None,
    against: Annotated[str | None, typer.Option(help="the run to compare all others with")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="the page to write")] = Path("build/view/index.html"),
    open_it: Annotated[bool, typer.Option("--open/--no-open", help="open it in the browser")] = True,
) -> None:
    """Write and open an offline page of all experiments: sortable table, curves, searchable answers."""
    from instruct.viewing.open import open_page
    from instruct.viewing.page import write_view

    runs = write_view(Path.cwd(), output, revisions or [], against)
    print(f"{output}: {len(runs)} run{'s' if len(runs) != 1 else ''}")
    if open_it and not open_page(output):
        print("no display found; open the file in a browser")


SCORE_HELP = (
    "the score that decides, chosen in advance (default: accuracy, else similarity); further ones are exploratory"
)
SCORES_HELP = "a score to use; repeat for several (default: all)"
FAIL_HELP = "worse | not-better (recipes: two seeds a side) | worse-by POINTS: exit with status 3 if true, for CI"


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="a revision, DVC experiment, `workspace` or export; several seeds as x,y,z")],
    b: Annotated[str, typer.Argument(help="the run to compare with A")] = "workspace",
    out: Annotated[Path, typer.Option(help="the folder for report.md and report.html")] = Path("report"),
    score: Annotated[list[str] | None, typer.Option(help=SCORE_HELP)] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="report incomparable runs too, marked as such")] = False,
    fail_if: Annotated[str, typer.Option(help=FAIL_HELP)] = "",
) -> None:
    """Test whether B differs from A or, with two seeds a side or more, is the better recipe; write the report."""
    from instruct.comparing.compare import compare as run_compare
    from instruct.comparing.gate import gate_fails, parse_gate
    from instruct.comparing.recorded import read_recorded
    from instruct.comparing.report import summary_lines, write_refusal, write_report

    try:
        gate = parse_gate(fail_if)
        sides = [_read_runs(side) for side in (a, b)]
        comparison = run_compare(*sides, chosen=score or (), anyway=anyway)
        paths = write_report(comparison, out, Path.cwd())
    except InstructError as refusal:
        # Otherwise an old report could be mistaken for the new one; an error of removal must not hide the refusal.
        try:
            write_refusal(a, b, str(refusal), out)
        except InstructError as unwritten:
            raise InstructError("\n".join(dict.fromkeys([str(refusal), str(unwritten)]))) from None
        raise
    print("\n".join(summary_lines(comparison, read_recorded(Path.cwd()))))
    print("report: " + " ".join(str(path) for path in paths))
    if gate and gate_fails(gate, comparison):
        raise typer.Exit(3)


@app.command()
def variance(
    runs: Annotated[list[str], typer.Argument(help="runs that differ in train.seed, or in a judge's seed")],
    score: Annotated[list[str] | None, typer.Option(help=SCORES_HELP)] = None,
    record: Annotated[bool, typer.Option("--record", help="write metrics/seeds.json, for `instruct compare`")] = False,
) -> None:
    """Split the variance of every score into record, training seed, judge and rest."""
    from instruct.comparing.recorded import record_seeds
    from instruct.comparing.seeds import scores_in_common, variance_lines

    found = _read_runs(",".join(runs))
    print("\n".join(variance_lines(found, score or ())))
    if record:
        print(f"recorded in {record_seeds(found, score or scores_in_common(found), Path.cwd())}")


@app.command()
def power(
    runs: Annotated[list[str] | None, typer.Argument(help="two runs, or several seeds of one recipe")] = None,
    score: Annotated[str, typer.Option(help="the score to plan for")] = "",
    sd: Annotated[float, typer.Option(help="without runs: standard deviation of the difference per record")] = 0.0,
    seed_sd: Annotated[
        float, typer.Option(help="without runs: standard deviation of a run's mean between seeds")
    ] = 0.0,
) -> None:
    """Print how many test records and training seeds a given difference needs."""
    from instruct.comparing.power import Spread, power_lines

    if not runs and sd <= 0:
        raise ParamsError("give two runs or several seeds, or --sd; the book's judge has an --sd of about 35")
    found = _read_runs(",".join(runs)) if runs else []
    print("\n".join(power_lines(found, score, Spread(item=sd, seed=seed_sd or None))))


def _read_runs(names: str) -> list["Run"]:
    from instruct.exporting.whole import PROOF
    from instruct.results.runs import read_run

    if not names.strip(","):
        raise ParamsError("give a revision, a DVC experiment or `workspace`")

    def read_one(name: str) -> "Run":
        if Path(name).name != PROOF and not (Path(name) / PROOF).is_file():
            return read_run(name, Path.cwd())
        from instruct.exporting.proof import proof_run

        return proof_run(Path(name))

    return [read_one(name) for name in names.split(",") if name]


@app.command()
def recipe(
    names: Annotated[list[str] | None, typer.Argument(help="names of recipes; without any, list all")] = None,
    every: Annotated[bool, typer.Option("--all", help="all that need only the default backbone")] = False,
    queue: Annotated[bool, typer.Option("--queue", help="only queue; `dvc exp run --run-all` runs the queue")] = False,
    show: Annotated[bool, typer.Option("--print", help="print the dvc commands, run nothing")] = False,
    table: Annotated[bool, typer.Option("--table", help="print the results as a Markdown table")] = False,
) -> None:
    """Run named experiments: ablations of the book and others, one `dvc exp run` per seed."""
    from instruct.tools import recipes as tool

    known = tool.read_recipes()
    chosen = tool.choose(known, names or [], "default" if every else None)
    if table:
        from instruct.tools.results import result_table

        print("\n".join(result_table(Path.cwd(), chosen or list(known.values()), known)))
    elif not chosen:
        print("\n".join(tool.list_lines(known)))
    elif show:
        print("\n".join(tool.command_line(one, queue=queue) for one in tool.with_seeds(known, chosen)))
    else:
        print("\n".join(tool.run_recipes(Path.cwd(), tool.with_seeds(known, chosen), queue=queue)))


@app.command()
def verify(
    keep: Annotated[Path | None, typer.Option(help="a new folder to run in and keep")] = None,
    lock_only: Annotated[
        bool, typer.Option("--lock-only", help="run nothing: only check that dvc.lock belongs to the commit")
    ] = False,
) -> None:
    """Run the commit again in a clean clone; dvc.lock and all metrics must be the same bytes."""
    from instruct.tools.verify import verify as run_verify

    if found := run_verify(Path.cwd(), keep, lock_only=lock_only):
        found.append(f"{len(found)} difference{'s' if len(found) > 1 else ''} between two runs of one commit")
        raise InstructError("\n".join(found))
    print("dvc.lock belongs to the commit" if lock_only else "dvc.lock and all metrics came out the same")
