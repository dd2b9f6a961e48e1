"""`instruct ask`: one question, answered by one system or by all of them, streamed."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from instruct.core.params import load_params
from instruct.generation.settings import GenerateParams
from instruct.serving.messages import Said
from instruct.serving.policy import read_policy
from instruct.serving.settings import ServeParams
from instruct.serving.systems import PLACES, choose, open_system, read_ahead


def ask(question: str, input: str, names: Sequence[str], *, every: bool) -> Iterator[str]:
    """Pieces of text to print; with several systems, each answer has its system's name above it."""
    params, serve = load_params("generate", GenerateParams), load_params("serve", ServeParams)
    chosen = choose(names, every=every)
    read_ahead(PLACES[chosen[0]] or Path())
    with _no_garbage():
        from instruct.serving.talking import Manner, say  # imports torch while the weights are read

    policy = read_policy(serve.policy)
    manner = Manner(max_tokens=serve.max_tokens, temperature=params.temperature, seed=params.seed)
    for name in chosen:
        if len(chosen) > 1:
            yield f"{name}:\n"
        with _no_garbage():
            system = open_system(name, packed=False, digest=False)
        yield from say(system, [Said(role="user", content=question)], manner, input=input, policy=policy)
        yield "\n" if name == chosen[-1] else "\n\n"


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Do not look for garbage: while torch is imported, Python spends much of the time on that."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
