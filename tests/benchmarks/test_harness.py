"""The harness counts what it should. No time is asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.benchmarks.scripts import result


def case(harness, name, log, amount=1.0, facts=None, unit="things"):
    @contextmanager
    def setup():
        log.append(f"{name} in")
        yield name
        log.append(f"{name} out")

    def run(state):
        assert state == name
        log.append(f"{name} run")
        return harness.Done(amount, facts or {})

    return harness.Case(name, {"size": 3}, unit, setup, run)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system keeps no cores")
def test_a_case_kept_to_one_core_takes_its_threads_along_and_gives_the_cores_back(harness):
    there, seen = os.sched_getaffinity(0), []

    def look():
        seen.append(os.sched_getaffinity(0))

    with harness.on_one_core(lambda: nullcontext("state")) as state:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        look()
        assert state == "state"
    assert seen[0] == seen[1]
    assert len(seen[0]) == 1
    assert seen[0] <= there
    with pytest.raises(ZeroDivisionError), harness.on_one_core(nullcontext):
        _ = 1 / 0
    assert os.sched_getaffinity(0) == there


def test_cases_alternate_and_warm_up_does_not_count(harness):
    log: list[str] = []
    cases = [case(harness, "a", log), case(harness, "b", log, amount=5.0)]
    a, b = harness.measure(cases, repeats=2, warmup=1)
    one_round = [f"{name} {step}" for name in "ab" for step in ("in", "run", "out")]
    assert log == one_round * 3
    assert (a.amount, b.amount) == ([1.0, 1.0], [5.0, 5.0])
    assert len(a.wall_s) == len(a.cpu_s) == 2


def test_setup_is_not_timed_and_both_clocks_are_read(harness, monkeypatch):
    wall, cpu = [0.0], [0.0]
    monkeypatch.setattr(harness, "time", SimpleNamespace(perf_counter=lambda: wall[0]))
    monkeypatch.setattr(harness, "_cpu_seconds", lambda: cpu[0])

    @contextmanager
    def slow_setup():
        wall[0] += 100
        cpu[0] += 50
        yield
        wall[0] += 100

    def run(_):
        wall[0] += 4
        cpu[0] += 3
        return harness.Done(12)

    (one,) = harness.measure([harness.Case("a", {}, "x", slow_setup, run)], repeats=2, warmup=0)
    assert (one.wall_s, one.cpu_s) == ([4.0, 4.0], [3.0, 3.0])
    assert (one.rates(), one.rates("cpu")) == ([3.0, 3.0], [4.0, 4.0])


def test_cpu_time_of_children_counts(harness):
    burn = "import time; t = time.process_time()\nwhile time.process_time() < t + 0.2: pass"

    def run(_):
        subprocess.run([sys.executable, "-c", burn], check=True)
        return harness.Done(1)

    (one,) = harness.measure([harness.Case("a", {}, "x", nullcontext, run)], repeats=1, warmup=0)
    assert one.cpu_s[0] >= 0.2


def test_a_ratio_pairs_rounds(harness):
    # The second round met a machine of half the speed: it cancels.
    fast = result(harness, "fast", [10, 10, 10], [1.0, 2.0, 1.0])
    slow = result(harness, "slow", [10, 10, 10], [4.0, 8.0, 4.0])
    assert fast.ratio(slow) == pytest.approx(4)
    assert slow.ratio(fast) == pytest.approx(0.25)
    assert fast.rate() == 10
    other = result(harness, "other", [10], [1.0], [5.0])
    assert other.ratio(result(harness, "ref", [10], [1.0], [10.0]), "cpu") == pytest.approx(2)


def test_iqr_is_a_share_of_the_median(harness):
    assert result(harness, "a", [1] * 5, [1 / r for r in (8, 9, 10, 11, 12)]).iqr() == (
        pytest.approx(0.2)
    )
    assert result(harness, "a", [1], [1.0]).iqr() == 0
    assert result(harness, "a", [0, 0], [1.0, 2.0]).iqr() == 0


def test_two_cases_of_one_name_are_refused(harness):
    with pytest.raises(ValueError, match="same name"):
        harness.measure([case(harness, "a", []), case(harness, "a", [])], repeats=1)


def test_a_baseline_that_is_not_there_is_refused_before_anything_runs(harness):
    log: list[str] = []
    with pytest.raises(ValueError, match="no case is called naive"):
        harness.compare("t", [case(harness, "a", log)], ("naive",), harness.options("", []))
    assert log == []


def test_flags(harness, capsys):
    assert harness.options("", ["--repeats", "7"]).repeats == 7
    quick = harness.options("", ["--quick"])
    assert (quick.repeats, quick.warmup) == (1, 0)
    with pytest.raises(SystemExit, match="2"):
        harness.options("", ["--repeats", "0"])
    assert "at least 1" in capsys.readouterr().err


def test_table_has_a_ratio_for_each_baseline_and_a_column_for_each_fact(harness, render):
    a = result(harness, "a", [2000], [1.0], facts={"files": 3, "MB": 1.25})
    b = result(harness, "b", [500], [1.0], [0.5], facts={"files": 1})
    head, rows = render.tabulate([a, b], ("b",))
    assert head == ["case", "rate", "IQR", "wall s", "CPU s", "vs b (CPU)", "files", "MB"]
    assert rows == [
        ["a", "2,000 things/s", "0%", "1", "1", "4.00 (2.00)", "3", "1.25"],
        ["b", "500 things/s", "0%", "1", "0.5", "1.00 (1.00)", "1", ""],
    ]


def test_compare_prints_and_appends_json_lines(harness, tmp_path, capsys):
    path = tmp_path / "runs.jsonl"
    opts = harness.options("", ["--quick", "--json", str(path)])
    for _ in range(2):
        cases = [case(harness, "ours", [], 4.0, {"files": 2}), case(harness, "theirs", [], 2.0)]
        harness.compare("A title", cases, ("theirs",), opts)
    said = capsys.readouterr().out
    assert "A title" in said
    assert "vs theirs" in said
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["case"] for row in rows] == ["ours", "theirs"] * 2
    row = rows[0]
    assert (row["title"], row["unit"], row["quick"]) == ("A title", "things", True)
    assert row["params"] == {"size": 3}
    assert row["facts"] == {"files": 2}
    assert set(row["ratio_wall"]) == set(row["ratio_cpu"]) == {"theirs"}
    assert len(row["wall_s"]) == len(row["cpu_s"]) == len(row["amount"]) == 1
    assert set(row["machine"]) == {"cpu", "cores", "memory_gib", "os", "load"}
    assert row["versions"]["numpy"]
    assert row["commit"]


def test_no_host_name_and_no_path_in_what_is_kept(render):
    import platform

    text = json.dumps([render.machine(), render.versions()])
    assert str(Path.home()) not in text
    assert platform.node() not in text.split('"')


def test_a_section_is_replaced_in_place_and_others_stay(harness, render, tmp_path):
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\nWords.\n\n## One\n\nold\n\n## Two\n\nkept\n")
    render.write_section(path, "One", "said", ["case", "rate"], [["a|b", "1"]])
    render.write_section(path, "Three", "new", ["case"], [["c"]])
    assert path.read_text() == (
        "# Results\n\nWords.\n\n"
        "## One\n\nsaid\n\n| case | rate |\n| --- | ---: |\n| a\\|b | 1 |\n\n"
        "## Two\n\nkept\n\n"
        "## Three\n\nnew\n\n| case |\n| --- |\n| c |\n"
    )
    before = path.read_text()
    render.write_section(path, "Three", "new", ["case"], [["c"]])
    assert path.read_text() == before
