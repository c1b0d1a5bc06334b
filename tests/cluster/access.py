"""Kubeconfigs of the cluster for other users than the suite's own."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.cluster.api import Json
from tests.cluster.cluster import Cluster

NAME = "other"
"""Of the context."""


def as_user(cluster: Cluster, user: Json, directory: Path) -> Path:
    """user: as a kubeconfig has it, such as {"token": …}."""
    return write(directory, own(cluster)[0], user)


def written(cluster: Cluster, directory: Path) -> Path:
    """For the suite's own user, in one context."""
    return write(directory, *own(cluster))


def own(cluster: Cluster) -> tuple[Json, Json]:
    """Cluster and user of the suite's context."""
    said = yaml.safe_load(cluster.kubeconfig.read_text(encoding="utf-8"))
    chosen = cluster.context or said["current-context"]
    (names,) = (one["context"] for one in said["contexts"] if one["name"] == chosen)
    (found,) = (one["cluster"] for one in said["clusters"] if one["name"] == names["cluster"])
    (user,) = (one["user"] for one in said["users"] if one["name"] == names["user"])
    for one in (found, user):
        for key in ("certificate-authority", "client-certificate", "client-key", "tokenFile"):
            if key in one:  # relative paths are relative to the file
                one[key] = str(cluster.kubeconfig.parent / one[key])
    return found, user


def write(directory: Path, cluster: Json, user: Json) -> Path:
    path = directory / f"{NAME}.kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NAME, "cluster": cluster}],
        "users": [{"name": NAME, "user": user}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME}}],
        "current-context": NAME,
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path
