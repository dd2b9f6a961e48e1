"""The environment variables that torch and its libraries read when they are loaded."""

import os

# With these OpenMP may give fewer threads than asked for. oneDNN then computes a part of a product, and the rest is
# what was in memory. `runtime.num_threads` alone says how many threads there are.
THREADS = ("OMP_DYNAMIC", "OMP_MAX_ACTIVE_LEVELS", "OMP_THREAD_LIMIT")
# With these the same settings give other bytes, and neither DVC nor the state of an unfinished run would know.
KERNELS = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)


def set_torch_environment() -> None:
    """Choose huge pages, exact numbers of threads and this processor's kernels; has no effect once torch is imported.

    With pages of 4 kB a processor looks up an address for each 4 kB of weights that it reads.
    """
    os.environ["THP_MEM_ALLOC_ENABLE"] = "1"
    for name in (*THREADS, *KERNELS):
        os.environ.pop(name, None)
