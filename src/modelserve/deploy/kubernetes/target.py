"""The target `kubernetes`: runs in a cluster, which keeps them by itself.

Nobody on this machine works for such a run. What becomes of it is seen by whoever looks: `observe` reads the cluster
and writes what it sees into the store. Blocking, and bounded; the caller's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from typing import Any

from modelserve import flags
from modelserve.deploy import parameters
from modelserve.deploy.change import NOTHING_SERVES, Change
from modelserve.deploy.kubernetes import (
    applied,
    diagnosis,
    log_streams,
    noted,
    own_fields,
    recovery,
    service,
    snapshot,
    usage,
)
from modelserve.deploy.kubernetes.cluster import Cluster
from modelserve.deploy.kubernetes.diagnosis import Verdict
from modelserve.deploy.kubernetes.doorbell import Doorbell
from modelserve.deploy.kubernetes.place import Place
from modelserve.deploy.manifests import pod, source
from modelserve.deploy.manifests.claims import with_access_mode
from modelserve.deploy.manifests.names import resource_name
from modelserve.deploy.record import Record, now
from modelserve.deploy.reference import parse_function_string
from modelserve.deploy.store import Store
from modelserve.deploy.target import LogsAsked, Progress, Reach, Usage
from modelserve.errors import ConfigError, EntityExists, TargetError, TargetRefused, TargetUnreachable

_LINES, _LINE, _CHARACTERS = 10, 200, 600
"""Of a pod's log, in an error: lines, characters of each, and of all."""
_MARGIN_S = 30.0
"""For a cluster to end pods and remove objects, beyond the pods' own grace."""
_TO_BEGIN = ("READY", "RESUME")
Json = dict[str, Any]


class KubernetesTarget:
    """Serves runs in clusters."""

    name = "kubernetes"

    def __init__(self, store: Store) -> None:
        self._store = store
        self._clusters: dict[Place, Cluster] = {}
        self._progress: dict[str, Progress] = {}
        self._silent: set[Place] = set()

    def start(self, record: Record) -> None:
        """Apply its objects. Nothing is left of a run that was refused."""
        cluster = self._cluster(record)
        facts = {"cluster": cluster.place.to_dict(), "begun": now(), "image": _image(record)}
        status = {name: said for name, said in record.status.items() if name not in ("alias", "held")} | facts
        begun = record.replace(spec=with_access_mode(record.spec), status=status)
        manifests = source.manifests(begun, self._store)
        state = self._store.change("run", record.project, record.id, _begun(begun)).state
        if state not in _TO_BEGIN:
            return
        self._put(cluster, begun, manifests, force=False)
        if record.state == "RESUME" and record.spec.get("flavor") != "kserve" and "scaling" in record.spec:
            cluster.scale("Deployment", _name(record), record.spec["scaling"]["min_replicas"])
        self._change(record, Change("PENDING", "the cluster has it", {"objects": _titles(manifests)}))

    def check(self, record: Record, *, force: bool = False) -> list[Json]:
        """Its objects as the cluster would have them: a dry run on the server. Raises TargetError."""
        return applied.check(self._cluster(record), source.manifests(record, self._store), force=force)

    def update(self, record: Record, spec: Json, *, force: bool = False) -> None:
        """Another spec, in place: new pods where the pods change, one after the other. Raises TargetError, ConfigError;
        then nothing has changed."""
        noted.changeable(record.spec, spec)
        cluster = self._cluster(record)
        _check_state(record)
        after = record.replace(spec=with_access_mode(spec))
        if _wants_gpu(after) != _wants_gpu(record):
            after = after.replace(status=after.status | {"image": source.image(spec)})
        manifests = source.manifests(after, self._store)
        if _pods(manifests) != _pods(source.manifests(record, self._store)):
            after = after.replace(status=after.status | {"begun": now()})
            manifests = source.manifests(after, self._store)
        applied.check(cluster, manifests, force=force)
        if "scaling" in after.spec and "scaling" not in record.spec and record.spec.get("flavor") != "kserve":
            # Else the number of pods would be nobody's for a moment, and fall to 1.
            cluster.scale("Deployment", _name(record), record.spec.get("replicas", 1))
        changed = {name: after.status[name] for name in ("begun", "image")}
        facts = {**changed, "alias": None, "held": None, "objects": _titles(manifests)}
        self._store.change("run", record.project, record.id, _updated(after, facts))
        self._put(cluster, after, manifests, force=force)
        self._prune(cluster, record.id, manifests)

    def scale(self, record: Record, replicas: int, *, force: bool = False) -> None:
        """So many pods; those that stay are not touched. Raises ConfigError, TargetError."""
        if "scaling" in record.spec:
            raise ConfigError("the run has scaling, and its autoscaler says how many pods there are; update(scaling=…)")
        _check_state(record)
        spec = record.spec | {"replicas": replicas}
        if record.spec.get("flavor") == "kserve":
            self.update(record, spec, force=force)
            return
        cluster = self._cluster(record)
        cluster.scale("Deployment", _name(record), replicas)
        after = record.replace(spec=spec)
        self._store.change("run", record.project, record.id, _updated(after, {}))

    def observe(self, record: Record) -> Record:
        """Raises TargetError where the cluster cannot be asked."""
        if "cluster" not in record.status or record.state not in (*noted.LOOKED_AT, "STOP"):
            return record
        cluster, (kind, name) = self._cluster(record), _serving(record)
        try:
            seen = snapshot.take(cluster, record.id, kind, name)
        except TargetUnreachable:
            self._silent.add(cluster.place)
            raise
        self._silent.discard(cluster.place)
        if record.state == "STOP":
            ended = Change("STOPPED", "", NOTHING_SERVES)
            return record if seen.pods else self._change(record, ended)
        verdict = diagnosis.of(seen, was_running=record.state == "RUNNING")
        self._progress[record.id] = Progress(verdict.stage, verdict.fraction)
        facts: Json = {}
        has_arrived = record.status.get("alias") == record.status["begun"] and "service" in record.status
        if verdict.state == "RUNNING" and not has_arrived:
            assert seen.serving is not None
            verdict, facts = self._arrived(cluster, record, verdict, seen.serving | {"kind": kind})
        elif noted.is_hopeless(record, verdict):
            verdict = verdict._replace(state="ERROR")
        if verdict.state == "ERROR" and record.state != "ERROR":
            verdict = verdict._replace(message=_with_log(cluster, verdict))
        return self._store.change(
            "run", record.project, record.id, lambda one: noted.after(one, record, verdict, facts)
        )

    def progress(self, record: Record) -> Progress:
        if record.state == "RUNNING":
            return Progress("ready", 1.0)
        return self._progress.get(record.id, Progress())

    def usage(self, record: Record) -> Usage:
        """Nothing of a cluster that does not answer; who lists runs has been told so already."""
        if "cluster" not in record.status or (cluster := self._cluster(record)).place in self._silent:
            return Usage()
        try:
            return usage.of(cluster, applied.selector(record.id))
        except TargetUnreachable:
            self._silent.add(cluster.place)
            return Usage()

    def changes(self, record: Record) -> AbstractContextManager[Doorbell]:
        return Doorbell(self._cluster(record), (_serving(record)[0], "Pod"), applied.selector(record.id))

    def stop(self, record: Record, timeout_s: float | None = None) -> None:
        """No pods; everything else stays, its disks above all."""
        if "cluster" in record.status:
            cluster, (kind, name) = self._cluster(record), _serving(record)
            if kind == "InferenceService":
                cluster.delete(kind, name)
            elif cluster.get(kind, name) is not None:
                cluster.scale(kind, name, 0)
            bound_s = _grace_s(record) if timeout_s is None else timeout_s
            applied.wait_for_pods_to_end(cluster, record.id, bound_s)
        self._change(record, Change("STOPPED", "", NOTHING_SERVES))

    def delete(self, record: Record) -> None:
        """All that has the run's label, whoever has made it so."""
        if "cluster" in record.status:
            try:
                applied.remove(self._cluster(record), record.id, _grace_s(record))
            except TargetRefused as error:
                if error.status != 404:  # the namespace is gone
                    raise

    def logs(self, record: Record, asked: LogsAsked, *, follow: bool = False) -> Iterator[str]:
        ended: Callable[[], bool] | None = (lambda: self._has_ended(record)) if follow else None
        return log_streams.read(self._cluster(record), applied.selector(record.id), asked, ended)

    def reach(self, record: Record) -> Reach:
        return service.reach(self._cluster(record), record)

    def manifests(self, record: Record) -> list[Json]:
        """What was applied, as the cluster has kept it; without Secrets, which have values in them."""
        found = applied.found(self._cluster(record), record.id)
        return [own_fields.of(one) for one in reversed(found) if one["kind"] != "Secret"]

    def adopt(self, place: Mapping[str, str]) -> None:
        """The runs of the cluster that the store does not know are in it from now on, with what they are of."""
        with closing(Cluster(**place)) as cluster:
            for record in recovery.runs(cluster):
                for one in (recovery.project_of(record), recovery.function_of(record), record):
                    with suppress(EntityExists):
                        self._store.create(one)

    def _cluster(self, record: Record) -> Cluster:
        """Where the run is, or is to be."""
        if "cluster" in record.status:
            place = Place.of(record.status["cluster"])
        else:
            said = {name: str(record.spec.get(name) or "") for name in ("kubeconfig", "context", "namespace")}
            place = Place(**said, server="")
        if place not in self._clusters:
            self._clusters[place] = Cluster.at(place)
        return self._clusters[place]

    def _put(self, cluster: Cluster, record: Record, manifests: Sequence[Json], *, force: bool) -> None:
        """All but the stable Service, which comes when the pods answer."""
        applied.apply(cluster, [one for one in manifests if not applied.is_alias(one)], force=force)

    def _arrived(self, cluster: Cluster, record: Record, verdict: Verdict, serving: Json) -> tuple[Verdict, Json]:
        """The pods of this start or update answer, for the first time: the stable Service leads to them from now on."""
        facts: Json = {}
        try:
            if record.status.get("alias") != record.status["begun"]:
                for one in source.alias(record):
                    cluster.apply(one)
            facts["alias"] = record.status["begun"]
        except TargetRefused as error:
            verdict = verdict._replace(message=f"the service {record.spec['service_name']} stays: {error.message}")
        facts["service"] = service.of(cluster, record, _name(record), serving)
        return verdict, facts

    def _prune(self, cluster: Cluster, run: str, manifests: Sequence[Json]) -> None:
        """What the run had before an update and has no more; disks stay, since they have something on them."""
        wanted = {applied.title(one) for one in manifests}
        for one in applied.found(cluster, run):
            if applied.title(one) not in wanted and one["kind"] != "PersistentVolumeClaim":
                cluster.delete(one["kind"], one["metadata"]["name"])

    def _has_ended(self, record: Record) -> bool:
        found = [one for one in self._store.list("run", record.project) if one.id == record.id]
        return not found or self.observe(found[0]).state in ("STOPPED", "DELETED", "DELETING")

    def _change(self, record: Record, change: Change) -> Record:
        return self._store.change("run", record.project, record.id, change.of)


def _serving(record: Record) -> tuple[str, str]:
    """Kind and name of what serves the run."""
    kind = "InferenceService" if record.spec.get("flavor") == "kserve" else "Deployment"
    return kind, _name(record)


def _name(record: Record) -> str:
    return resource_name(record.project, parse_function_string(record.spec["function"]).name, record.id)


def _titles(manifests: Sequence[Json]) -> list[str]:
    return [applied.title(one) for one in manifests]


def _begun(begun: Record) -> Callable[[Record], Record]:
    """One that is not to be begun any more stays as it is."""

    def change(record: Record) -> Record:
        if record.state not in _TO_BEGIN:
            return record
        return record.replace(spec=begun.spec, status=begun.status | _live(record.status))

    return change


def _live(status: Json) -> Json:
    """What others may have written since the record was read."""
    return {name: status[name] for name in ("state", "message", "transitions") if name in status}


def _check_state(record: Record) -> None:
    """Raises TargetError for a run that has no pods."""
    if record.state not in noted.LOOKED_AT or "cluster" not in record.status:
        raise TargetError(f"the run is {record.state}, and cannot be changed; resume it first")


def _image(record: Record) -> str:
    """Of a run that names none; a newer version of this package does not change it unasked."""
    return str(record.status.get("image") or source.image(record.spec))


def _wants_gpu(record: Record) -> bool:
    return "gpu" in record.spec.get("resources", {})


def _updated(after: Record, facts: Json) -> Callable[[Record], Record]:
    def change(record: Record) -> Record:
        changed = Change("PENDING", "it is being changed; the former pods answer meanwhile", facts)
        _check_state(record)
        if record.state == "ERROR":
            record = Change("RESUME").of(record)
        return changed.of(record.replace(spec=after.spec))

    return change


def _pods(manifests: Sequence[Json]) -> list[Any]:
    """What pods are made from."""
    found: list[Any] = []
    for one in manifests:
        if one["kind"] == "Deployment":
            found.append(one["spec"]["template"])
        elif one["kind"] in ("InferenceService", "ServingRuntime", "ConfigMap", "Secret"):
            found.append(one.get("spec") or one.get("data"))
    return found


def _with_log(cluster: Cluster, verdict: Verdict) -> str:
    """The cause, and the last that the server has said."""
    if not verdict.suspect:
        return verdict.message
    lines = _ending(log_streams.last_lines(cluster, verdict.suspect, _LINES, verdict.previous))
    return "\n".join([f"{verdict.message}; its last lines:", *lines]) if lines else verdict.message


def _ending(lines: Sequence[str]) -> list[str]:
    """The last ones, as far as an error's message has room."""
    found: list[str] = []
    left = _CHARACTERS
    for line in reversed(lines):
        line = line if len(line) <= _LINE else f"{line[: _LINE - 1]}…"
        left -= len(line) + 1
        if left < 0:
            break
        found.insert(0, line)
    return found


def _grace_s(record: Record) -> float:
    """The longest that an orderly end takes."""
    config = flags.from_keywords(**parameters.server_config(record.spec))
    return pod.PRE_STOP_S + config.shutdown_timeout + _MARGIN_S
