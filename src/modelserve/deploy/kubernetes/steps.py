"""What is done to a run in its cluster: begin, change, scale, end. Blocking, and bounded; the caller's thread.

The store is told before the cluster, so a run that is there is known; while its status has `applying`, not all of it
is there. What others ask for meanwhile is done afterwards: nothing is left of a run that was removed while it was
applied.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from modelserve import flags
from modelserve.deploy import parameters
from modelserve.deploy.change import NOTHING_SERVES, Change
from modelserve.deploy.kubernetes import applied, behind, noted
from modelserve.deploy.kubernetes.behind import LEAVES
from modelserve.deploy.kubernetes.cluster import Cluster
from modelserve.deploy.manifests import pod, source
from modelserve.deploy.manifests.claims import with_access_mode
from modelserve.deploy.manifests.labels import BEGUN, TRITON_BEGUN
from modelserve.deploy.manifests.names import is_behind, resource_name
from modelserve.deploy.manifests.predictor import is_apart
from modelserve.deploy.record import Record, now
from modelserve.deploy.reference import parse_function_string
from modelserve.deploy.store import Store
from modelserve.errors import ConfigError, EntityNotFound, TargetError

_MARGIN_S = 30.0
"""For a cluster to end pods and remove objects, beyond the pods' own grace."""
_TO_BEGIN = ("READY", "RESUME")
_FIXED = ("kubeconfig", "context", "namespace", "flavor")
"""Of a spec: what a run is found by, or made of."""
Json = dict[str, Any]


def begin(store: Store, cluster: Cluster, record: Record) -> None:
    """Apply its objects. Nothing new is left of a run that is refused. One that is resumed is what its spec says, and
    not what others have made of it since."""
    facts = {"cluster": cluster.place.to_dict(), "begun": now(), "image": _image(record), "moves": True}
    facts |= {"applying": now()} | ({TRITON_BEGUN: now()} if is_apart(record.spec) else {})
    status = {name: said for name, said in record.status.items() if name not in ("alias", "held", "objects")} | facts
    begun = record.replace(spec=with_access_mode(record.spec), status=status)
    manifests = source.manifests(begun, store)
    if _changed(store, record, _begun(begun)).state not in _TO_BEGIN:
        return
    try:
        _put(cluster, manifests, force=record.state == "RESUME")
    except TargetError:
        _changed(store, record, partial(_with_facts, {"objects": record.status.get("objects"), "applying": None}))
        raise
    kind, name = serving(begun)
    if kind == "Deployment" and "scaling" in begun.spec and record.state == "RESUME":
        cluster.scale(kind, name, _replicas(begun))  # no autoscaler makes pods where there are none
    _settle(store, cluster, begun, manifests, "the cluster has it")


def change(store: Store, cluster: Cluster, record: Record, spec: Json, *, force: bool) -> None:
    """Another spec, in place: new pods where the pods change, one after the other; of a run that is stopped, from its
    resume on. Raises TargetError, ConfigError; the run is as it was then."""
    for name in _FIXED:
        if record.spec.get(name) != spec.get(name):
            raise ConfigError(f"{name} is {record.spec.get(name)!r}; it cannot change while the run is there")
    if record.state == "STOPPED":
        _change_stopped(store, cluster, record, spec)
        return
    _check_state(record)
    kind, name = serving(record)
    live = _live(cluster, record)
    if live and "scaling" not in spec and spec.get("replicas") == record.spec.get("replicas"):
        spec = spec | {"replicas": live}  # as it was scaled since, by whomever
    after = _with_spec(record, spec)
    manifests, former = source.manifests(after, store), source.manifests(record, store)
    if marks := {mark: now() for mark in ("begun", TRITON_BEGUN) if _pods(manifests, mark) != _pods(former, mark)}:
        after = after.replace(status=after.status | marks)
        manifests = source.manifests(after, store)
    hands_over = live > 0 and ("scaling" in after.spec) != ("scaling" in record.spec)
    applied.check(cluster, _with_replicas(manifests, name, live) if hands_over else manifests, force=force)
    if hands_over:
        # The number of pods is ours before it is the autoscaler's, and ours again afterwards: nobody's, it would fall
        # to 1 for a moment.
        cluster.scale(kind, name, live if "scaling" in after.spec else _replicas(after))
    facts = {name: after.status.get(name) for name in ("begun", TRITON_BEGUN, "image")}
    facts |= dict.fromkeys(("alias", "moves", "held")) | {"applying": now(), LEAVES: behind.leaves(record, spec)}
    _changed(store, record, _changing(after.spec, facts))
    try:
        _put(cluster, manifests, force=force)
    except TargetError:
        names = ("begun", TRITON_BEGUN, "image", "alias", "moves", "applying", LEAVES)
        _changed(store, record, _changing(record.spec, {name: record.status.get(name) for name in names}))
        raise
    _settle(store, cluster, after, manifests, "it is being changed; the former pods answer meanwhile")
    behind.prune(cluster, after, [applied.title(one) for one in manifests], leaves=facts[LEAVES])


def scale(store: Store, cluster: Cluster, record: Record, replicas: int, *, force: bool) -> None:
    """So many pods; those that stay are not touched. Raises ConfigError, TargetError."""
    if "scaling" in record.spec:
        raise ConfigError("the run has scaling, and its autoscaler says how many pods there are; update(scaling=…)")
    _check_state(record)
    spec, (kind, name) = record.spec | {"replicas": replicas}, serving(record)
    if kind != "Deployment":
        change(store, cluster, record, spec, force=force)
        return
    cluster.scale(kind, name, replicas)
    _changed(store, record, _changing(spec, {}))


def end(store: Store, cluster: Cluster, record: Record, timeout_s: float | None) -> None:
    """No pods; everything else stays, its disks above all. The Triton behind it ends last: until then it answers what
    the server has accepted."""
    ends = time.monotonic() + (grace_s(record) if timeout_s is None else timeout_s)
    _empty(cluster, record)
    try:
        applied.wait_for_pods_to_end(cluster, applied.selector(record.id), ends - time.monotonic())
    finally:
        behind.empty(cluster, record)
    if behind.has(record):
        left_s = grace_s(record) if timeout_s is None else max(0.0, ends - time.monotonic())
        applied.wait_for_pods_to_end(cluster, applied.triton_selector(record.id), left_s)
    _changed(store, record, Change("STOPPED", "", NOTHING_SERVES).of)


def serving(record: Record) -> tuple[str, str]:
    """Kind and name of what serves the run."""
    name = resource_name(record.project, parse_function_string(record.spec["function"]).name, record.id)
    return ("InferenceService" if record.spec.get("flavor") == "kserve" else "Deployment"), name


def grace_s(record: Record) -> float:
    """The longest that an orderly end takes."""
    config = flags.from_keywords(**parameters.server_config(record.spec))
    return pod.PRE_STOP_S + config.shutdown_timeout + _MARGIN_S


def _put(cluster: Cluster, manifests: Sequence[Json], *, force: bool) -> None:
    """All but the stable Service, which comes when the pods answer."""
    applied.apply(cluster, [one for one in manifests if not applied.is_alias(one)], force=force)


def _settle(store: Store, cluster: Cluster, record: Record, manifests: Sequence[Json], message: str) -> None:
    """All is there; and what others have asked for while it was applied is done now."""
    objects = {"objects": [applied.title(one) for one in manifests], "applying": None}
    try:
        state = _changed(store, record, Change("PENDING", message, objects).of).state
    except EntityNotFound:
        state = "DELETED"
    if state in ("DELETING", "DELETED"):
        applied.remove(cluster, record.id, grace_s(record))
    elif state in ("STOP", "STOPPED"):
        _empty(cluster, record)
        behind.empty(cluster, record)


def _empty(cluster: Cluster, record: Record) -> None:
    kind, name = serving(record)
    if kind == "InferenceService":
        cluster.delete(kind, name)
    elif cluster.get(kind, name) is not None:
        cluster.scale(kind, name, 0)


def _changed(store: Store, record: Record, step: Callable[[Record], Record]) -> Record:
    return store.change("run", record.project, record.id, step)


def _begun(begun: Record) -> Callable[[Record], Record]:
    """One that is not to be begun any more stays as it is; what others have written since it was read stays, too."""

    def step(record: Record) -> Record:
        if record.state not in _TO_BEGIN:
            return record
        live = {name: record.status[name] for name in ("state", "message", "transitions") if name in record.status}
        return record.replace(spec=begun.spec, status=begun.status | live)

    return step


def _with_facts(facts: Json, record: Record) -> Record:
    status = {name: said for name, said in {**record.status, **facts}.items() if said is not None}
    return record.replace(status=status)


def _changing(spec: Json, facts: Json) -> Callable[[Record], Record]:
    def step(record: Record) -> Record:
        _check_state(record)
        if record.state == "ERROR":
            record = Change("RESUME").of(record)
        message = "it is being changed; the former pods answer meanwhile"
        return Change("PENDING", message, facts).of(record.replace(spec=spec))

    return step


def _with_replicas(manifests: Sequence[Json], name: str, live: int) -> list[Json]:
    """As many as there are: what an autoscaler has set so is no conflict. name: of the server's Deployment."""
    return [
        one | {"spec": one["spec"] | {"replicas": live}}
        if applied.title(one) == f"Deployment/{name}" and "replicas" in one["spec"]
        else one
        for one in manifests
    ]


def _check_state(record: Record) -> None:
    """Raises TargetError for a run that has no pods."""
    if record.state not in noted.LOOKED_AT or "cluster" not in record.status:
        raise TargetError(f"the run is {record.state}, and cannot be changed; resume it first")


def _change_stopped(store: Store, cluster: Cluster, record: Record, spec: Json) -> None:
    """Where there is no room for one pod more, a run is stopped, changed and resumed."""
    after = _with_spec(record, spec)
    applied.check(cluster, source.manifests(after, store), force=True)

    def step(now_: Record) -> Record:
        if now_.state != "STOPPED":
            raise TargetError(f"the run is {now_.state} by now, and was not changed; change it again")
        return now_.replace(spec=after.spec, status=now_.status | {"image": after.status["image"]})

    _changed(store, record, step)


def _live(cluster: Cluster, record: Record) -> int:
    """How many pods its Deployment asks for now; 0 where there is none. Raises TargetError where the run was changed
    from elsewhere since this store has seen it."""
    kind, name = serving(record)
    found = cluster.get(kind, name)
    if found is None or kind != "Deployment":
        return 0
    mark = (found["spec"]["template"]["metadata"].get("annotations") or {}).get(BEGUN, "")
    if mark > record.status["begun"]:
        raise TargetError("the run was changed from elsewhere; `modelserve runs --target kubernetes` takes that over")
    return int(found["spec"].get("replicas", 1))


def _replicas(record: Record) -> int:
    """Those to begin with."""
    scaling = record.spec.get("scaling")
    return int(scaling["min_replicas"] if scaling else record.spec.get("replicas", 1))


def _image(record: Record) -> str:
    """Of a run that names none; a newer version of this package does not change it unasked."""
    return str(record.status.get("image") or source.image(record.spec))


def _with_spec(record: Record, spec: Json) -> Record:
    """The run as it is to be; one that comes to want a GPU wants the image for it."""
    wants_gpu = ["gpu" in one.get("resources", {}) for one in (record.spec, spec)]
    image = {"image": source.image(spec)} if wants_gpu[0] != wants_gpu[1] else {}
    return record.replace(spec=with_access_mode(spec), status=record.status | image)


def _pods(manifests: Sequence[Json], mark: str) -> list[Any]:
    """What pods are made from: the server's, or those of the Triton behind it where it has its own."""
    found: list[Any] = []
    apart = any(one["kind"] == "Deployment" and is_behind(one["metadata"]["name"]) for one in manifests)
    for one in manifests:
        if (apart and is_behind(one["metadata"]["name"])) != (mark == TRITON_BEGUN):
            continue
        if one["kind"] == "Deployment":
            found.append(one["spec"]["template"])
        elif one["kind"] in ("InferenceService", "ServingRuntime", "ConfigMap", "Secret"):
            found.append(one.get("spec") or one.get("data"))
    return found
