"""All manifests of a run, in the order in which they are applied. Pure: plain dicts, nothing shared between runs."""

from __future__ import annotations

import copy
from typing import Any

from modelserve.deploy.manifests import (
    autoscaler,
    claims,
    config_map,
    deployment,
    disruption,
    kserve,
    secret,
    service,
    triton,
    volumes,
)
from modelserve.deploy.manifests.workload import Workload


def of(workload: Workload) -> list[dict[str, Any]]:
    """What is read comes before who reads it; the stable service, which moves once the run is ready, comes last.

    Raises ConfigError for what no cluster would take.
    """
    volumes.check_path(workload.spec)
    needs = [*secret.of(workload), *config_map.of(workload), *claims.of(workload)]
    if workload.spec.get("flavor") == "kserve":
        serving = [*kserve.of(workload), *disruption.of(workload)]
    else:
        serving = [
            deployment.of(workload),
            service.of(workload),
            *autoscaler.of(workload),
            *disruption.of(workload),
            *service.alias(workload),
        ]
    over = workload.template.over  # for the server's objects: what a base says of its containers is not Triton's
    found = [*map(over, needs), *triton.of(workload), *map(over, serving)]
    # Deep copies: one labels mapping is in many objects, and a YAML file would show it once, with anchors.
    return [copy.deepcopy(one) for one in found]
