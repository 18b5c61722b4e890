"""Judges what servers answer while versions are promoted and workers killed: right, fresh, whole, and once.

The fleet of the soak tells in each prediction which version, which model and which row it comes from, so that an answer
proves itself: ``version * 1,000,000 + device * 1,000 + x``.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

FLEET: Final = "soak"
VERSION_UNIT: Final = 1_000_000.0
DEVICE_UNIT: Final = 1_000.0
_EXAMPLES: Final = 20


class _Output(msgspec.Struct):
    name: str
    data: list[float | str | None]


class _Answer(msgspec.Struct):
    model_version: str
    outputs: list[_Output]


class _Prediction(msgspec.Struct):
    id: str
    state: str
    response: _Answer | None = None


_answers: "msgspec.json.Decoder[_Answer]" = msgspec.json.Decoder(_Answer)
_predictions: "msgspec.json.Decoder[_Prediction]" = msgspec.json.Decoder(_Prediction)


@dataclass(slots=True, eq=False)
class _Reign:
    """When a version was the champion: from before its promotion began until after that of the next was done."""

    version: int
    ended_s: float = float("inf")


@dataclass(slots=True, eq=False)
class Findings:
    """What a soak has seen.

    Attributes
    ----------
    answers, rows : int
        Requests that were answered at once, by REST and gRPC, and their rows.
    calls : int
        Those of them by gRPC.
    accepted, done : int
        Requests that were accepted to be answered later, and those whose answer has come.
    promotions, kills : int
        What was done to the servers meanwhile.
    resets, refusals : int
        What clients are to live with: connections that ended with a killed worker, and 503 with ``Retry-After``.
    lag_s : float
        Longest time after a promotion was done that a request was sent and answered by an older version, in seconds.
    longest_s : float
        How long a request over REST took until it was answered, with all that had to be sent again, in seconds.
    wrong : Counter of str
        How often which promise was broken.
    examples : list of str
        The first times.
    """

    answers: int = 0
    rows: int = 0
    calls: int = 0
    accepted: int = 0
    done: int = 0
    promotions: int = 0
    kills: int = 0
    resets: int = 0
    refusals: int = 0
    lag_s: float = 0.0
    longest_s: float = 0.0
    wrong: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)


class Checker:
    """Knows what is promised, and counts what was broken. Belongs to one thread.

    Parameters
    ----------
    stale_s : float
        How long after a promotion an older version may still answer, in seconds.
    excuse_s : float
        For how long a killed worker excuses a connection that ends, in seconds.
    """

    def __init__(self, *, stale_s: float, excuse_s: float = 2.0) -> None:
        self.findings = Findings()
        self._stale_s = stale_s
        self._excuse_s = excuse_s
        self._reigns: list[_Reign] = []
        self._killed_s: dict[str, float] = {}
        self._waiting: dict[str, tuple[str, Sequence[float], float]] = {}
        self._keys: set[str] = set()

    def promoting(self, version: int) -> None:
        """A version is being promoted; from now on it may answer, long before it is known here that it was."""
        self._reigns.append(_Reign(version))

    def promoted(self, done_s: float) -> None:
        """The promotion that was begun is done since a point of ``time.monotonic()``; the version before is over."""
        if len(self._reigns) > 1:
            self._reigns[-2].ended_s = done_s
        self.findings.promotions += 1

    def killed(self, server: str) -> None:
        """A worker of a server is being killed."""
        self._killed_s[server] = time.monotonic()
        self.findings.kills += 1

    def reset(self, server: str, since_s: float) -> None:
        """A connection to a server ended without an answer; the last that had one was sent at ``since_s``."""
        self.findings.resets += 1
        killed_s = self._killed_s.get(server, float("-inf"))
        if killed_s < min(since_s, time.monotonic() - self._excuse_s):
            self.broken(
                "a connection ended though no worker was killed", f"{server}, {time.monotonic() - killed_s:.2f} s"
            )

    def took(self, seconds: float) -> None:
        """A request has its answer, after so many seconds from when it was first sent."""
        self.findings.longest_s = max(self.findings.longest_s, seconds)

    def refused(self, status: int, retry_after: bool, text: str) -> None:
        """A request was refused."""
        if status == 503 and retry_after:
            self.findings.refusals += 1
        else:
            self.broken(f"status {status}", text)

    def answered(self, body: bytes, offsets: Sequence[float], sent_s: float) -> None:
        """A request by REST was answered.

        Parameters
        ----------
        body : bytes
            The answer.
        offsets : sequence of float
            What each row's prediction has to be beyond its version's part.
        sent_s : float
            When the request was sent, a point of ``time.monotonic()``.
        """
        try:
            answer = _answers.decode(body)
        except msgspec.MsgspecError as error:
            self.broken("an answer that cannot be read", f"{error}: {body[:200]!r}")
            return
        columns = {output.name: output.data for output in answer.outputs}
        self.judge(answer.model_version, columns.get("prediction", ()), offsets, sent_s)
        if columns.get("outcome", ["scored"] * len(offsets)) != ["scored"] * len(offsets):
            self.broken("a row that was not scored", repr(columns["outcome"][:20]))

    def judge(self, version: str, values: Sequence[object], offsets: Sequence[float], sent_s: float) -> None:
        """An answer has come: is it that of the version it names, for each row, and was that version the champion?"""
        self.findings.answers += 1
        self.findings.rows += len(offsets)
        first = int(version) * VERSION_UNIT
        if list(values) != [first + offset for offset in offsets]:
            seen = sorted({int(value // VERSION_UNIT) for value in values if isinstance(value, float)})
            kind = "an answer of two versions" if len(seen) > 1 else "a wrong answer"
            self.broken(kind, f"version {version}: {list(values)[:5]}, for {list(offsets)[:5]}; versions {seen}")
        self._require_fresh(int(version), sent_s)

    def accepted(self, prediction_id: str, key: str, offsets: Sequence[float], sent_s: float) -> None:
        """A request was accepted to be answered later, with an idempotency key that no other has."""
        if prediction_id in self._waiting or key in self._keys:
            self.broken("two requests are one", f"{prediction_id} {key}")
        self._keys.add(key)
        self._waiting[prediction_id] = (key, offsets, sent_s)
        self.findings.accepted += 1

    def done(self, prediction_id: str, body: bytes) -> None:
        """The answer to an accepted request has come."""
        _, offsets, sent_s = self._waiting.pop(prediction_id)
        told = _predictions.decode(body)
        if told.id != prediction_id or told.state != "done" or told.response is None:
            self.broken("an accepted request that was not done", body[:300].decode("utf-8", "replace"))
            return
        self.findings.done += 1
        values = next((one.data for one in told.response.outputs if one.name == "prediction"), [])
        self.judge(told.response.model_version, values, offsets, sent_s)

    def kept(self, states: Sequence[tuple[str | None, str]]) -> None:
        """What the ledger says in the end: idempotency key and state of each prediction. Each once, each done."""
        keys = [key for key, _ in states]
        for key in self._waiting:
            self.broken("an accepted request that was lost", key)
        if set(keys) != self._keys or len(keys) != len(self._keys):
            self.broken(
                "the ledger knows other requests than were accepted", f"{len(keys)}, {len(self._keys)} accepted"
            )
        left = Counter(state for _, state in states if state != "done")
        if left:
            self.broken("an accepted request that was not done", repr(dict(left)))

    @property
    def waiting(self) -> int:
        """How many accepted requests have no answer yet."""
        return len(self._waiting)

    def broken(self, promise: str, example: str) -> None:
        """Count a promise that was broken."""
        self.findings.wrong[promise] += 1
        if len(self.findings.examples) < _EXAMPLES:
            self.findings.examples.append(f"{promise}: {example}")

    def _require_fresh(self, version: int, sent_s: float) -> None:
        """The version has to have been the champion at some time from a little before the request until now."""
        for reign in reversed(self._reigns):
            if reign.version == version:
                lag_s = sent_s - reign.ended_s
                self.findings.lag_s = max(self.findings.lag_s, lag_s)
                if lag_s > self._stale_s:
                    self.broken("a version that is no champion any more", f"{version}, for {lag_s:.2f} s")
                return
        self.broken("a version that never was the champion", str(version))
