"""Measure everything and write it down: ``python -m benchmarks [--only NAME] [--quick]``."""

import argparse
import sys
from collections.abc import Sequence

from benchmarks import (
    async_predictions,
    fleets,
    growth,
    job,
    key_only,
    machine,
    page,
    serving,
    snapshots,
    soak,
)
from benchmarks.case import Case, Effort, Result

CASES: dict[str, Case] = {
    **fleets.CASES,
    **growth.CASES,
    **snapshots.CASES,
    **job.CASES,
    **serving.CASES,
    **key_only.CASES,
    **async_predictions.CASES,
    **soak.CASES,
}
QUICK = Effort(repeats=1, scale=0.1)
BUSY = 0.5
"""Load average from which on the machine is not quiet enough to publish its numbers."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases that were asked for; the exit code says whether every limit was kept."""
    options = _options().parse_args(arguments)
    effort = QUICK if options.quick else Effort(repeats=options.repeats)
    load = machine.load()
    if load > BUSY:
        print(f"The machine is busy (load {load:.1f}); numbers will be worse than they are.", file=sys.stderr)
    results: dict[str, list[Result]] = {}
    for name in options.only or CASES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        results[name] = CASES[name](effort)
        for result in results[name]:
            print("  " + _line(result), flush=True)
    if not options.quick:
        page.publish(results, order=list(CASES), repeats=effort.repeats, load=load)
    return 0 if all(result.met for lines in results.values() for result in lines) else 1


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=sorted(CASES), help="one case; may be given more than once")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, once; nothing is written down")
    parser.add_argument("--repeats", type=int, default=5, help="measurements per number (default 5)")
    return parser


def _line(result: Result) -> str:
    sides = f"{result.shoal} against {result.peer}" if result.peer else result.shoal
    words = [
        f"{result.case} | {result.against}: {sides} = {page.result(result)}",
        page.asked(result),
        page.verdict(result),
    ]
    return ", ".join(word for word in words if word)


if __name__ == "__main__":
    sys.exit(main())
