"""Outputs that DVC keeps: where its cache holds the bytes that a lock file names."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import yaml

_Loader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def locked_outputs(lock: bytes) -> dict[str, str]:
    """The md5 of each single file that a dvc.lock names as an output; empty where it is no lock file."""
    try:
        stages = yaml.load(lock, Loader=_Loader)["stages"].values()
        outs = [out for stage in stages for out in stage.get("outs") or []]
        return {out["path"]: out["md5"] for out in outs if not out["md5"].endswith(".dir")}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        return {}


def read_stored(cache_folder: Path | None, md5: str) -> bytes | None:
    """The bytes of an output, or None where the cache does not hold them."""
    if cache_folder is None:
        return None
    path = cache_folder / "files" / "md5" / md5[:2] / md5[2:]
    return path.read_bytes() if path.is_file() else None


@cache
def find_cache(root: Path) -> Path | None:
    """DVC's cache folder, as DVC itself names it after all its configuration files; None without DVC."""
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return root / done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else None
