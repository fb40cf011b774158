"""A TCP relay between a client and the broker: it lets a test cut the wire."""

import socket
import threading
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit


class Relay:
    """Forwards what connects to `url` to the broker; a context manager."""

    def __init__(self, broker_url: str) -> None:
        """Listen on a free port; the broker's address is that of `broker_url`."""
        broker = urlsplit(broker_url)
        self._target = (broker.hostname, broker.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._accepted = threading.Semaphore(0)
        port = self._listener.getsockname()[1]
        self.url = f"{broker.scheme}://{broker.username}:{broker.password}@127.0.0.1:{port}"

    def wait_for_connection(self, timeout: float = 20) -> None:
        """Wait for one more client to connect."""
        if not self._accepted.acquire(timeout=timeout):
            raise TimeoutError("no client connected")

    def cut(self) -> int:
        """Break every connection without a word of AMQP; return how many there were."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for side in pair:
                _shut_down(side)
        return len(pairs)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            broker = socket.create_connection(self._target)
            self._pairs.append((client, broker))
            for source, sink in ((client, broker), (broker, client)):
                self._spawn(_forward, source, sink)
            self._accepted.release()

    def _spawn(self, function: object, *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments)
        self._threads.append(thread)
        thread.start()

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *exception: object) -> None:
        _shut_down(self._listener)
        self._threads[0].join()
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()


def _forward(source: socket.socket, sink: socket.socket) -> None:
    """Copy bytes until either side ends; each direction closes the socket it reads."""
    with source:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        _shut_down(sink)


def _shut_down(sock: socket.socket) -> None:
    with suppress(OSError):  # the peer was faster
        sock.shutdown(socket.SHUT_RDWR)
