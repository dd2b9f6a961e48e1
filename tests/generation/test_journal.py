import pytest

from instruct.core.errors import InstructError
from instruct.core.fingerprint import Fingerprint
from instruct.generation.journal import Journal
from instruct.generation.rows import Answer


def test_full_disk_is_one_line_and_what_was_noted_is_read_again(tmp_path):
    journal = Journal(tmp_path / ".out.json.0-of-1.partial", Fingerprint(parts={"x": "y"}))
    answer = Answer(text="85", stop_reason="end", prompt_tokens=1, truncated_tokens=0, tokens=1)
    journal.begin({"one": answer})
    full = Journal(tmp_path / "full", Fingerprint(parts={"x": "y"}))
    full.path.symlink_to("/dev/full")
    with pytest.raises(InstructError) as refused:
        full.add("two", answer)
    assert str(refused.value).startswith(f"{full.path}: ") and "\n" not in str(refused.value)
    assert journal.read() == {"one": answer}
