"""What an API server refuses though the schema allows it, and what would never work: checked over a run's manifests.

The first are the rows of the recorded exchanges that kubernetes-validate does not catch; the rest is said in the
API's documentation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from modelserve.deploy.quantity import is_quantity
from tests.deploy.manifests.made import is_behind

Manifest = dict[str, Any]
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_SERVICE = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_OVERCOMMITTED = ("cpu", "memory", "ephemeral-storage")


def broken(manifests: list[Manifest], existing: Iterable[tuple[str, str]] = ()) -> list[str]:
    """A sentence for each rule that is broken. existing: (kind, name) of what the cluster has besides."""
    there = {(one["kind"], one["metadata"]["name"]) for one in manifests} | set(existing)
    said = [f"two {kind} {name}" for (kind, name), n in _counted(manifests).items() if n > 1]
    for one in manifests:
        said += [f"{one['kind']}: {fault}" for fault in _metadata(one)]
        if one["kind"] == "Deployment":
            said += _deployment(one, manifests, there)
        elif one["kind"] == "Service":
            said += _service(one, manifests)
        elif one["kind"] in ("Secret", "ConfigMap"):
            said += [f"{one['kind']}: key {key}" for key in one["data"] if not _KEY.fullmatch(key)]
        elif one["kind"] == "PersistentVolumeClaim" and not is_quantity(
            one["spec"]["resources"]["requests"]["storage"]
        ):
            said.append("PersistentVolumeClaim: storage is no quantity")
        elif one["kind"] == "HorizontalPodAutoscaler":
            said += _autoscaler(one, manifests)
        elif one["kind"] == "PodDisruptionBudget":
            said += _selects(one, one["spec"]["selector"]["matchLabels"], manifests)
    return said


def _counted(manifests: list[Manifest]) -> Counter[tuple[str, str]]:
    return Counter((one["kind"], one["metadata"]["name"]) for one in manifests)


def _metadata(one: Manifest) -> Iterator[str]:
    meta = one["metadata"]
    pattern = _SERVICE if one["kind"] == "Service" else _SUBDOMAIN
    if not pattern.fullmatch(meta["name"]):
        yield f"name {meta['name']!r}"
    for key, value in meta["labels"].items():
        if value and not _NAME.fullmatch(value):
            yield f"label {key}={value!r}"
    for key in (*meta["labels"], *meta["annotations"]):
        prefix, slash, last = key.rpartition("/")
        if not _NAME.fullmatch(last) or (slash and not _SUBDOMAIN.fullmatch(prefix)):
            yield f"key {key!r}"
    if not all(isinstance(value, str) for value in meta["annotations"].values()):
        yield "an annotation that is no text"


def _deployment(one: Manifest, manifests: list[Manifest], there: set[tuple[str, str]]) -> Iterator[str]:
    spec = one["spec"]
    yield from _selects(one, spec["selector"]["matchLabels"], manifests)
    rolling = spec["strategy"]["rollingUpdate"]
    if rolling["maxSurge"] == rolling["maxUnavailable"] == 0:
        yield "a rolling update that cannot move"
    pod = spec["template"]["spec"]
    startup = max(map(_startup_s, pod["containers"])) + sum(map(_startup_s, pod.get("initContainers", ())))
    if spec["progressDeadlineSeconds"] <= startup:
        yield "the deadline is over before the first pod may be"
    yield from pod_faults(pod, there)


def _startup_s(container: Manifest) -> int:
    probe = container.get("startupProbe", {})
    return int(probe.get("periodSeconds", 0) * probe.get("failureThreshold", 0))


def pod_faults(pod: Manifest, there: set[tuple[str, str]]) -> Iterator[str]:
    """there: (kind, name) of what it may refer to."""
    names = [one["name"] for one in pod["volumes"]]
    yield from (f"volume {name!r}" for name in names if not _LABEL.fullmatch(name))
    yield from (f"two volumes {name}" for name, n in Counter(names).items() if n > 1)
    containers = [*pod.get("initContainers", ()), *pod["containers"]]
    yield from (f"two containers {name}" for name, n in Counter(c["name"] for c in containers).items() if n > 1)
    for volume in pod["volumes"]:
        if len(volume) != 2:
            yield f"volume {volume['name']} has {len(volume) - 1} sources"
        for key, kind, name in (
            ("persistentVolumeClaim", "PersistentVolumeClaim", "claimName"),
            ("configMap", "ConfigMap", "name"),
        ):
            if key in volume and (kind, volume[key][name]) not in there:
                yield f"volume {volume['name']}: no {kind} {volume[key][name]}"
        if "sizeLimit" in volume.get("emptyDir", {}) and not is_quantity(volume["emptyDir"]["sizeLimit"]):
            yield f"volume {volume['name']}: sizeLimit"
    for port, n in Counter(port["containerPort"] for c in containers for port in c["ports"]).items():
        if n > 1:
            yield f"port {port} twice in a pod"
    for container in containers:
        yield from _container(container, set(names), there)
        hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["", "0"])
        if pod["terminationGracePeriodSeconds"] <= int(hook[1]):
            yield "killed before it is told to end"
    if not pod["securityContext"]["runAsNonRoot"] or not pod["securityContext"]["runAsUser"]:
        yield "root"


def _container(one: Manifest, volumes: set[str], there: set[tuple[str, str]]) -> Iterator[str]:
    if not _LABEL.fullmatch(one["name"]):
        yield f"container {one['name']!r}"
    if one.get("imagePullPolicy", "Always") not in ("Always", "IfNotPresent", "Never"):
        yield f"imagePullPolicy {one['imagePullPolicy']}"
    for path, n in Counter(mount["mountPath"].rstrip("/") for mount in one["volumeMounts"]).items():
        if n > 1 or ":" in path or not path.startswith("/"):
            yield f"mount {path}"
    yield from (f"mount of no volume {m['name']}" for m in one["volumeMounts"] if m["name"] not in volumes)
    yield from (f"subPath {m['subPath']}" for m in one["volumeMounts"] if m.get("subPath", "").startswith("/"))
    variables = one.get("env", ())
    for name, n in Counter(variable["name"] for variable in variables).items():
        if n > 1 or not _VARIABLE.fullmatch(name):
            yield f"variable {name}"
    for variable in variables:
        if ("value" in variable) == ("valueFrom" in variable):
            yield f"variable {variable['name']} has no value, or two"
        ref = variable.get("valueFrom", {}).get("secretKeyRef")
        if ref and ("Secret", ref["name"]) not in there:
            yield f"variable {variable['name']}: no Secret {ref['name']}"
    for source in one.get("envFrom", ()):
        if ("Secret", source["secretRef"]["name"]) not in there:
            yield f"no Secret {source['secretRef']['name']}"
    yield from _ports(one)
    yield from _amounts(one.get("resources", {}))
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        if one[probe]["httpGet"]["port"] not in [port["containerPort"] for port in one["ports"]]:
            yield f"{probe} of a port that is not there"


def _ports(one: Manifest) -> Iterator[str]:
    for port, n in Counter(port["containerPort"] for port in one["ports"]).items():
        if n > 1 or not 1 <= port <= 65535:
            yield f"port {port}"


def _amounts(said: Manifest) -> Iterator[str]:
    requests, limits = said.get("requests", {}), said.get("limits", {})
    for name in requests | limits:
        if not all(is_quantity(amounts[name]) for amounts in (requests, limits) if name in amounts):
            yield f"{name} is no quantity"
        elif name not in _OVERCOMMITTED and (name not in limits or requests.get(name, limits[name]) != limits[name]):
            yield f"{name}: requests and limits of a device must be the same"


def _service(one: Manifest, manifests: list[Manifest]) -> Iterator[str]:
    spec = one["spec"]
    yield from _selects(one, spec["selector"], manifests)
    for key in ("name", "port"):
        for value, n in Counter(port[key] for port in spec["ports"]).items():
            if n > 1:
                yield f"two ports {value}"
    names = {port["name"] for pod in _pods(one, manifests)[0] for c in pod["spec"]["containers"] for port in c["ports"]}
    for port in spec["ports"]:
        if isinstance(port["targetPort"], str) and port["targetPort"] not in names:
            yield f"port {port['name']} leads to no port {port['targetPort']}"
        if len(port["name"]) > 15 and not _LABEL.fullmatch(port["name"]):
            yield f"port {port['name']}"


def _autoscaler(one: Manifest, manifests: list[Manifest]) -> Iterator[str]:
    target = one["spec"]["scaleTargetRef"]
    (workload,) = [other for other in manifests if other["kind"] == target["kind"] and not is_behind(other)]
    if workload["metadata"]["name"] != target["name"] or workload["apiVersion"] != target["apiVersion"]:
        yield "it scales what is not there"
    if "replicas" in workload["spec"]:
        yield "each apply would undo what the autoscaler has done"
    resources = workload["spec"]["template"]["spec"]["containers"][0].get("resources", {})
    for metric in one["spec"]["metrics"]:
        name = (metric.get("resource") or metric.get("containerResource") or {}).get("name")
        if name and not any(name in amounts for amounts in resources.values()):
            yield f"a share of {name}, of which nothing is requested"


def _selects(one: Manifest, selector: dict[str, str], manifests: list[Manifest]) -> Iterator[str]:
    meant, others = _pods(one, manifests)
    for pod in meant:
        if not selector or not selector.items() <= pod["metadata"]["labels"].items():
            yield f"{one['kind']} selects {selector}, and the pods have {pod['metadata']['labels']}"
    for pod in others:
        if selector.items() <= pod["metadata"]["labels"].items():
            yield f"{one['kind']} {one['metadata']['name']} selects pods of another"


def _pods(one: Manifest, manifests: list[Manifest]) -> tuple[list[Manifest], list[Manifest]]:
    """The pods that an object is about, the server's or those of the Triton behind it, and the others."""
    found: tuple[list[Manifest], list[Manifest]] = ([], [])
    for other in manifests:
        if other["kind"] == "Deployment":
            found[is_behind(other) != is_behind(one)].append(other["spec"]["template"])
    return found
