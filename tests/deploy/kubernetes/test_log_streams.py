"""Logs of a run's pods, from a fake API server over real HTTP: what there is, what comes, over cuts and restarts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest

from modelserve.deploy.kubernetes import log_follow, log_reader, log_streams
from modelserve.deploy.kubernetes.cluster import Cluster
from modelserve.deploy.target import LogsAsked
from modelserve.errors import TargetRefused, TargetUnreachable
from tests.deploy.kubernetes.fake import Fake, fates
from tests.deploy.kubernetes.manifests import deployment

RUN = "app=web"
NEVER: Callable[[], bool] = lambda: False  # noqa: E731
BOUND_S = 30.0
followed: list[Iterator[str]] = []
"""What the test has begun to follow, which nobody reads on when it ends."""


@pytest.fixture
def api(fake: Fake, tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(str(fake.kubeconfig(tmp_path / "config")))
    yield found
    found.close()


@pytest.fixture(autouse=True)
def no_thread_is_left(api: Cluster) -> Iterator[None]:
    yield
    while followed:
        followed.pop().close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + BOUND_S
    while any(thread.name.startswith("log of ") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.02)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks often, so that tests are short."""
    monkeypatch.setattr(log_follow, "_LOOK_S", 0.1)
    monkeypatch.setattr(log_reader, "_PAUSE_S", 0.05)


def _up(fake: Fake, replicas: int = 1, name: str = "web", **given: object) -> list[str]:
    """The names of the pods, all running, oldest first."""
    fake.add(deployment(name, replicas=replicas, **given))  # type: ignore[arg-type]

    def running() -> list[str]:
        pods = [one for one in fake.objects("Pod") if one["metadata"]["labels"]["app"] == name]
        return [one["metadata"]["name"] for one in pods if one["status"].get("phase") == "Running"]

    fake.wait(lambda: len(running()) == replicas)
    return running()


def _read(api: Cluster, **asked: object) -> list[str]:
    return list(log_streams.read(api, RUN, LogsAsked(**asked), None))  # type: ignore[arg-type]


def _follow(api: Cluster, has_ended: Callable[[], bool] = NEVER, **asked: object) -> Iterator[str]:
    lines = log_streams.read(api, RUN, LogsAsked(**asked), has_ended)  # type: ignore[arg-type]
    followed.append(lines)
    return lines


def _until(lines: Iterator[str], last: str) -> list[str]:
    found = []
    for line in lines:
        found.append(line)
        if line.endswith(last):
            return found
    raise AssertionError(f"no line {last!r} in {found}")


class Writer(threading.Thread):
    """Writes numbered lines to all pods, in the background."""

    def __init__(self, fake: Fake, count: int, pause_s: float = 0.0) -> None:
        super().__init__(daemon=True)
        self._fake, self._count, self._pause_s = fake, count, pause_s

    def run(self) -> None:
        for number in range(self._count):
            self._fake.log(f"line {number}")
            if self._pause_s:
                time.sleep(self._pause_s)


def test_one_pod_without_a_title(fake: Fake, api: Cluster) -> None:
    fake.fate = fates.ready("one", "two ü")
    _up(fake)
    assert _read(api) == ["one", "two ü"]
    assert _read(api, tail=1) == ["two ü"]
    assert _read(api, tail=0) == []
    assert _read(api, since_s=0.5) == ["one", "two ü"]


def test_pods_one_after_the_other_each_with_its_title(fake: Fake, api: Cluster) -> None:
    pods = _up(fake, 3)
    _up(fake, name="other")
    for pod in pods:
        fake.log("one", f"of {pod}", pod=pod)
    found = _read(api)
    assert len(found) == 6
    for first, second in zip(found[::2], found[1::2], strict=True):
        title, _, line = first.partition(" | ")
        assert line == "one"
        assert second.startswith(f"{title} | of ")
        assert second.endswith(f"-{title}")


def test_the_servers_container_unless_another_is_asked_for(fake: Fake, api: Cluster) -> None:
    beside = [{"name": "proxy", "image": "proxy:1"}, {"name": "modelserve", "image": "server:1"}]
    _up(fake, spec={"containers": beside})
    fake.log("the server", container="modelserve")
    fake.log("beside it", container="proxy")
    assert _read(api) == ["the server"]
    assert _read(api, container="proxy") == ["beside it"]
    with pytest.raises(TargetRefused, match="container none is not valid for pod web-"):
        _read(api, container="none")
    with pytest.raises(TargetRefused, match="container none is not valid for pod web-"):
        list(_follow(api, container="none"))


def test_what_has_not_begun_has_no_lines(fake: Fake, api: Cluster) -> None:
    assert _read(api) == []
    fake.fate = fates.no_image()
    fake.add(deployment())
    fake.wait(lambda: any(_waits(one) for one in fake.objects("Pod")))
    assert _read(api) == []
    fake.fate = fates.unschedulable()
    fake.add(deployment("web2"))
    assert list(log_streams.read(api, "app=web2", LogsAsked(), None)) == []


def _waits(pod: dict) -> bool:  # type: ignore[type-arg]
    return any("waiting" in one["state"] for one in pod["status"].get("containerStatuses", []))


def test_what_ran_before(fake: Fake, api: Cluster) -> None:
    _up(fake)
    with pytest.raises(TargetRefused, match=r"previous terminated container .* not found"):
        _read(api, previous=True)
    fake.fate = fates.crash("boom", crashes=1)
    fake.wait(lambda: "terminated" in _last_state(fake), BOUND_S)
    fake.log("now it lives")
    assert _read(api, previous=True) == list(_follow(api, previous=True))
    assert "now it lives" in _read(api)
    assert "now it lives" not in _read(api, previous=True)


def _last_state(fake: Fake) -> dict:  # type: ignore[type-arg]
    (pod,) = fake.objects("Pod")
    return pod["status"]["containerStatuses"][0]["lastState"]  # type: ignore[no-any-return]


def test_a_right_that_is_missing(fake: Fake, api: Cluster) -> None:
    _up(fake)
    fake.deny("get", "pods/log")
    with pytest.raises(TargetRefused, match="pods/log") as refused:
        _read(api)
    assert refused.value.status == 403
    with pytest.raises(TargetRefused, match="pods/log"):
        next(_follow(api))


def test_a_server_that_is_busy_is_asked_again(fake: Fake, api: Cluster) -> None:
    fake.fate = fates.ready("one")
    _up(fake)
    lines = log_streams.read(api, RUN, LogsAsked(), None)
    fake.fail(503)
    assert list(lines) == ["one"]


@pytest.mark.usefixtures("at_once")
def test_follows_pods_that_come_and_go(fake: Fake, api: Cluster) -> None:
    fake.fate = fates.ready("hello")
    first = _up(fake)[0]
    lines = _follow(api)
    assert next(lines) == "hello"
    _up(fake, name="other")
    second = _scaled(fake, 2, first)
    assert _until(lines, " | hello") == [f"{second[-5:]} | hello"]
    fake.log("both")
    assert sorted(islice(lines, 2)) == sorted(f"{pod[-5:]} | both" for pod in (first, second))
    fake.remove("Pod", first)
    fake.wait(lambda: len(_running(fake)) == 2)
    third = next(name for name in _running(fake) if name not in (first, second))
    assert _until(lines, " | hello") == [f"{third[-5:]} | hello"]


def _running(fake: Fake) -> list[str]:
    return [
        one["metadata"]["name"]
        for one in fake.objects("Pod")
        if one["metadata"]["labels"]["app"] == "web" and one["status"].get("phase") == "Running"
    ]


def _scaled(fake: Fake, replicas: int, known: str) -> str:
    with fake.store.lock:
        (found,) = (one for one in fake.objects("Deployment") if one["metadata"]["name"] == "web")
        found["spec"]["replicas"] = replicas
        fake.store.put(_kind(), found)
    fake.wait(lambda: len(_running(fake)) == replicas)
    return next(name for name in _running(fake) if name != known)


def _kind() -> object:
    from tests.deploy.kubernetes.fake import kinds

    return kinds.DEPLOYMENT


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("reset", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_cut_loses_nothing_and_repeats_nothing(fake: Fake, api: Cluster, reset: bool) -> None:
    pods = _up(fake, 2)
    lines = _follow(api)
    writer = Writer(fake, 2000, 0.0005)
    writer.start()
    found, cuts = [], 0
    while sum(line.endswith("| line 1999") for line in found) < 2:
        found += islice(lines, 100)
        cuts += fake.cut_watches(reset=reset)
    lines.close()  # type: ignore[attr-defined]
    writer.join()
    assert cuts > 5
    for pod in pods:
        own = [line.partition(" | ")[2] for line in found if line.startswith(pod[-5:])]
        assert own == [f"line {number}" for number in range(2000)]


@pytest.mark.usefixtures("at_once")
def test_every_stream_is_cut_after_a_few_lines(fake: Fake, api: Cluster) -> None:
    """The API gives again what was written in the second of the last line; of that it is known what has been seen."""
    _up(fake)
    (pod,) = fake.objects("Pod")
    with fake.store.lock:
        run = fake.state.logs.run(pod["metadata"]["uid"], "c", previous=False, waits=False)
        assert run is not None
        begun = datetime.now(UTC) - timedelta(hours=1)
        run.lines += [(begun + timedelta(seconds=number // 2 / 2), f"line {number}") for number in range(60)]
    fake.cut_every(10)
    assert list(islice(_follow(api), 60)) == [f"line {number}" for number in range(60)]
    assert len([path for _, path in fake.requests if "/log?" in path]) > 10


@pytest.mark.usefixtures("at_once")
def test_a_tail_is_of_what_was_there(fake: Fake, api: Cluster) -> None:
    first = _up(fake)[0]
    fake.log("old", "last")
    none, one = _follow(api, tail=0), _follow(api, tail=1)
    fake.log("later")  # neither has begun to read
    assert next(one) == "later"
    late = threading.Timer(0.3, lambda: fake.log("new"))
    late.start()
    assert next(none) == "new"
    fake.cut_watches()
    fake.log("newer")
    assert [next(none), next(one), next(one)] == ["newer", "new", "newer"]
    fake.fate = fates.ready("a", "b")
    second = _scaled(fake, 2, first)
    assert [next(none), next(none)] == [f"{second[-5:]} | a", f"{second[-5:]} | b"]


@pytest.mark.slow
@pytest.mark.usefixtures("at_once")
def test_goes_on_with_the_next_run_of_the_container(fake: Fake, api: Cluster) -> None:
    fake.seconds = 0.1
    fake.fate = fates.crash("started", crashes=2, after=3)
    _up(fake)
    lines = _follow(api)
    assert [next(lines), next(lines), next(lines)] == ["started", "started", "started"]
    fake.log("alive")
    assert next(lines) == "alive"


@pytest.mark.usefixtures("at_once")
def test_the_end_of_a_run_that_nobody_saw_ends(fake: Fake, api: Cluster) -> None:
    """The stream is cut, and meanwhile the container has written more, ended, and begun again."""
    fake.fate = fates.Fate(logs=("started",))
    _up(fake)
    lines = _follow(api)
    assert next(lines) == "started"
    fake.vanish()
    fake.log("last words")
    fake.fate = fates.crash("started", crashes=1, after=0)
    fake.wait(lambda: "terminated" in _last_state(fake), BOUND_S)
    fake.come_back()
    assert [next(lines), next(lines)] == ["last words", "started"]


@pytest.mark.usefixtures("at_once")
def test_waits_for_what_has_not_begun(fake: Fake, api: Cluster) -> None:
    fake.fate = fates.no_image()
    fake.add(deployment())
    fake.wait(lambda: any(_waits(one) for one in fake.objects("Pod")))
    lines = _follow(api, tail=1)
    heal = threading.Timer(0.3, lambda: setattr(fake, "fate", fates.ready("one", "two")))
    heal.start()
    assert [next(lines), next(lines)] == ["one", "two"]


@pytest.mark.usefixtures("at_once")
def test_ends_with_the_run_after_its_last_words(fake: Fake, api: Cluster) -> None:
    _up(fake, 2)
    ended = threading.Event()
    lines = _follow(api, ended.is_set)
    fake.log("first")
    assert len(list(islice(lines, 2))) == 2
    fake.log(*map(str, range(3000)))
    ended.set()
    assert len(list(lines)) == 6000
    assert list(_follow(api, ended.is_set, tail=2)) != []


@pytest.mark.usefixtures("at_once")
def test_a_cluster_that_comes_back_in_time(fake: Fake, api: Cluster) -> None:
    _up(fake)
    lines = _follow(api)
    fake.log("before")
    assert next(lines) == "before"
    fake.vanish()
    fake.log("meanwhile")
    back = threading.Timer(1, fake.come_back)
    back.start()
    assert next(lines) == "meanwhile"


@pytest.mark.usefixtures("at_once")
def test_a_cluster_that_is_gone_is_an_error(fake: Fake, api: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_follow, "PATIENCE_S", 0.5)
    monkeypatch.setattr(log_reader, "PATIENCE_S", 0.5)
    _up(fake)
    fake.log("before")
    lines = _follow(api)
    assert next(lines) == "before"
    fake.vanish()
    with pytest.raises(TargetUnreachable, match="does not answer"):
        next(lines)
    with pytest.raises(TargetUnreachable, match="does not answer"):
        next(_follow(api))  # at once: nothing was followed yet


@pytest.mark.usefixtures("at_once")
def test_nobody_reads_on(fake: Fake, api: Cluster) -> None:
    """Threads end though they wait: for room, for a line, or for an answer that does not come."""
    _up(fake, 2)
    Writer(fake, 5000).run()
    lines = _follow(api)
    next(lines)
    names = {thread.name for thread in threading.enumerate()}
    assert len([name for name in names if name.startswith("log of ")]) == 2
    lines.close()  # type: ignore[attr-defined]


def test_nobody_reads_on_what_has_been_sent_already(fake: Fake, api: Cluster) -> None:
    """All of it has come from the API, and its thread waits for room."""
    _up(fake)
    Writer(fake, 1300).run()
    lines = _follow(api, tail=1300)
    assert next(lines) == "line 0"
    lines.close()  # type: ignore[attr-defined]


def test_a_slow_reader_holds_little(fake: Fake, api: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    put = log_reader.Lines.__origin__.put  # type: ignore[attr-defined]

    def counted(self: object, item: object) -> bool:
        held.append(len(self._items))  # type: ignore[attr-defined]
        return bool(put(self, item))

    monkeypatch.setattr(log_reader.Lines.__origin__, "put", counted)  # type: ignore[attr-defined]
    _up(fake)
    Writer(fake, 5000).run()
    lines = _follow(api)
    next(lines)
    deadline = time.monotonic() + BOUND_S
    while len(held) < 1500:
        assert time.monotonic() < deadline
        next(lines)
    assert len(list(islice(lines, 3000))) == 3000
    assert max(held) <= 1000


def test_last_lines_for_an_error(fake: Fake, api: Cluster) -> None:
    fake.fate = fates.ready("one", "two", "three")
    (pod,) = _up(fake)
    assert log_streams.last_lines(api, pod, 2, previous=False) == ["two", "three"]
    assert log_streams.last_lines(api, pod, 2, previous=True) == ["two", "three"]
    assert log_streams.last_lines(api, "none", 2, previous=False) == []
    fake.fate = fates.crash("boom", crashes=1)
    fake.wait(lambda: "terminated" in _last_state(fake), BOUND_S)
    assert log_streams.last_lines(api, pod, 1, previous=True) == ["three"]
    assert log_streams.last_lines(api, pod, 1, previous=False) == ["boom"]
    fake.deny("get", "pods/log")
    assert log_streams.last_lines(api, pod, 1, previous=False) == []
    fake.vanish()
    with pytest.raises(TargetUnreachable):
        log_streams.last_lines(api, pod, 1, previous=False)
