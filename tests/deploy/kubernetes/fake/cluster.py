"""A fake Kubernetes cluster for tests: an API server over real HTTP, with controllers and a kubelet behind it.

    with cluster() as fake:
        fake.namespace("team")
        fake.fate = fates.crash("boom", code=7)
        fake.kubeconfig(path)

What is as recorded (`test_fake_recorded.py` replays it) and what is written from Kubernetes' documentation and sources
is said at the top of each module. The controllers run in one thread, every connection in another.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.deploy.kubernetes.fake import api, kinds, status
from tests.deploy.kubernetes.fake.access import ADMIN, LIMITED, Access
from tests.deploy.kubernetes.fake.api import Answer
from tests.deploy.kubernetes.fake.autoscalers import Autoscalers
from tests.deploy.kubernetes.fake.clock import Clock
from tests.deploy.kubernetes.fake.deployments import Deployments
from tests.deploy.kubernetes.fake.fates import READY, Fate
from tests.deploy.kubernetes.fake.garbage import Garbage
from tests.deploy.kubernetes.fake.inference import Inference
from tests.deploy.kubernetes.fake.kinds import Object
from tests.deploy.kubernetes.fake.kubelet import Kubelet
from tests.deploy.kubernetes.fake.logs import Line, Logs
from tests.deploy.kubernetes.fake.objects import Objects
from tests.deploy.kubernetes.fake.others import Others
from tests.deploy.kubernetes.fake.paths import Asked
from tests.deploy.kubernetes.fake.replicas import ReplicaSets
from tests.deploy.kubernetes.fake.scheduler import Node
from tests.deploy.kubernetes.fake.server import Server
from tests.deploy.kubernetes.fake.writes import added

_LONGEST_WAIT_S = 0.1
"""After which controllers look again, since a test may have changed a fate."""
_ROUNDS = 200
"""Controllers that do not come to rest in so many rounds are wrong."""
_READ_VERBS = ("get", "list", "watch")


class Fake:
    """The cluster, as a test handles it. Anything may be changed at any time, from any thread."""

    def __init__(self, *, seconds: float, held: bool, namespaces: tuple[str, ...]) -> None:
        self.store = Objects()
        self.clock = Clock(seconds, held=held)
        self.state = api.State(self.store, Access(), self.clock, Logs(self.store))
        self.requests: list[tuple[str, str]] = []
        """(method, path with query) of every request, in order."""
        self.fate: Fate = READY
        self.fates: dict[str, Fate] = {}
        """By the name of a Deployment, or by image; they win over `fate`."""
        self.backend: tuple[str, int] | None = None
        """Where the ports of pods that are ready really are."""
        self.backends: dict[int, tuple[str, int]] = {}
        """The same, by the pod's port; they win."""
        self.fault: BaseException | None = None
        """What has ended the controllers, which is a fault of the fake."""
        self._failing: list[tuple[int, str]] = []
        self._kubelet = Kubelet(self.store, self.state.logs, self._fate_of)
        self._autoscalers = Autoscalers(self.store)
        self._controllers = (
            Inference(self.store),
            Deployments(self.store), ReplicaSets(self.store), Others(self.store, lambda: self.node),
            self._kubelet, self._autoscalers, Garbage(self.store),
        )  # fmt: skip
        self._stopped = False
        for name in namespaces:
            self.namespace(name)
        self._server = Server(self._answer, self._backend)
        self._thread = threading.Thread(target=self._control, name="fake controllers", daemon=True)
        self._thread.start()

    # What is there.

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}"

    @property
    def node(self) -> Node:
        """Its capacity, labels, images that no registry has, and whether claims get volumes."""
        return self._kubelet.node

    @property
    def seconds(self) -> float:
        """How many of our seconds one of the cluster's takes."""
        return self.clock.seconds

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        self.clock.seconds = seconds
        self._wake()

    def namespace(self, name: str) -> None:
        with self.store.lock:
            added(self.store, kinds.NAMESPACE, "", {"metadata": {"name": name}})
            account: Object = {"metadata": {"name": "default"}}
            added(self.store, kinds.ACCOUNT, name, account)

    def objects(self, kind: str, namespace: str = "") -> list[Object]:
        """All of a kind, by namespace and name."""
        with self.store.lock:
            return self.store.all(kinds.named(kind), namespace)

    def everything(self, namespace: str) -> list[Object]:
        """Every object of a namespace but events, its service account and its quotas: [] when nothing is left."""
        apart = (kinds.EVENT, kinds.ACCOUNT, kinds.QUOTA)
        with self.store.lock:
            return [
                one for kind in kinds.KINDS if kind.namespaced and kind not in apart
                for one in self.store.all(kind, namespace)
            ]  # fmt: skip

    def add(self, manifest: Object, namespace: str = "default") -> Object:
        """Puts an object there, as somebody else would."""
        kind = kinds.named(manifest["kind"])
        with self.store.lock:
            return added(self.store, kind, namespace if kind.namespaced else "", manifest)

    def remove(self, kind: str, name: str, namespace: str = "default") -> None:
        with self.store.lock:
            self.store.remove(kinds.named(kind), namespace, name)

    def log(self, *lines: str, pod: str = "", container: str = "") -> None:
        """Every container that runs writes these; or those of the pod whose name begins so, or the one container."""
        with self.store.lock:
            for one in self.store.look(kinds.POD):
                if one["metadata"]["name"].startswith(pod):
                    for each in one["spec"]["containers"]:
                        if container in ("", each["name"]):
                            for line in lines:
                                self.state.logs.write(one["metadata"]["uid"], each["name"], line)

    def kubeconfig(self, path: Path, *, context: str = "fake", namespace: str = "default", token: str = ADMIN) -> Path:
        """token "": no credentials; `fake.LIMITED` may only read pods, config maps and services."""
        user = {"token": token} if token else {}
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1", "kind": "Config", "current-context": context,
                    "clusters": [{"name": f"{context}-cluster", "cluster": {"server": self.url}}],
                    "users": [{"name": f"{context}-user", "user": user}],
                    "contexts": [
                        {
                            "name": context,
                            "context": {
                                "cluster": f"{context}-cluster", "user": f"{context}-user", "namespace": namespace,
                            },
                        }
                    ],
                }
            )
        )  # fmt: skip
        return path

    # What goes wrong.

    def cut_watches(self, *, reset: bool = False) -> int:
        """All streams at once: watches, logs that are followed, port-forwards. How many there were."""
        found = self._server.cut(watches=True, reset=reset)
        self._wake()
        return found

    def cut_every(self, lines: int | None) -> None:
        """Every stream from now on ends after so many lines; None: no more."""
        self._server.cut_after = lines

    def expire(self) -> None:
        """The history is lost: watches get 410, and so does whoever asks for a version from before."""
        with self.store.lock:
            self.store.forget()

    def vanish(self) -> None:
        """Connections are refused, those that are there are closed."""
        self._server.vanish()
        self._wake()

    def come_back(self) -> None:
        self._server.listen()

    def hang(self) -> None:
        """Accepts and reads, and answers nothing until `resume`."""
        self._server.hang(on=True)

    def resume(self) -> None:
        self._server.hang(on=False)

    def fail(self, code: int, times: int = 1, method: str = "") -> None:
        """The next requests, or those with this method, are answered so: 429 (with Retry-After), 500, 503, 504."""
        with self.store.lock:
            self._failing += [(code, method)] * times

    def deny(self, verb: str, resource: str, namespace: str = "*") -> None:
        """403 from now on. verb and resource ("pods", "pods/log") may be "*"; "read" and "write" are several verbs."""
        verbs = {"read": _READ_VERBS, "write": ("create", "update", "patch", "delete", "deletecollection")}
        self.state.access.deny(verbs.get(verb, (verb,)), resource, namespace)

    def quota(self, hard: Mapping[str, str], namespace: str = "default", name: str = "quota") -> None:
        """{"pods": "0"}, {"requests.memory": "1Gi"}, {"count/deployments.apps": "1"}; it replaces one of the name."""
        with self.store.lock:
            self.store.remove(kinds.QUOTA, namespace, name)
            quota: Object = {"metadata": {"name": name}, "spec": {"hard": dict(hard)}}
            added(self.store, kinds.QUOTA, namespace, quota)

    # What is installed.

    def install(self, *groups: str) -> None:
        """metrics.k8s.io, serving.kserve.io"""
        self.state.installed |= frozenset(groups)

    def load(self, share: float | None) -> None:
        """How much the pods are used against their autoscaler's target, 1.0 being the target; None: no metrics."""
        with self.store.lock:
            self._autoscalers.load = share
            self._autoscalers.again()
        self._wake()

    # How time passes.

    def advance(self, seconds: float) -> None:
        """With a clock that is held: so much time passes, and all that it brings happens, before this returns."""
        end = self.clock.now() + seconds
        while True:
            due = self._settle()
            if due > end:
                break
            self.clock.pass_(due)
        self.clock.pass_(end)
        self._settle()
        self._wake()

    def once(self) -> None:
        """With a clock that is held: every controller looks once, and has not seen what comes after it."""
        with self.store.lock:
            for one in self._controllers:
                one.sync(self.clock.now())

    @property
    def streams(self) -> int:
        """How many watches, logs that are followed and port-forwards there are now."""
        return self._server.streams

    def wait(self, true: Callable[[], object], seconds: float = 10.0) -> None:
        """Until it is so, within our seconds. Raises TimeoutError, or what has ended the controllers."""
        end = time.monotonic() + seconds
        with self.store.lock:
            while not true():
                if self.fault is not None:
                    raise self.fault
                if time.monotonic() > end:
                    raise TimeoutError(f"not so within {seconds} s")
                self.store.changed.wait(0.05)

    def _wake(self) -> None:
        with self.store.lock:
            self.store.changed.notify_all()

    def _settle(self) -> float:
        """Controllers run until nothing changes any more. When something is due next."""
        with self.store.lock:
            for _ in range(_ROUNDS):
                before, now = self.store.version, self.clock.now()
                due = min(one.sync(now) for one in self._controllers)
                if self.store.version == before:
                    return due
            raise RuntimeError("the fake's controllers do not come to rest")

    def _control(self) -> None:
        if self.clock.held:
            return
        try:
            with self.store.lock:
                while not self._stopped:
                    due = self._settle()
                    wait = (due - self.clock.now()) * self.clock.seconds
                    self.store.changed.wait(min(max(wait, 0.001), _LONGEST_WAIT_S))
        except BaseException as error:
            self.fault = error
            raise

    # What the server asks.

    def _answer(self, asked: Asked, line: Line) -> Answer:
        query = "&".join(f"{key}={value}" for key, value in asked.query.items())
        with self.store.lock:
            self.requests.append((asked.method, f"{asked.path}?{query}" if query else asked.path))
            for index, (code, method) in enumerate(self._failing):
                if method in ("", asked.method):
                    del self._failing[index]
                    raise status.ordered(code)
        return api.answer(self.state, asked, line)

    def _backend(self, pod: Object, port: int) -> tuple[str, int] | None:
        with self.store.lock:
            found = self.store.get(kinds.POD, pod["metadata"]["namespace"], pod["metadata"]["name"])
        if found is None or found["status"].get("phase") != "Running":
            return None
        return self.backends.get(port, self.backend)

    def _fate_of(self, pod: Object, image: str) -> Fate:
        for reference in pod["metadata"].get("ownerReferences", []):
            name = reference["name"].rpartition("-")[0]
            if name in self.fates:
                return self.fates[name]
        images = [image] if image else [one.get("image", "") for one in pod["spec"]["containers"]]
        for one in images:
            if one in self.fates:
                return self.fates[one]
        return self.fate

    def close(self) -> None:
        self._stopped = True
        self._wake()
        self._server.close()
        self._thread.join(5)


@contextmanager
def cluster(*, seconds: float = 0.01, held: bool = False, namespaces: tuple[str, ...] = ("default",)) -> Iterator[Fake]:
    """seconds: how many of ours one of the cluster's takes. held: time passes only by `advance`."""
    fake = Fake(seconds=seconds, held=held, namespaces=namespaces)
    try:
        yield fake
    finally:
        fake.close()
    if fake.fault is not None:
        raise fake.fault


__all__ = ["ADMIN", "LIMITED", "Fake", "cluster"]
