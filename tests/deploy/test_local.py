"""Runs on this machine: real supervisors, real servers of tiny models, and whatever may be killed is killed."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from modelserve.deploy import identity, limits, local, lock, notes, states
from modelserve.deploy.record import Record
from modelserve.errors import TargetError
from tests.deploy.faults import faulty
from tests.deploy.runs import Runs, await_, runs, servers, supervisor
from tests.models import tiny

pytestmark = pytest.mark.slow

ENDS_S = 15.0
"""A server that lost its supervisor drains: nothing, in these tests. On a busy machine its imports take seconds."""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODELSERVE_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("MODELSERVE_STORE_URL", raising=False)
        with runs() as found:
            yield found


@pytest.fixture(scope="module")
def one(here: Runs) -> Record:
    """A run that most tests below share; each leaves it RUNNING, or makes it so."""
    here.store.put_secret("p", "TOKEN", "s3cret")
    return here.started(envs=[{"name": "COLOUR", "value": "blue"}], secrets=["TOKEN"])


def serving(here: Runs, record: Record) -> Record:
    """The run, RUNNING: started again where a test before has ended it."""
    found = here.now(record)
    if found.state in ("STOPPED", "ERROR"):
        here.resume(found)
    return here.running(record)


def ask(record: Record) -> httpx.Response:
    return httpx.post(
        f"http://{record.status['service']['url']}/v1/models/tiny:predict",
        json={"instances": ["The capital of France is [MASK]."]},
        timeout=60,
    )


def ports(record: Record) -> dict[str, int]:
    return {port["name"]: port["port"] for port in record.status["service"]["ports"]}


def python(program: str, *args: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *args],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), os.getcwd())))},
        **kwargs,  # type: ignore[call-overload]
    )


def test_two_runs_at_once(here: Runs, one: Record) -> None:
    other = here.started()
    first, second = here.running(one), here.running(other)
    for record in (first, second):
        assert ask(record).status_code == 200
        assert record.status["host"] == socket.gethostname()
    taken = [*ports(first).values(), *ports(second).values()]
    assert len(set(taken)) == 4
    assert [step["status"] for step in first.status["transitions"]][:3] == ["RUNNING", "PENDING", "READY"]
    stopped = here.stop(second)
    assert stopped.state == "STOPPED"
    assert not stopped.status.keys() & {"service", "pid", "supervisor"}
    assert servers(second) == []
    assert ask(first).status_code == 200
    here.target.delete(here.move(stopped, "DELETING"))
    assert not notes.Files(other.id).directory.exists()
    here.target.delete(stopped)  # nothing to remove is no error


def test_envs_and_secrets_reach_the_server_and_the_keys_do_not(here: Runs, one: Record) -> None:
    record = serving(here, one)
    (server,) = servers(record)
    assert server.pid == record.status["pid"]
    environment = server.environ()
    assert (environment["COLOUR"], environment["TOKEN"]) == ("blue", "s3cret")
    assert not environment.keys() & {"MODELSERVE_STORE_URL", "MODELSERVE_SECRET_KEY", lock.VARIABLE}
    assert "s3cret" not in " ".join([*server.cmdline(), here.log(record), json.dumps(record.to_dict())])
    assert server.cwd() == os.getcwd()
    kept = [os.readlink(f"/proc/{server.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{server.pid}/fd")]
    assert str(notes.Files(record.id).lock) not in kept


def test_the_supervisor_is_small_and_alone(here: Runs, one: Record) -> None:
    process = supervisor(serving(here, one))
    loaded = {Path(region.path).name.partition(".")[0] for region in process.memory_maps()}
    assert not loaded & {"libtorch_cpu", "libtorch_python", "tokenizers"}
    assert process.memory_info().rss < 100 * 2**20
    assert os.getsid(process.pid) == process.pid != os.getsid(0)


def test_another_process_finds_it_reads_it_and_stops_it(here: Runs, one: Record) -> None:
    record = serving(here, one)
    program = """
import json, sys
from modelserve.deploy.change import Change
from modelserve.deploy.local import LocalTarget
from modelserve.deploy.store import Store
from modelserve.deploy.target import LogsAsked

store = Store()
target = LocalTarget(store)
run, = [target.observe(run) for run in store.list("run", "p", state="RUNNING")]
said = {"id": run.id, "url": run.status["service"]["url"], "logs": list(target.logs(run, LogsAsked(2)))}
said["progress"] = target.progress(run)
target.stop(store.change("run", "p", run.id, Change("STOP").of))
print(json.dumps(said | {"then": store.get("run", "p", run.id).state}))
"""
    done = python(program)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["id"], said["url"], said["then"]) == (one.id, record.status["service"]["url"], "STOPPED")
    assert said["progress"] == ["ready", 1.0]
    assert len(said["logs"]) == 2
    assert servers(record) == []


def test_resume_takes_the_same_ports_and_keeps_the_log(here: Runs, one: Record) -> None:
    before = serving(here, one)
    here.stop(before)
    here.resume(before)
    after = here.running(before)
    assert ports(after) == ports(before)
    assert after.status["pid"] != before.status["pid"]
    assert sum("ready: {" in line for line in here.target.logs(after)) >= 2


def test_logs_are_followed_from_another_process_until_the_run_ends(here: Runs, one: Record) -> None:
    record = serving(here, one)
    program = """
import sys
from modelserve.deploy.local import LocalTarget
from modelserve.deploy.store import Store
from modelserve.deploy.target import LogsAsked

store = Store()
for line in LocalTarget(store).logs(store.get("run", "p", sys.argv[1]), LogsAsked(1), follow=True):
    print(line, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program, one.id], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline()
        ask(record)
        line = reader.stdout.readline()
        assert "path=/v1/models/tiny:predict" in line
        here.stop(record)
        rest = reader.stdout.read()
        assert "draining" in rest
        assert reader.wait(30) == 0


def test_a_killed_server_is_started_again_on_the_same_ports(here: Runs, one: Record) -> None:
    before = serving(here, one)
    os.kill(before.status["pid"], signal.SIGKILL)
    down = here.wait(one, "PENDING", timeout_s=5)
    assert down.status["message"] == "the server was killed by SIGKILL; starting it again (1 of 5)"
    after = here.running(one)
    assert ports(after) == ports(before)
    assert after.status["pid"] != before.status["pid"]
    assert ask(after).status_code == 200


def test_usage_is_seen(here: Runs, one: Record) -> None:
    record = serving(here, one)
    over = threading.Event()

    def load() -> None:
        while not over.is_set():
            ask(record)

    asking = threading.Thread(target=load)
    asking.start()
    try:
        usage = await_(lambda: found if (found := here.target.usage(record)).requests_per_s else None, 30)
    finally:
        over.set()
        asking.join()
    assert usage.requests_per_s > 1
    assert usage.cpu > 0.01
    assert usage.memory_bytes > 100 * 2**20


def test_a_killed_supervisor_takes_its_server_with_it_and_is_found_out(here: Runs, one: Record) -> None:
    record = serving(here, one)
    process = supervisor(record)
    process.kill()
    found = await_(lambda: now if (now := here.now(one)).state != "RUNNING" else None, 5)
    assert found.state == "ERROR"
    assert f"its supervisor (pid {process.pid}) is gone" in found.status["message"]
    assert "service" not in found.status
    await_(lambda: not servers(one), ENDS_S)
    assert here.target.usage(found) is not None


def test_a_port_that_is_taken_on_resume_is_said(here: Runs, one: Record) -> None:
    record = serving(here, one)
    port = ports(record)["grpc"]
    here.stop(record)
    with socket.create_server(("127.0.0.1", port)):
        here.resume(record)
        failed = here.wait(record, "ERROR", timeout_s=10)
        assert failed.status["message"].startswith(f"port {port}, which the run had before, cannot be had again: Add")
    here.resume(record)
    assert ports(here.running(record))["grpc"] == port


def test_sigterm_to_the_supervisor_is_an_orderly_end(here: Runs, one: Record) -> None:
    record = serving(here, one)
    supervisor(record).terminate()
    found = here.wait(one, "STOPPED", timeout_s=20)
    assert [step["status"] for step in found.status["transitions"]][:3] == ["STOPPED", "STOP", "RUNNING"]
    assert servers(one) == []


def test_what_the_store_says_is_done_without_a_signal(here: Runs, one: Record) -> None:
    """As another machine asks for it, which shares the store and sees no process of this one."""
    serving(here, one)
    here.move(one, "STOP")
    assert here.wait(one, "STOPPED", timeout_s=20).status["message"] == ""
    assert servers(one) == []


def test_another_machine_or_home_does_not_judge(
    here: Runs, one: Record, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Which shares the store: a team's PostgreSQL."""
    record = serving(here, one)
    monkeypatch.setenv("MODELSERVE_HOME", str(tmp_path))  # which has no lock of this run
    assert here.target.observe(record) is record
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    assert here.target.observe(record) is record
    with pytest.raises(TargetError, match=f"the run's log is on {record.status['host']} .*; read it there"):
        here.target.logs(record)
    with pytest.raises(TargetError, match="it has not been stopped within 0 s; stop it there"):
        here.target.stop(record, timeout_s=0)
    assert here.store.get("run", "p", one.id).state == "RUNNING"
    here.target.stop(here.move(record, "STOP"), timeout_s=20)
    assert here.store.get("run", "p", one.id).state == "STOPPED"


def test_a_full_disk_stops_neither_the_server_nor_the_supervisor(here: Runs, one: Record) -> None:
    """The supervisor's files, log and store alike, may not grow for a while."""
    record = serving(here, one)
    process = supervisor(record)
    ask(record)
    size = (notes.Files(one.id).directory / "server.log").stat().st_size
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size + 200, resource.RLIM_INFINITY))
    for _ in range(50):
        assert ask(record).status_code == 200
    os.kill(record.status["pid"], signal.SIGKILL)  # a report that the store cannot take
    pid = await_(lambda: [one.pid for one in servers(record) if one.pid != record.status["pid"]], 20)[0]
    assert process.is_running()
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    after = await_(lambda: now if (now := here.now(one)).status.get("pid") == pid else None, 90)
    assert after.state == "RUNNING"
    ask(after)
    lost = [line for line in here.target.logs(record) if "lines of this log were lost: no room" in line]
    assert len(lost) == 1


def test_whoever_started_it_may_be_killed_at_once(here: Runs) -> None:
    record = here.new()
    program = """
import os, signal, sys
from tests.deploy.runs import Runs

here = Runs()
here.target.start(here.store.get("run", "p", sys.argv[1]))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert python(program, record.id).returncode == -signal.SIGKILL
    assert ask(here.running(record)).status_code == 200
    here.store.delete("run", "p", record.id)  # nobody stopped it
    await_(lambda: not servers(record) and not notes.Files(record.id).directory.exists(), 20)


def test_a_starter_that_was_killed_half_way_is_found_out(here: Runs) -> None:
    record = here.new()
    program = """
import os, signal, sys
from modelserve.deploy import local
from tests.deploy.runs import Runs

local._spawn = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
here = Runs()
here.target.start(here.store.get("run", "p", sys.argv[1]))
"""
    assert here.now(record).state == "READY"  # nobody has begun yet, and nothing is wrong
    assert python(program, record.id).returncode == -signal.SIGKILL
    assert here.now(record).state == "ERROR"


def test_nobody_ever_began(here: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    record = here.new()
    assert here.now(record).state == "READY"
    monkeypatch.setattr(local, "_STARTING_S", 0.0)
    found = here.now(record)
    assert (found.state, found.status["message"]) == ("ERROR", "whoever was to start it is gone")


def test_a_supervisor_that_cannot_begin_is_found_out_with_its_reason(
    here: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = here.new()
    monkeypatch.setattr(local, "_SUPERVISE", ("-c", "raise SystemExit('no module named modelserve')"))
    here.target.start(record)
    found = await_(lambda: now if (now := here.now(record)).state != "READY" else None, 20)
    assert (found.state, found.status["message"]) == ("ERROR", "its supervisor failed: no module named modelserve")


def test_started_twice_is_started_once(here: Runs) -> None:
    record = here.new()
    here.target.start(record)
    here.target.start(record)
    first = supervisor(record)
    assert here.running(record).status["supervisor"] == first.pid
    assert here.stop(record).state == "STOPPED"


@pytest.mark.parametrize("ends", [("STOP",), ("STOP", "STOPPED"), ("DELETING",), ()])
def test_what_was_stopped_before_anybody_began_stays_stopped(here: Runs, ends: tuple[states.State, ...]) -> None:
    record = here.new()
    for state in ends:
        here.move(record, state)
    if not ends:
        here.store.delete("run", "p", record.id)
    here.target.start(record)
    assert not notes.Files(record.id).supervisor_log.exists()
    assert notes.Files(record.id).directory.exists() == ("STOP" in ends)
    if ends:
        assert here.store.get("run", "p", record.id).state == ends[-1]


def test_a_model_that_does_not_load_is_an_error_with_its_cause_in_seconds(here: Runs, tmp_path: Path) -> None:
    for file in tiny("bert", "fill_mask").iterdir():
        (tmp_path / file.name).write_bytes(b"{" if file.name == "config.json" else file.read_bytes())
    failed = here.wait(here.started(tmp_path), "ERROR", timeout_s=20)
    assert failed.status["message"].startswith("config.json is not valid JSON: Expecting property name")
    assert "\n" not in failed.status["message"]
    assert [step["status"] for step in failed.status["transitions"]][:3] == ["ERROR", "PENDING", "READY"]


def test_a_secret_that_is_not_there_is_an_error(here: Runs) -> None:
    failed = here.wait(here.started(secrets=["NONE"]), "ERROR", timeout_s=20)
    assert failed.status["message"] == "the project 'p' has no secret 'NONE'"


def test_stop_while_it_loads(here: Runs, tmp_path: Path) -> None:
    record = here.started(envs=faulty(tmp_path, "sleep"))
    await_(lambda: here.target.progress(here.now(record)).stage == "load", 20)
    begun = time.monotonic()
    assert here.stop(record).state == "STOPPED"
    assert time.monotonic() - begun < 20  # not the 45 s that requests in flight would have
    assert servers(record) == []


def test_stop_before_there_is_a_server(here: Runs) -> None:
    record = here.started()
    assert here.stop(record).state == "STOPPED"
    assert servers(record) == []


def test_stop_has_a_bound(here: Runs) -> None:
    """A supervisor that does not react is ended by force, and its server with it."""
    record = here.running(here.started())
    process = supervisor(record)
    process.suspend()
    begun = time.monotonic()
    assert here.stop(record, timeout_s=0.5).state == "STOPPED"
    assert time.monotonic() - begun < 20  # not the 45 s that an orderly end may take
    assert servers(record) == []


def test_a_server_that_does_not_answer_is_not_said_to_run(here: Runs, one: Record) -> None:
    record = serving(here, one)
    (server,) = servers(record)
    server.suspend()
    silent = here.wait(one, "PENDING")
    assert silent.status["message"] == "the model does not answer: timed out"
    server.resume()
    assert here.running(one).status["pid"] == record.status["pid"]


def test_a_crash_loop_ends_with_the_last_lines(here: Runs, tmp_path: Path) -> None:
    record = here.started(envs=faulty(tmp_path, "kill"))
    failed = here.wait(record, "ERROR", timeout_s=90)
    said = failed.status["message"]
    assert said.startswith("the server was killed by SIGKILL, after 5 restarts without 60 s of health in between; its")
    assert said.endswith("the fault that was asked for: kill")
    steps = [step.get("message", "") for step in failed.status["transitions"]]
    assert sum("starting it again" in step for step in steps) == 5
    assert servers(record) == []


def test_memory_is_bounded_and_its_end_is_named(here: Runs, tmp_path: Path) -> None:
    resources = {"cpu": {"requests": "1"}, "mem": {"requests": "64Mi", "limits": "300Mi"}}
    record = here.started(envs=faulty(tmp_path, "take memory"), resources=resources)
    log = notes.Files(record.id).supervisor_log
    await_(lambda: "again" in here.now(record).status["message"] or "has no limit" in log.read_text(), 30)
    if "no cgroup can be made" in log.read_text():
        pytest.skip("no cgroup can be made here")
    down = here.now(record)
    expected = "the server was killed because its memory reached the limit of its resources; starting it again (1 of 5)"
    assert down.status["message"] == expected
    here.stop(record)
    assert not [place for place in limits._places() if (place.directory / notes.Files(record.id).cgroup).exists()]


def test_workers_behind_one_port_go_and_come_with_it(here: Runs) -> None:
    record = here.running(here.started(replicas=2))
    before = {process.pid for process in servers(record)}
    assert len(before) == 3
    os.kill(record.status["pid"], signal.SIGKILL)  # which leaves its workers behind, with the port
    here.wait(record, "PENDING", timeout_s=10)
    after = here.running(record)
    assert ports(after) == ports(record)
    assert not before & {process.pid for process in servers(record)}
    supervisor(record).kill()
    await_(lambda: not servers(record), ENDS_S)
    assert here.now(record).state == "ERROR"


def test_delete_ends_what_serves(here: Runs) -> None:
    record = here.running(here.started())
    here.target.delete(here.move(record, "DELETING"))
    assert servers(record) == []
    await_(lambda: not notes.Files(record.id).directory.exists(), 20)
    assert here.store.get("run", "p", record.id).state == "DELETING"


def test_what_the_server_has_started_ends_with_it(here: Runs, tmp_path: Path) -> None:
    """A child in a session of its own, which keeps the server's output open."""
    record = here.started(envs=faulty(tmp_path, "have a child"))
    await_(lambda: len(servers(record)) == 2, 20)
    (child,) = [process for process in servers(record) if "serve" not in process.cmdline()]
    (server,) = [process for process in servers(record) if "serve" in process.cmdline()]
    server.kill()
    await_(lambda: not child.is_running(), 20)
    here.wait(record, "PENDING")
    assert "processes that the server had started outlived it and were killed: 1" in here.log(record)
    here.stop(record)
    assert servers(record) == []


def test_a_run_whose_directory_was_removed_ends(here: Runs) -> None:
    record = here.running(here.started())
    process = supervisor(record)
    for path in notes.Files(record.id).directory.iterdir():
        path.unlink()
    notes.Files(record.id).directory.rmdir()
    await_(lambda: not servers(record) and identity.Identity(process.pid, 0).process() is None, 20)
    assert here.now(record).state == "ERROR"


def test_states_stay_in_the_table(here: Runs) -> None:
    """All that the tests above have done to runs was legal."""
    for record in here.store.list("run"):
        steps = [step["status"] for step in reversed(record.status["transitions"])]
        for before, after in pairwise(steps):
            assert before == after or after in states.NEXT[before], (record.id, steps)
