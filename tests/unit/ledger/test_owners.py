import os
import subprocess
import sys

from shoal.ledger import is_gone, this_worker

NAME = "from shoal.ledger.owners import this_worker; print(this_worker('2'), flush=True); input()"


def test_this_process_is_not_gone():
    assert not is_gone(this_worker())
    assert not is_gone(this_worker("3"))
    assert this_worker("3") == this_worker() + "#3"


def test_a_killed_process_is_gone():
    worker = subprocess.Popen([sys.executable, "-c", NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    owner = worker.stdout.readline().strip()
    assert owner != this_worker("2")
    assert not is_gone(owner)
    worker.kill()
    # A zombie runs no more either: its parent may be slow to notice.
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(owner)
    worker.communicate()
    assert is_gone(owner)


def test_a_process_number_that_was_used_again_is_gone():
    place, pid, start = this_worker().split(":")
    assert is_gone(f"{place}:{pid}:{int(start) - 1}")


def test_who_is_elsewhere_or_named_otherwise_is_not_known_to_be_gone():
    _, pid, start = this_worker().split(":")
    for owner in (f"elsewhere-00000000:{pid}:1", "worker-7", "", ":", "a:b:c", f":{pid}:{start}"):
        assert not is_gone(owner)


def test_shards_of_a_gone_worker_are_given_back(ledger, start):
    run = start(3)
    place, pid, begun = this_worker().split(":")
    ledger.claim(run.id, owner=f"{place}:{pid}:{int(begun) - 1}", lease_s=3600)
    ledger.claim(run.id, owner=this_worker(), lease_s=3600)
    ledger.claim(run.id, owner="elsewhere", lease_s=3600)
    assert ledger.release_gone(run.id) == 1
    assert [claim.number for claim in ledger.claim(run.id, owner="b", lease_s=60, limit=9)] == [0]
