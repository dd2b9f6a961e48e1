from pathlib import Path

import pytest
import torch
from browser import Browser, find_chromium

from instruct.model.backbones import Backbone, find_backbone
from instruct.model.pretrained import load_backbone, load_tokenizer_of

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def two_threads():
    torch.set_num_threads(2)


@pytest.fixture
def one_thread():
    """Tensors so small that a second thread only waits for the first."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def smollm2_backbone() -> Backbone:
    return find_backbone("smollm2-135m", ROOT / "models" / "backbones.yaml")


@pytest.fixture(scope="session")
def smollm2_tokenizer(smollm2_backbone):
    return load_tokenizer_of(smollm2_backbone)


@pytest.fixture(scope="session")
def smollm2(smollm2_backbone):
    """The real model, shared: leave its weights and mode as they are."""
    return load_backbone(smollm2_backbone, torch.device("cpu"))[0]


@pytest.fixture(scope="session")
def browser():
    """A real Chromium; tests that need it are skipped where there is none."""
    program = find_chromium()
    if not program:
        pytest.skip("there is no Chromium here: apt-get install chromium, or name one by INSTRUCT_CHROMIUM")
    browser = Browser(program)
    yield browser
    browser.close()
