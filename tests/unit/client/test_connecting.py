"""What a client shows of what it was given: never the key, never a password."""

import asyncio
import http.server
import socket
import threading
from collections.abc import Iterator

import pytest

import shoal
from shoal.errors import InvalidInput, StorageError

SECRET = "shoal_abcdefgh_0123456789"


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("around", ["{}\n", " {}\r\n", "\t{} "])
def test_white_space_around_a_key_is_left_out(around: str) -> None:
    seen = []

    class Answering(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["x-api-key"])
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

    with http.server.HTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with shoal.connect(f"http://127.0.0.1:{server.server_port}\n", api_key=around.format(SECRET)) as client:
            assert client.services() == []
        server.shutdown()
    assert seen == [SECRET]


@pytest.mark.parametrize("key", [f"{SECRET}\n{SECRET}", f"{SECRET}ü", f"{SECRET}\0", "\ud800"])
@pytest.mark.parametrize("connect", [shoal.connect, shoal.connect_async])
def test_a_key_that_no_header_can_hold_is_refused_and_not_repeated(nobody: str, key: str, connect: object) -> None:
    with pytest.raises(InvalidInput, match="the API key has a character that no header") as told:
        connect(f"http://{nobody}", api_key=key)  # type: ignore[operator]
    assert SECRET not in str(told.value)


def test_a_password_in_an_address_is_not_repeated(nobody: str) -> None:
    with (
        shoal.connect(f"http://ada:{SECRET}@{nobody}", timeout_s=5) as client,
        pytest.raises(StorageError, match=f"http://{nobody} cannot be reached") as told,
    ):
        client.fleet("demand")
    with pytest.raises(InvalidInput, match="no address of a server") as refused:
        shoal.connect(f"ada:{SECRET}@{nobody}")
    assert SECRET not in f"{told.value} {refused.value}"

    async def main() -> str:
        async with shoal.connect_async(f"http://ada:{SECRET}@{nobody}", timeout_s=5) as client:
            with pytest.raises(StorageError) as told:
                await client.fleet("demand")
            return str(told.value)

    assert SECRET not in asyncio.run(main())
