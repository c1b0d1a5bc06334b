"""Manifests for tests, made without a store: one function, and what a run of it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelserve.deploy import parameters
from modelserve.deploy.manifests import objects
from modelserve.deploy.manifests.workload import Workload
from modelserve.deploy.profiles import TEMPLATE
from modelserve.deploy.record import Record

Manifest = dict[str, Any]
ID = "0123456789abcdef0123456789abcdef"
IMAGE = "modelserve:test"


def workload(
    *,
    project: str = "demo",
    name: str = "bert",
    id: str = ID,
    kind: str = "huggingfaceserve",
    path: str = "hf://google-bert/bert-base-uncased",
    template: Mapping[str, Any] | None = None,
    values: Mapping[str, str] | None = None,
    triton_values: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    **given: Any,
) -> Workload:
    """template: what a profile has for Kubernetes alone. values: of the project's secrets; triton_values: of those
    that the Triton behind it has."""
    spec = {
        "function": f"{kind}://{project}/{name}:1",
        "task": f"{kind}+serve://{project}/t",
        "action": "serve",
        "target": "kubernetes",
        "path": path,
        "model_name": "bert",
        **parameters.read(given),
        **({TEMPLATE: dict(template)} if template else {}),
    }
    record = Record(project=project, type="run", kind=f"{kind}+serve:run", name=id, id=id, spec=spec)
    return Workload.of(record, values or {}, files or {}, IMAGE, triton_values or {})


def made(**given: Any) -> list[Manifest]:
    """As `workload`."""
    return objects.of(workload(**given))


def of_kind(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = [one for one in manifests if one["kind"] == kind]
    return found


def pod_of(manifests: list[Manifest]) -> Manifest:
    """The server's."""
    own = [one for one in manifests if not is_behind(one)]
    spec: Manifest = of_kind(own, "Deployment")["spec"]["template"]["spec"]
    return spec


def behind_of(manifests: list[Manifest]) -> list[Manifest]:
    """The objects of the Triton behind it."""
    return [one for one in manifests if is_behind(one)]


def container_of(manifests: list[Manifest]) -> Manifest:
    (found,) = pod_of(manifests)["containers"]
    return dict(found)


def flat(manifests: list[Manifest]) -> dict[str, Any]:
    """Every leaf by its path: Deployment.spec.replicas, env[HF_HOME].value, args[--threads=2]. Of the Triton behind it:
    TritonDeployment.spec.replicas."""
    found: dict[str, Any] = {}
    for one in manifests:
        stable = one["kind"] == "Service" and "modelserve/alias" in one["metadata"]["labels"]
        behind = "Triton" if is_behind(one) else ""
        _flatten("Alias" if stable else behind + one["kind"], one, found)
    return found


def is_behind(manifest: Manifest) -> bool:
    """Whether it is the Triton's behind the run."""
    return bool(manifest["metadata"]["name"].endswith("-triton"))


def _flatten(path: str, value: Any, found: dict[str, Any]) -> None:
    if isinstance(value, dict) and value:
        for key, one in value.items():
            _flatten(f"{path}.{key}", one, found)
    elif isinstance(value, list) and value:
        for i, one in enumerate(value):
            named = one.get("name") or one.get("mountPath") if isinstance(one, dict) else None
            if isinstance(one, str):
                found[f"{path}[{one}]"] = True
            else:
                _flatten(f"{path}[{named or i}]", one, found)
    else:
        found[path] = value
