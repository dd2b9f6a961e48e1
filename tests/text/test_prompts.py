from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct.core.errors import ParamsError
from instruct.core.records import Turn
from instruct.text.prompts import TEMPLATES, PromptParams

ROOT = Path(__file__).parents[2]

# Written out in full from the book chapter's description of the two styles, not taken from the code.
ALPACA = """\
Below is an instruction that describes a task. Write a response that appropriately completes the request.

### Instruction:
What is an antonym of complicated?

### Response:
"""
ALPACA_WITH_INPUT = """\
Below is an instruction that describes a task. Write a response that appropriately completes the request.

### Instruction:
Identify the correct spelling of the following word.

### Input:
Ocassion

### Response:
"""
PHI3 = """<|user|>
What is an antonym of complicated?
<|assistant|>
"""
CHATML = """<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
<|im_start|>user
What is an antonym of complicated?<|im_end|>
<|im_start|>assistant
"""
CHATML_WITH_INPUT = """<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
<|im_start|>user
Identify the correct spelling of the following word.
Ocassion<|im_end|>
<|im_start|>assistant
"""
PHI3_WITH_INPUT = """<|user|>
Identify the correct spelling of the following word.
Ocassion
<|assistant|>
"""


@pytest.mark.parametrize(
    ("name", "without_input", "with_input"),
    [("alpaca", ALPACA, ALPACA_WITH_INPUT), ("phi3", PHI3, PHI3_WITH_INPUT), ("chatml", CHATML, CHATML_WITH_INPUT)],
)
def test_prompt_is_the_published_text_up_to_the_response(name, without_input, with_input):
    template = TEMPLATES[name]
    assert template.render("What is an antonym of complicated?") == without_input
    assert template.render("What is an antonym of complicated?", "") == without_input
    assert template.render("Identify the correct spelling of the following word.", "Ocassion") == with_input


@pytest.mark.parametrize(
    ("name", "written"), [("alpaca", ALPACA_WITH_INPUT), ("phi3", PHI3_WITH_INPUT), ("chatml", CHATML_WITH_INPUT)]
)
@given(instruction=st.text(), given_input=st.text(min_size=1))
def test_instruction_and_input_stand_in_the_prompt_to_the_letter(name, written, instruction, given_input):
    before, _, rest = written.partition("Identify the correct spelling of the following word.")
    between, _, after = rest.partition("Ocassion")
    prompt = TEMPLATES[name].render(instruction, given_input)
    assert prompt == before + instruction + between + given_input + after


@pytest.mark.parametrize("name", TEMPLATES)
def test_stop_strings_are_the_headers_of_a_next_turn(name):
    template = TEMPLATES[name]
    prompt = template.render("a", "b")
    headers = [line for line in prompt.splitlines() if line.startswith(("###", "<|"))]
    assert len(headers) >= 2
    assert all(header.startswith(template.stop_strings) for header in headers)
    assert all(stop in prompt for stop in template.stop_strings)


@pytest.mark.parametrize(
    "marker",
    [
        "Below is an instruction",
        "### Instruction",
        "### Input",
        "### Response",
        "<|user|>",
        "<|assistant|>",
        "<|im_start|>",
    ],
)
def test_template_text_is_defined_in_one_source_file(marker):
    suffixes = {".py", ".yaml", ".html", ".toml", ".json", ".cfg"}
    files = [path for path in (ROOT / "src").rglob("*") if path.suffix in suffixes]
    files += [path for path in ROOT.glob("*") if path.suffix in suffixes]
    assert len(files) > 30
    assert [path.name for path in files if marker in path.read_text(encoding="utf-8")] == ["prompts.py"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_judge_reads_the_whole_chat_and_no_header_of_an_answer(name):
    template = TEMPLATES[name]
    task = template.task([Turn("Name a bird.", "", "A wren."), Turn("Spell it.", "wren", "w, r, e, n")], "Be brief.")
    assert [text in task for text in ("Be brief.", "Name a bird.", "A wren.", "Spell it.", "wren")] == [True] * 5
    assert task.endswith("wren") and "w, r" not in task
    assert template.task([Turn("a", "b")]) + template.before_response == template.render("a", "b")


@pytest.mark.parametrize("template", ["alpaca", "phi3"])
def test_a_template_without_a_place_for_a_system_prompt_refuses_one_of_ones_own(template):
    assert PromptParams(template=template, system="").chosen.render("a") == TEMPLATES[template].render("a")
    with pytest.raises(ParamsError, match="system"):
        PromptParams(template=template, system="Be brief.")
