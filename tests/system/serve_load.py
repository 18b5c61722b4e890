"""Clients that keep asking, each on a connection of its own, and remember what became of every request."""

import http.client
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from serve_process import request

from shoal.server.worker import LINGER_S

PATH = "/v2/models/pumps/infer"


@dataclass
class Load:
    """Threads that ask until they are stopped.

    ``answered`` has status and body of every request that was answered, ``lost`` what went wrong after a request was
    sent on a connection that the server had accepted, ``refused`` counts attempts to connect that failed. A server that
    ends closes connections that idle for longer than it lingers; a client that was held up for so long between two
    requests was ``late``, and has lost nothing.
    """

    url: str
    clients: int = 8
    answered: list[tuple[int, dict]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    refused: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        parts = urlsplit(self.url)
        body = json.dumps(request(device=number % 5))
        connection: http.client.HTTPConnection | None = None
        while not self._stop.is_set():
            if connection is None:
                used_s = time.monotonic()
                connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
                try:
                    connection.connect()
                except OSError:
                    self.refused += 1
                    connection = None
                    time.sleep(0.02)
                    continue
            asked_s, sent_s = time.monotonic(), 0.0
            try:
                connection.request("POST", PATH, body, {"content-type": "application/json"})
                sent_s = time.monotonic()
                response = connection.getresponse()
                self.answered.append((response.status, json.loads(response.read())))
            except (OSError, http.client.HTTPException) as error:
                # Since it connected, or sent its last request: the answer to that was not sent before.
                idle_s = (sent_s or time.monotonic()) - used_s
                (self.lost if idle_s < LINGER_S else self.late).append(repr(error))
                connection = None
                continue
            used_s = asked_s
            if response.will_close:
                connection = None
