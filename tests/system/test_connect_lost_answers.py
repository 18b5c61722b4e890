"""Answers that never arrive: what a client asked for was done, and the client learns that it was."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

import shoal
from shoal.errors import Conflict
from tests.system.serve_process import make_home, serving


@contextlib.contextmanager
def losing_answers(url, then):
    """A way to a server that hangs up instead of giving back the first answer to a change, once ``then`` was called."""
    lost = []

    class Way(BaseHTTPRequestHandler):
        def do_GET(self):
            self._pass_on(b"")

        def do_POST(self):
            self._pass_on(self.rfile.read(int(self.headers["content-length"])))

        def _pass_on(self, body):
            told = httpx.request(
                self.command, url + self.path, content=body, headers=dict(self.headers), timeout=60, trust_env=False
            )
            # A server that cannot do it just now has the client ask again.
            if self.command == "POST" and not lost and told.status_code != 503:
                lost.append(told.status_code)
                then()
                self.connection.close()
                return
            self.send_response(told.status_code)
            self.send_header("content-length", str(len(told.content)))
            self.end_headers()
            self.wfile.write(told.content)

        def log_message(self, *_):
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Way) as way:
        thread = threading.Thread(target=way.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{way.server_address[1]}"
        finally:
            way.shutdown()
            thread.join()
    assert lost == [200], "the change was made, and its answer lost"


@pytest.fixture
def world(tmp_path):
    make_home(tmp_path / "home")
    with (
        serving(tmp_path / "home", tmp_path / "server", "--no-grpc") as server,
        shoal.open(tmp_path / "home") as workspace,
    ):
        yield workspace, server.url


def moves(workspace):
    return [change.after for change in workspace.registry.alias_history("pumps")]


def test_a_promotion_and_a_rollback_whose_answers_are_lost_succeed_once(world):
    workspace, url = world
    with losing_answers(url, lambda: None) as way, shoal.connect(way) as client:
        change = client.promote("pumps", 2, expected=1, reason="better")
        assert (change.before, change.after, change.reason) == (1, 2, "better")
        assert moves(workspace) == [2, 1]
        assert client.registry.alias_history("pumps")[0] == change
    with losing_answers(url, lambda: None) as way, shoal.connect(way) as client:
        assert client.rollback("pumps").after == 1
        assert moves(workspace) == [1, 2, 1]


@pytest.mark.parametrize("expected", [1, None])
def test_what_somebody_else_moved_since_is_a_conflict(world, expected):
    workspace, url = world
    with losing_answers(url, lambda: workspace.promote("pumps", 1)) as way, shoal.connect(way) as client:
        with pytest.raises(Conflict, match="moved again since"):
            client.promote("pumps", 2, expected=expected)
        assert moves(workspace) == [1, 2, 1]
