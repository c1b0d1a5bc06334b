"""What only Kubernetes reads of a profile: labels, ports of the service, a device's name, and base objects.

A base is an object that an administrator wrote; what we make is laid over it. Every result is new, so no run sees what
became of another's. Pure.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelserve.deploy import cluster_shapes, shapes
from modelserve.deploy.profiles import TEMPLATE
from modelserve.errors import ConfigError

GPU = "nvidia.com/gpu"
_WHOLE = ("selector", "startupProbe", "readinessProbe", "livenessProbe", "preStop")
"""A selector must be what the pods have; a probe or a hook with two ways to do it is refused."""
_JOINED = ("containers", "initContainers")
Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Template:
    """service_ports: (port, target port) each, where the profile says them. gpu: what a cluster calls a GPU."""

    labels: Mapping[str, str]
    service_ports: tuple[tuple[int, int], ...]
    gpu: str
    bases: tuple[Mapping[str, Any], ...]

    def over(self, manifest: Manifest) -> Manifest:
        """The manifest laid over the base of its kind, where there is one."""
        for base in self.bases:
            if base["kind"] == manifest["kind"]:
                manifest = laid_over(base, manifest)
        return manifest


def of(spec: Mapping[str, Any]) -> Template:
    """Raises ConfigError that names the profile."""
    said = spec.get(TEMPLATE, {})
    try:
        return Template(
            labels=cluster_shapes.labels("labels", said.get("labels", {})),
            service_ports=tuple(map(_port, said.get("service_ports", ()))),
            gpu=cluster_shapes.device("gpu_key", said.get("gpu_key", GPU)),
            bases=tuple(map(_base, said.get("bases", ()))),
        )
    except ConfigError as error:
        raise ConfigError(f"the profile {spec.get('profile')}: {error.message}") from error


def laid_over(base: Mapping[str, Any], own: Mapping[str, Any]) -> Manifest:
    """What we say wins. Mappings are joined key by key, lists of named things (containers, volumes, variables) name by
    name; of two things of one name ours is taken, but containers are joined. Any other list is ours as a whole."""
    found: Manifest = {}
    for key in dict.fromkeys([*own, *base]):
        under, over = base.get(key), own.get(key)
        if over is None or under is None or key in _WHOLE:
            found[key] = copy.deepcopy(under if key not in own else over)
        elif isinstance(under, Mapping) and isinstance(over, Mapping):
            found[key] = laid_over(under, over)
        elif _are_named(under) and _are_named(over):
            found[key] = _by_name(under, over, join=key in _JOINED)
        else:
            found[key] = copy.deepcopy(over)
    return found


def _are_named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, Mapping) and "name" in one for one in value)


def _by_name(under: list[Mapping[str, Any]], over: list[Mapping[str, Any]], join: bool) -> list[Manifest]:
    """Ours first: the first container is the one whose log is shown."""
    bases = {one["name"]: one for one in under}
    matching = [bases.pop(one["name"], {}) for one in over]
    ours = [laid_over(base if join else {}, one) for base, one in zip(matching, over, strict=True)]
    return ours + [dict(copy.deepcopy(one)) for one in bases.values()]


def _port(said: Any) -> tuple[int, int]:
    given = {shapes.snake(str(key)): value for key, value in said.items()} if isinstance(said, Mapping) else {}
    port = given.get("port")
    target = given.get("target_port", port)
    for number in (port, target):
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 65535:
            raise shapes.wrong("an entry of service_ports", said, "{port, target_port}, from 1 to 65535 each")
    return int(str(port)), int(str(target))


def _base(said: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in ("spec", "metadata"):
        if not isinstance(said.get(key, {}), Mapping):
            raise shapes.wrong(f"{key} of the base {said['kind']}", said[key], "a mapping")
    return said
