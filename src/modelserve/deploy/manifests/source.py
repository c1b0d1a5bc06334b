"""From a run to its manifests: what they need of the store and of this machine's files is read here, once.

Everything after that is pure. Asks no cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from modelserve.deploy import parameters, paths
from modelserve.deploy.cluster_shapes import SECRET
from modelserve.deploy.manifests import objects, service
from modelserve.deploy.manifests.volumes import FILES
from modelserve.deploy.manifests.workload import MODEL_DIR, Workload
from modelserve.deploy.record import Record
from modelserve.errors import ConfigError
from modelserve.urls import shown

if TYPE_CHECKING:
    from modelserve.deploy.store import Store

_FLAGS = ("chat_template", "log_config_file", "predictor_ca_file")
"""Flags of the server that name a file."""
_MOST_BYTES = 1024 * 1024
"""Of a ConfigMap."""


def manifests(record: Record, store: Store) -> list[dict[str, Any]]:
    """record: a run, sealed for Kubernetes; one that has been started keeps the image that it was started with.

    Raises ConfigError, EntityNotFound, StoreError.
    """
    files = _files(record.spec)
    words = [f"--{flag}={FILES}/{name}" for flag, (name, _) in files.items()]
    if words:  # of a flag that is repeated the last counts
        record = record.replace(spec=record.spec | {"args": [*record.spec.get("args", ()), *words]})
    unnamed = record.status.get("image") or image(record.spec)
    behind = _values(record, record.spec.get("triton", {}), store)
    workload = Workload.of(record, _secrets(record, store), dict(files.values()), unnamed, behind)
    return objects.of(workload)


def alias(record: Record) -> list[dict[str, Any]]:
    """Its stable Service alone, in a list; none where it has no service_name. Reads nothing."""
    workload = Workload.of(record, {}, {}, "")
    return [workload.template.over(one) for one in service.alias(workload)]


def image(spec: dict[str, Any]) -> str:
    """Where the run names none: that of this version, with CUDA for whoever asks for a GPU."""
    return f"modelserve:{version('modelserve')}" + ("-cuda" if "gpu" in spec.get("resources", {}) else "")


def _secrets(record: Record, store: Store) -> dict[str, str]:
    """By variable. A URL with a password or a signature in it is one too."""
    found = _values(record, record.spec, store)
    path = record.spec["path"]
    if shown(path) != path.partition("#")[0] and "model_dir" in (server := paths.parse(path).server):
        found[MODEL_DIR] = server["model_dir"]
    return found


def _values(record: Record, said: Mapping[str, Any], store: Store) -> dict[str, str]:
    """Of the project's secrets that are asked for, by variable."""
    names = [name for name in said.get("secrets", ()) if not name.startswith(SECRET)]
    return {name: store.get_secret(record.project, name) for name in names}


def _files(spec: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Flag -> (file name, text), for files of this machine; one below a volume of the pod is there already."""
    found: dict[str, tuple[str, str]] = {}
    config = parameters.server_config(spec)
    mounts = [PurePosixPath(one["mount_path"]) for one in spec.get("volumes", ())]
    for flag in _FLAGS:
        given = config.get(flag)
        if given is None or "{" in given or any(PurePosixPath(given).is_relative_to(mount) for mount in mounts):
            continue  # "{": a template, not the name of one
        file = Path(given).expanduser()
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
            raise ConfigError(f"{flag} is {given!r}, which cannot be put into the cluster: {reason}") from error
        if len(text.encode()) > _MOST_BYTES:
            raise ConfigError(f"{flag} is {given!r}, which has more than 1 MiB; put it into the image or on a volume")
        suffix = file.suffix if file.suffix.isascii() and file.suffix[1:].isalnum() else ""
        found[flag] = (flag + suffix, text)
    return found
