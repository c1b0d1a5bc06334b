"""The environment of the server in a pod: the run's variables, its secrets, and where the writable places are. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from modelserve.deploy import command
from modelserve.deploy.cluster_shapes import SECRET, is_object_name
from modelserve.deploy.manifests import predictor
from modelserve.deploy.manifests.workload import Workload
from modelserve.deploy.shapes import wrong

CACHE = "/cache"
SCRATCH = "/tmp"
PLACES = {
    "HF_HOME": f"{CACHE}/huggingface",
    "MODELSERVE_HOME": f"{CACHE}/modelserve",
    "HOME": SCRATCH,
    "USER": "modelserve",
}
"""The root of a container is read-only. USER: PyTorch asks for the user's name, and a uid may have none."""

VARIABLE = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]{0,252}")
"""A variable's name that is a key of a Secret, too."""
_Entry = dict[str, Any]


def env(workload: Workload) -> list[_Entry]:
    """The server's."""
    own = PLACES | predictor.variables(workload.spec, workload.name)
    return entries(own, workload.spec, workload.secrets, workload.name)


def entries(places: Mapping[str, str], spec: Mapping[str, Any], secrets: Iterable[str], secret: str) -> list[_Entry]:
    """A variable each, no name twice: a list with two of a name cannot be applied. What is said in `spec` wins over the
    places, its secrets over its envs, as on this machine. secrets: those that the Secret of this name has."""
    found: dict[str, _Entry] = {name: {"name": name, "value": value} for name, value in places.items()}
    for name, value in command.environment(spec).items():
        found[name] = {"name": name, "value": value}
    for name in secrets:
        found[name] = {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": name}}}
    for named, key in _in_the_cluster(spec):
        if key:
            found[key] = {"name": key, "valueFrom": {"secretKeyRef": {"name": named, "key": key}}}
    return list(found.values())


def env_from(spec: Mapping[str, Any]) -> list[_Entry]:
    """The Secrets of the cluster whose every key is a variable."""
    return [{"secretRef": {"name": secret}} for secret, key in _in_the_cluster(spec) if not key]


def _in_the_cluster(spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(Secret, key) of secret://name/key; the key is "" for all that it has. Raises ConfigError."""
    found = []
    for said in spec.get("secrets", ()):
        if said.startswith(SECRET):
            name, slash, key = said.removeprefix(SECRET).partition("/")
            if not is_object_name(name) or (slash and not VARIABLE.fullmatch(key)):
                raise wrong("a secret", said, "one of the cluster, secret://name or secret://name/VARIABLE")
            found.append((name, key))
    return found
