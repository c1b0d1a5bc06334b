"""The target `kubernetes`: runs in a cluster, which keeps them by itself.

Nobody on this machine works for such a run. What becomes of it is seen by whoever looks: `observe` reads the cluster
and writes what it sees into the store. Blocking, and bounded; the caller's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from functools import partial
from typing import Any

from modelserve.deploy.change import NOTHING_SERVES, Change
from modelserve.deploy.kubernetes import (
    applied,
    behind,
    diagnosis,
    log_streams,
    noted,
    own_fields,
    recovery,
    service,
    snapshot,
    steps,
    trouble,
    usage,
)
from modelserve.deploy.kubernetes.behind import LEAVES
from modelserve.deploy.kubernetes.cluster import Cluster
from modelserve.deploy.kubernetes.diagnosis import Verdict
from modelserve.deploy.kubernetes.doorbell import Doorbell
from modelserve.deploy.kubernetes.place import Place
from modelserve.deploy.manifests import source
from modelserve.deploy.manifests.predictor import is_apart
from modelserve.deploy.manifests.triton import NAME as TRITON
from modelserve.deploy.record import Record
from modelserve.deploy.store import Store
from modelserve.deploy.target import LogsAsked, Progress, Reach, Usage
from modelserve.errors import ConfigError, EntityExists, EntityNotFound, TargetError, TargetRefused, TargetUnreachable

_LINES, _LINE, _CHARACTERS = 10, 200, 600
"""Of a pod's log, in an error: lines, characters of each, and of all."""
Json = dict[str, Any]


class KubernetesTarget:
    """Serves runs in clusters."""

    name = "kubernetes"

    def __init__(self, store: Store) -> None:
        self._store = store
        self._clusters: dict[Place, Cluster] = {}
        self._progress: dict[str, Progress] = {}
        self._silent: set[Place] = set()
        self._unmetered: set[Place] = set()

    def start(self, record: Record) -> None:
        steps.begin(self._store, self._cluster(record), record)

    def check(self, record: Record, *, force: bool = False) -> list[Json]:
        """Its objects as the cluster would have them, without Secrets: a dry run on the server. Raises TargetError."""
        found = applied.check(self._cluster(record), source.manifests(record, self._store), force=force)
        return [one for one in found if one["kind"] != "Secret"]

    def update(self, record: Record, spec: Json, *, force: bool = False) -> None:
        steps.change(self._store, self._cluster(record), record, spec, force=force)

    def scale(self, record: Record, replicas: int, *, force: bool = False) -> None:
        steps.scale(self._store, self._cluster(record), record, replicas, force=force)

    def observe(self, record: Record) -> Record:
        """Raises TargetError where the cluster cannot be asked."""
        if "cluster" not in record.status or record.state not in (*noted.LOOKED_AT, "STOP"):
            return record
        cluster, (kind, name) = self._cluster(record), steps.serving(record)
        try:
            triton = behind.name_of(record) if is_apart(record.spec) else ""
            seen = snapshot.take(cluster, record.id, kind, name, triton)
        except TargetUnreachable:
            self._silent.add(cluster.place)
            raise
        self._silent.discard(cluster.place)
        if record.state == "STOP":
            ended = all(trouble.is_over(pod) for pod in seen.pods)
            if ended and behind.has(record):  # whoever was to end it, too, may be gone
                behind.empty(cluster, record)
                ended = seen.behind is None or all(trouble.is_over(pod) for pod in seen.behind.pods)
            return self._change(record, Change("STOPPED", "", NOTHING_SERVES).of) if ended else record
        if "applying" in record.status:
            return self._change(record, noted.applying)
        verdict = diagnosis.of(seen, was_running=record.state == "RUNNING")
        new = verdict.message and verdict.message not in verdict.stage
        happens = f"{verdict.stage}: {verdict.message}" if new else verdict.stage
        self._progress[record.id] = Progress(happens, verdict.fraction)
        if verdict.state == "RUNNING" and LEAVES in record.status and diagnosis.has_former(seen):
            message = "the former pods end, and the Triton that they ask goes with them"
            verdict = verdict._replace(state="PENDING", message=message, stage="ending former pods")
        facts: Json = {}
        has_arrived = record.status.get("alias") == record.status["begun"] and "service" in record.status
        if verdict.state == "RUNNING" and not has_arrived:
            assert seen.serving is not None, "something serves it"
            verdict, facts = _arrived(cluster, record, verdict, seen.serving | {"kind": kind})
        elif noted.is_hopeless(record, verdict):
            verdict = verdict._replace(state="ERROR")
        if verdict.state == "ERROR" and record.state != "ERROR":
            verdict = verdict._replace(message=_with_log(cluster, verdict))
        return self._change(record, lambda one: noted.after(one, record, verdict, facts))

    def progress(self, record: Record) -> Progress:
        if record.state == "RUNNING":
            return Progress("ready", 1.0)
        return self._progress.get(record.id, Progress())

    def usage(self, record: Record) -> Usage:
        """Nothing of a cluster that does not answer; who lists runs has been told so already."""
        if "cluster" not in record.status:
            return Usage()
        try:
            cluster = self._cluster(record)
        except ConfigError:  # its kubeconfig is gone
            return Usage()
        if cluster.place in self._silent | self._unmetered:
            return Usage()
        try:
            return usage.of(cluster, applied.all_selector(record.id))
        except TargetError:  # no metrics are no error; and nobody waits for them once more for each run
            self._unmetered.add(cluster.place)
            return Usage()

    def changes(self, record: Record) -> AbstractContextManager[Doorbell]:
        return Doorbell(self._cluster(record), (steps.serving(record)[0], "Pod"), applied.all_selector(record.id))

    def stop(self, record: Record, timeout_s: float | None = None) -> None:
        if "cluster" in record.status:
            steps.end(self._store, self._cluster(record), record, timeout_s)
        else:
            self._change(record, Change("STOPPED", "", NOTHING_SERVES).of)

    def delete(self, record: Record) -> None:
        """All that has the run's label, whoever has made it so."""
        if "cluster" in record.status:
            try:
                applied.remove(self._cluster(record), record.id, steps.grace_s(record))
            except TargetRefused as error:
                if error.status != 404:  # the namespace is gone
                    raise

    def logs(self, record: Record, asked: LogsAsked, *, follow: bool = False) -> Iterator[str]:
        ended: Callable[[], bool] | None = (lambda: self._has_ended(record)) if follow else None
        is_tritons = asked.container == TRITON and is_apart(record.spec)
        labels = (applied.triton_selector if is_tritons else applied.selector)(record.id)
        return log_streams.read(self._cluster(record), labels, asked, ended)

    def reach(self, record: Record) -> Reach:
        kind, name = steps.serving(record)
        return service.reach(self._cluster(record), record, name, kind)

    def manifests(self, record: Record) -> list[Json]:
        """What was applied, as the cluster has kept it; without Secrets, which have values in them."""
        found = applied.found(self._cluster(record), record.id)
        return [own_fields.of(one) for one in reversed(found) if one["kind"] != "Secret"]

    def adopt(self, place: Mapping[str, str]) -> None:
        """The runs of the cluster that the store does not know are in it from now on, with what they are of; of those
        that it does, what was changed from elsewhere."""
        known = {one.key: one for one in self._store.list("run")}
        with closing(Cluster(**place)) as cluster:
            for found in recovery.runs(cluster):
                former = known.get(found.key)
                if former is not None and former.status.get("begun", "") >= found.begun:
                    continue
                record = recovery.record_of(cluster, found)
                if former is not None:
                    self._change(former, partial(recovery.changed, record))
                    continue
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
            cluster = Cluster.at(place)
            if place.server and not place.context and cluster.place.server != place.server:
                cluster.close()
                raise ConfigError(
                    f"the run is in the cluster {place.server}, as the account of a pod; ask it from there"
                )
            self._clusters[place] = cluster
        return self._clusters[place]

    def _has_ended(self, record: Record) -> bool:
        try:
            found = self._store.get("run", record.project, record.id)
            return self.observe(found).state in ("STOPPED", "DELETED", "DELETING")
        except EntityNotFound:
            return True

    def _change(self, record: Record, step: Callable[[Record], Record]) -> Record:
        return self._store.change("run", record.project, record.id, step)


def _arrived(cluster: Cluster, record: Record, verdict: Verdict, serving: Json) -> tuple[Verdict, Json]:
    """The pods of this start or change answer, for the first time: the stable Service leads to them from now on."""
    facts: Json = {"alias": record.status["begun"]}
    if LEAVES in record.status:
        behind.prune(cluster, record, record.status["objects"], leaves=None)
        facts[LEAVES] = None
    try:
        if record.status.get("alias") != record.status["begun"]:
            for one in source.alias(record):
                there = cluster.get("Service", one["metadata"]["name"])
                if record.status.get("moves") or there is None or service.leads_to(there, record):
                    cluster.apply(one)
    except TargetRefused as error:
        del facts["alias"]
        verdict = verdict._replace(message=f"the service {record.spec['service_name']} stays: {error.message}")
    try:
        facts["service"] = service.of(cluster, record, steps.serving(record)[1], serving)
    except TargetRefused:
        raise
    except TargetError as error:
        verdict = verdict._replace(state="ERROR", message=error.message)
    return verdict, facts


def _with_log(cluster: Cluster, verdict: Verdict) -> str:
    """The cause, and the last that the container has said which is it."""
    if not verdict.suspect:
        return verdict.message
    lines = _ending(log_streams.last_lines(cluster, verdict.suspect, _LINES, verdict.previous, verdict.container))
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
