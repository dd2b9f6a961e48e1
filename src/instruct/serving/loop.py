"""The thread in which all models compute: it takes requests, gives each lane its turn and delivers events."""

import queue as queue_module
import threading
from collections.abc import Callable, Mapping, Sequence

import torch

from instruct.core.errors import InstructError
from instruct.serving.lanes import Job, Lane, Post, lane_for, lanes_of
from instruct.serving.systems import System


class TooBusy(InstructError):
    """More answers are waiting than `serve.queue` allows."""


def hand_out(posts: Sequence[Post]) -> None:
    """Deliver each job's event."""
    for job, event in posts:
        job.deliver(event)


class EngineLoop:
    """Submit jobs from any thread; `post` calls each job's `deliver`, and a server passes its event loop's `post`."""

    def __init__(
        self,
        systems: Mapping[str, System],
        *,
        slots: int,
        cache_tokens: int,
        queue: int,
        post: Callable[[Sequence[Post]], None] = hand_out,
    ) -> None:
        self._most, self.post = slots * len(systems) + queue, post
        self._lanes = {name: lanes_of(one, slots=slots, cache_tokens=cache_tokens) for name, one in systems.items()}
        self._inbox: queue_module.SimpleQueue[Sequence[Job] | None] = queue_module.SimpleQueue()
        self._lock, self._unfinished, self._open = threading.Lock(), 0, True
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def unfinished(self) -> int:
        """Jobs that wait or are in progress."""
        return self._unfinished

    @property
    def active(self) -> int:
        """Answers in progress."""
        return sum(lane.active for lane in self._all())

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Accept all of these jobs, or raise TooBusy and accept none if too many are waiting."""
        with self._lock:
            if self._unfinished + len(jobs) > self._most:
                raise TooBusy(f"{self._unfinished} answers are waiting or in progress, and the limit is {self._most}")
            self._unfinished += len(jobs)
        self._inbox.put(jobs)

    def close(self) -> None:
        """End the thread after the current step; answers that are not whole end with an error."""
        self._inbox.put(None)
        self._thread.join()

    def _all(self) -> list[Lane]:
        return [lane for lanes in self._lanes.values() for lane in lanes]

    def _run(self) -> None:
        torch.set_num_threads(torch.get_num_threads())  # OpenMP keeps this number per thread
        while True:
            if not self._receive(wait=not any(lane.busy for lane in self._all())):
                self._send([post for lane in self._all() for post in lane.end()])
                return
            for lane in self._all():
                if lane.busy:
                    self._send(lane.turn())

    def _receive(self, *, wait: bool) -> bool:
        """Take in new commands, and wait for one if there is nothing else to do; false to end."""
        while True:
            try:
                jobs = self._inbox.get(block=wait)
            except queue_module.Empty:
                return True
            if jobs is None:
                return False
            for job in jobs:
                lane_for(self._lanes[job.system], job.ids).waiting.append(job)
            wait = False

    def _send(self, posts: Sequence[Post]) -> None:
        ended = sum(1 for _, event in posts if event.reason or event.error)
        with self._lock:
            self._unfinished -= ended
        if posts:
            self.post(posts)
