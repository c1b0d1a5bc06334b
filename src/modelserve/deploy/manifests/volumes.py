"""The volumes of a pod and where its server sees them: the run's, and those that a read-only root needs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from modelserve.deploy import paths
from modelserve.deploy.cluster_shapes import object_name
from modelserve.deploy.manifests.names import dns_label
from modelserve.deploy.manifests.variables import CACHE, SCRATCH
from modelserve.deploy.manifests.workload import Workload
from modelserve.errors import ConfigError
from modelserve.urls import shown

FILES = "/etc/modelserve"
"""Where the ConfigMap is."""
SIZE = "10Gi"
"""Of a claim that says none."""
OURS = "modelserve-"
"""How the names of our own volumes begin."""
CACHE_VOLUME = OURS + "cache"
_SHM_SIZE = "2Gi"
"""As in KServe's runtimes. Docker's own 64 MiB are too few for several processes that share tensors."""
_MEDIA = ("", "Memory")

_Json = dict[str, Any]


class Mounted(NamedTuple):
    volume: _Json
    mount: _Json


def of(workload: Workload) -> list[Mounted]:
    """The run's, then ours. Raises ConfigError."""
    return [*run_volumes(workload), *server_volumes(workload)]


def run_volumes(workload: Workload) -> list[Mounted]:
    """Those that the run asks for."""
    found: list[Mounted] = []
    for said in workload.spec.get("volumes", ()):
        name, path = volume_name(said["name"]), str(said["mount_path"])
        one = mounted(workload, said, name)
        for other in found:
            if other.mount["mountPath"].rstrip("/") == path.rstrip("/"):
                raise ConfigError(f"volumes has two at {path}; give each a place of its own")
            if other.volume["name"] == name and other.volume != one.volume:
                raise ConfigError(f"volumes has two different ones called {said['name']}; give each a name of its own")
        found.append(one)
    return found


def mounted(workload: Workload, said: Mapping[str, Any], name: str) -> Mounted:
    """An entry of `volumes`, as the pod's volume of this name. Raises ConfigError."""
    mount = _mount(name, str(said["mount_path"]), said["spec"])
    return Mounted({"name": name, **_source(workload, said)}, mount)


def server_volumes(workload: Workload) -> list[Mounted]:
    """What the server writes to and the files that it is told to read, less those in whose place the run has one."""
    found = writable(_cache(workload))
    if workload.files:
        volume = {"name": OURS + "files", "configMap": {"name": workload.name}}
        found.append(Mounted(volume, {"name": str(volume["name"]), "mountPath": FILES, "readOnly": True}))
    taken = {str(one["mount_path"]).rstrip("/") for one in workload.spec.get("volumes", ())}
    return [one for one in found if one.mount["mountPath"] not in taken]


def writable(cache: _Json) -> list[Mounted]:
    """cache: where models are kept, a volume's source."""
    return [_scratch("cache", CACHE, cache), *scratch()]


def scratch(prefix: str = "") -> list[Mounted]:
    """What a container writes to that has a root which is only read: files, and memory that its processes share.
    prefix: of the volumes' names, where a pod has two such containers."""
    shm = {"emptyDir": {"medium": "Memory", "sizeLimit": _SHM_SIZE}}
    return [
        _scratch(f"{prefix}tmp", SCRATCH, {"emptyDir": {}}),
        _scratch(f"{prefix}shm", "/dev/shm", shm),
    ]


def volume_name(said: str) -> str:
    """What a pod calls a run's volume, which is never what it calls one of ours."""
    return dns_label(f"v/{said}" if said.startswith(OURS) else said)


def claim_name(workload: Workload, volume: str) -> str:
    """Of a claim that is made for the run."""
    return f"{workload.name}-{volume}"


def check_path(spec: Mapping[str, Any]) -> None:
    """Raises ConfigError for a model that no pod sees: one of this machine, unless a volume brings it."""
    where = paths.parse(spec["path"])
    place = where.here
    mounts = [PurePosixPath(one["mount_path"]) for one in spec.get("volumes", ())]
    if place is not None and not any(PurePosixPath(place).is_relative_to(mount) for mount in mounts):
        raise ConfigError(
            f"path is {shown(spec['path'])!r}, a place of this machine, which no pod sees; give hf://…, s3://… or "
            "https://…, or a path below the mount_path of one of the volumes"
        )


def _source(workload: Workload, said: Mapping[str, Any]) -> _Json:
    spec = said["spec"]
    match said["volume_type"]:
        case "persistent_volume_claim":
            new = [key for key in ("size", "storage_class", "access_mode") if key in spec]
            if new and "claim_name" in spec:
                raise ConfigError(
                    f"volumes, {said['name']}: a claim that is there (claim_name) has its {' and '.join(new)} already; "
                    "give only one of them"
                )
            name = spec.get("claim_name") or claim_name(workload, volume_name(said["name"]))
            return {"persistentVolumeClaim": {"claimName": object_name("claim_name in volumes", name)}}
        case "shared_volume":
            name = spec.get("claim_name") or said["name"]
            return {"persistentVolumeClaim": {"claimName": object_name("the claim of a shared_volume", name)}}
        case "empty_dir":
            return {"emptyDir": _empty_dir(said["name"], spec)}
        case "ephemeral":
            return {"ephemeral": {"volumeClaimTemplate": {"spec": claim_spec(spec, "ReadWriteOnce")}}}
        case _:
            return {"hostPath": {"path": spec["path"]}}


def claim_spec(said: Mapping[str, Any], access_mode: str) -> _Json:
    """Of a claim. access_mode: where nothing else is said."""
    found: _Json = {
        "accessModes": [said.get("access_mode", access_mode)],
        "resources": {"requests": {"storage": str(said.get("size", SIZE))}},
    }
    if "storage_class" in said:
        found["storageClassName"] = object_name("storage_class", said["storage_class"])
    return found


def _empty_dir(name: str, spec: Mapping[str, Any]) -> _Json:
    found = {"sizeLimit": str(spec["size_limit"])} if "size_limit" in spec else {}
    if "medium" in spec:
        media = {one.lower(): one for one in _MEDIA}
        medium = media.get(str(spec["medium"]).lower())
        if medium is None:
            raise ConfigError(f"volumes, {name}: medium is {spec['medium']!r}; it must be Memory, or not given")
        found |= {"medium": medium} if medium else {}
    return found


def _mount(name: str, path: str, spec: Mapping[str, Any]) -> _Json:
    found: _Json = {"name": name, "mountPath": path}
    if "sub_path" in spec:
        found["subPath"] = spec["sub_path"]
    if spec.get("access_mode") == "ReadOnlyMany":
        found["readOnly"] = True
    return found


def _cache(workload: Workload) -> _Json:
    """Without a claim it lives as long as the pod: a container that is started again in it does not download again."""
    said = workload.spec.get("model_cache")
    if said is None:
        return {"emptyDir": {}}
    return {"persistentVolumeClaim": {"claimName": said.get("claim_name") or claim_name(workload, CACHE_VOLUME)}}


def _scratch(name: str, path: str, source: _Json) -> Mounted:
    return Mounted({"name": OURS + name, **source}, {"name": OURS + name, "mountPath": path})
