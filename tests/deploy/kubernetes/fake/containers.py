"""One container of a pod: from its image to its end and the next run, and what the pod's status says of them all."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from tests.deploy.kubernetes.fake import kinds, needs, scheduler
from tests.deploy.kubernetes.fake.events import tell
from tests.deploy.kubernetes.fake.fates import Fate
from tests.deploy.kubernetes.fake.kinds import Object
from tests.deploy.kubernetes.fake.logs import Logs
from tests.deploy.kubernetes.fake.objects import Objects, stamp

NEVER = float("inf")
_FIRST_RESTART_S, _BACK_OFF_S, _LONGEST_BACK_OFF_S = 1.5, 10.0, 300.0
_SEEN_ENDED_S = 10.0
"""As recorded: the end is shown for so long, and CrashLoopBackOff only from then on."""
_LATE_S = 2.0
_KILLED = 137


@dataclass(slots=True)
class Box:
    """What the kubelet remembers of a container."""

    waits: str
    state: Object = field(default_factory=dict)
    last: Object = field(default_factory=dict)
    step: str = "pull"
    """pull, refused, configure, running, ended, done"""
    since: float = 0.0
    restarts: int = 0
    ends: int = 0
    pulls: int = 0
    backed_off: int = 0
    """The end whose back-off was told."""
    ready: bool = False
    started: bool = False
    id: str = ""

    def __post_init__(self) -> None:
        self.state = self.state or {"waiting": {"reason": self.waits}}

    @property
    def done(self) -> bool:
        """Of an init container: that it has ended well."""
        return self.step == "done"


@dataclass(slots=True)
class Step:
    """One container at one moment."""

    objects: Objects
    logs: Logs
    pod: Object
    spec: Object
    part: str
    fate: Fate
    address: str

    def run(self, box: Box, now: float, *, missing: bool) -> float:
        """All steps that are due. When the next one is."""
        while True:
            before = (box.step, box.since)
            due = getattr(self, f"_{box.step}")(box, now, missing)
            if (box.step, box.since) == before:
                return float(due)

    def _tell(self, reason: str, message: str, *, warning: bool = False) -> None:
        tell(self.objects, self.pod, reason, message, warning=warning, container=self.spec["name"], part=self.part)

    def _wait(self, box: Box, reason: str, message: str) -> bool:
        """Whether that is new."""
        state = {"waiting": {"reason": reason, "message": message}}
        new = box.state != state
        box.state = state
        return new

    def _pull(self, box: Box, now: float, missing: bool) -> float:
        image, policy = self.spec["image"], self.spec["imagePullPolicy"]
        gone = missing or bool(self.fate.image)
        if gone and policy == "Never":
            words = f'Container image "{image}" is not present with pull policy of Never'
            if self._wait(box, "ErrImageNeverPull", words):
                # The kubelet tries again at once: recorded twice.
                for _ in range(2):
                    self._tell("ErrImageNeverPull", words, warning=True)
                    self._tell("Failed", "Error: ErrImageNeverPull", warning=True)
            return NEVER
        if policy == "Always" or gone:
            self._tell("Pulling", f'Pulling image "{image}"')
        if gone:
            words = self.fate.image or f'failed to pull and unpack image "{image}": not found'
            self._wait(box, "ErrImagePull", words)
            self._tell("Failed", f'Failed to pull image "{image}": {words}', warning=True)
            self._tell("Failed", "Error: ErrImagePull", warning=True)
            box.step, box.since = "refused", now
            box.pulls += 1
        else:
            said = "Successfully pulled image" if policy == "Always" else "Container image"
            rest = "in 1s" if policy == "Always" else "already present on machine"
            self._tell("Pulled", f'{said} "{image}" {rest}')
            box.step, box.since = "configure", now
        return NEVER

    def _refused(self, box: Box, now: float, missing: bool) -> float:
        """A pull that failed: tried again, ever later, and at once when it would succeed."""
        later = min(_BACK_OFF_S * 2.0 ** (box.pulls - 1), _LONGEST_BACK_OFF_S)
        if now >= box.since + 1.0 + later or not (missing or self.fate.image):
            box.step, box.since = "pull", now
        elif now >= box.since + 1.0:
            image = self.spec["image"]
            words = self.fate.image or f'failed to pull and unpack image "{image}": not found'
            if self._wait(box, "ImagePullBackOff", f'Back-off pulling image "{image}": ErrImagePull: {words}'):
                self._tell("BackOff", f'Back-off pulling image "{image}"')
                self._tell("Failed", "Error: ImagePullBackOff", warning=True)
            return box.since + 1.0 + later
        return box.since + 1.0

    def _configure(self, box: Box, now: float, missing: bool) -> float:
        words = needs.variables(self.objects, self.pod["metadata"]["namespace"], self.spec)
        if words:
            if self._wait(box, "CreateContainerConfigError", words):
                for _ in range(2):
                    self._tell("Failed", f"Error: {words}", warning=True)
            return NEVER
        box.id = "containerd://" + uuid.uuid4().hex + uuid.uuid4().hex
        box.state = {"running": {"startedAt": stamp()}}
        box.step, box.since = "running", now
        self._tell("Created", f"Created container: {self.spec['name']}")
        self._tell("Started", f"Started container {self.spec['name']}")
        self.logs.begin(self.pod["metadata"]["uid"], self.spec["name"], self.fate.logs)
        return NEVER

    def _running(self, box: Box, now: float, missing: bool) -> float:
        fate = self.fate
        works = self.part == "initContainers" and not sidecar(self.spec)
        if works and (fate.exit_code is None or box.ends >= fate.crashes):
            return self._finish(box, now)
        probed = self.spec.get("readinessProbe") or self.spec.get("startupProbe")
        ends = fate.exit_code is not None and box.ends < fate.crashes
        if ends and now >= box.since + fate.after:
            self._ended_with(box, now, fate.exit_code or 0, fate.reason)
            return NEVER
        answers = fate.answers or (fate.exit_code is not None and not ends)
        due = box.since + fate.ready_after
        box.started = not self.spec.get("startupProbe") or (answers and now >= due)
        box.ready = not probed or (answers and now >= due)
        if probed and not answers and now >= due:
            self._unhealthy()
        if self._given_up(box, answers=answers, now=now):
            self._tell("Killing", f"Container {self.spec['name']} failed startup probe, will be restarted")
            self._ended_with(box, now, _KILLED, "Error")
            return NEVER
        waits = due if probed and answers and not box.ready else NEVER
        if not answers and self.spec.get("startupProbe"):
            waits = self._patience(box)
        if probed and not answers and now < due:
            waits = due
        return min(waits, box.since + fate.after) if ends else waits

    def _patience(self, box: Box) -> float:
        """Until when the startup probe may fail."""
        probe = self.spec["startupProbe"]
        return box.since + float(
            probe.get("initialDelaySeconds", 0) + probe["periodSeconds"] * probe["failureThreshold"]
        )

    def _given_up(self, box: Box, *, answers: bool, now: float) -> bool:
        return bool(self.spec.get("startupProbe")) and not answers and now >= self._patience(box)

    def _unhealthy(self) -> None:
        """The probe's words; once, where a real one goes on."""
        name = "startupProbe" if self.spec.get("startupProbe") else "readinessProbe"
        probe = self.spec[name].get("httpGet")
        if not probe:
            return
        port = probe["port"]
        if isinstance(port, str):
            port = next((one["containerPort"] for one in self.spec.get("ports", []) if one.get("name") == port), port)
        where = f"{self.address}:{port}"
        words = (
            f"{name.removesuffix('Probe').capitalize()} probe failed: "
            f'Get "http://{where}{probe["path"]}": dial tcp {where}: connect: connection refused'
        )
        told = any(
            one["reason"] == "Unhealthy" and one["involvedObject"]["uid"] == self.pod["metadata"]["uid"]
            for one in self.objects.look(kinds.EVENT)
        )
        if not told:
            self._tell("Unhealthy", words, warning=True)

    def _finish(self, box: Box, now: float) -> float:
        """An init container does its work, in no time."""
        box.state = {
            "terminated": {
                "exitCode": 0, "reason": "Completed", "startedAt": box.state["running"]["startedAt"],
                "finishedAt": stamp(), "containerID": box.id,
            }
        }  # fmt: skip
        box.step, box.since, box.ready = "done", now, True
        self.logs.end(self.pod["metadata"]["uid"], self.spec["name"])
        return NEVER

    def _ended_with(self, box: Box, now: float, code: int, reason: str) -> None:
        if "terminated" in box.state:
            box.last = box.state
        ended = {
            "exitCode": code, "reason": "Completed" if code == 0 else reason,
            "startedAt": box.state["running"]["startedAt"], "finishedAt": stamp(), "containerID": box.id,
        }  # fmt: skip
        if self.fate.message:
            ended["message"] = self.fate.message
        box.state = {"terminated": ended}
        box.step, box.since = "ended", now
        box.ends += 1
        box.ready = box.started = False
        self.logs.end(self.pod["metadata"]["uid"], self.spec["name"])

    def _ended(self, box: Box, now: float, missing: bool) -> float:
        metadata = self.pod["metadata"]
        whose = f"{metadata['name']}_{metadata['namespace']}({metadata['uid']})"
        name = self.spec["name"]
        first = box.ends < 2
        back_off = min(_BACK_OFF_S * 2.0 ** (box.ends - 2), _LONGEST_BACK_OFF_S)
        later = _FIRST_RESTART_S if first else back_off + _LATE_S
        if now >= box.since + later:
            if "terminated" in box.state:
                box.last = box.state
            box.restarts += 1
            box.step, box.since = "configure", now
            return NEVER
        if first:
            return box.since + later
        words = f"Back-off restarting failed container {name} in pod {whose}"
        if "terminated" in box.state:
            self._once("BackOff", words, box)
        shown = box.since + _SEEN_ENDED_S
        if now < shown:
            return shown
        if "terminated" in box.state:
            box.last = box.state
        self._wait(
            box,
            "CrashLoopBackOff",
            f"back-off {_duration(back_off)} restarting failed container={name} pod={whose}",
        )
        return box.since + later

    def _once(self, reason: str, words: str, box: Box) -> None:
        """Per end."""
        if box.backed_off != box.ends:
            box.backed_off = box.ends
            self._tell(reason, words, warning=True)

    def _done(self, box: Box, now: float, missing: bool) -> float:
        return NEVER


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def sidecar(spec: Object) -> bool:
    """Whether an init container goes on, and the others begin when it has started. Not recorded."""
    return spec.get("restartPolicy") == "Always"


def passed(spec: Object, box: Box) -> bool:
    """Whether an init container lets the next one begin."""
    return box.started if sidecar(spec) else box.done


def quality(spec: Object) -> str:
    """qosClass"""
    told = [one["resources"] for one in spec["containers"]]
    parts = [part.get(which, {}) for part in told for which in ("limits", "requests")]
    if not any(name in part for part in parts for name in ("cpu", "memory")):
        return "BestEffort"
    if all(
        {"cpu", "memory"} <= set(part.get("limits", {})) and part.get("requests", part["limits"]) == part["limits"]
        for part in told
    ):
        return "Guaranteed"
    return "Burstable"


def report(pod: Object, boxes: dict[str, Box], address: str) -> None:
    """Writes the pod's status. The order of the conditions is the recorded one."""
    spec, status = pod["spec"], pod["status"]
    status["observedGeneration"] = 1
    init = spec.get("initContainers", [])
    own = [one["name"] for one in spec["containers"]]
    own += [one["name"] for one in init if sidecar(one)]
    unready = [name for name in own if not boxes[name].ready]
    undone = [one["name"] for one in init if not passed(one, boxes[one["name"]])]
    begun = [one for one in spec["containers"] if boxes[one["name"]].id]
    status["phase"] = "Running" if begun else "Pending"
    unready_words = {
        "reason": "ContainersNotReady",
        "message": f"containers with unready status: [{' '.join(unready)}]",
    }
    undone_words = {
        "reason": "ContainersNotInitialized",
        "message": f"containers with incomplete status: [{' '.join(undone)}]",
    }
    scheduler.condition(status, "PodReadyToStartContainers", "True" if address else "False")
    scheduler.condition(status, "Initialized", "False" if undone else "True", **(undone_words if undone else {}))
    for type_ in ("Ready", "ContainersReady"):
        scheduler.condition(status, type_, "False" if unready else "True", **(unready_words if unready else {}))
    if address:
        status |= {"podIP": address, "podIPs": [{"ip": address}]}
    if init:
        status["initContainerStatuses"] = [_status(one, boxes[one["name"]]) for one in init]
    status["containerStatuses"] = [_status(one, boxes[one["name"]]) for one in spec["containers"]]
    status["qosClass"] = quality(spec)
    told = [resources for one in spec["containers"] if (resources := _own_resources(one))]
    status["resources"] = told[0] if len(told) == 1 else {}
    if requests := status["resources"].get("requests"):
        status["allocatedResources"] = requests


def _own_resources(one: Object) -> Object:
    return {key: value for key, value in one["resources"].items() if key in ("limits", "requests")}


def _status(one: Object, box: Box) -> Object:
    begun = bool(box.id)
    found: Object = {
        "name": one["name"], "state": box.state, "lastState": box.last, "ready": box.ready,
        "restartCount": box.restarts, "image": one["image"],
        "imageID": "sha256:58baee542033b9cafc04582f9335bf6a306cc5974383a39fddc9239a9c51c53d" if begun else "",
    }  # fmt: skip
    if begun:
        found["containerID"] = box.id
    found["started"] = box.started
    if begun:
        requests = one["resources"].get("requests")
        found |= {"allocatedResources": requests} if requests else {}
        found["resources"] = _own_resources(one)
    found["volumeMounts"] = [
        {"name": mount["name"], "mountPath": mount["mountPath"]}
        | ({"readOnly": True, "recursiveReadOnly": "Disabled"} if mount.get("readOnly") else {})
        for mount in one.get("volumeMounts", [])
    ]
    if begun:
        context = one.get("securityContext") or {}
        user = context.get("runAsUser", 0)
        found["user"] = {"linux": {"uid": user, "gid": user, "supplementalGroups": [user]}}
    return found
