"""What every report of an evaluation says: how many, of which data, how sure, and beside what.

A number alone says little: the same model is good on easy questions and on answers that are
mostly B. So a report holds the number of samples and patients, a hash of the data, an interval
from resampling patients, and what is reached by looking at nothing: the commonest answer
(majority), and the same model without the slide (blind). For baselines with a value for every
sample the difference is resampled together with the model, which says more than two intervals.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiprep.core.config import digest
from wsiprep.metrics.bootstrap import Interval, Statistic, bootstrap_interval

__all__ = ["as_lines", "assemble", "data_sha256"]

RESAMPLES = 1000
CONFIDENCE = 0.95
DECIMALS = 4

Floats = NDArray[np.float64]

Baseline = Mapping[str, Statistic | float]
"""A baseline's metrics: of the samples, or plain numbers."""


def data_sha256(rows: Iterable[Any]) -> str:
    """sha256 (hex) of data, whatever the order of its rows.

    Args:
        rows: One JSON value a sample: all that was evaluated on (ids, questions, answers,
            fingerprints of features), and nothing the model said.
    """
    return _whole([digest(row) for row in rows])


def assemble(
    task: str,
    statistics: Mapping[str, Statistic],
    *,
    rows: int,
    data: Iterable[Any],
    patients: Sequence[Hashable] | None,
    over: str = "patients",
    baselines: Mapping[str, Baseline] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    extra: Mapping[str, Any] | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Any]:
    """A report, of plain JSON types.

    Args:
        task: What was evaluated, as `retrieval`.
        statistics: Metrics by name.
        rows: Number of samples.
        data: One JSON value a sample; see `data_sha256`.
        patients: Patient of each sample; samples are taken for patients if None, which the report
            says.
        over: What `patients` are, where they are not all patients: `slides`, say.
        baselines: Metrics of `majority`, `blind`, `chance`, ... by name.
        groups: For each way to group samples (`task`, `tumour`), the group of each.
        extra: What else the report should hold (tokenizer, judge, unparsed answers); its names
            must not be those of the report. Of `baseline_notes`, words by name of a baseline,
            `as_lines` makes lines.
        resamples: Of the bootstrap.
        confidence: Of the intervals.
        seed: The same seed, the same intervals.

    Returns:
        `task`, `n`, `n_patients` (None if not all are known), `data_sha256`, `scores` (value, low,
        high, groups), `baselines` (likewise; a plain number has no interval), `above` (the model
        minus each baseline), `by_group`, `bootstrap`, and `extra`.

    Raises:
        ValueError: lengths differ, no sample, or a name taken twice.
    """
    hashes = [digest(row) for row in data]
    if not rows or len(hashes) != rows:
        raise ValueError(f"there must be one value of the data a sample: {len(hashes)} for {rows}")
    for name, labels in {"patients": patients or (), **(groups or {})}.items():
        if len(labels) != rows and (name != "patients" or patients is not None):
            raise ValueError(f"{len(labels)} {name} for {rows} samples")

    def interval(statistic: Statistic, members: Sequence[int] | None = None) -> dict[str, Any]:
        chosen = range(rows) if members is None else members
        found = bootstrap_interval(
            statistic if members is None else _of_members(statistic, members, rows),
            len(chosen),
            groups=None if patients is None else [patients[row] for row in chosen],
            resamples=resamples,
            confidence=confidence,
            seed=seed,
        )
        return _rounded(found)

    beside = baselines or {}
    report: dict[str, Any] = {
        "task": task,
        "n": rows,
        "n_patients": None if patients is None or over != "patients" else len(set(patients)),
        "data_sha256": _whole(hashes),
        "scores": {name: interval(statistic) for name, statistic in statistics.items()},
        "baselines": {
            name: {
                metric: interval(value) if callable(value) else _plain(value)
                for metric, value in baseline.items()
            }
            for name, baseline in beside.items()
        },
        "above": {
            name: {
                metric: interval(_minus(statistics[metric], value))
                for metric, value in baseline.items()
                if metric in statistics
            }
            for name, baseline in beside.items()
        },
        "by_group": {
            name: {
                group: {
                    "n": len(members),
                    **{metric: interval(stat, members) for metric, stat in statistics.items()},
                }
                for group, members in _members(labels).items()
            }
            for name, labels in (groups or {}).items()
        },
        "bootstrap": {
            "over": "samples" if patients is None else over,
            "resamples": resamples,
            "confidence": confidence,
            "seed": seed,
        },
    }
    taken = report.keys() & (extra or {}).keys()
    if taken:
        raise ValueError(f"a report has its own {', '.join(sorted(taken))}")
    return {**report, **(extra or {})}


def as_lines(report: Mapping[str, Any]) -> list[str]:
    """A report as lines of text, for a terminal."""
    over = report["bootstrap"]
    patients = "unknown" if report["n_patients"] is None else report["n_patients"]
    lines = [
        f"{report['task']}: n {report['n']}, patients {patients}, "
        f"data {report['data_sha256'][:12]}",
        f"{100 * over['confidence']:g} % intervals of {over['resamples']} resamples of "
        f"{over['over']}",
    ]
    width = max((len(name) for name in report["scores"]), default=0)
    for metric, found in report["scores"].items():
        beside = [
            f"{name} {_number(values[metric]['value'])}"
            for name, values in report["baselines"].items()
            if metric in values
        ]
        tail = f"  ({', '.join(beside)})" if beside else ""
        lines.append(f"{metric:<{width}}  {_span(found)}{tail}")
    lines += [f"{name}: {said}" for name, said in report.get("baseline_notes", {}).items()]
    for way, groups in report["by_group"].items():
        for group, found in groups.items():
            parts = [f"{m} {_span(v)}" for m, v in found.items() if m != "n"]
            lines.append(f"{way} {group or '(none)'}: n {found['n']}, {', '.join(parts)}")
    return lines


def _whole(hashes: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def _of_members(statistic: Statistic, members: Sequence[int], rows: int) -> Statistic:
    """A statistic of some rows alone."""
    columns = np.asarray(members)

    def of_some(weights: Floats) -> Floats:
        whole = np.zeros((len(weights), rows))
        whole[:, columns] = weights
        return statistic(whole)

    return of_some


def _members(labels: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        found.setdefault(label, []).append(row)
    return found


def _minus(one: Statistic, other: Statistic | float) -> Statistic:
    if callable(other):
        return lambda weights: one(weights) - other(weights)
    return lambda weights: one(weights) - other


def _plain(value: float) -> dict[str, Any]:
    known = np.isfinite(value)
    return {"value": round(float(value), DECIMALS) if known else None, "low": None, "high": None}


def _rounded(found: Interval) -> dict[str, Any]:
    return {
        name: round(value, DECIMALS) if isinstance(value, float) else value
        for name, value in found.canonical().items()
    }


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _span(found: Mapping[str, Any]) -> str:
    if found["low"] is None:
        return _number(found["value"])
    return f"{_number(found['value'])} [{_number(found['low'])}, {_number(found['high'])}]"
