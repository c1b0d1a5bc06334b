"""The shapes of what only a cluster reads: labels, scaling, caches. As shapes.py, whose rules hold here too. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelserve.deploy.quantity import is_quantity
from modelserve.deploy.shapes import ACCESS_MODES, Json, choice, known, mapping, pairs, snake, text, texts, wrong

FLAVORS = ("deployment", "kserve")
PULL_POLICIES = ("Always", "IfNotPresent", "Never")
SECRET = "secret://"
"""Before the name of a Secret that is in the cluster already: DigitalHub's way to write one."""

_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_CACHE = ("size", "storage_class", "claim_name", "access_mode")


def labels(name: str, value: object) -> Json:
    """{"team": "ml"} or [{"name": "team", "value": "ml"}] -> the former."""
    found = pairs(name, value, "name")
    for key, said in found.items():
        _qualified(name, key)
        if said and not _NAME.fullmatch(said):
            allowed = "at most 63 letters, digits, _, . and -, with a letter or digit at both ends"
            raise wrong(f"the value of {key} in {name}", said, allowed)
    return found


def notes(name: str, value: object) -> Json:
    """{"a.b/c": "text"} or [{"name": …, "value": …}] -> the former."""
    found = pairs(name, value, "name")
    for key in found:
        _qualified(name, key)
    return found


def device(name: str, value: object) -> Json:
    """What a cluster calls a kind of device, such as nvidia.com/gpu."""
    if not isinstance(value, str) or "/" not in value:
        raise wrong(name, value, "a name with a domain before it, such as nvidia.com/gpu")
    return _qualified(name, value)


def kubeconfig(name: str, value: object) -> Json:
    """Absolute: who looks at the run next may be in another directory."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    files = [one for one in str(text(name, value)).split(os.pathsep) if one]
    return os.pathsep.join(str(Path(one).expanduser().absolute()) for one in files)


def namespace(name: str, value: object) -> Json:
    if not isinstance(value, str) or not _DNS_LABEL.fullmatch(value):
        raise wrong(name, value, "1 to 63 lower-case letters, digits and dashes, with no dash at either end")
    return value


def flavor(name: str, value: object) -> Json:
    return choice(name, value, FLAVORS)


def pull_policy(name: str, value: object) -> Json:
    return choice(name, value, PULL_POLICIES)


def object_names(name: str, value: object) -> Json:
    """Names of objects of the cluster; one text is a list of one."""
    return [object_name(name, one) for one in texts(name, value)]


def seconds(name: str, value: object) -> Json:
    if isinstance(value, bool) or not isinstance(value, int) or value < 10:
        raise wrong(name, value, "a whole number of seconds, 10 or more")
    return value


def scaling(name: str, value: object) -> Json:
    """{"min_replicas": 1, "max_replicas": 4, "target": 80}; target: percent of the cpu that is requested, or
    {"cpu": 80}, {"mem": 80}, {"modelserve_queue_size": "16"}: the mean of a metric over the pods."""
    said = fields(name, value, 'such as {"max_replicas": 4}', ("min_replicas", "max_replicas", "target"))
    least, most = said.get("min_replicas", 1), said.get("max_replicas")
    for key, number in (("min_replicas", least), ("max_replicas", most)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise wrong(f"{key} in {name}", number, "a whole number of at least 1")
    if most < least:
        raise wrong(f"max_replicas in {name}", most, f"at least min_replicas, which is {least}")
    target = said.get("target", 80)
    targets = target if isinstance(target, Mapping) else {"cpu": target}
    if not targets:
        raise wrong(f"target in {name}", target, "a percentage of the cpu, or what to look at with its value")
    found = {}
    for metric, amount in targets.items():
        if metric in ("cpu", "mem"):
            if isinstance(amount, bool) or not isinstance(amount, int) or amount < 1:
                raise wrong(f"target in {name}", target, "a whole number of percent, 1 or more")
        elif not isinstance(metric, str) or not metric or not is_quantity(amount):
            raise wrong(f"target in {name}", target, 'a metric and its value, such as {"modelserve_queue_size": "16"}')
        found[metric] = amount if metric in ("cpu", "mem") else str(amount)
    return {"min_replicas": least, "max_replicas": most, "target": found}


def disruption_budget(name: str, value: object) -> Json:
    """1 or "50%", how many pods may be missing at once; or {"min_available": 2}."""
    said = value if isinstance(value, Mapping) else {"max_unavailable": value}
    said = fields(name, said, 'such as {"min_available": 1}', ("min_available", "max_unavailable"))
    if len(said) != 1:
        raise wrong(name, value, "either min_available or max_unavailable")
    for amount in said.values():
        percent = isinstance(amount, str) and re.fullmatch(r"([0-9]|[1-9][0-9]|100)%", amount)
        if not percent and (isinstance(amount, bool) or not isinstance(amount, int) or amount < 0):
            raise wrong(name, value, 'a whole number of pods, or a share such as "50%"')
    return dict(said)


def model_cache(name: str, value: object) -> Json:
    """A size such as "20Gi", {"size", "storage_class", "access_mode"}, or {"claim_name"} of one that is there."""
    said = value if isinstance(value, Mapping) else {"size": value}
    return claim(name, fields(name, said, 'such as {"size": "20Gi"}', _CACHE))


def claim(name: str, said: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of a claim, in a spec of a volume or of the cache. Raises ConfigError."""
    found = dict(said)
    if "size" in found and not is_quantity(found["size"]):
        raise wrong(f"size in {name}", found["size"], 'a quantity such as "10Gi"')
    if "access_mode" in found:
        found["access_mode"] = choice(f"access_mode in {name}", found["access_mode"], ACCESS_MODES)
    for key in ("claim_name", "storage_class"):
        if key in found:
            object_name(f"{key} in {name}", text(f"{key} in {name}", found[key]))
    new = [key for key in ("size", "storage_class", "access_mode") if key in found]
    if "claim_name" in found and new:
        raise wrong(name, dict(said), f"a claim that is there (claim_name), or a new one ({', '.join(new)}), not both")
    if not found:
        raise wrong(name, dict(said), 'a size such as "20Gi", or claim_name')
    return found


def _qualified(name: str, key: str) -> str:
    prefix, slash, last = key.rpartition("/")
    if not _NAME.fullmatch(last) or (slash and not _SUBDOMAIN.fullmatch(prefix)):
        raise wrong(f"a key of {name}", key, "a name such as team or example.org/team, 63 characters behind the slash")
    return key


def is_object_name(value: str) -> bool:
    """Whether an object of a cluster may be called so."""
    return _SUBDOMAIN.fullmatch(value) is not None


def object_name(name: str, value: str) -> str:
    """Raises ConfigError for what no object of a cluster may be called."""
    if not is_object_name(value):
        raise wrong(name, value, "the name of an object of the cluster: lower-case letters, digits, dashes and dots")
    return value


def fields(name: str, value: object, allowed: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """A mapping with these keys, in snake_case or camelCase, those that are None left out."""
    found = {snake(key): one for key, one in mapping(name, value, allowed).items() if one is not None}
    known(name, found, set(keys))
    return found
