"""Judge answers: by language models, whose replies are kept, and by people."""

from pathlib import Path
from typing import Annotated

import typer

from instruct.core.errors import ParamsError

human = typer.Typer(no_args_is_help=True, help="Scores by people, to compare the judges with.")


def judge(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the prompts, send nothing")] = False,
    check: Annotated[bool, typer.Option("--check", help="check server and model, and judge the controls")] = False,
    name: Annotated[str | None, typer.Option("--judge", help="instead of evaluate.judges")] = None,
    rubric: Annotated[str | None, typer.Option(help="instead of evaluate.rubric")] = None,
    scoring: Annotated[str | None, typer.Option(help="text or expected, instead of evaluate.scoring")] = None,
    record: Annotated[str | None, typer.Option(help="the id of the record to show (default: the first)")] = None,
) -> None:
    """Check the judges that `dvc repro evaluate` runs."""
    from instruct.core.errors import JudgeError
    from instruct.tools import judge as judging

    params = judging.load_settings(name, rubric, scoring)
    if dry_run == check:
        raise ParamsError("instruct judge needs one of --dry-run and --check; to judge, run `dvc repro evaluate`")
    if dry_run:
        for line in judging.dry_run(params, record):
            print(line)
        return
    problems = []
    for line, good in judging.check_judges(params):
        print(line) if good else problems.append(line)
    if problems:
        raise JudgeError("\n".join(problems))


def questions(
    file: Annotated[Path, typer.Argument(help="questions in MT-Bench's format")] = Path("data/questions.jsonl"),
    checkpoint: Annotated[Path, typer.Option(help="the SFT model")] = Path("models/sft/best"),
    name: Annotated[str | None, typer.Option("--judge", help="instead of evaluate.judges")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="of each answer")] = 256,
    out: Annotated[Path | None, typer.Option(help="a JSON file for answers and verdicts")] = None,
) -> None:
    """Ask base and SFT model open questions and have them judged. The judge is a language model."""
    from instruct.core.files import write_json
    from instruct.exporting.source import require_checkpoint
    from instruct.tools import questions as asking
    from instruct.tools.judge import load_settings
    from instruct.tools.kept_answers import keep_answers, kept_answers, place_of
    from instruct.tools.question_file import read_questions

    params, known = load_settings(name, asking.RUBRIC, None), read_questions(file)
    params = asking.without_reference(params)
    require_checkpoint(Path(), checkpoint)
    kept = place_of(known, checkpoint, max_new_tokens)
    answers = kept_answers(kept, known)
    asking.check_judges(known, params, max_new_tokens, answers)
    if not answers:
        systems = {"base": None, "sft": checkpoint}
        answers = {
            system: asking.answer_turns(known, asking.open_system(place, max_new_tokens))
            for system, place in systems.items()
        }
        keep_answers(kept, answers)
    judgements = asking.judge_questions(answers, params)
    if out:
        write_json(out, asking.rows_of(answers, judgements))
    print("\n".join(asking.table(judgements)))


@human.command()
def blank(
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="records, each with both systems' answers")] = 25,
    seed: Annotated[int, typer.Option(help="seed of selection and order")] = 123,
) -> None:
    """Write answers to score into data/human-scores.csv. They are without the system's name; existing scores stay."""
    from instruct.tools.human import FILE, make_blank
    from instruct.tools.judge import read_answers

    waiting, scored = make_blank(read_answers(), count=count, seed=seed)
    print(f"{FILE}: {waiting} answers to score, {scored} scored; fill the column score, or run `instruct human fill`")


@human.command()
def fill() -> None:
    """Score the answers in data/human-scores.csv one by one."""
    from instruct.tools import human as people

    left = people.fill(input, print)
    print(f"{people.FILE}: {left} left; `dvc repro evaluate` reads the scores")


def replies(
    export: Annotated[Path | None, typer.Option("--export", help="write all replies to this JSON-lines file")] = None,
    load: Annotated[Path | None, typer.Option("--import", help="add the replies of an exported file")] = None,
) -> None:
    """Show, export or import the cache of replies. The same replies export as the same bytes."""
    from instruct.servers.cache import ReplyCache, cache_file

    with ReplyCache(cache_file()) as cache:
        if load:
            new, total = cache.load(load)
            print(f"{load}: {total} replies, {new} of them new")
        if export:
            print(f"{export}: {cache.export(export)} replies")
        print(f"{cache.path}: {cache.count()} replies")
