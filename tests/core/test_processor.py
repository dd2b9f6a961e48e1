import platform

import pytest
import torch

from instruct.core import runtime
from instruct.core.errors import ParamsError
from instruct.core.processor import read_processor, this_processor
from instruct.core.runtime import RuntimeParams, start_runtime
from instruct.model.kernels import BLAS, ONEDNN, TABLE, choose_kernels

NAPLES = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 7601
flags\t\t: fpu sse2 avx avx2 fma

processor\t: 1
vendor_id\t: Other
"""
GENOA = NAPLES.replace("7601", "9654").replace("fma", "fma avx512f avx512_vnni avx512_bf16")
CASCADE = GENOA.replace("AuthenticAMD", "GenuineIntel").replace(" avx512_bf16", "")
GRAVITON = "processor : 0\nFeatures : fp asimd bf16 i8mm\n"


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "instructions", "bf16", "int8", "chosen"),
    [
        (NAPLES, "x86_64", "avx2", False, False, TABLE["AuthenticAMD", "avx2"]),
        (GENOA, "x86_64", "avx512", True, True, TABLE["AuthenticAMD", "avx512"]),
        (CASCADE, "x86_64", "avx512", False, True, ONEDNN),
        (GRAVITON, "aarch64", "", True, False, BLAS),
        ("", "AMD64", "", None, True, ONEDNN),  # Windows does not tell
        ("", "arm64", "", None, False, BLAS),
    ],
    ids=["EPYC with AVX2", "EPYC with AVX-512", "Xeon without bf16", "Arm on Linux", "Windows", "macOS"],
)
def test_kernels_follow_from_vendor_and_instructions(cpuinfo, machine, instructions, bf16, int8, chosen):
    processor = read_processor(cpuinfo, machine)
    assert (processor.instructions, processor.multiplies_bf16, processor.multiplies_int8) == (instructions, bf16, int8)
    assert choose_kernels(processor, onednn=True) is chosen
    assert choose_kernels(processor, onednn=False) is BLAS


@pytest.mark.skipif(platform.system() != "Linux" or platform.machine() != "x86_64", reason="compares with torch")
def test_instructions_are_those_that_torch_sees():
    found = this_processor()
    assert ("avx512f" in found.flags) == torch.cpu._is_avx512_supported()
    assert ("avx512_bf16" in found.flags) == torch.cpu._is_avx512_bf16_supported()
    assert ("avx512_vnni" in found.flags) == torch.cpu._is_vnni_supported()


def test_bf16_is_refused_on_a_processor_known_to_lack_it(monkeypatch):
    params = RuntimeParams(device="cpu", precision="bf16", num_threads=torch.get_num_threads())
    monkeypatch.setattr(runtime, "this_processor", lambda: read_processor(NAPLES, "x86_64"))
    with pytest.raises(ParamsError, match=r"runtime\.precision.*7601"):
        start_runtime(params)
    for able in (read_processor(GENOA, "x86_64"), read_processor("", "arm64")):
        monkeypatch.setattr(runtime, "this_processor", lambda able=able: able)
        assert start_runtime(params).dtype is torch.bfloat16
