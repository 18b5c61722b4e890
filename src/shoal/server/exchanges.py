"""One request on a connection and its answer, which leaves in one piece where it comes as a whole."""

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle


class Exchange(RequestResponseCycle):
    """A request and its answer.

    The head of an answer waits for the first of the body, as ASGI has it: so a whole answer is written at once, at a
    third of what it takes in pieces. Whatever is not a whole answer goes uvicorn's way.
    """

    _head: Any = None

    async def send(self, message: Any) -> None:
        """Send a message of the application to the client."""
        if self.response_started:
            await super().send(message)
            return
        if message["type"] == "http.response.start":
            self._head = message
            return
        head = self._head
        if head is not None and not self._send_whole(head, message):
            await super().send(head)
        if not self.response_complete:
            await super().send(message)

    def _send_whole(self, head: Any, message: Any) -> bool:
        """Write a whole answer that says its length; False where it is no such answer, and nothing was written."""
        body = message.get("body", b"")
        if not self.keep_alive or self.disconnected or self.flow.write_paused or message.get("more_body"):
            return False
        headers = [*self.default_headers, *head["headers"]]
        lines = b"".join([b"%s: %s\r\n" % header for header in headers])
        # A header with a line break in it would be two; names are in lower case, as ASGI has it.
        is_plain = lines.count(b"\r") == lines.count(b"\n") == len(headers) and b"connection: " not in lines
        if not is_plain or b"content-length: %d\r\n" % len(body) not in lines or self.scope["method"] == "HEAD":
            return False
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.transport.write(b"%s%s\r\n%s" % (STATUS_LINE[head["status"]], lines, body))
        self.message_event.set()
        self.on_response()
        return True
