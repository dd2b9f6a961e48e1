import resource
import subprocess
import sys


def run_limited(code, cwd, *, seconds=40):
    """Run Python code in a process of its own that ends if it computes for more than so many seconds."""

    def limit():
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))

    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, preexec_fn=limit)
