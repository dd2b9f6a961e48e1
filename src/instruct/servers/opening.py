"""From the settings to a client."""

from dataclasses import replace

from instruct.servers.base import Server
from instruct.servers.llamacpp import LlamaCpp
from instruct.servers.ollama import Ollama
from instruct.servers.openai import OpenAI
from instruct.servers.settings import ServerName, ServersParams


def open_server(params: ServersParams, name: ServerName, model: str = "") -> Server:
    """The client of the settings, or one for another `model`; connects at first use.

    The pinned `digest` belongs to the model of the settings and is ignored for another one.
    """
    if name == "ollama":
        return Ollama(replace(params.ollama, model=model, digest="") if model else params.ollama, params.calls)
    if name == "openai":
        return OpenAI(replace(params.openai, model=model, digest="") if model else params.openai, params.calls)
    return LlamaCpp(replace(params.llamacpp, gguf=model, digest="") if model else params.llamacpp, params.calls)
