"""Everything that a run depends on, so that only an identical run resumes an unfinished one."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from instruct.core.files import sha256_of


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """The parts that a run depends on, by name, each with its hash."""

    parts: dict[str, str]

    def differences(self, other: Mapping[str, str]) -> list[str]:
        """The names of the parts that differ."""
        return sorted(name for name in self.parts.keys() | other.keys() if self.parts.get(name) != other.get(name))


def take_fingerprint(settings: Mapping[str, Any], files: Sequence[Path]) -> Fingerprint:
    """Hash each of the settings, each data file, the loaded code of this package, and torch's version."""
    parts = {f"params {name}": _hash(asdict(v) if is_dataclass(v) else v) for name, v in settings.items()}  # type: ignore[arg-type]
    parts |= {str(path): sha256_of(path) for path in files}
    modules = {name: module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "instruct"}
    script = getattr(sys.modules["__main__"], "__file__", None)
    code = {name: sha256_of(Path(file)) for name, file in {**modules, "script": script}.items() if file}
    parts |= {"code": _hash(code), "torch": torch.__version__, "threads": str(torch.get_num_threads())}
    return Fingerprint(parts=parts)


def _hash(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
