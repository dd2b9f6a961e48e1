"""The processor and its instructions, read from the system: the same answer each time."""

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
X86 = frozenset({"x86_64", "AMD64"})
MULTIPLY_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # the last is Arm's
MULTIPLY_INT8 = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
WIDE = ("avx2", "avx512f", *sorted(MULTIPLY_BF16 | MULTIPLY_INT8))


@dataclass(frozen=True, kw_only=True)
class Processor:
    """A processor; `flags` are Linux's names of its instructions, None if the system does not report them."""

    name: str
    vendor: str
    x86: bool
    flags: frozenset[str] | None

    @property
    def instructions(self) -> str:
        """Its widest vectors; these and the vendor decide the kernels."""
        flags = self.flags or frozenset()
        return next((name for flag, name in (("avx512f", "avx512"), ("avx2", "avx2")) if flag in flags), "")

    @property
    def multiplies_bf16(self) -> bool | None:
        """Whether it multiplies in bfloat16; None if unknown."""
        return None if self.flags is None else bool(self.flags & MULTIPLY_BF16)

    @property
    def multiplies_int8(self) -> bool:
        """Whether it has instructions that sum four 8-bit products; only x86 reports them."""
        return self.x86 and (self.flags is None or bool(self.flags & MULTIPLY_INT8))

    @property
    def described(self) -> str:
        known = [flag for flag in WIDE if flag in (self.flags or ())]
        return f"{self.name} ({', '.join(known) or 'instructions unknown'})"


@cache
def this_processor() -> Processor:
    """The processor that this process runs on."""
    return read_processor(CPUINFO.read_text(encoding="utf-8") if CPUINFO.exists() else "", platform.machine())


def read_processor(cpuinfo: str, machine: str) -> Processor:
    """A processor from the text of Linux's /proc/cpuinfo (empty elsewhere) and Python's name of the machine."""
    pairs = (line.partition(":") for line in cpuinfo.split("\n\n")[0].splitlines())
    values = {name.strip(): value.strip() for name, _, value in pairs}
    flags = values.get("flags", values.get("Features"))
    return Processor(
        name=values.get("model name") or platform.processor() or machine,
        vendor=values.get("vendor_id", ""),
        x86=machine in X86,
        flags=None if flags is None else frozenset(flags.split()),
    )
