"""ssh's ProxyCommand: standard input and output to and from a Unix socket. `python3 pipe.py SOCKET`."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import sys

CHUNK_BYTES = 1 << 16


def main(path: str) -> None:
    """Pass bytes both ways until either side ends."""
    with socket.socket(socket.AF_UNIX) as there, selectors.DefaultSelector() as waiting:
        there.connect(path)
        waiting.register(0, selectors.EVENT_READ)
        waiting.register(there, selectors.EVENT_READ)
        while True:
            for ready, _ in waiting.select():
                if ready.fd == 0:
                    data = os.read(0, CHUNK_BYTES)
                    there.sendall(data)
                else:
                    data = there.recv(CHUNK_BYTES)
                    view = memoryview(data)
                    while view:
                        view = view[os.write(1, view) :]
                if not data:
                    return


if __name__ == "__main__":
    # ssh gave up on what the connection before left in the port, and is tried again: whoever reads its output must not
    # take a traceback for the machine's words.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        main(sys.argv[1])
