"""What the server says of an object that has the right fields with wrong values: 422, with a cause for each. Pure.

Recorded: ports, mounts without a volume, pull policies, requests over limits, selectors. The rest is written from
Kubernetes' sources: names, duplicates, services, autoscalers, what cannot be changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from tests.deploy.kubernetes.fake.kinds import Kind, Object
from tests.deploy.kubernetes.fake.status import Cause, Refused, invalid

_LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
_DOMAIN = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_VALUE = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
_PULL = ("Always", "IfNotPresent", "Never")
_SUFFIXES = {
    "n": "1e-9", "u": "1e-6", "m": "1e-3", "k": "1e3", "M": "1e6", "G": "1e9", "T": "1e12", "P": "1e15", "E": "1e18",
}  # fmt: skip


def quantity(text: Any) -> Decimal:
    """Of a quantity that is known to be good."""
    said = str(text)
    if said.endswith("i"):
        return Decimal(said[:-2]) * Decimal(1024 ** ("KMGTPE".index(said[-2]) + 1))
    if said[-1] in _SUFFIXES:
        return Decimal(said[:-1]) * Decimal(_SUFFIXES[said[-1]])
    return Decimal(said)


def refusal(kind: Kind, found: Object, before: Object | None) -> Refused | None:
    """None for a valid object. before: the one in whose place it comes."""
    causes = list(_causes(kind, found, before))
    return invalid(kind.name, kind.group, found["metadata"].get("name", ""), causes) if causes else None


def _causes(kind: Kind, found: Object, before: Object | None) -> Iterator[Cause]:
    metadata = found["metadata"]
    name = metadata.get("name", "")
    strict = kind.name in ("Namespace", "Service")
    if not (_LABEL if strict else _DOMAIN).match(name) or len(name) > 253:
        what = (
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and "
            "end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
            "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            if strict
            else "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and "
            "must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
            "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        )
        yield _value("metadata.name", name, what)
    yield from _labels("metadata.labels", metadata.get("labels"))
    if kind.name in ("Deployment", "ReplicaSet"):
        yield from _replicated(found, before)
    elif kind.name == "Pod":
        yield from _pod("spec", found["spec"])
    elif kind.name == "Service":
        yield from _service(found, before)
    elif kind.name == "HorizontalPodAutoscaler":
        yield from _autoscaler(found)
    elif kind.name == "PersistentVolumeClaim":
        yield from _claim(found, before)


def _value(field: str, value: Any, words: str) -> Cause:
    shown = json.dumps(value, separators=(",", ":"))
    return Cause(field, "FieldValueInvalid", f"Invalid value: {shown}: {words}")


def _required(field: str, words: str = "") -> Cause:
    return Cause(field, "FieldValueRequired", "Required value" + (f": {words}" if words else ""))


def _labels(field: str, labels: Any) -> Iterator[Cause]:
    for value in (labels or {}).values():
        if len(str(value)) > 63:
            yield _value(field, value, "must be no more than 63 bytes")
        elif not _VALUE.match(str(value)):
            yield _value(
                field,
                value,
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and "
                "must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', "
                "regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            )


def _replicated(found: Object, before: Object | None) -> Iterator[Cause]:
    spec = found["spec"]
    if spec["replicas"] < 0:
        yield _value("spec.replicas", spec["replicas"], "must be greater than or equal to 0")
    selector, template = spec.get("selector"), spec["template"]
    labels = template.get("metadata", {}).get("labels") or {}
    if not selector:
        yield _required("spec.selector")
    elif not (selector.get("matchLabels") or {}).items() <= labels.items():
        yield _value("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
    yield from _pod("spec.template.spec", template["spec"])
    if before is not None and selector and selector != before["spec"]["selector"]:
        yield _value("spec.selector", selector, "field is immutable")


def _pod(path: str, spec: Object) -> Iterator[Cause]:
    volumes = [one.get("name") for one in spec.get("volumes", [])]
    yield from _twice(f"{path}.volumes", volumes)
    if not spec.get("containers"):
        yield _required(f"{path}.containers")
    names: list[str] = []
    for part in ("initContainers", "containers"):
        for index, one in enumerate(spec.get(part, [])):
            yield from _container(f"{path}.{part}[{index}]", one, volumes, names)
            names.append(one.get("name", ""))


def _twice(path: str, names: list[Any]) -> Iterator[Cause]:
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Cause(f"{path}[{index}].name", "FieldValueDuplicate", f"Duplicate value: {json.dumps(name)}")


def _container(path: str, one: Object, volumes: list[Any], names: list[str]) -> Iterator[Cause]:
    name = one.get("name", "")
    if not name:
        yield _required(f"{path}.name")
    elif not _LABEL.match(name):
        yield _value(
            f"{path}.name",
            name,
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and "
            "end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
            "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        )
    elif name in names:
        yield Cause(f"{path}.name", "FieldValueDuplicate", f"Duplicate value: {json.dumps(name)}")
    if not one.get("image"):
        yield _required(f"{path}.image")
    yield from _ports(path, one.get("ports", []))
    mounted: list[str] = []
    for index, mount in enumerate(one.get("volumeMounts", [])):
        if mount["name"] not in volumes:
            yield Cause(
                f"{path}.volumeMounts[{index}].name", "FieldValueNotFound", f"Not found: {json.dumps(mount['name'])}"
            )
        if mount["mountPath"] in mounted:
            yield _value(f"{path}.volumeMounts[{index}].mountPath", mount["mountPath"], "must be unique")
        mounted.append(mount["mountPath"])
    if one["imagePullPolicy"] not in _PULL:
        allowed = ", ".join(map(json.dumps, _PULL))
        yield Cause(
            f"{path}.imagePullPolicy",
            "FieldValueNotSupported",
            f"Unsupported value: {json.dumps(one['imagePullPolicy'])}: supported values: {allowed}",
        )
    limits = one["resources"].get("limits") or {}
    for resource, asked in (one["resources"].get("requests") or {}).items():
        if resource in limits and quantity(asked) > quantity(limits[resource]):
            yield _value(
                f"{path}.resources.requests",
                asked,
                f"must be less than or equal to {resource} limit of {limits[resource]}",
            )


def _ports(path: str, ports: list[Object]) -> Iterator[Cause]:
    names: list[str] = []
    for index, port in enumerate(ports):
        number = port.get("containerPort", 0)
        if not 0 < number < 65536:
            yield _value(f"{path}.ports[{index}].containerPort", number, "must be between 1 and 65535, inclusive")
        name = port.get("name", "")
        if len(name) > 15:
            yield _value(f"{path}.ports[{index}].name", name, "must be no more than 15 characters")
        if name and name in names:
            yield Cause(f"{path}.ports[{index}].name", "FieldValueDuplicate", f"Duplicate value: {json.dumps(name)}")
        names.append(name)


def _service(found: Object, before: Object | None) -> Iterator[Cause]:
    spec = found["spec"]
    ports = spec.get("ports") or []
    headless = spec.get("clusterIP") == "None"
    if not ports and not headless and spec["type"] != "ExternalName":
        yield _required("spec.ports")
    for index, port in enumerate(ports):
        if not 0 < port.get("port", 0) < 65536:
            yield _value(f"spec.ports[{index}].port", port.get("port", 0), "must be between 1 and 65535, inclusive")
        if len(ports) > 1 and not port.get("name"):
            yield _required(f"spec.ports[{index}].name")
    types = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
    if spec["type"] not in types:
        allowed = ", ".join(map(json.dumps, types))
        yield Cause(
            "spec.type",
            "FieldValueNotSupported",
            f"Unsupported value: {json.dumps(spec['type'])}: supported values: {allowed}",
        )
    if before is not None and before["spec"].get("clusterIP") and spec.get("clusterIP") != before["spec"]["clusterIP"]:
        yield _value("spec.clusterIPs[0]", spec.get("clusterIP"), "may not change once set")


def _autoscaler(found: Object) -> Iterator[Cause]:
    spec = found["spec"]
    most, least = spec.get("maxReplicas", 0), spec["minReplicas"]
    if least < 1:
        yield _value("spec.minReplicas", least, "must be greater than or equal to 1")
    if most < 1:
        yield _value("spec.maxReplicas", most, "must be greater than 0")
    if most < least:
        yield _value("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`")
    if not (spec.get("scaleTargetRef") or {}).get("name"):
        yield _required("spec.scaleTargetRef.name")


def _claim(found: Object, before: Object | None) -> Iterator[Cause]:
    spec = found["spec"]
    if not spec.get("accessModes"):
        yield _required("spec.accessModes", "at least 1 access mode is required")
    asked = (spec["resources"].get("requests") or {}).get("storage")
    if asked is None:
        yield _required("spec.resources[storage]")
    if before is None:
        return
    old = {key: value for key, value in before["spec"].items() if key not in ("resources", "volumeName")}
    new = {key: value for key, value in spec.items() if key not in ("resources", "volumeName")}
    if old != new:
        yield Cause(
            "spec",
            "FieldValueForbidden",
            "Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for "
            "bound claims",
        )
    elif asked is not None and quantity(asked) < quantity(before["spec"]["resources"]["requests"]["storage"]):
        yield Cause(
            "spec.resources.requests.storage",
            "FieldValueForbidden",
            "Forbidden: field can not be less than status.capacity",
        )
