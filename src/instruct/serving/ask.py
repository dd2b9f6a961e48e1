"""`instruct ask`: one question, answered by one system or by all of them, streamed."""

import logging
from collections.abc import Iterator, Sequence

from instruct.core.errors import ParamsError
from instruct.core.params import load_params
from instruct.generation.settings import GenerateParams
from instruct.serving.ahead import open_alone, preparing
from instruct.serving.messages import Said
from instruct.serving.policy import read_policy
from instruct.serving.settings import ServeParams
from instruct.serving.systems import choose

log = logging.getLogger(__name__)


def ask(question: str, input: str, names: Sequence[str], *, every: bool) -> Iterator[str]:
    """Pieces of text to print; with several systems, each answer has its system's name above it."""
    if names and every:
        raise ParamsError("--all asks every system; leave it out, or --system")
    if not question.strip():
        raise ParamsError('the question is empty; put one in quotes: instruct ask "Name a bird."')
    params, serve = load_params("generate", GenerateParams), load_params("serve", ServeParams)
    policy, chosen = read_policy(serve.policy), choose(names, every=every)
    with preparing(chosen[0]):
        from instruct.serving.talking import Manner, Talker

    manner = Manner(max_tokens=serve.max_tokens, temperature=params.temperature, seed=params.seed)

    def answer(name: str) -> Iterator[str]:
        talker = Talker(open_alone(name))  # gone when the answer ends, so before the next model is read
        yield from talker.say([Said(role="user", content=question)], manner, input=input, policy=policy)
        yield "\n"
        if talker.cut:
            log.warning(talker.cut)

    for name in chosen:
        if len(chosen) > 1:
            yield f"{name}:\n" if name == chosen[0] else f"\n{name}:\n"
        yield from answer(name)
