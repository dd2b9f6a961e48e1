import threading

from instruct.serving.server import Served, Server, bind


class InThread:
    """A server in a thread of this process, at `url`."""

    def __init__(self, served: Served) -> None:
        self.served, self._server = served, Server(served)
        self._socket = bind(served.params)
        self.url = "http://{}:{}".format(*self._socket.getsockname()[:2])
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Shut it down."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()
