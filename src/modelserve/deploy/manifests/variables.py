"""The environment of the server in a pod: the run's variables, its secrets, and where the writable places are. Pure."""

from __future__ import annotations

import re
from typing import Any

from modelserve.deploy import command
from modelserve.deploy.cluster_shapes import SECRET, is_object_name
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
    """A variable each, no name twice: a list with two of a name cannot be applied. The run's win over ours, its secrets
    over its envs, as on this machine."""
    found: dict[str, _Entry] = {name: {"name": name, "value": value} for name, value in PLACES.items()}
    for name, value in command.environment(workload.spec).items():
        found[name] = {"name": name, "value": value}
    for name in workload.secrets:
        found[name] = {"name": name, "valueFrom": {"secretKeyRef": {"name": workload.name, "key": name}}}
    for secret, key in _in_the_cluster(workload):
        if key:
            found[key] = {"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}
    return list(found.values())


def env_from(workload: Workload) -> list[_Entry]:
    """The Secrets of the cluster whose every key is a variable."""
    return [{"secretRef": {"name": secret}} for secret, key in _in_the_cluster(workload) if not key]


def _in_the_cluster(workload: Workload) -> list[tuple[str, str]]:
    """(Secret, key) of secret://name/key; the key is "" for all that it has. Raises ConfigError."""
    found = []
    for said in workload.spec.get("secrets", ()):
        if said.startswith(SECRET):
            name, slash, key = said.removeprefix(SECRET).partition("/")
            if not is_object_name(name) or (slash and not VARIABLE.fullmatch(key)):
                raise wrong("a secret", said, "one of the cluster, secret://name or secret://name/VARIABLE")
            found.append((name, key))
    return found
