import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct.splitting.text_file import TextFile


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_it_reads_as_the_list_of_what_was_added(texts):
    file = TextFile()
    for text in texts:
        file.append(text)
    assert len(file) == len(texts)
    assert list(file) == texts == file[:]
    assert file[1:-1] == texts[1:-1]


def test_it_ends_where_a_list_ends():
    file = TextFile()
    file.append("one")
    for place in (1, -1):
        with pytest.raises(IndexError):
            file[place]
