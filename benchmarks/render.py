"""What a benchmark leaves behind: a table on the terminal, a section of Markdown, JSON lines."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from case import Result

__all__ = [
    "append_records",
    "commit",
    "context",
    "machine",
    "number",
    "print_table",
    "records",
    "tabulate",
    "versions",
    "write_section",
]

LIBRARIES = (
    "wsiprep", "numpy", "openslide-python", "openslide-bin", "tiffslide", "tifffile", "imagecodecs",
    "simplejpeg", "opencv-python-headless", "pillow", "torch", "timm", "zarr", "h5py",
)  # fmt: skip


def tabulate(
    results: Sequence[Result], against: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Headings, and one row a case."""
    by_name = {result.case.name: result for result in results}
    facts = list(dict.fromkeys(name for result in results for name in result.facts))
    ratios = [f"vs {name} (CPU)" for name in against]
    rows = []
    for r in results:
        params = ", ".join(f"{k} {v}" for k, v in r.case.params.items())
        rows.append(
            [
                f"{r.case.name} ({params})" if params else r.case.name,
                f"{number(r.rate())} {r.case.unit}/s",
                f"{r.iqr():.0%}",
                _seconds(r.wall_s),
                _seconds(r.cpu_s),
                *(f"{r.ratio(o):.2f} ({r.ratio(o, 'cpu'):.2f})" for o in map(by_name.get, against)),
                *(number(r.facts.get(name, "")) for name in facts),
            ]
        )
    return ["case", "rate", "IQR", "wall s", "CPU s", *ratios, *facts], rows


def number(value: float | str) -> str:
    """Three digits that count, and no exponent for what people count; words as they are."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _seconds(values: Sequence[float]) -> str:
    return f"{median(values):.3g}" if median(values) >= 0.001 else f"{median(values):.1g}"


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as wide as it needs to be when the output is not a terminal."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, name in enumerate(head):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console()
    Console(width=None if console.is_terminal else 200).print(table)


def context(opts: argparse.Namespace) -> str:
    """A sentence on what was run, where and when."""
    here = machine()
    flags = " --quick" if opts.quick else f" --repeats {opts.repeats}"
    load = f", load {here['load']:.1f} at the end" if here["load"] is not None else ""
    return (
        f"`python benchmarks/{Path(sys.argv[0]).name}{flags}`; {_today()}, commit {commit()}; "
        f"{here['cpu']}, {here['cores']} cores, {here['memory_gib']} GiB, {here['os']}{load}."
    )


def write_section(
    path: Path, title: str, said: str, head: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Replace the section `## title` of a Markdown file, or add it at the end."""
    lines = [f"## {title}", "", said, ""]
    for row in (head, ["---", *["---:"] * (len(head) - 1)], *rows):
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    section = "\n".join(lines) + "\n"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    parts = [part.strip("\n") + "\n" for part in re.split(r"(?m)^(?=## )", text) if part.strip()]
    places = [i for i, part in enumerate(parts) if part.split("\n", 1)[0] == f"## {title}"]
    if places:
        parts[places[0]] = section
    else:
        parts.append(section)
    path.write_text("\n".join(parts), encoding="utf-8")


def records(
    title: str, results: Sequence[Result], against: Sequence[str], quick: bool
) -> Iterable[dict[str, Any]]:
    """One JSON object a case: every round, the ratios, and what they depend on."""
    by_name = {result.case.name: result for result in results}
    where = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "benchmark": Path(sys.argv[0]).stem,
        "title": title,
        "quick": quick,
        "machine": machine(),
        "commit": commit(),
        "versions": versions(),
    }
    for r in results:
        yield {
            **where,
            "case": r.case.name,
            "params": dict(r.case.params),
            "unit": r.case.unit,
            "amount": r.amount,
            "wall_s": r.wall_s,
            "cpu_s": r.cpu_s,
            "rate": r.rate(),
            "iqr": r.iqr(),
            "ratio_wall": {name: r.ratio(by_name[name]) for name in against},
            "ratio_cpu": {name: r.ratio(by_name[name], "cpu") for name in against},
            "facts": r.facts,
        }


def append_records(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append JSON lines."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def machine() -> dict[str, Any]:
    """CPU, cores, memory, system, load of the last minute. No names of hosts, no paths."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_model(),
        "cores": cores,
        "memory_gib": round(memory / 2**30),
        "os": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _cpu_model() -> str:
    told = Path("/proc/cpuinfo")
    if told.is_file():
        found = re.search(r"(?m)^model name\s*:\s*(.+)$", told.read_text())
        if found:
            return found[1].strip()
    if platform.system() == "Darwin":
        done = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return done.stdout.strip()
    return platform.machine()


def commit() -> str:
    """The commit that is checked out, `-dirty` when files differ from it.

    RESULTS.md does not count: a run of several tables writes it on the way.
    """
    name = _git("rev-parse", "--short", "HEAD")
    if name is None:
        return "unknown"
    changed = _git("status", "--porcelain", "--", ":/", ":(top,exclude)benchmarks/RESULTS.md")
    return f"{name}-dirty" if changed else name


def _git(*args: str) -> str | None:
    done = subprocess.run(
        ["git", *args], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a time may depend on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
