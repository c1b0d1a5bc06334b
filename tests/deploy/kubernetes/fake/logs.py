"""What containers have written, by run, and /log as the API server and the kubelet answer it.

Recorded: the answers for one that runs, has ended, waits, is unscheduled or is not there. From their sources: several
containers, images that cannot be pulled, `previous`, `sinceTime`, `follow`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from tests.deploy.kubernetes.fake import status
from tests.deploy.kubernetes.fake.kinds import Object
from tests.deploy.kubernetes.fake.objects import Objects
from tests.deploy.kubernetes.fake.paths import Asked

_WAITING = {
    "ErrImagePull": "image can't be pulled",
    "ImagePullBackOff": "trying and failing to pull image",
}


class Line(Protocol):
    """The connection that a log is followed on."""

    def alive(self) -> bool: ...


@dataclass(slots=True)
class Run:
    """One run of a container."""

    lines: list[tuple[datetime, str]] = field(default_factory=list)
    ended: bool = False


class Logs:
    """Of all containers, by the pod's uid. Whoever calls holds the store's lock."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._runs: dict[tuple[str, str], list[Run]] = {}

    def begin(self, uid: str, container: str, lines: tuple[str, ...]) -> None:
        self._runs.setdefault((uid, container), []).append(Run())
        for line in lines:
            self.write(uid, container, line)

    def write(self, uid: str, container: str, line: str) -> None:
        """On its last run. Where it has none, nothing is written."""
        runs = self._runs.get((uid, container))
        if runs:
            runs[-1].lines.append((datetime.now(UTC), line))
            self._objects.changed.notify_all()

    def end(self, uid: str, container: str = "") -> None:
        """Of one container, or of all."""
        for (whose, name), runs in self._runs.items():
            if whose == uid and name == (container or name):
                runs[-1].ended = True
        self._objects.changed.notify_all()

    def run(self, uid: str, container: str, *, previous: bool, waits: bool) -> Run | None:
        """waits: between two runs, when the one that has ended is the previous one."""
        runs = self._runs.get((uid, container), [])
        wanted = 2 if previous and not waits else 1
        return runs[-wanted] if len(runs) >= wanted else None


def chosen(pod: Object, name: str) -> tuple[str, Object | None]:
    """The container, and its status. Raises 400 for one that the pod has not."""
    spec = pod["spec"]
    own = [one["name"] for one in spec["containers"]]
    init = [one["name"] for one in spec.get("initContainers", [])]
    if not name and len(own) + len(init) > 1:
        annotated = pod["metadata"].get("annotations", {}).get("kubectl.kubernetes.io/default-container")
        if annotated not in own:
            name_ = pod["metadata"]["name"]
            words = f"a container name must be specified for pod {name_}, choose one of: [{' '.join(own)}]"
            if init:
                words += f" or one of the init containers: [{' '.join(init)}]"
            raise status.bad_request(words)
    name = name or own[0]
    if name not in own + init:
        raise status.bad_request(f"container {name} is not valid for pod {pod['metadata']['name']}")
    told = pod.get("status", {})
    for one in [*told.get("containerStatuses", []), *told.get("initContainerStatuses", [])]:
        if one["name"] == name:
            return name, one
    return name, None


def readable(pod: Object, name: str, told: Object | None, *, previous: bool) -> None:
    """Raises 400 where the container has nothing to read yet."""
    where = f'container "{name}" in pod "{pod["metadata"]["name"]}"'
    state = (told or {}).get("state", {})
    last = (told or {}).get("lastState", {})
    if previous:
        if "terminated" not in last:
            raise status.bad_request(f"previous terminated {where} not found")
    elif "waiting" in state and "terminated" not in last:
        reason = state["waiting"]["reason"]
        raise status.bad_request(f"{where} is waiting to start: {_WAITING.get(reason, reason)}")
    elif not state:
        raise status.bad_request(f"{where} is not available")


def _since(asked: Asked) -> datetime | None:
    if said := asked.query.get("sinceTime"):
        return datetime.fromisoformat(said.replace("Z", "+00:00"))
    if said := asked.query.get("sinceSeconds"):
        return datetime.now(UTC) - timedelta(seconds=int(said))
    return None


def lines(objects: Objects, run: Run, asked: Asked, line: Line) -> Iterator[bytes]:
    """What is asked of a run; with `follow` until it ends."""
    since, stamped = _since(asked), asked.told("timestamps")
    with objects.lock:
        written = [one for one in run.lines if since is None or one[0] >= since]
        at = len(run.lines)
    if (tail := asked.query.get("tailLines")) is not None:
        written = written[len(written) - min(int(tail), len(written)) :]
    left = int(asked.query.get("limitBytes", 1 << 40))
    while True:
        for when, text in written:
            shown = (f"{_nano(when)} {text}\n" if stamped else f"{text}\n").encode()[:left]
            left -= len(shown)
            yield shown
            if not left:
                return
        with objects.lock:
            if not asked.told("follow"):
                return
            while len(run.lines) == at:
                if run.ended or not line.alive():
                    return
                objects.changed.wait(0.2)
            written, at = run.lines[at:], len(run.lines)


def _nano(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
