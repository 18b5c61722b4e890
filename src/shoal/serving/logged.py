"""Requests that were answered, as they are handed to the prediction log, and what is logged of them."""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from shoal.serving.inputs import InputSchema
from shoal.serving.outputs import OutputSchema
from shoal.serving.rows import Rows
from shoal.serving.scoring import Part

#: Bytes that a request counts for, beside its inputs.
REQUEST_BYTES: Final = 600

OWN_COLUMNS: Final = (
    "time", "request_id", "row", "principal", "fleet", "date", "version", "model", "outcome", "reason", "model_level",
    "latency_ms",
)  # fmt: skip
"""Columns of the log's own; an input or output of such a name is called ``input.<name>`` or ``output.<name>``."""

_APART: Final = frozenset({"outcome", "reason", "model_level", "snapshot"})


class LogSchema:
    """What is logged of one snapshot of a fleet.

    Parameters
    ----------
    fleet : str
        Its name.
    version : int
        The snapshot.
    inputs : InputSchema
        Its inputs.
    outputs : OutputSchema
        Its outputs; all but ``snapshot`` are logged, whichever a request wants.
    columns : sequence of str, optional
        Only these inputs and outputs.
    file_s : float
        A file is written when its first row has waited so long, in seconds.

    Attributes
    ----------
    cells : int
        Elements that are logged of a row.
    """

    def __init__(
        self,
        fleet: str,
        version: int,
        inputs: InputSchema,
        outputs: OutputSchema,
        *,
        columns: Sequence[str] | None = None,
        file_s: float = 60.0,
    ) -> None:
        self.fleet = fleet
        self.version = version
        self.inputs = inputs
        self.file_s = file_s
        self.named = {output.name: output for output in outputs.outputs}
        names = [one.name for one in inputs.inputs]
        wanted = {*self.named, *names} if columns is None else set(columns)
        self.asked = {name: _apart("input", name, OWN_COLUMNS) for name in names if name in wanted}
        answers = [name for name in self.named if name in wanted and name not in _APART]
        self.answered = {name: _apart("output", name, (*OWN_COLUMNS, *names)) for name in answers}
        self.cells = (
            len(OWN_COLUMNS) + len(self.asked) + sum([max(self.named[name].width, 1) for name in self.answered])
        )


class LoggedRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A request that was answered, by reference: nothing is copied or converted to make one.

    Attributes
    ----------
    schema : LogSchema
        What was asked.
    request_id, principal : str
        Which request it was, and whose.
    model : str
        The address as the request named it.
    rows : Rows
        The inputs as they were scored.
    parts : sequence of Part
        What was found for them.
    at_s : float
        When it was answered, in seconds since 1970, UTC.
    latency_ms : float
        How long that took, in milliseconds.
    is_own : bool
        Whether a single model was asked by its own address.
    first_row : int
        Number of the first row, where this is a part of a request.
    """

    schema: LogSchema
    request_id: str
    principal: str
    model: str
    rows: Rows
    parts: Sequence[Part]
    at_s: float
    latency_ms: float
    is_own: bool = False
    first_row: int = 0

    @property
    def size_bytes(self) -> int:
        """About how much memory is held by it."""
        return self.rows.size_bytes + REQUEST_BYTES

    def pieces(self, most_rows: int) -> Iterator["LoggedRequest"]:
        """The request in pieces of at most so many rows."""
        if self.rows.rows <= most_rows:
            yield self
            return
        first = 0
        for batch, start, stop in self.parts:
            for begin in range(start, stop, most_rows):
                end = min(begin + most_rows, stop)
                rows = self.rows.slice(first, first + end - begin)
                yield msgspec.structs.replace(self, rows=rows, parts=((batch, begin, end),), first_row=first)
                first += end - begin


def _apart(kind: str, name: str, taken: Sequence[str]) -> str:
    """A column's name in the log."""
    return f"{kind}.{name}" if name in taken else name
