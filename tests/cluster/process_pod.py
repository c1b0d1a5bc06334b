"""A pod as a process of this machine: its first container's arguments, variables, secrets, volumes and probes.

What isolates a container (its root, user, limits, image) is not there: emptyDirs and claims are directories below
`directory`, a hostPath is itself, and the container's ports are free ones of loopback. The command is this Python's
modelserve. One thread works a pod: whoever calls `look` again and again.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from tests.cluster import kubelet
from tests.cluster.api import Api, Json, in_namespace

_COMMAND = [sys.executable, "-m", "modelserve"]
_BACK_OFF_S = 1.0
"""Before a container that has ended is started again; a kubelet waits 10 s, and longer each time."""


class ProcessPod:
    """pod: as the API has it."""

    def __init__(self, api: Api, pod: Json, directory: Path) -> None:
        self._api = api
        self._pod = pod
        self._container = pod["spec"]["containers"][0]
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._restarts = -1
        self._exit: int | None = None
        self._ended_at = 0.0
        self._was_ready = False
        self._logs: list[Path] = []
        self.has_ended = threading.Event()
        directory.mkdir()
        if not self._is_without_image:
            self._start()

    def port(self, of_container: int) -> int | None:
        """Where a port of the container is on this machine; None where nothing listens yet, or ever."""
        with contextlib.suppress(OSError, ValueError):
            told = json.loads((self._directory / "ports").read_text())
            names = {one["containerPort"]: one["name"] for one in self._container.get("ports") or ()}
            found = told.get({"http": "http_port", "grpc": "grpc_port"}[names.get(of_container, "http")])
            return int(found) if found else None
        return None

    def log(self, previous: bool) -> Path | None:
        """Of the container; previous: of the one before. None where there was none."""
        if not self._logs:
            return None
        waits = self._exit is not None and self._restarts > 0  # so the one that has ended last is the one before
        if not previous or waits:
            return self._logs[-1]
        return self._logs[-2] if self._restarts > 0 else None

    def look(self) -> Json | None:
        """The status to be told, None where it is as it was told last."""
        if self._process is None:
            return None
        if self._exit is None and (code := self._process.poll()) is not None:
            self._exit, self._ended_at, self._was_ready = code, time.monotonic(), False
            return self._crashed()
        if self._exit is not None and time.monotonic() - self._ended_at >= _BACK_OFF_S:
            self._start()
            return self._restarting()
        if self._exit is None and (ready := self._answers()) != self._was_ready:
            self._was_ready = ready
            return (kubelet.ready if ready else kubelet.loading)(self._pod).status
        return None

    def first_status(self) -> Json:
        return (kubelet.image_pull_back_off if self._is_without_image else kubelet.loading)(self._pod).status

    @property
    def _is_without_image(self) -> bool:
        """No registry has that name (RFC 2606); any other image is taken for this Python's modelserve."""
        return str(self._container["image"]).startswith("registry.invalid/")

    def end(self) -> None:
        """As a kubelet does: SIGTERM, time to drain, SIGKILL. The preStop hook only waits for other nodes."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(self._pod["spec"].get("terminationGracePeriodSeconds", 30))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self.has_ended.set()

    def _start(self) -> None:
        self._exit, self._restarts = None, self._restarts + 1
        (self._directory / "ports").unlink(missing_ok=True)
        self._logs.append(self._directory / f"log-{self._restarts}")
        words = [*self._container["command"][1:], *self._container.get("args", ())]
        # The ports are free ones, which the server tells in a file.
        free = ["--http_port=0", "--grpc_port=0"]
        words = [word for word in map(self._placed, words) if not word.startswith(("--http_port=", "--grpc_port="))]
        with self._logs[-1].open("wb") as output:
            self._process = subprocess.Popen(
                [*_COMMAND, *words, *free],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._variables(),
            )

    def _variables(self) -> dict[str, str]:
        ours = ("MODELSERVE_", "HF_", "KUBE")  # whoever tests is not whoever serves
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        found: dict[str, str] = {}
        for source in self._container.get("envFrom") or ():
            found |= self._secret(source["secretRef"]["name"])
        for one in self._container.get("env") or ():
            if reference := (one.get("valueFrom") or {}).get("secretKeyRef"):
                found[one["name"]] = self._secret(reference["name"])[reference["key"]]
            else:
                found[one["name"]] = self._placed(one.get("value", ""))
        return kept | found | {"MODELSERVE_PORTS_FILE": str(self._directory / "ports")}

    def _secret(self, name: str) -> dict[str, str]:
        path = in_namespace("v1", self._pod["metadata"]["namespace"], "secrets", name)
        data = self._api.get(path).ok().get("data") or {}
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def _placed(self, word: str) -> str:
        """The word with a path of the container as one of this machine."""
        head, equals, path = word.rpartition("=")
        volumes = {one["name"]: one for one in self._pod["spec"].get("volumes") or ()}
        for mount in self._container.get("volumeMounts") or ():
            at = mount["mountPath"]
            if path == at or path.startswith(f"{at}/"):
                volume = volumes[mount["name"]]
                place = self._directory / mount["name"]
                if "hostPath" in volume:
                    place = Path(volume["hostPath"]["path"])
                else:
                    place.mkdir(exist_ok=True)
                return f"{head}{equals}{place}{path.removeprefix(at)}"
        return word

    def _answers(self) -> bool:
        asked = self._container["readinessProbe"]["httpGet"]
        port = self.port(asked["port"])
        if port is None:
            return False
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{port}{asked['path']}", timeout=5).status_code == 200
        return False

    def _crashed(self) -> Json:
        status = kubelet.loading(self._pod).status
        if self._restarts == 0:
            self._state(status, {"terminated": self._terminated()})
        else:
            message = f"back-off 10s restarting failed container in pod {self._pod['metadata']['name']}"
            self._state(status, {"waiting": {"reason": "CrashLoopBackOff", "message": message}})
            status["containerStatuses"][0]["lastState"] = {"terminated": self._terminated()}
        return status

    def _restarting(self) -> Json:
        status = kubelet.loading(self._pod).status
        status["containerStatuses"][0] |= {
            "restartCount": self._restarts,
            "lastState": {"terminated": self._terminated()},
        }
        return status

    def _state(self, status: Json, state: Json) -> None:
        status["containerStatuses"][0] |= {"state": state, "restartCount": self._restarts}

    def _terminated(self) -> Json:
        now: Any = kubelet.now()
        code = self._exit if self._exit is not None else 0
        reason = "Error" if code else "Completed"
        return {"exitCode": code if code >= 0 else 128 - code, "reason": reason, "startedAt": now, "finishedAt": now}
