"""A server of a few lines that sends whatever bytes it is told to, be they HTTP or not."""

import socketserver
import threading
from collections.abc import Callable

# (method, path, body of the request) -> the bytes to send before the connection is closed
Script = Callable[[str, str, bytes], bytes]


def http(status: int, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """Return a response; `headers` may replace its own."""
    lines = {"content-type": "application/json", "content-length": str(len(body))}
    lines |= headers or {}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} X\r\n{head}connection: close\r\n\r\n".encode() + body


class RawPeer:
    """Answers every request by `script`; `asked` counts them."""

    def __init__(self) -> None:
        self.script: Script = lambda method, path, body: b""
        self.asked = 0
        peer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                first = self.rfile.readline().decode().split()
                if len(first) < 2:
                    return
                length = 0
                while line := self.rfile.readline().strip():
                    name, _, value = line.partition(b":")
                    if name.lower() == b"content-length":
                        length = int(value)
                peer.asked += 1
                self.wfile.write(peer.script(first[0], first[1], self.rfile.read(length)))

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
