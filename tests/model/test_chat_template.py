import json
from hashlib import sha256

import gguf
import pytest

from instruct.backbones.catalog import Backbone, WeightFile
from instruct.core.errors import BackboneError
from instruct.model.chat_template import ChatTemplate, chat_template_of

SOURCE = "{% for message in messages %}[{{ message.content }}]{% endfor %}"


@pytest.fixture
def backbone(monkeypatch, tmp_path):
    """A backbone with these files beside its weights."""
    monkeypatch.setenv("INSTRUCT_CACHE", str(tmp_path))

    def make(**files):
        contents = {"config.json": "{}", "tokenizer.json": "{}", "model.safetensors": ""} | {
            name.replace("_dot_", "."): text for name, text in files.items()
        }
        (tmp_path / "mine").mkdir()
        entries = []
        for name, text in contents.items():
            (tmp_path / "mine" / name).write_text(text, encoding="utf-8")
            digest = sha256(text.encode()).hexdigest()
            entries.append(WeightFile(name=name, size=len(text.encode()), sha256=digest))
        options = {"family": "llama", "format": "safetensors", "licence": "MIT", "about": "a test"}
        return Backbone(name="mine", files=tuple(entries), **options)

    return make


@pytest.fixture
def gguf_backbone(monkeypatch, tmp_path):
    """A backbone whose one file llama.cpp's own library wrote, with these fields beside its tokens."""
    monkeypatch.setenv("INSTRUCT_CACHE", str(tmp_path))
    path = tmp_path / "mine" / "mine.gguf"
    path.parent.mkdir()

    def make(write):
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_token_list(["<end>", "<begin>"])
        write(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        file = WeightFile(name="mine.gguf", size=path.stat().st_size, sha256=sha256(path.read_bytes()).hexdigest())
        return Backbone(name="mine", family="llama", format="gguf", licence="MIT", about="a test", files=(file,))

    return make


def test_that_of_a_gguf_file_is_what_llama_cpps_library_wrote(gguf_backbone):
    def write(writer):
        writer.add_chat_template(SOURCE)
        writer.add_bos_token_id(1)

    assert chat_template_of(gguf_backbone(write)) == ChatTemplate(source=SOURCE, begin_token="<begin>")


def test_a_gguf_file_may_have_none_or_no_first_token(gguf_backbone):
    assert chat_template_of(gguf_backbone(lambda writer: writer.add_bos_token_id(1))) is None
    found = chat_template_of(gguf_backbone(lambda writer: writer.add_chat_template(SOURCE)))
    assert found == ChatTemplate(source=SOURCE, begin_token="")


def test_a_gguf_file_whose_template_is_a_number_is_refused(gguf_backbone):
    with pytest.raises(BackboneError, match=r"mine\.gguf: its chat template .*is not text"):
        chat_template_of(gguf_backbone(lambda writer: writer.add_uint32("tokenizer.chat_template", 7)))


@pytest.mark.parametrize(
    ("files", "begin"),
    [
        ({"chat_template_dot_jinja": SOURCE}, ""),
        ({"tokenizer_config_dot_json": json.dumps({"chat_template": SOURCE, "bos_token": "<s>"})}, "<s>"),
        ({"tokenizer_config_dot_json": json.dumps({"chat_template": SOURCE, "bos_token": {"content": "<s>"}})}, "<s>"),
        (
            {
                "tokenizer_config_dot_json": json.dumps(
                    {"chat_template": [{"name": "tools", "template": "x"}, {"name": "default", "template": SOURCE}]}
                )
            },
            "",
        ),
    ],
)
def test_that_of_a_folder_is_where_hugging_face_puts_it(backbone, files, begin):
    assert chat_template_of(backbone(**files)) == ChatTemplate(source=SOURCE, begin_token=begin)


@pytest.mark.parametrize("files", [{}, {"tokenizer_config_dot_json": "{}"}])
def test_a_backbone_without_one_has_none(backbone, files):
    assert chat_template_of(backbone(**files)) is None


@pytest.mark.parametrize("text", ["[1, 2]", "{", '{"chat_template": 3}', '{"chat_template": "x", "bos_token": 4}'])
def test_a_damaged_one_is_named_with_its_file(backbone, text):
    with pytest.raises(BackboneError, match=r"tokenizer_config\.json:(1:\d+:)? ") as caught:
        chat_template_of(backbone(tokenizer_config_dot_json=text))
    assert "\n" not in str(caught.value)
