from hashlib import md5

import pytest

from instruct.core.parsing import parse_yaml
from instruct.results.lock import lock_outs
from instruct.results.stored import Cache

CONTENT = b'[{"id": "r0"}]'
DIGEST = md5(CONTENT).hexdigest()


@pytest.fixture
def cache(tmp_path):
    place = tmp_path / "cache" / "files" / "md5" / DIGEST[:2] / DIGEST[2:]
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    (tmp_path / "secret").write_bytes(CONTENT)
    found = Cache(tmp_path)
    found._asking.communicate()
    found.folder = tmp_path / "cache"
    return found


def test_an_output_is_found_by_its_md5(cache):
    assert cache.find(DIGEST).read_bytes() == CONTENT
    assert cache.find("0" * 32) is None


@pytest.mark.parametrize(
    "name", ["../../../../secret", "ab/../../../../../secret", "..", "", DIGEST.upper(), f"{DIGEST}/", "5"]
)
def test_no_branch_can_name_a_file_outside_of_the_cache(cache, name):
    assert cache.find(name) is None


@pytest.mark.parametrize("lock", ["stages: 5", "stages: {x: {outs: 5}}", "stages: {x: {outs: [5]}}", "stages: [1]"])
def test_what_is_not_a_lock_file_names_nothing(lock):
    assert lock_outs(parse_yaml(lock, "dvc.lock")) == {}
