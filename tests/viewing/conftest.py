import pytest

from instruct.results.stored import Cache


@pytest.fixture(autouse=True, scope="module")
def cache_in_its_usual_place():
    """DVC takes a second to say where its cache is; tests/results and the comparing tests ask it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cache, "folder", property(lambda cache: cache.root / ".dvc/cache"))
        yield
