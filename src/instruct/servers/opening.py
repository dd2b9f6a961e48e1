"""From the settings to a client."""

from dataclasses import replace

from instruct.servers.base import Server
from instruct.servers.llamacpp import LlamaCpp
from instruct.servers.ollama import Ollama
from instruct.servers.openai import OpenAI
from instruct.servers.settings import ServerName, ServersParams


def open_server(params: ServersParams, name: ServerName, model: str = "") -> Server:
    """The client that the settings describe, or one of another `model` in its place; connects when it is used.

    The pinned `digest` belongs to the model of the settings and does not hold for another one.
    """
    if name == "ollama":
        return Ollama(replace(params.ollama, model=model, digest="") if model else params.ollama, params.calls)
    if name == "openai":
        return OpenAI(replace(params.openai, model=model, digest="") if model else params.openai, params.calls)
    return LlamaCpp(replace(params.llamacpp, gguf=model) if model else params.llamacpp, params.calls)
