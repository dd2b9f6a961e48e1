"""Start the commands `serve` and `policy`: their settings and optional packages."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from instruct.core.errors import InstructError, ParamsError
from instruct.core.params import load_params
from instruct.serving.policy import Policy, read_policy
from instruct.serving.settings import ServeParams
from instruct.serving.systems import choose

# Of torch's two caches of oneDNN kernels: how many each keeps. One number of rows needs about six.
KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}


def start(names: Sequence[str], host: str | None, port: int | None) -> None:
    """Serve the named systems, or all whose checkpoints exist."""
    keep_few_kernels()
    try:
        from instruct.serving.server import serve
    except ModuleNotFoundError as error:
        raise InstructError(f"instruct serve needs {error.name}; run `pip install 'instruct[serve]'`") from None
    params = load_params("serve", ServeParams)
    params = replace(params, host=params.host if host is None else host, port=params.port if port is None else port)
    serve(choose(names, every=True), params)


def keep_few_kernels() -> None:
    """Bound the memory of oneDNN's kernels, unless the environment does; has no effect after the first product.

    oneDNN makes a kernel for each number of rows, a quarter of a megabyte, and torch keeps the last 1,024 of them
    twice. Prompts have any length, so a server would grow by half a gigabyte.
    """
    for name, count in KERNELS.items():
        os.environ.setdefault(name, count)


def policy_of(path: Path | None) -> Policy:
    """The rules of a file, or of `serve.policy`."""
    policy = read_policy(path or load_params("serve", ServeParams).policy)
    if policy is None:
        raise ParamsError("params.yaml: serve.policy is empty; name a file there, or give --policy data/policy.yaml")
    return policy
