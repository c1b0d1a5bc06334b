"""What a run's pods use now, as the cluster's metrics server has last seen it.

One question to the API; the thread of whoever asks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

from modelserve.deploy.kubernetes.cluster import Cluster, Json
from modelserve.deploy.quantity import amount
from modelserve.deploy.target import Usage


def of(cluster: Cluster, labels: str) -> Usage:
    """Over all containers of the pods with these labels; what nobody knows, such as of pods that have just begun, is
    None. Raises TargetRefused, also where there is no metrics server, and TargetUnreachable."""
    pods, _ = cluster.list("PodMetrics", labels)
    cores, memory = list(_amounts(pods, "cpu")), list(_amounts(pods, "memory"))
    return Usage(
        float(sum(cores, Fraction())) if cores else None,
        math.ceil(sum(memory, Fraction())) if memory else None,
    )


def _amounts(pods: list[Json], name: str) -> Iterator[Fraction]:
    for pod in pods:
        for container in pod.get("containers") or ():
            found = amount((container.get("usage") or {}).get(name))
            if found is not None:
                yield found
