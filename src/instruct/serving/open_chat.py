"""A conversation with the settings of params.yaml."""

import sys
from collections.abc import Callable, Iterator
from io import TextIOWrapper

from instruct.core.params import load_params
from instruct.generation.settings import GenerateParams
from instruct.serving.ahead import open_alone, preparing
from instruct.serving.keyboard import typed_lines
from instruct.serving.policy import read_policy
from instruct.serving.settings import ServeParams
from instruct.serving.systems import choose


def open_chat(name: str, keyboard: Callable[[str], str] | None) -> Iterator[str]:
    """Pieces of text to print; lines come from the keyboard, or from standard input if it is not a terminal."""
    params, serve = load_params("generate", GenerateParams), load_params("serve", ServeParams)
    policy, (chosen,) = read_policy(serve.policy), choose([name] if name else [])
    with preparing(chosen):
        from instruct.serving.chat import Chat
        from instruct.serving.talking import Manner, Talker

    chat = Chat(
        talker=Talker(open_alone(chosen)),
        manner=Manner(max_tokens=serve.max_tokens, temperature=params.temperature, seed=params.seed),
        open_named=lambda wanted: Talker(open_alone(*choose([wanted]))),
        policy=policy,
        typed=keyboard is not None,
    )
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # so that such a line is refused, and the next one answered
    yield from chat.run(typed_lines(keyboard) if keyboard else sys.stdin or ())
