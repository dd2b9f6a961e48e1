"""Times attention kernels over a packed row on a GPU: forward and backward, milliseconds a layer.

    PYTHONPATH=src python tests/training/gpu_attention.py

The choice in src/instruct/training/recorded.py (`same_bytes`) rests on this table; about 20 seconds.
"""

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from instruct.training.packing import tree_ends, tree_mask

BACKENDS = {
    "efficient": (SDPBackend.EFFICIENT_ATTENTION, False),
    "efficient, same bytes": (SDPBackend.EFFICIENT_ATTENTION, True),
    "cudnn": (SDPBackend.CUDNN_ATTENTION, False),
    "cudnn, same bytes": (SDPBackend.CUDNN_ATTENTION, True),
    "math": (SDPBackend.MATH, False),
}


def explicit(q, k, v, mask):
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2)) + mask
    return torch.matmul(scores.softmax(-1, dtype=torch.float32).to(v.dtype), v)


def time_layer(attend, heads, tokens, dtype):
    """Milliseconds, and whether two backward passes gave the same bytes."""
    lengths = [64] * ((tokens - 64) // 64)
    mask = tree_mask(torch.tensor(tree_ends(tokens - 64 * len(lengths), lengths), device="cuda"), dtype)
    q, k, v = (torch.randn(1, heads, tokens, 64, device="cuda", dtype=dtype, requires_grad=True) for _ in range(3))
    gradient = torch.randn(1, heads, tokens, 64, device="cuda", dtype=dtype)

    def run():
        return torch.autograd.grad(attend(q, k, v, mask), (q, k, v), gradient)

    first = run()
    same = all(torch.equal(a, b) for _ in range(3) for a, b in zip(run(), first, strict=True))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(10):
            run()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    graph.replay()
    start.record()
    for _ in range(5):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 50, same


def main():
    print(torch.cuda.get_device_name(), torch.__version__)
    torch.utils.deterministic.fill_uninitialized_memory = False
    for dtype in (torch.bfloat16, torch.float32):
        for tokens in (512, 1024, 2048, 4096):
            for name, (backend, same_bytes) in {**BACKENDS, "explicit": (SDPBackend.MATH, False)}.items():

                def attend(q, k, v, mask, name=name):
                    if name == "explicit":
                        return explicit(q, k, v, mask)
                    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

                torch.use_deterministic_algorithms(same_bytes)
                try:
                    with sdpa_kernel([backend]):
                        found, same = time_layer(attend, 16, tokens, dtype)
                    print(f"{dtype} {tokens} tokens, {name}: {found:.3f} ms, {'same' if same else 'OTHER'} bytes")
                except RuntimeError as error:
                    print(f"{dtype} {tokens} tokens, {name}: {str(error).splitlines()[0][:90]}")
                torch.use_deterministic_algorithms(False)


if __name__ == "__main__":
    import os

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    main()
