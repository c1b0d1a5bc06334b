"""What the server fills in where an object says nothing. Deployments, ReplicaSets and Pods as recorded; the other kinds
from Kubernetes' documentation. Pure, but for the addresses that a service is given."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from typing import Any

from tests.deploy.kubernetes.fake.kinds import Kind, Object

_PROBE = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}


def fill(kind: Kind, found: Object) -> None:
    """In place."""
    filler = _FILLERS.get(kind.name)
    if filler is not None:
        filler(found)


def _missing(into: Object, values: Object) -> None:
    for name, value in values.items():
        if into.get(name) is None:
            into[name] = value


def _part(found: Object, name: str) -> Object:
    """A part that every object has, made where it is missing."""
    if found.get(name) is None:
        found[name] = {}
    part: Object = found[name]
    return part


def _deployment(found: Object) -> None:
    spec = _part(found, "spec")
    _missing(spec, {"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600})
    strategy = _part(spec, "strategy")
    _missing(strategy, {"type": "RollingUpdate"})
    if strategy["type"] == "RollingUpdate":
        _missing(_part(strategy, "rollingUpdate"), {"maxUnavailable": "25%", "maxSurge": "25%"})
    pod_spec(_part(_part(spec, "template"), "spec"))
    _part(found, "status")


def _replica_set(found: Object) -> None:
    spec = _part(found, "spec")
    _missing(spec, {"replicas": 1})
    pod_spec(_part(_part(spec, "template"), "spec"))
    _part(found, "status")


def pod_spec(spec: Object) -> None:
    """Of a pod or of a template."""
    _missing(
        spec,
        {
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
            "securityContext": {}, "schedulerName": "default-scheduler",
        },
    )  # fmt: skip
    if account := spec.get("serviceAccountName"):
        _missing(spec, {"serviceAccount": account})
    for one in [*spec.get("containers", []), *spec.get("initContainers", [])]:
        _container(one)
    for volume in spec.get("volumes", []):
        for name in ("secret", "configMap", "projected", "downwardAPI"):
            if isinstance(volume.get(name), dict):
                _missing(volume[name], {"defaultMode": 420})
        if isinstance(volume.get("hostPath"), dict):
            _missing(volume["hostPath"], {"type": ""})
        claim = (volume.get("ephemeral") or {}).get("volumeClaimTemplate", {}).get("spec")
        if claim is not None:
            _missing(claim, {"volumeMode": "Filesystem"})


def _container(found: Object) -> None:
    image = found.get("image", "")
    tag = image.rpartition("/")[2].partition(":")[2] if "@" not in image else "digest"
    _missing(
        found,
        {
            "resources": {}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "imagePullPolicy": "Always" if tag in ("", "latest") else "IfNotPresent",
        },
    )  # fmt: skip
    for port in found.get("ports", []):
        _missing(port, {"protocol": "TCP"})
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        if probe := found.get(name):
            _missing(probe, _PROBE)
            if isinstance(probe.get("httpGet"), dict):
                _missing(probe["httpGet"], {"path": "/", "scheme": "HTTP"})
            if isinstance(probe.get("grpc"), dict):
                _missing(probe["grpc"], {"service": ""})
    for hook in (found.get("lifecycle") or {}).values():
        if isinstance(hook.get("httpGet"), dict):
            _missing(hook["httpGet"], {"path": "/", "scheme": "HTTP"})
    for variable in found.get("env", []):
        reference = (variable.get("valueFrom") or {}).get("fieldRef")
        if reference:
            _missing(reference, {"apiVersion": "v1"})


def _pod(found: Object) -> None:
    """With the token's volume and the tolerations that admission adds."""
    spec = _part(found, "spec")
    pod_spec(spec)
    for one in [*spec.get("containers", []), *spec.get("initContainers", [])]:
        limits = one["resources"].get("limits", {})
        if limits:
            requests = one["resources"].setdefault("requests", {})
            _missing(requests, limits)
    _missing(
        spec,
        {
            "serviceAccountName": "default", "serviceAccount": "default", "priority": 0, "enableServiceLinks": True,
            "preemptionPolicy": "PreemptLowerPriority",
        },
    )  # fmt: skip
    known = {(one.get("key"), one.get("effect")) for one in spec.get("tolerations", [])}
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if (key, "NoExecute") not in known:
            spec.setdefault("tolerations", []).append(
                {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            )
    if spec.get("automountServiceAccountToken") is not False:
        _token_volume(spec)
    _part(found, "status")


def _token_volume(spec: Object) -> None:
    if any(one["name"].startswith("kube-api-access-") for one in spec.get("volumes", [])):
        return
    name = f"kube-api-access-{suffix()}"
    ca: Object = {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}
    # The recorded cluster is an OpenShift one, in this.
    service_ca = {"name": "openshift-service-ca.crt", "items": [{"key": "service-ca.crt", "path": "service-ca.crt"}]}
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    sources = [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        ca,
        {"downwardAPI": {"items": [namespace]}},
        {"configMap": service_ca},
    ]
    spec.setdefault("volumes", []).append({"name": name, "projected": {"sources": sources, "defaultMode": 420}})
    mount = {"name": name, "readOnly": True, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
    for one in [*spec.get("containers", []), *spec.get("initContainers", [])]:
        one.setdefault("volumeMounts", []).append(dict(mount))


def suffix(length: int = 5) -> str:
    """Of a generated name: the letters that Kubernetes takes."""
    return "".join(random.choices("bcdfghjklmnpqrstvwxz2456789", k=length))


def _service(found: Object) -> None:
    spec = _part(found, "spec")
    _missing(spec, {"type": "ClusterIP", "sessionAffinity": "None"})
    outside = spec["type"] in ("NodePort", "LoadBalancer")
    if spec["type"] != "ExternalName":
        if not spec.get("clusterIP"):
            # The rest of an address that nobody else has: services are few.
            spec["clusterIP"] = f"10.96.{random.randint(0, 255)}.{random.randint(1, 254)}"
        _missing(
            spec,
            {
                "clusterIPs": [spec["clusterIP"]], "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack",
            },
        )  # fmt: skip
    if outside:
        _missing(spec, {"externalTrafficPolicy": "Cluster"})
    if spec["type"] == "LoadBalancer":
        _missing(spec, {"allocateLoadBalancerNodePorts": True})
    for port in spec.get("ports", []):
        _missing(port, {"protocol": "TCP", "targetPort": port.get("port")})
        if outside and not port.get("nodePort"):
            port["nodePort"] = random.randint(30000, 32767)
        elif not outside:
            port.pop("nodePort", None)
    _missing(_part(found, "status"), {"loadBalancer": {}})


def _secret(found: Object) -> None:
    _missing(found, {"type": "Opaque"})
    if plain := found.pop("stringData", None):
        data = _part(found, "data")
        data.update({key: base64.b64encode(str(value).encode()).decode() for key, value in plain.items()})


def _claim(found: Object) -> None:
    spec = _part(found, "spec")
    _missing(spec, {"volumeMode": "Filesystem", "storageClassName": "standard"})
    _part(spec, "resources")
    _missing(_part(found, "status"), {"phase": "Pending"})
    finalizers = found["metadata"].setdefault("finalizers", [])
    if "kubernetes.io/pvc-protection" not in finalizers and "deletionTimestamp" not in found["metadata"]:
        finalizers.append("kubernetes.io/pvc-protection")


def _namespace(found: Object) -> None:
    found["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = found["metadata"]["name"]
    _missing(_part(found, "spec"), {"finalizers": ["kubernetes"]})
    _missing(_part(found, "status"), {"phase": "Active"})


def _autoscaler(found: Object) -> None:
    spec = _part(found, "spec")
    _missing(spec, {"minReplicas": 1})
    if not spec.get("metrics"):
        spec["metrics"] = [
            {
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
            }
        ]
    _missing(_part(found, "status"), {"desiredReplicas": 0, "currentMetrics": None})


def _budget(found: Object) -> None:
    _part(found, "spec")
    _missing(
        _part(found, "status"),
        {"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0},
    )


def _review(found: Object) -> None:
    _part(found, "spec")


_FILLERS: dict[str, Callable[[Any], None]] = {
    "Deployment": _deployment, "ReplicaSet": _replica_set, "Pod": _pod, "Service": _service, "Secret": _secret,
    "PersistentVolumeClaim": _claim, "Namespace": _namespace, "HorizontalPodAutoscaler": _autoscaler,
    "PodDisruptionBudget": _budget, "SelfSubjectAccessReview": _review,
}  # fmt: skip
