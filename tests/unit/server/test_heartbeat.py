"""A server tells the registry that it is there, and last of all that it goes."""

import asyncio
import datetime as dt
import threading

import pytest

from shoal.registry import ServerRecord
from shoal.server.discovery import Heartbeat

RECORD = ServerRecord(id="one", url="http://localhost:1", started_at=dt.datetime.now(dt.UTC))


class Idle:
    """What serves nothing."""

    def index(self, *, ready):
        return []

    def missed(self):
        return {}

    def staleness_s(self):
        return 0.0


class Slow:
    """A registry that takes its time to hear of a server."""

    def __init__(self):
        self.asked, self.may, self.heard = threading.Event(), threading.Event(), []

    def beat(self, record):
        self.asked.set()
        assert self.may.wait(60)
        self.heard.append("it is there")

    def forget_server(self, server_id):
        self.heard.append("it goes")


def test_a_sign_of_life_that_is_on_its_way_is_not_the_last_word():
    async def main():
        registry = Slow()
        heart = Heartbeat(registry, Idle(), RECORD)
        beating = asyncio.create_task(heart.work())
        await asyncio.to_thread(registry.asked.wait, 60)
        beating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await beating
        ending = asyncio.create_task(heart.end())
        await asyncio.sleep(0.05)
        registry.may.set()
        await ending
        return registry.heard

    assert asyncio.run(main()) == ["it is there", "it goes"]
