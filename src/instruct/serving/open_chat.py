"""A conversation with the settings of params.yaml."""

import sys
from collections.abc import Callable, Iterator
from io import TextIOWrapper

from instruct.core.params import load_params
from instruct.generation.settings import GenerateParams
from instruct.serving.chat import Chat, lines_from_keyboard
from instruct.serving.policy import read_policy
from instruct.serving.settings import ServeParams
from instruct.serving.systems import System, choose, open_system
from instruct.serving.talking import Manner


def open_chat(name: str, keyboard: Callable[[str], str] | None) -> Iterator[str]:
    """Pieces of text to print; lines come from the keyboard, or from standard input if it is not a terminal."""
    params, serve = load_params("generate", GenerateParams), load_params("serve", ServeParams)

    def open_named(wanted: str) -> System:
        return open_system(*choose([wanted]), packed=False, digest=False)

    chat = Chat(
        system=open_named(name or choose([])[0]),
        manner=Manner(max_tokens=serve.max_tokens, temperature=params.temperature, seed=params.seed),
        open_named=open_named,
        policy=read_policy(serve.policy),
    )
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # so that such a line is refused, and the next one answered
    yield from chat.run(lines_from_keyboard(keyboard) if keyboard else sys.stdin)
