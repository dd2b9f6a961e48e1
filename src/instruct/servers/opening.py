"""From the settings to a client."""

from dataclasses import replace

from instruct.errors import ServerError
from instruct.servers.base import Server
from instruct.servers.settings import ServerName, ServersParams


def open_server(params: ServersParams, name: ServerName, model: str = "") -> Server:
    """The client that the settings describe, or one of another `model` on the same server; connects when it is used."""
    raise ServerError(f"the server {name} is not written yet")
