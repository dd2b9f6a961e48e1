"""Start the commands `serve` and `policy`: their settings and optional packages."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from instruct.core.errors import InstructError, ParamsError
from instruct.core.params import load_params
from instruct.serving.memory import keep_few_kernels
from instruct.serving.policy import Policy, read_policy
from instruct.serving.settings import ServeParams
from instruct.serving.systems import choose


def start(names: Sequence[str], host: str | None, port: int | None) -> None:
    """Serve the named systems, or all whose checkpoints exist."""
    keep_few_kernels()
    try:
        from instruct.serving.server import serve
    except ModuleNotFoundError as error:
        raise InstructError(f"instruct serve needs {error.name}; run `pip install -e '.[serve]'`") from None
    serve(choose(names, every=True), with_options(load_params("serve", ServeParams), host, port))


def with_options(params: ServeParams, host: str | None, port: int | None) -> ServeParams:
    """The settings with those of the command line; raises ParamsError that names the option."""
    try:
        return replace(params, host=params.host if host is None else host, port=params.port if port is None else port)
    except ParamsError as error:
        raise ParamsError(f"--{error}") from None


def policy_of(path: Path | None) -> Policy:
    """The rules of a file, or of `serve.policy`."""
    policy = read_policy(path or load_params("serve", ServeParams).policy)
    if policy is None:
        raise ParamsError("params.yaml: serve.policy is empty; name a file there, or give --policy data/policy.yaml")
    return policy
