"""Whether the registry answers: what is known of it, and who is refused for it."""

import asyncio
import time

import pytest

from shoal.errors import StorageError, Unavailable
from shoal.serving import contact as module
from shoal.serving.contact import Contact


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(module, "SLOW_S", 0.05)
    monkeypatch.setattr(module, "LOOK_S", 0.01)


def failed(contact, text="postgresql://ada@db/shoal: refused"):
    with pytest.raises(StorageError), contact.question():
        raise StorageError(text)


def test_who_needs_the_registry_is_refused_while_it_is_away_and_hears_no_address():
    async def main():
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

    asyncio.run(main())


def test_one_that_does_not_answer_soon_counts_as_away_before_it_fails(quick):
    async def main():
        contact = Contact()
        with contact.question():
            contact.require()
            await asyncio.sleep(0.1)
            assert "has not answered" in contact.problem
        contact.require()

    asyncio.run(main())


def test_a_process_that_was_held_up_itself_does_not_blame_the_registry(monkeypatch):
    monkeypatch.setattr(module, "SLOW_S", 0.5)
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    monkeypatch.setattr(module, "AWAKE_S", 0.05)

    async def main():
        contact = Contact()
        with contact.question():
            time.sleep(1.5 * module.SLOW_S)
            contact.require()
            await asyncio.sleep(2 * module.LOOK_S)
            contact.require()

    asyncio.run(main())


def test_work_is_waited_for_until_the_registry_is_known_to_be_away(quick):
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
        with contact.question(), pytest.raises(Unavailable, match="perhaps it was done"):
            await contact.during(work(), "perhaps it was done")
        may.set()  # the work goes on
        await asyncio.sleep(0)

    asyncio.run(main())


@pytest.mark.parametrize("hangs", [True, False])
def test_what_is_guarded_fails_as_soon_as_the_registry_is_known_to_be_away(quick, hangs):
    async def main():
        contact, loop = Contact(), asyncio.get_running_loop()
        with contact.question():
            early, late = (contact.guard(loop.create_future(), "so it may be kept") for _ in range(2))
            early.set_result(1)
        assert await early == 1
        if hangs:
            with contact.question():
                await asyncio.wait({late}, timeout=10)
        else:
            failed(contact)
        with pytest.raises(Unavailable, match="so it may be kept"):
            await late

    asyncio.run(main())
