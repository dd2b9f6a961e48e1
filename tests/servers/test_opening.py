from dataclasses import replace
from pathlib import Path

import pytest
from servers.settings import calls, llamacpp_params, ollama_params, openai_params, question
from typer.testing import CliRunner

from instruct.cli import app
from instruct.core.params import load_params
from instruct.servers.base import Reply
from instruct.servers.cache import ReplyCache
from instruct.servers.opening import open_server
from instruct.servers.settings import CallParams, ServersParams

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_text(name)
    return ServersParams(
        cache=True,
        calls=calls(),
        ollama=ollama_params("http://127.0.0.1:9", digest="0123456789ab"),
        openai=openai_params("http://127.0.0.1:9/v1", digest="mine"),
        llamacpp=llamacpp_params(str(tmp_path / "a.gguf")),
    )


def test_the_settings_of_the_repository_are_read():
    params = load_params("servers", ServersParams, ROOT / "params.yaml")
    assert params.cache and params.calls.retries > 0


@pytest.mark.parametrize("name", ["ollama", "openai", "llamacpp"])
def test_each_server_is_opened_without_being_reached(params, name):
    server = open_server(params, name)
    assert server.identity["server"] == name and len(server.key(question())) == 64
    server.close()


def test_another_model_does_not_keep_the_digest_of_the_first(params, tmp_path):
    identity = open_server(params, "openai", "other").identity
    assert (identity["model"], identity["digest"]) == ("other", "")
    other = open_server(params, "llamacpp", str(tmp_path / "b.gguf"))
    assert other.identity["model"] == "b.gguf"
    assert other.key(question()) != open_server(params, "llamacpp").key(question())


def test_no_server_shares_a_key_with_another(params):
    keys = {open_server(params, name).key(question()) for name in ("ollama", "openai", "llamacpp")}
    assert len(keys) == 3


@pytest.mark.parametrize(
    "name, value", [("connect", 0), ("read", -1.0), ("total", 1e9), ("retries", 21), ("backoff", 61.0)]
)
def test_a_wait_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(Exception, match=f"^{name} must be"):
        replace(CallParams(connect=1.0, read=1.0, total=1.0, retries=0, backoff=0.0), **{name: value})


def test_replies_go_out_and_come_in_by_the_command(tmp_path, monkeypatch):
    with ReplyCache(tmp_path / "here.sqlite") as cache:
        cache.put("0" * 64, Reply(text="85"), "judge")
    monkeypatch.setenv("INSTRUCT_REPLIES", str(tmp_path / "here.sqlite"))
    export = tmp_path / "replies.jsonl"
    assert f"{export}: 1 replies" in CliRunner().invoke(app, ["replies", "--export", str(export)]).output
    monkeypatch.setenv("INSTRUCT_REPLIES", str(tmp_path / "there.sqlite"))
    assert "1 replies, 1 of them new" in CliRunner().invoke(app, ["replies", "--import", str(export)]).output
    with ReplyCache(tmp_path / "there.sqlite") as cache:
        assert cache.get(["0" * 64])["0" * 64].text == "85"
