import gc
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
import warm
from browser import Browser, find_chromium
from hypothesis import HealthCheck, settings
from small_pipeline import commit_all, content_of, copy_tracked, git

from instruct.backbones.catalog import Backbone, find_backbone
from instruct.core.git import OF_ONE_REPOSITORY
from instruct.core.locks import hold
from instruct.model.pretrained import load_backbone, load_tokenizer_of
from instruct.tools.smoke import run_smoke

ROOT = Path(__file__).parents[1]
# A busy machine is no failure: hypothesis looks at no clock, neither while a test runs nor while it draws the inputs.
settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")
# Files of few tests that take long: begun first, so that the last worker does not end long after the others. The first
# of them makes the smoke run that others share.
LONG = (
    "tests/test_pipeline.py", "tests/training/test_distributed.py", "tests/exporting/test_proof.py",
    "tests/training/test_train_stage.py", "tests/training/test_trl.py", "tests/preference/test_trl.py",
    "tests/preference/test_distributed.py", "tests/training/test_outputs.py", "tests/generation/test_int8.py",
    "tests/serving/test_page.py", "tests/serving/test_openai.py", "tests/baselines/test_baseline_stage.py",
    "tests/tools/test_verify.py", "tests/tools/test_recipes.py", "tests/test_dvc_use.py", "tests/test_workflows.py",
    "tests/exporting/test_graphs.py", "tests/viewing/test_view_in_browser.py",
)  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def two_threads():
    torch.set_num_threads(2)


@pytest.fixture
def one_thread():
    """Tensors so small that a second thread only waits for the first."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(2)


@pytest.fixture
def warm_start(monkeypatch):
    """Every Python that the test's own process starts, such as DVC for the tools, starts warm."""
    monkeypatch.setattr(sys, "executable", str(warm.programs() / "python"))


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


@pytest.fixture(scope="session")
def hermetic(tmp_path_factory):
    """DVC without this machine's settings and caches, and this Python first on the path."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
            patch.setenv(variable, str(tmp_path_factory.mktemp("dvc")))
        patch.setenv("DVC_NO_ANALYTICS", "1")
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        for variable in OF_ONE_REPOSITORY:  # of a hook of Git's that runs these tests
            patch.delenv(variable, raising=False)
        for role in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{role}_NAME", "test")
            patch.setenv(f"GIT_{role}_EMAIL", "test@example.org")
        patch.delenv("PYTHONPATH", raising=False)
        yield


@pytest.fixture(scope="session")
def project(tmp_path_factory, hermetic):
    """A copy of what Git tracks or would track, committed, with results of a user's own: tracked and ignored ones."""
    folder = tmp_path_factory.mktemp("project")
    copy_tracked(ROOT, folder)
    (folder / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    mine = ["metrics/train.json", "metrics/curves/train.csv", "data/split/test.json", "data/responses.json"]
    for name in [*mine, "models/sft/best/config.json", "metrics/report/index.html"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("my own result")
    git(folder, "init", "--quiet")
    commit_all(folder)
    return folder


@pytest.fixture(scope="session")
def before_smoke(project):
    return content_of(project)


@pytest.fixture(scope="session")
def smoke(project, before_smoke, tmp_path_factory):
    """The folder of a smoke run, one for all workers of `pytest -n`; leave it as it is."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "first"
    with hold(shared / "lock", str(shared)):
        if not (shared / "done").exists():
            shutil.rmtree(shared / "smoke", ignore_errors=True)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "executable", str(warm.programs() / "python"))
                run_smoke(project, keep=shared / "smoke")
            (shared / "done").touch()
    return shared / "smoke"


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Look for no garbage among the modules of the tests and all that they import: each look takes a second."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items):
    """Put the files of LONG first; the order within a file, and of all others, stays."""
    place = {ROOT / name: number for number, name in enumerate(LONG)}
    assert all(path.is_file() for path in place), "a file of LONG has another name now"
    items.sort(key=lambda item: place.get(item.path, len(LONG)))


def pytest_configure(config):
    """Let SIGHUP and SIGINT end a process here too: under nohup, or behind a shell's `&`, they would be ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def finished(smoke, tmp_path_factory):
    """A Git repository with a finished small run committed, its cache beside it; copy it, leave it as it is."""
    folder = tmp_path_factory.mktemp("finished") / "project"
    shutil.copytree(smoke, folder, ignore=shutil.ignore_patterns("config.local", "tmp"))
    git(folder, "init", "--quiet", "--initial-branch", "main")
    commit_all(folder)
    return folder


@pytest.fixture
def workplace(finished, tmp_path):
    """A copy of `finished` that a test may change."""
    shutil.copytree(finished, tmp_path / "workplace", symlinks=True)
    return tmp_path / "workplace"
