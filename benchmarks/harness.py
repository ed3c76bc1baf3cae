"""Pairs cases in one run and says ratios: a machine's speed cancels, its noise shows as an IQR.

Cases run interleaved (A B A B ...), so what else the machine does meets all of them, and a ratio
is the median over rounds of two rates from the same round. No time is ever asserted.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import render
from case import Case, Done, Result

__all__ = ["Case", "Done", "Result", "compare", "measure", "on_one_core", "options"]


def measure(cases: Sequence[Case], *, repeats: int, warmup: int = 1) -> list[Result]:
    """Run the cases in rounds, each once a round; the first `warmup` rounds do not count."""
    if len({case.name for case in cases}) < len(cases):
        raise ValueError("two cases have the same name")
    results = [Result(case) for case in cases]
    for number in range(warmup + repeats):
        for result in results:
            with result.case.setup() as state:
                wall, cpu = time.perf_counter(), _cpu_seconds()
                done = result.case.run(state)
                wall, cpu = time.perf_counter() - wall, _cpu_seconds() - cpu
            if number >= warmup:
                result.amount.append(done.amount)
                result.wall_s.append(wall)
                result.cpu_s.append(cpu)
                result.facts.update(done.facts)
    return results


def compare(
    title: str, cases: Sequence[Case], against: Sequence[str], opts: argparse.Namespace
) -> list[Result]:
    """Measure, print a table with a ratio to each case named in `against`, keep the numbers."""
    if missing := set(against) - {case.name for case in cases}:
        raise ValueError(f"no case is called {', '.join(sorted(missing))}")
    results = measure(cases, repeats=opts.repeats, warmup=opts.warmup)
    head, rows = render.tabulate(results, against)
    render.print_table(title, head, rows)
    if opts.json:
        render.append_records(opts.json, render.records(title, results, against, opts.quick))
    if opts.markdown:
        render.write_section(opts.markdown, title, render.context(opts), head, rows)
    return results


@contextmanager
def on_one_core(setup: Callable[[], AbstractContextManager[Any]]) -> Iterator[Any]:
    """The setup of a case for which all threads that it starts share a single core.

    Where the system does not keep processes to cores (macOS, Windows), it changes nothing.
    """
    there = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else None
    if there:
        os.sched_setaffinity(0, {max(there)})
    try:
        with setup() as state:
            yield state
    finally:
        if there:
            os.sched_setaffinity(0, there)


def options(doc: str | None, argv: list[str] | None = None) -> argparse.Namespace:
    """Read the flags that every benchmark has; adds `warmup` to them."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny and once: does it still run?")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append a line a case to FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="put the tables into FILE")
    opts = parser.parse_args(argv)
    if opts.repeats < 1:
        parser.error("--repeats must be at least 1")
    if opts.quick:
        opts.repeats = 1
    opts.warmup = 0 if opts.quick else 1
    return opts


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)
