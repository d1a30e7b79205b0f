"""The report: one file without scripts, remade from the folder, nothing from outside unescaped, opened in a browser."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from shmq.errors import TracingError
from shmq.memcheck.recording import TRACES, Recorder
from shmq.memcheck.report import by_kind, evaluate, terminal_table, write_report
from shmq.memcheck.report.findings import interval, with_unit
from shmq.memcheck.report.plot import COLOURS, Line, line_plot
from shmq.memcheck.sampling import Process, Reading
from shmq.memcheck.slope import Slope
from tests.memcheck import children, leaky
from tests.memcheck.made_up import BASE, KIB, clock

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = '<script>alert("x")</script>&'
has_memray = importlib.util.find_spec("memray") is not None


def record_run(folder, *, leak_per_s=0.0, title="soak", kind="worker computation", name="worker computation 1"):
    """Ten minutes that count as a day, of one worker and the supervisor."""
    recorder = Recorder(folder, {"title": title, "acceleration": 144.0, "conversion": "24 h in 10 minutes."})
    noise = np.random.default_rng(0)
    for t in clock():
        for who, leak in ((Process(kind, name, 10, 1), leak_per_s), (Process("supervisor", "supervisor", 9, 1), 0)):
            rss = int(BASE + leak * t + noise.normal(0, 8 * KIB))
            values = {"rss_anon_bytes": rss, "descriptors": 9, "threads": 1}
            recorder.sample(Reading(float(t), who, int(1000 * t), values))
        recorder.facts("system", "shared memory", {"shm_bytes": 50e6, "semaphores": 4}, int(1000 * t), float(t))
    recorder.finish(jobs=600_000)


def test_a_report_that_cannot_be_written_leaves_the_answer(tmp_path):
    Recorder(tmp_path / "run", {"title": "t", "acceleration": 1.0}).finish()
    (tmp_path / "run" / "report.html").mkdir()
    _, found = write_report(tmp_path / "run")
    assert found.answer.startswith("too short to tell")
    assert "cannot be written" in found.notes[-1]


def test_clean_run_is_reported_as_such(tmp_path):
    record_run(tmp_path / "run")
    path, found = write_report(tmp_path / "run")
    page = path.read_text(encoding="utf-8")
    assert (found.answer, found.exit_code) == ("no leak", 0)
    assert ">no leak</p>" in page
    assert "24 h in 10 minutes." in page
    assert page.count("<polyline") == 8
    assert "Suspects" not in page


def test_leaking_run_names_the_process(tmp_path):
    record_run(tmp_path / "run", leak_per_s=100_000)
    path, found = write_report(tmp_path / "run")
    assert (found.answer, found.exit_code) == ("leak", 1)
    assert [v.name for v in found.verdicts if v.is_leak] == ["worker computation 1"]
    headings, rows = terminal_table(found.verdicts)
    assert rows[0][:2] == ["worker computation 1", "rss_anon"]
    assert rows[0][-1] == "leak"
    assert {len(row) for row in rows} == {len(headings)}
    assert by_kind(found.verdicts) == {"worker computation": "leak", "supervisor": "no leak", "system": "no leak"}
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["answer"] == "leak"
    assert path.name == "report.html"


def test_report_is_remade_from_the_files(tmp_path):
    record_run(tmp_path / "run", leak_per_s=100_000)
    path, _ = write_report(tmp_path / "run")
    first = path.read_text(encoding="utf-8")
    path.unlink()
    shutil.move(tmp_path / "run", tmp_path / "moved")
    assert write_report(tmp_path / "moved")[0].read_text(encoding="utf-8") == first


def test_page_is_one_file_without_scripts_or_network(tmp_path):
    record_run(tmp_path / "run")
    page = write_report(tmp_path / "run")[0].read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in page
    assert not re.search(r"(src|href|@import|url)\s*[=(]\s*[\"']?(https?:)?//", page)


def test_names_from_outside_are_escaped(tmp_path):
    record_run(tmp_path / "run", title=EVIL, kind=EVIL, name=EVIL, leak_per_s=100_000)
    growth = {"task": EVIL, "jobs": 50, "bytes": 50_000, "failed_jobs": 0, "failed_bytes": 0, "counts": {EVIL: 50}}
    growth |= {"watched_jobs": 1, "left": {EVIL: [[[EVIL, 1, EVIL], 100]]}}
    (tmp_path / "run" / TRACES / "growth-1.json").write_text(json.dumps([growth]))
    path, found = write_report(tmp_path / "run")
    page = path.read_text(encoding="utf-8")
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 8
    assert any(EVIL in line for line in found.culprits)


def test_folder_without_readings_still_gives_a_report(tmp_path):
    Recorder(tmp_path / "run", {}).finish()
    path, found = write_report(tmp_path / "run")
    assert found.exit_code == 1
    assert "No readings." in path.read_text(encoding="utf-8")


def test_no_run_is_an_error(tmp_path):
    with pytest.raises(TracingError, match="holds no run"):
        write_report(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not has_memray, reason="memray is not installed: pip install 'shmq[memray]'")
def test_culprit_is_named_with_file_line_and_task_and_a_flame_graph(tmp_path):
    record_run(tmp_path / "run", leak_per_s=100_000, kind="leaky grow-list", name="leaky grow_list")
    done = children.run("grow_list", tmp_path, "--trace", "--deltas", "--jobs", "2500")
    assert done.returncode == 0, done.stderr
    shutil.copytree(tmp_path / "traces", tmp_path / "run" / TRACES, dirs_exist_ok=True)
    path, found = write_report(tmp_path / "run")
    page = path.read_text(encoding="utf-8")
    place = f"leaky.py:{leaky.line_of('grow_list')}"
    named = [line for line in found.culprits if f"{place} in grow_list, task grow_list" in line]
    assert len(named) == 2  # memray and the deltas agree
    assert place in page
    (graph,) = found.flame_graphs.values()
    assert f'href="{graph.relative_to(path.parent)}"' in page
    assert "grow_list" in graph.read_text(encoding="utf-8")
    if CHROMIUM is not None:
        drawn, complaints = open_in_browser(graph, tmp_path / "profile")
        assert [line for line in complaints if "Uncaught" in line or "Error" in line] == []
        assert "<svg" in drawn


@pytest.mark.skipif(not has_memray, reason="memray is not installed: pip install 'shmq[memray]'")
def test_damaged_trace_becomes_a_note(tmp_path):
    record_run(tmp_path / "run", leak_per_s=100_000)
    (tmp_path / "run" / TRACES / "worker-computation-1.10.0001.memray").write_bytes(b"junk")
    path, found = write_report(tmp_path / "run")
    assert any("cannot be read" in note for note in found.notes)
    assert "cannot be read" in path.read_text(encoding="utf-8")


def test_unsuspected_traces_are_left_alone_unless_asked_for(tmp_path):
    record_run(tmp_path / "run")
    (tmp_path / "run" / TRACES / "worker-computation-1.10.0001.memray").write_bytes(b"junk")
    assert write_report(tmp_path / "run")[1].notes == []
    if has_memray:
        assert len(write_report(tmp_path / "run", traces="all")[1].notes) == 1


def test_numbers_are_written_for_people():
    assert with_unit(3 * 2**20, "rss_anon_bytes") == "3 MiB"
    assert with_unit(-1536, "shm_bytes", signed=True) == "-1.5 KiB"
    assert with_unit(2**40, "bytes") == "1,024 GiB"
    assert with_unit(12, "descriptors", signed=True) == "+12"
    assert interval(None, "threads") == "–"
    assert interval(Slope(0, 0, 0), "threads") == "0"
    assert interval(Slope(-1, 0, 2), "threads") == "0 (-1 … +2)"


def test_plot_keeps_spikes_and_bounds_its_size():
    x = np.arange(100_000.0)
    y = np.zeros(100_000)
    y[54_321] = 5
    svg = line_plot([Line("a", x, y)] * 20, title="t", unit=str)
    assert svg.count("<polyline") == 12
    assert "8 shorter ones" in svg
    assert len(svg) < 200_000
    heights = {point.split(",")[1] for point in re.search(r'points="([^"]+)"', svg)[1].split()}
    assert len(heights) == 2


@pytest.mark.parametrize("value", [0.0, -5.0, 1e15, 1e-9])
def test_constant_can_be_drawn(value):
    assert "<polyline" in line_plot([Line("a", np.array([0.0]), np.array([value]))], title="t", unit=str)


# -- in a browser --


def open_in_browser(path, profile, picture=None):
    """The page as the browser understood it, and what it complained about; or what it looks like, in a file."""
    output = ("--dump-dom",) if picture is None else (f"--screenshot={picture}", "--window-size=1300,3000")
    quiet = ("quic", "background-networking", "component-update", "sync", "gpu", "dev-shm-usage")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--no-first-run", "--enable-logging=stderr",
        *(f"--disable-{what}" for what in quiet),
        f"--user-data-dir={profile}", "--virtual-time-budget=5000", *output, path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or chrome here: install one to see the report drawn")
def test_browser_draws_the_plots_without_complaint(tmp_path):
    record_run(tmp_path / "run", leak_per_s=100_000, title=EVIL)
    path, _ = write_report(tmp_path / "run")
    page, complaints = open_in_browser(path, tmp_path / "profile")
    assert complaints == []
    assert page.count("<polyline") == 8
    assert 'class="answer leak"' in page
    assert "<script" not in page


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or chrome here: install one to see the report drawn")
def test_browser_paints_the_lines(tmp_path):
    """Pixels in the colour of a line, in every plot: across the page and far below each other."""
    image = pytest.importorskip("matplotlib.image")
    record_run(tmp_path / "run", leak_per_s=100_000)
    path, _ = write_report(tmp_path / "run")
    open_in_browser(path, tmp_path / "profile", tmp_path / "page.png")
    pixels = image.imread(tmp_path / "page.png")[..., :3]
    wanted = np.array([int(COLOURS[0][i : i + 2], 16) / 255 for i in (1, 3, 5)])
    painted = np.abs(pixels - wanted).max(axis=2) < 0.1
    rows, columns = painted.any(axis=1).nonzero()[0], painted.any(axis=0).nonzero()[0]
    assert painted.sum() > 2_000
    assert np.ptp(rows) > 500
    assert np.ptp(columns) > 600


def test_evaluate_alone_writes_nothing(tmp_path):
    from shmq.memcheck.recording import load_run

    record_run(tmp_path / "run")
    before = sorted(p.name for p in (tmp_path / "run").iterdir())
    assert evaluate(load_run(tmp_path / "run")).answer == "no leak"
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == before
