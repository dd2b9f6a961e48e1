"""Use the models: ask, chat, serve."""

import sys
from pathlib import Path
from typing import Annotated

import typer

policy = typer.Typer(no_args_is_help=True, help="The filter of prompts and answers: serve.policy.")


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


def chat(system: Annotated[str, typer.Option(help="base, sft or dpo (default: the newest)")] = "") -> None:
    """Chat with a model in the terminal or through a pipe. /help lists the commands."""
    from instruct.serving.open_chat import open_chat

    typed = bool(sys.stdin) and sys.stdin.isatty()
    for piece in open_chat(system, input if typed else None):
        print(piece, end="", flush=True)


def serve(
    system: Annotated[
        list[str] | None, typer.Option(help="base, sft or dpo; repeat for several (default: all)")
    ] = None,
    host: Annotated[str | None, typer.Option(help="instead of serve.host")] = None,
    port: Annotated[int | None, typer.Option(help="instead of serve.port; 0 takes a free one")] = None,
) -> None:
    """Serve OpenAI's API and a page that shows models side by side."""
    from instruct.serving.start import start

    start(system or [], host, port)


@policy.callback()
def before_each_policy_command() -> None:
    """The filter of prompts and answers: serve.policy."""


@policy.command("test")
def policy_test(
    file: Annotated[Path, typer.Argument(help="labelled probes, one JSON object per line")],
    rules: Annotated[Path | None, typer.Option("--policy", help="instead of serve.policy")] = None,
) -> None:
    """Measure the filter. Recall is on labelled probes, false positives are among the reference answers."""
    from instruct.serving.policy_test import read_probes, report
    from instruct.serving.start import policy_of

    print("\n".join(report(policy_of(rules), read_probes(file))))
