"""Metrics of a process that are cheap to count, and the sum over the processes of a server.

A request is counted once, in a list of numbers that a dictionary finds by its labels: well under a microsecond, no lock
(the event loop's thread is the only writer), no file. Now and then a process publishes all its numbers in a
:class:`~shoal.telemetry.pages.Page` that the other processes can read; whoever is asked for the metrics adds them up.
Labels come from closed sets, and still there is a limit on how many sets of labels a metric may have: what comes later
is counted under ``(other)``.
"""

import enum
import itertools
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Described

Labels: TypeAlias = tuple[str, ...]
"""Values of a metric's labels, in their order."""

SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds of the buckets of a duration, in seconds."""

_MOST_SERIES: Final = 2000
_OTHER: Final = "(other)"


class Kind(enum.StrEnum):
    """What the numbers of a metric mean, and how those of several processes become one."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    SUM = "sum"
    """A gauge of which every process has its share, e.g. connections."""
    MAXIMUM = "maximum"
    """A gauge of which the worst process counts, e.g. staleness."""


class Series(msgspec.Struct, array_like=True, frozen=True):
    """One set of labels and its numbers.

    Attributes
    ----------
    labels : tuple of str
        Values of the labels.
    numbers : list of float
        One number; of a histogram: counts per bucket, the last one without bound, then the sum.
    """

    labels: Labels
    numbers: list[float]


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """A metric with all its sets of labels.

    Attributes
    ----------
    name : str
        In the collector's notation, e.g. ``shoal_request_seconds``.
    kind : Kind
        What the numbers mean.
    help : str
        What is counted, in words.
    labels : tuple of str
        Names of the labels.
    bounds : tuple of float
        A histogram's upper bounds.
    series : list of Series
        The numbers.
    """

    name: str
    kind: Kind
    help: str
    labels: Labels
    bounds: tuple[float, ...] = ()
    series: list[Series] = []


class Metric:
    """The numbers of one metric in this process; see :class:`Metrics`, which makes it."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self._width = len(family.bounds) + 2 if family.kind is Kind.HISTOGRAM else 1
        self._bounds = family.bounds
        self._series: dict[Labels, list[float]] = {}

    def add(self, labels: Labels, by: float = 1.0) -> None:
        """Count."""
        numbers = self._series.get(labels)
        if numbers is None:
            numbers = self._new(labels)
        numbers[0] += by

    def set(self, labels: Labels, value: float) -> None:
        """Say what a gauge stands at."""
        self._new(labels)[0] = float(value)

    def observe(self, labels: Labels, value: float) -> None:
        """Put a value in its bucket."""
        numbers = self._series.get(labels)
        if numbers is None:
            numbers = self._new(labels)
        numbers[bisect_left(self._bounds, value)] += 1.0
        numbers[-1] += value

    def _new(self, labels: Labels) -> list[float]:
        if len(self._series) >= _MOST_SERIES and labels not in self._series:
            labels = (_OTHER,) * len(labels)
        return self._series.setdefault(labels, [0.0] * self._width)

    def dump(self) -> Family:
        """The numbers as they are now."""
        series = [Series(labels, numbers.copy()) for labels, numbers in list(self._series.items())]
        return msgspec.structs.replace(self.family, series=series)

    def adopt(self, family: Family) -> None:
        """Go on from the numbers of a process whose place this one takes; gauges begin anew."""
        if family.kind in (Kind.COUNTER, Kind.HISTOGRAM) and family.bounds == self.family.bounds:
            for one in family.series:
                self._series[one.labels] = list(one.numbers)


class Metrics:
    """All metrics of a process. One thread counts; any thread may dump."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}
        self._left: dict[str, Family] = {}

    def metric(
        self,
        name: str,
        kind: Kind,
        help: str,  # noqa: A002
        labels: Labels = (),
        bounds: Sequence[float] = (),
    ) -> Metric:
        """Make a metric, or find the one of that name."""
        if name not in self._metrics:
            family = Family(name=name, kind=kind, help=help, labels=labels, bounds=tuple(bounds))
            self._metrics[name] = Metric(family)
            left = self._left.pop(name, None)
            if left is not None:
                self._metrics[name].adopt(left)
        return self._metrics[name]

    def dump(self) -> bytes:
        """All numbers, for :func:`merge` in another process."""
        return _encoder.encode([*self._left.values(), *[metric.dump() for metric in self._metrics.values()]])

    def adopt(self, dump: bytes) -> None:
        """Go on from the numbers of a process whose place this one takes, so that counters never go back.

        Those of metrics that are not made yet are kept until they are.
        """
        for family in _decoder.decode(without_gauges(dump)):
            if family.name in self._metrics:
                self._metrics[family.name].adopt(family)
            else:
                self._left[family.name] = family


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Family])


def without_gauges(dump: bytes) -> bytes:
    """What is left of the numbers of a process that has ended: what it counted, not what it stood at."""
    gauges = (Kind.SUM, Kind.MAXIMUM)
    return _encoder.encode([family for family in _decoder.decode(dump) if family.kind not in gauges])


def merge(dumps: Iterable[bytes]) -> list[Family]:
    """One family per metric, over all processes."""
    families: dict[str, Family] = {}
    totals: dict[str, dict[Labels, list[float]]] = {}
    for family in (family for dump in dumps for family in _decoder.decode(dump)):
        families.setdefault(family.name, family)
        for one in family.series:
            known = totals.setdefault(family.name, {}).setdefault(one.labels, [])
            _combine(known, one.numbers, family.kind)
    return [
        msgspec.structs.replace(
            family, series=[Series(labels, numbers) for labels, numbers in totals.get(name, {}).items()]
        )
        for name, family in families.items()
    ]


def _combine(known: list[float], more: Sequence[float], kind: Kind) -> None:
    if not known:
        known.extend(more)
    elif kind is Kind.MAXIMUM:
        known[0] = max(known[0], more[0])
    else:
        known[:] = [a + b for a, b in zip(known, more, strict=True)]


def exposition(families: Iterable[Family]) -> tuple[bytes, str]:
    """The metrics in the text format of Prometheus, and its content type."""
    from prometheus_client import exposition as prometheus
    from prometheus_client.core import CollectorRegistry
    from prometheus_client.metrics_core import Metric as Described

    described = [_described(family) for family in families]

    class Collected:
        def collect(self) -> Iterable[Described]:
            return described

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected())
    return prometheus.generate_latest(registry), prometheus.CONTENT_TYPE_PLAIN_0_0_4


def _described(family: Family) -> "Described":
    """A family as the library that writes it down knows it."""
    from prometheus_client import metrics_core as core

    if family.kind is Kind.HISTOGRAM:
        histogram = core.HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for one in family.series:
            histogram.add_metric(one.labels, buckets=_buckets(family, one), sum_value=one.numbers[-1])
        return histogram
    counted = family.kind is Kind.COUNTER
    gauge = (core.CounterMetricFamily if counted else core.GaugeMetricFamily)(
        family.name, family.help, labels=family.labels
    )
    for one in family.series:
        gauge.add_metric(one.labels, one.numbers[0])
    return gauge


def _buckets(family: Family, series: Series) -> list[tuple[str, float]]:
    """Cumulative counts by upper bound."""
    bounds = [*map(str, family.bounds), "+Inf"]
    return list(zip(bounds, itertools.accumulate(series.numbers[:-1]), strict=True))
