"""llama.cpp's server inside this process, by the wheel xllamacpp: a real language model with nothing to install.

It is started by the first request that needs it, so replies that are all in the cache load nothing.
"""

import os
import threading
from dataclasses import replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from instruct.backbones.catalog import find_backbone
from instruct.backbones.fetch import ensure
from instruct.core.errors import ServerError
from instruct.core.files import sha256_of
from instruct.servers.base import Reply, Request, ServerState
from instruct.servers.openai import OpenAI, chat_body
from instruct.servers.replies import key_of
from instruct.servers.settings import CallParams, LlamaCppParams, OpenAIParams

SECTION = "servers.llamacpp"
PACKAGE = "xllamacpp"
# A reply must not depend on earlier requests.
BODY = {"cache_prompt": False}


class LlamaCpp:
    """One GGUF file, served on a random local port."""

    def __init__(self, params: LlamaCppParams, calls: CallParams) -> None:
        self._params, self._calls = params, calls
        self.workers = params.workers
        self._lock = threading.Lock()
        self._running: tuple[Any, OpenAI] | None = None

    @property
    def identity(self) -> dict[str, str]:
        """Wheel, file, its sha256, context. Starts nothing."""
        return {
            "server": "llamacpp",
            "version": _version(),
            "model": self._file.name,
            "digest": self._digest,
            "num_ctx": str(self._params.num_ctx),
        }

    def check(self, longest: Request | None = None) -> ServerState:
        state = ServerState(where="llama.cpp in this process", model=self._params.gguf)
        try:
            if not _version():
                install = "pip install -e '.[llamacpp]'"
                return replace(state, problem=f"{PACKAGE} is not installed; run `{install}`", command=install)
            state = replace(state, model=self._file.name, version=_version(), digest=self._digest)
            found = self._client().check(longest, self._params.num_ctx)
        except ServerError as error:
            return replace(state, problem=str(error))
        return replace(state, reachable=True, context=self._params.num_ctx, problem=found.problem)

    def key(self, request: Request) -> str:
        """See `Server`; starts nothing."""
        return key_of("llamacpp", self._digest, chat_body(self._as_openai("http://127.0.0.1"), request), request)

    def ask(self, request: Request) -> Reply:
        """One reply; the first one starts the server."""
        return self._client().ask(request)

    def close(self) -> None:
        """Stop the server and free its memory."""
        with self._lock:
            self._running = None

    @cached_property
    def _file(self) -> Path:
        """The GGUF file, fetched and verified where it is a backbone's."""
        name = self._params.gguf
        path = Path(name).expanduser()
        if path.is_file():
            return path
        if os.sep in name or path.suffix == ".gguf":
            raise ServerError(f"{name}: there is no such file; correct {SECTION}.gguf")
        backbone = find_backbone(name)
        if backbone.format != "gguf":
            raise ServerError(f"{SECTION}.gguf: the backbone {name} is not a GGUF file; name one that is")
        return ensure(backbone)[0]

    @cached_property
    def _digest(self) -> str:
        found, pinned = sha256_of(self._file), self._params.digest.removeprefix("sha256:")
        if not found.startswith(pinned):
            raise ServerError(
                f"{self._file} has the sha256 {found[:12]}, not {pinned[:12]} as {SECTION}.digest says; put "
                "that file back, or change the digest"
            )
        return found

    def _as_openai(self, url: str) -> OpenAIParams:
        return OpenAIParams(
            url=url, model=self._file.name, key_variable="", schema="json_schema", workers=self.workers,
            body=BODY, digest=self._digest,
        )  # fmt: skip

    def _client(self) -> OpenAI:
        with self._lock:
            if self._running is None:
                server = self._start()
                params = self._as_openai(f"{server.listening_address}/v1")
                self._running = server, OpenAI(params, self._calls, SECTION)
            return self._running[1]

    def _start(self) -> Any:
        """Load the model and serve it; about a second."""
        try:
            import xllamacpp
        except ImportError:
            raise ServerError(f"{PACKAGE} is not installed; run `pip install -e '.[llamacpp]'`") from None
        params = xllamacpp.CommonParams()
        params.model.path = str(self._file)
        params.model_alias = {self._file.name}  # replies and lists of models then show no path
        params.n_ctx = self._params.num_ctx * self.workers  # shared out evenly
        params.n_parallel = self.workers
        params.n_gpu_layers = 0  # the same bytes on every machine come before speed
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self._params.threads
        params.ctx_shift = params.cache_prompt = params.ui = False
        params.cache_ram_mib = 0
        params.fit_params = False  # it would silently lower the context
        params.verbosity = -1
        try:
            return xllamacpp.Server(params)
        except RuntimeError:
            raise ServerError(
                f"{self._file}: llama.cpp cannot load it; check that it is a whole GGUF file and that memory holds it "
                f"with {SECTION}.num_ctx {self._params.num_ctx}"
            ) from None


def _version() -> str:
    """Of the wheel; empty where it is not installed."""
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return ""
