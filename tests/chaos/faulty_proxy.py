"""A real HTTP proxy before a real MLflow server, which can be told to misbehave."""

import contextlib
import http.client
import http.server
import random
import threading
import time

NOT_PASSED_ON = {"connection", "transfer-encoding", "content-length", "keep-alive"}


class FaultyProxy:
    """Stands on one port and passes requests on to another, as well as its mode allows.

    Modes: ``fine``; ``slow``: every answer 5 s late; ``500`` and ``503``: answered at once and not
    passed on; ``cut``: all requests are carried out, and one in five answers is cut in the middle
    with its connection (by chance, seeded); ``down``: connections are refused.
    """

    def __init__(self, port: int, server_port: int) -> None:
        self.port = port
        self.uri = f"http://127.0.0.1:{port}"
        self.mode = "down"
        self.faults = 0
        self._server_port = server_port
        self._chance = random.Random(0)
        self._listener = None
        self._lock = threading.Lock()

    def switch(self, mode: str) -> None:
        """Behave in another way from now on."""
        self.mode = mode
        if mode == "down":
            self._stop()
        elif self._listener is None:
            self._listener = http.server.ThreadingHTTPServer(
                ("127.0.0.1", self.port), _handler_of(self)
            )
            threading.Thread(target=self._listener.serve_forever, daemon=True).start()

    def _stop(self) -> None:
        if self._listener is not None:
            self._listener.shutdown()
            self._listener.server_close()
            self._listener = None

    def is_cut(self) -> bool:
        """Say whether the present answer is to be cut."""
        with self._lock:
            cut = self.mode == "cut" and self._chance.random() < 0.2
            self.faults += cut
            return cut

    def ask(self, method: str, path: str, headers, body: bytes):
        """Pass a request on; return the server's answer and its content."""
        connection = http.client.HTTPConnection("127.0.0.1", self._server_port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer, answer.read()


def _handler_of(proxy: FaultyProxy):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if proxy.mode == "down":  # a connection kept from before
                self.close_connection = True
                return
            if proxy.mode in ("500", "503"):
                self._answer(int(proxy.mode), {}, b"{}")
                return
            headers = {k: v for k, v in self.headers.items() if k.lower() not in NOT_PASSED_ON}
            answer, content = proxy.ask(self.command, self.path, headers, body)
            if proxy.mode == "slow":
                time.sleep(5)
            self._answer(answer.status, dict(answer.getheaders()), content, proxy.is_cut())

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on

        def _answer(self, status, headers, content, cut=False):
            self.send_response(status)
            for key, value in headers.items():
                if key.lower() not in {*NOT_PASSED_ON, "server", "date"}:
                    self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with contextlib.suppress(OSError):  # the client may have gone
                self.wfile.write(content[: len(content) // 2] if cut else content)
            if cut:
                self.close_connection = True

        def log_message(self, *args):
            pass

    return Handler
