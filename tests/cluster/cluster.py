"""The cluster that the environment names: conftest.py has the table of the variables."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import modelserve as ms
from tests.cluster.api import Api
from tests.deploy.kubernetes.control_plane import ETCD, KUBECONFIG

Serve = Callable[..., ms.Run]
"""function.run in the test's namespace: parameters of a run, and `of=` another function."""
_PREFIX = "MODELSERVE_TEST_"


@dataclass(frozen=True, slots=True)
class Cluster:
    """nodes: how many are ready to take pods. image: "" where none was named. pods: parameters of a run that its nodes
    want. etcd: "" where nobody may compact it."""

    kubeconfig: Path
    context: str
    api: Api = field(repr=False)
    nodes: int
    image: str
    pods: dict[str, Any]
    model: str
    etcd: str
    timeout_s: float

    @property
    def place(self) -> dict[str, str]:
        """What a run is told, beside its namespace, to find the cluster."""
        return {"kubeconfig": str(self.kubeconfig)} | ({"context": self.context} if self.context else {})

    @property
    def server(self) -> str:
        """Its URL."""
        return self.api.server

    @classmethod
    def of_environment(cls) -> Cluster:
        context = _said("CONTEXT")
        api = Api.of(os.environ[KUBECONFIG], context)
        pods: dict[str, Any] = {"huggingface_task": _said("TASK") or "fill_mask"}
        if policy := _said("IMAGE_PULL_POLICY"):
            pods["image_pull_policy"] = policy
        for name in ("VOLUMES", "NODE_SELECTOR"):
            if said := _said(name):
                pods[name.lower()] = json.loads(said)
        return cls(
            kubeconfig=Path(os.environ[KUBECONFIG]),
            context=context,
            api=api,
            nodes=_ready_nodes(api),
            image=_said("IMAGE"),
            pods=pods,
            model=_said("MODEL") or "hf://prajjwal1/bert-tiny",
            etcd=os.environ.get(ETCD, ""),
            timeout_s=float(_said("TIMEOUT") or 600),
        )


def _said(name: str) -> str:
    return os.environ.get(_PREFIX + name, "")


def _ready_nodes(api: Api) -> int:
    nodes = api.get("/api/v1/nodes").ok()["items"]
    taking = [node for node in nodes if not node["spec"].get("unschedulable")]
    conditions = [node.get("status", {}).get("conditions") or () for node in taking]
    return sum(any(one["type"] == "Ready" and one["status"] == "True" for one in of) for of in conditions)
