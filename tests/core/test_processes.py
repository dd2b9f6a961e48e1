import warm

SCRIPT = """
import gc, os, sys, torch, torch.distributed as dist
from instruct.core.processes import leave_group
dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
dist.all_reduce(torch.ones(3))
threads = len(os.listdir("/proc/self/task"))
leave_group()
gc.collect()
print(dist.is_initialized(), threads, len(os.listdir("/proc/self/task")))
"""


def test_leaving_waits_for_no_thread_of_the_group(tmp_path):
    done = warm.python("-c", SCRIPT, tmp_path / "meeting", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    initialized, before, after = done.stdout.split()
    # torch would end the group's threads here, and wait for them.
    assert (initialized, after) == ("False", before) and int(before) > 1
