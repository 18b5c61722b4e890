"""Whether the registry answers: what is known of it, and who is refused for it."""

import asyncio
from types import SimpleNamespace

import pytest

from shoal.errors import StorageError, Unavailable
from shoal.serving import contact as module
from shoal.serving.contact import Contact


class Clock:
    """Only moves when a test moves it."""

    now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=made))
    monkeypatch.setattr(module, "SLOW_S", 1.0)
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    return made


def failed(contact, text="postgresql://ada@db/shoal: refused"):
    with pytest.raises(StorageError), contact.question():
        raise StorageError(text)


def test_who_needs_the_registry_is_refused_while_it_is_away_and_hears_no_address():
    contact = Contact()
    contact.require()
    assert (contact.problem, contact.is_made) == ("", False)
    failed(contact)
    with pytest.raises(Unavailable) as refused:
        contact.require()
    assert "nothing was done" in refused.value.message
    assert "db" not in refused.value.message
    assert "postgresql://ada@db" in refused.value.detail
    with contact.question():
        assert contact.problem  # what is being asked is not answered yet
    contact.require()
    assert contact.is_made


def test_one_that_does_not_answer_soon_counts_as_away_before_it_fails(clock):
    contact = Contact()
    with contact.question():
        contact.require()
        clock.now_s += 1.0
        contact.require()
        clock.now_s += 0.1
        assert "has not answered" in contact.problem
    contact.require()


def test_work_is_waited_for_until_the_registry_is_known_to_be_away(clock):
    async def main():
        contact, may = Contact(), asyncio.Event()

        async def work():
            await may.wait()
            return 7

        async def broken():
            raise StorageError("own trouble")

        waiting = asyncio.create_task(contact.during(work()))
        await asyncio.sleep(0.05)
        may.set()
        assert await waiting == 7
        with pytest.raises(StorageError, match="own trouble"):
            await contact.during(broken())
        may.clear()
        asyncio.get_running_loop().call_later(0.05, setattr, clock, "now_s", clock.now_s + 1.1)
        with contact.question(), pytest.raises(Unavailable, match="perhaps it was done"):
            await contact.during(work(), "perhaps it was done")
        may.set()  # the work goes on
        await asyncio.sleep(0)

    asyncio.run(main())
