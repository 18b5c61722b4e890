"""What is asked of fleets and single models: said once, for both kinds of client."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import polars as pl

from shoal.client import questions, records
from shoal.client.exchange import IDEMPOTENCY_KEY, Door, Question, asking, get, made_key, part, reading
from shoal.client.rows import ROWS_PER_REQUEST, Described, key_frame, request_body
from shoal.client.sending import Dialogue, asked
from shoal.errors import InvalidInput, NotFound, StorageError
from shoal.registry import parse_reference
from shoal.scoring.frames import Frame, as_frame
from shoal.serving.deferred import Wishes
from shoal.serving.frames import Answered, answer_frame, wanted_outputs
from shoal.serving.listings import frame_of
from shoal.serving.messages import ModelStatistics
from shoal.table.keys import ANY, level_name, require_same_key
from shoal.types import KeyColumn, KeyValue, Label

_HEADERS: Final[Mapping[str, str]] = {
    "ordering_key": "Ordering-Key", "idempotency_key": IDEMPOTENCY_KEY, "sink": "Prediction-Sink",
    "deadline_s": "Prediction-Timeout",
}  # fmt: skip


class _Accepted(msgspec.Struct):
    id: str


class _Page(msgspec.Struct):
    total: int
    columns: dict[str, str]
    models: list[dict[str, object]] = []
    changes: list[dict[str, object]] = []


class Asked:
    """A fleet or a single model on a server: what there is to say of it, and what can be asked.

    Parameters
    ----------
    name : str
        The address.
    version : str or None
        The snapshot that was asked for; None for whatever is served.
    described : Described
        What the server said.
    said : sequence of (KeyColumn, value), optional
        The key of a single model, which rows may repeat and not contradict.
    """

    def __init__(
        self,
        name: str,
        version: str | None,
        described: Described,
        said: Sequence[tuple[KeyColumn, KeyValue]] | None = None,
    ) -> None:
        self.name = name
        self._version = version
        self._described = described
        self._said = said

    @property
    def keys(self) -> list[str]:
        """The key columns."""
        return self._described.keys

    @property
    def features(self) -> list[str]:
        """The input columns beside the keys."""
        return self._described.features

    @property
    def task(self) -> str:
        """What it predicts."""
        return str(self._described.properties.get("task", ""))

    @property
    def labels(self) -> tuple[Label, ...]:
        """Sorted class labels; empty unless the task is classification."""
        told = str(self._described.properties.get("labels", "[]"))
        return tuple(msgspec.json.decode(told, type=list[str | int | bool]))

    @property
    def version(self) -> int:
        """The snapshot that was served when this was made."""
        return int(self._described.versions[0])

    def predicting(self, frame: Frame, *, outcome: bool, model_level: bool, snapshot: bool) -> Dialogue[pl.DataFrame]:
        """Predict rows, many of them in several requests of one snapshot."""
        rows = self._own(frame)
        outputs = self._outputs(outcome=outcome, model_level=model_level, snapshot=snapshot)
        answers: list[Answered] = []
        for start in range(0, max(rows.height, 1), ROWS_PER_REQUEST):  # no row is one request without any
            version = answers[0].model_version if answers else self._version
            piece = rows.slice(start, ROWS_PER_REQUEST)
            answers.append((yield from asked(self._infer(piece, outputs, version))))
        predicted = pl.concat([answer_frame(one, self._levels) for one in answers])
        return pl.concat([key_frame(rows, self._described), predicted], how="horizontal")

    def submitting(
        self, frame: Frame, wishes: Wishes, *, outcome: bool, reason: bool, model_level: bool, snapshot: bool
    ) -> Question[str]:
        """Ask for a prediction without waiting. With a key of its own it may be sent twice and is taken once."""
        wishes.require_usable()
        given = {name: getattr(wishes, name) for name in _HEADERS}
        given["idempotency_key"] = wishes.idempotency_key or made_key()
        outputs = self._outputs(outcome=outcome, reason=reason, model_level=model_level, snapshot=snapshot)
        read = reading(_Accepted)
        return Question(
            method="POST",
            path=f"{self._path(self._version)}/infer/async",
            body=request_body(self._own(frame), self._described, outputs),
            headers={_HEADERS[name]: str(value) for name, value in given.items() if value is not None},
            read=lambda content: read(content).id,
            fleet=self._fleet,
            key=self._key,
        )

    def listing(self, path: str, rows: str, **query: str | int) -> Dialogue[pl.DataFrame]:
        """A long table of the management API, page by page."""
        found: list[dict[str, object]] = []
        read = reading(_Page)
        while True:
            asking_for = asking({**query, "limit": questions.MOST, "offset": len(found)})
            whole = f"{questions.API}/fleets/{part(self._fleet)}/{path}{asking_for}"
            page = yield from asked(get(whole, read, door=Door.MANAGEMENT))
            more: list[dict[str, object]] = getattr(page, rows)
            found += more
            if len(found) >= page.total:
                return frame_of(page.columns, found)
            if not more:
                raise StorageError(f"the server told of {page.total} {rows} and gave {len(found)}; ask again")

    def models_listing(self) -> Dialogue[pl.DataFrame]:
        """The models of this snapshot."""
        return self.listing("models", "models", version=self.version)

    def diff_listing(self, other: "Asked") -> Dialogue[pl.DataFrame]:
        """What changed from this snapshot to another.

        Raises
        ------
        InvalidInput
            The other is no fleet, or another one.
        """
        if not isinstance(other, Asked):
            raise InvalidInput(f"{other!r} is no fleet of this client; write diff(client.fleet('NAME:VERSION'))")
        if other.name != self.name:
            raise InvalidInput(f"{other.name!r} is another fleet than {self.name!r}; compare snapshots of one")
        return self.listing("diff", "changes", before=self.version, after=other.version)

    def describing(self, key: tuple[KeyValue, ...] | KeyValue) -> Question[Described]:
        """What a single model of this fleet takes and gives."""
        return describe(self.address(key), self._version)

    def single(self, key: tuple[KeyValue, ...] | KeyValue, described: Described) -> "Asked":
        """A single model of this fleet, of which this was said."""
        types = self._described.key_types
        parts = key if isinstance(key, tuple) else (key,)
        said = [
            (KeyColumn(name=name, type=types[name]), value)
            for name, value in zip(self.keys, parts, strict=False)
            if name in types and value is not None
        ]
        return Asked(self.address(key), self._version, described, said)

    def address(self, key: tuple[KeyValue, ...] | KeyValue) -> str:
        """The address of a single model of this fleet."""
        parts = key if isinstance(key, tuple) else (key,)
        return ":".join([self.name, *(part(_key_part(value)) for value in parts)])

    def _own(self, frame: Frame) -> pl.DataFrame:
        rows = as_frame(frame)
        require_same_key(rows, self._said or ())
        return rows

    @property
    def _levels(self) -> list[str]:
        """The levels that may have answered; of a single model it is its own."""
        if self._said is None:
            return self._described.levels
        return [level_name(tuple(column.name for column, _ in self._said))]

    @property
    def _fleet(self) -> str:
        return self.name.partition(":")[0]

    @property
    def _key(self) -> str:
        return self.name.partition(":")[2]

    def _path(self, version: str | None) -> str:
        return _model_path(self.name, version)

    def _outputs(self, *, outcome: bool, model_level: bool, snapshot: bool, reason: bool = False) -> tuple[str, ...]:
        usual = [one.name for one in self._described.outputs]
        return wanted_outputs(usual, outcome=outcome, reason=reason, model_level=model_level, snapshot=snapshot)

    def _infer(self, rows: pl.DataFrame, outputs: Sequence[str], version: str | None) -> Question[Answered]:
        return Question(
            method="POST",
            path=f"{self._path(version)}/infer",
            body=request_body(rows, self._described, outputs),
            read=reading(Answered),
            fleet=self._fleet,
            key=self._key,
        )


def opening(reference: str) -> Dialogue[Asked]:
    """The fleet that ``name``, ``name:version`` or ``name@alias`` means now; ``name``: what is served under it."""
    parsed = parse_reference(reference)
    version = None if parsed.version is None else str(parsed.version)
    if parsed.version is None and not parsed.is_bare:
        found = yield from asked(questions.fleet(parsed.fleet))
        if parsed.alias is None or parsed.alias not in found.aliases:
            known = ", ".join(found.aliases) or "none"
            raise NotFound(f"fleet {found.name!r} has no alias {parsed.alias!r}; it has {known}")
        version = str(found.aliases[parsed.alias])
    return Asked(parsed.fleet, version, (yield from asked(describe(parsed.fleet, version))))


def submitting(
    reference: str, frame: Frame, wishes: Wishes, *, outcome: bool, reason: bool, model_level: bool, snapshot: bool
) -> Dialogue[str]:
    """Ask a fleet for a prediction without waiting."""
    fleet = yield from opening(reference)
    question = fleet.submitting(
        frame, wishes, outcome=outcome, reason=reason, model_level=model_level, snapshot=snapshot
    )
    return (yield from asked(question))


def describe(name: str, version: str | None) -> Question[Described]:
    """Ask what a fleet or model takes and gives."""
    return get(_model_path(name, version), reading(Described), about=name)


def statistics(name: str | None) -> Question[list[ModelStatistics]]:
    """Ask what fleets were asked."""
    if name is None:
        return get("/v2/models/stats", records.statistics, door=Door.INFERENCE)
    return get(f"{_model_path(name, None)}/stats", records.statistics, about=name)


def _model_path(name: str, version: str | None) -> str:
    return f"/v2/models/{part(name)}" + ("" if version is None else f"/versions/{version}")


def _key_part(value: KeyValue) -> str:
    """A key's value as addresses have it."""
    if value is None:
        return ANY
    return str(value).lower() if isinstance(value, bool) else str(value)
