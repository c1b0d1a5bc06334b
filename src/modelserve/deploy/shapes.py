"""The shapes in which users write what a pod needs, and the one shape in which a spec keeps each.

Every shape that a version of DigitalHub accepted is read; what comes out is JSON. Each function raises ConfigError
with the parameter, the value and what is allowed. Pure; knows no target.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from modelserve.deploy.quantity import cores, is_quantity, memory_bytes
from modelserve.errors import ConfigError

Json = Any

RESOURCES = {
    "cpu": "cpu",
    "mem": "mem",
    "memory": "mem",
    "gpu": "gpu",
    "nvidia.com/gpu": "gpu",
    "disk": "disk",
    "ephemeral-storage": "disk",
}
"""As users and as Kubernetes name them -> as a spec does. Further names with a slash are a cluster's own, and kept."""
SERVICE_TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
VOLUME_TYPES = {
    "persistent_volume_claim": ("size", "storage_class", "access_mode", "claim_name", "sub_path"),
    "empty_dir": ("size_limit", "medium", "sub_path"),
    "ephemeral": ("size", "storage_class", "sub_path"),
    "shared_volume": ("size", "claim_name", "sub_path"),
    "host_path": ("path", "sub_path"),
}
"""Type of volume -> what its spec may say. host_path is a directory of the machine: what a volume is on a laptop."""
ACCESS_MODES = ("ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany")
_AMOUNTS = ("requests", "limits")
_OPERATORS = ("Equal", "Exists")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_AFFINITIES = ("nodeAffinity", "podAffinity", "podAntiAffinity")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def wrong(name: str, value: object, allowed: str) -> ConfigError:
    return ConfigError(f"{name} is {value!r}; it must be {allowed}")


def text(name: str, value: object) -> Json:
    if not isinstance(value, str) or not value.strip():
        raise wrong(name, value, "a text that is not empty")
    return value


def count(name: str, value: object) -> Json:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise wrong(name, value, "a whole number of at least 1")
    return value


def service_type(name: str, value: object) -> Json:
    return choice(name, value, SERVICE_TYPES)


def service_name(name: str, value: object) -> Json:
    if not isinstance(value, str) or not _DNS_LABEL.fullmatch(value):
        raise wrong(name, value, "1 to 63 lower-case letters, digits and dashes, with no dash at either end")
    return value


def texts(name: str, value: object) -> Json:
    """A list of texts; one text is a list of one."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, Sequence) or not all(isinstance(one, str) and one for one in values):
        raise wrong(name, value, "a list of texts")
    if any("\0" in one for one in values):
        raise wrong(name, value, "texts without NUL, which no command line holds")
    return list(values)


def node_selector(name: str, value: object) -> Json:
    """[{"key": "gpu", "value": "a100"}] or {"gpu": "a100"} -> the former."""
    return [{"key": key, "value": one} for key, one in pairs(name, value, "key").items()]


def envs(name: str, value: object) -> Json:
    """[{"name": "A", "value": "1"}] or {"A": "1"} -> the former."""
    given = pairs(name, value, "name")
    for variable in given:
        if not _VARIABLE.fullmatch(variable):
            raise wrong(f"the name in {name}", variable, "letters, digits, _, . and -, not beginning with a digit")
    return [{"name": variable, "value": one} for variable, one in given.items()]


def resources(name: str, value: object) -> Json:
    """{"cpu": "2"} or {"cpu": {"requests": "1", "limits": "2"}} -> the latter; a quantity alone is a request.

    Kubernetes' own form, {"limits": {"cpu": "2"}}, is read too: the recorded profiles have it.
    """
    given = mapping(name, value, 'such as {"cpu": "2", "mem": "4Gi"}')
    if given and set(given) <= set(_AMOUNTS):
        given = _by_resource(name, given)
    found: dict[str, dict[str, str]] = {}
    for key, said in given.items():
        resource = RESOURCES.get(key) or (key if "/" in key else None)
        if resource is None:
            raise wrong(f"a key of {name}", key, "one of cpu, mem, gpu, disk")
        amounts = said if isinstance(said, Mapping) else {"requests": said}
        for kind in amounts:
            if kind not in _AMOUNTS:
                raise wrong(f"a key of {name}[{key!r}]", kind, "requests or limits")
        kept = {kind: amount for kind, amount in amounts.items() if amount is not None}
        numbers = {kind: _amount(f"{name}[{key!r}]", resource, amount) for kind, amount in kept.items()}
        if numbers.get("requests", 0) > numbers.get("limits", math.inf):
            raise wrong(f"{name}[{key!r}]", kept, "limits of at least the requests")
        if kept:
            found[resource] = {kind: str(amount) for kind, amount in kept.items()}
    return found


def _by_resource(name: str, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{"limits": {"cpu": "2"}} -> {"cpu": {"limits": "2"}}."""
    found: dict[str, dict[str, Any]] = {}
    for kind, amounts in given.items():
        for key, amount in mapping(f"{name}[{kind!r}]", amounts or {}, 'such as {"cpu": "2"}').items():
            found.setdefault(key, {})[kind] = amount
    return found


def _amount(name: str, resource: str, amount: object) -> Fraction | int:
    """The number that it is. Raises ConfigError."""
    if resource in ("cpu", "mem", "disk"):
        try:
            return cores(amount) if resource == "cpu" else memory_bytes(amount)
        except ConfigError:
            allowed = 'in cores, such as 2 or "500m"' if resource == "cpu" else 'of bytes, such as "512Mi" or "1.5Gi"'
            raise wrong(name, amount, f"a quantity above 0, {allowed}") from None
    if isinstance(amount, bool) or not re.fullmatch(r"[0-9]+", str(amount)):
        raise wrong(name, amount, "a whole number of devices")
    return int(str(amount))


def tolerations(name: str, value: object) -> Json:
    keys = {"key", "operator", "value", "effect", "toleration_seconds"}
    found = []
    for one in _dicts(name, value):
        toleration = {snake(key): item for key, item in one.items() if item is not None}
        known(name, toleration, keys)
        if "operator" in toleration:
            toleration["operator"] = choice(f"operator in {name}", toleration["operator"], _OPERATORS)
        if "effect" in toleration:
            toleration["effect"] = choice(f"effect in {name}", toleration["effect"], _EFFECTS)
        for key in ("key", "value"):
            if not isinstance(toleration.get(key, ""), str):
                raise wrong(f"{key} in {name}", toleration[key], "a text")
        seconds = toleration.get("toleration_seconds", 0)
        if isinstance(seconds, bool) or not isinstance(seconds, int):
            raise wrong(f"toleration_seconds in {name}", seconds, "a whole number")
        found.append(toleration)
    return found


def affinity(name: str, value: object) -> Json:
    """Kubernetes' own form, with its keys in camelCase or snake_case -> camelCase."""
    found = _camel_keys(mapping(name, value, "Kubernetes' affinity, such as {'node_affinity': {…}}"))
    for key in found:
        if key not in _AFFINITIES:
            raise wrong(f"a key of {name}", key, "one of node_affinity, pod_affinity, pod_anti_affinity")
    return found


def volumes(name: str, value: object) -> Json:
    found = []
    for one in _dicts(name, value):
        volume = {snake(key): item for key, item in one.items()}
        known(name, volume, {"volume_type", "name", "mount_path", "spec"})
        for key in ("volume_type", "name", "mount_path"):
            text(f"{key} in {name}", volume.get(key))
        if (kind := str(volume["volume_type"]).lower()) not in VOLUME_TYPES:
            raise wrong(f"volume_type in {name}", volume["volume_type"], "one of " + ", ".join(VOLUME_TYPES))
        if not str(volume["mount_path"]).startswith("/") or ":" in str(volume["mount_path"]):
            raise wrong(f"mount_path in {name}", volume["mount_path"], "an absolute path, which has no colon")
        spec = mapping(f"spec in {name}", volume.get("spec") or {}, 'such as {"size": "10Gi"}')
        said = {snake(key): item for key, item in spec.items() if item is not None}
        known(f"spec of a {kind} in {name}", said, set(VOLUME_TYPES[kind]))
        for key in ("size", "size_limit"):
            if key in said and not is_quantity(said[key]):
                raise wrong(f"{key} in {name}", said[key], 'a quantity such as "10Gi"')
        if "access_mode" in said:
            said["access_mode"] = choice(f"access_mode in {name}", said["access_mode"], ACCESS_MODES)
        if "sub_path" in said and not _is_below(said["sub_path"]):
            raise wrong(f"sub_path in {name}", said["sub_path"], "a path within the volume, such as models/bert")
        if kind == "host_path":
            text(f"path of a host_path in {name}", said.get("path"))
        found.append({**volume, "volume_type": kind, "spec": said})
    return found


def _is_below(path: object) -> bool:
    return isinstance(path, str) and not path.startswith("/") and ".." not in path.split("/")


def choice(name: str, value: object, choices: Sequence[str]) -> str:
    """In any case, as it is spelled in `choices`."""
    for one in choices:
        if isinstance(value, str) and value.lower() == one.lower():
            return one
    raise wrong(name, value, "one of " + ", ".join(choices))


def pairs(name: str, value: object, key: str) -> dict[str, str]:
    """A mapping of texts, or a list of {key, "value"}."""
    if isinstance(value, Mapping):
        given = dict(value)
    else:
        given = {}
        for one in _dicts(name, value):
            if set(one) != {key, "value"}:
                raise wrong(f"an entry of {name}", one, f'of the form {{"{key}": "…", "value": "…"}}')
            if not isinstance(one[key], str):
                raise wrong(f"an entry of {name}", one, f'of the form {{"{key}": "…", "value": "…"}}')
            given[one[key]] = one["value"]
    for said, item in given.items():
        if not isinstance(said, str) or not said or not isinstance(item, str):
            raise wrong(name, {said: item}, "names with values that are texts")
        if "\0" in item:
            raise wrong(name, {said: item}, "values without NUL, which no variable holds")
    return given


def mapping(name: str, value: object, allowed: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise wrong(name, value, f"a mapping, {allowed}")
    return value


def _dicts(name: str, value: object) -> list[Mapping[str, Any]]:
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        raise wrong(name, value, "a list of mappings")
    return [mapping(f"an entry of {name}", one, "with texts as keys") for one in value]


def known(name: str, given: Mapping[str, Any], known: set[str]) -> None:
    for key in given:
        if key not in known:
            raise wrong(f"a key of {name}", key, "one of " + ", ".join(sorted(known)))


def snake(key: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: "_" + found[1].lower(), key)


def camel(key: str) -> str:
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), key)


def _camel_keys(value: Any) -> Any:
    """Keys of Kubernetes' objects in camelCase; labels, which have dots, slashes or dashes, and values as they are."""
    if isinstance(value, Mapping):
        return {
            camel(key): dict(one) if camel(key) == "matchLabels" else _camel_keys(one) for key, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [_camel_keys(one) for one in value]
    return value
