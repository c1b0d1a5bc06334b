"""What `function.run()` and the task take: the parameters of a pod, here, and those of the server, from config.py.

One row a parameter: how it is read, what it means, and whether it means something on this machine. The docs' table and
the command line derive from it. Pure; knows no store and no target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from modelserve import flags
from modelserve.deploy import cluster_shapes, shapes, triton_shape
from modelserve.errors import ConfigError

ACTIONS = ("serve",)


@dataclass(frozen=True, slots=True)
class Row:
    """read: (name, value as given) -> value as kept in the spec, JSON; raises ConfigError. here: what it does when the
    target is this machine, "" where it is only kept for another target. run_only: never on a task."""

    name: str
    read: Callable[[str, object], Any]
    help: str
    here: str = ""
    run_only: bool = False


POD: tuple[Row, ...] = (
    Row("node_selector", shapes.node_selector, "Labels of the nodes to run on: [{key, value}], or a mapping."),
    Row(
        "volumes",
        shapes.volumes,
        "Volumes: [{volume_type, name, mount_path, spec}].",
        here="a host_path must exist, and is read where it is; the others are kept",
    ),
    Row(
        "resources",
        shapes.resources,
        'Requests and limits: {"cpu": "2"} or {"cpu": {"requests": "1", "limits": "2"}}; cpu, mem, gpu, disk.',
        here="cpu: threads of the forward passes; limits of mem: a cgroup where one can be made, else a warning; the "
        "rest is kept",
    ),
    Row("affinity", shapes.affinity, "Kubernetes' affinity, keys in camelCase or snake_case."),
    Row("tolerations", shapes.tolerations, "[{key, operator, value, effect, toleration_seconds}]."),
    Row("envs", shapes.envs, "Environment variables: [{name, value}], or a mapping.", here="the server's environment"),
    Row(
        "secrets",
        shapes.texts,
        "Names of the project's secrets; secret://name or secret://name/KEY is one that the cluster has.",
        here="the server's environment, each by its name; a cluster's are refused",
    ),
    Row("profile", shapes.text, "Name of a file of defaults.", here="its defaults are taken"),
    Row("replicas", shapes.count, "How many servers.", here="worker processes behind one port"),
    Row("service_type", shapes.service_type, "ClusterIP, NodePort, LoadBalancer or ExternalName."),
    Row(
        "service_name",
        shapes.service_name,
        "A stable name, which moves to the newest run.",
        here="the name in status.service",
    ),
    Row("runtime_class", shapes.text, "RuntimeClass of the pods."),
    Row("priority_class", shapes.text, "PriorityClass of the pods."),
    Row("kubeconfig", cluster_shapes.kubeconfig, "File that says which clusters there are; KUBECONFIG when not given."),
    Row("context", shapes.text, "Which of them, and as whom; the kubeconfig's current one when not given."),
    Row("namespace", cluster_shapes.namespace, "Namespace of the cluster; the context's when not given."),
    Row("flavor", cluster_shapes.flavor, "What serves it in the cluster: deployment, or kserve."),
    Row("scaling", cluster_shapes.scaling, "Autoscaling, in place of replicas: {min_replicas, max_replicas, target}."),
    Row(
        "disruption_budget",
        cluster_shapes.disruption_budget,
        'How many pods may be missing while nodes are emptied: 1, "50%", or {min_available}.',
    ),
    Row(
        "model_cache",
        cluster_shapes.model_cache,
        'A disk for downloaded models: its size, such as "20Gi", {size, storage_class, access_mode}, or {claim_name}.',
    ),
    Row(
        "triton",
        triton_shape.triton,
        "A Triton Inference Server that runs the model, behind the server: {model_repository, form, image, replicas, "
        "resources, envs, secrets, args, node_selector, affinity, tolerations, runtime_class}.",
    ),
    Row("startup_timeout", cluster_shapes.seconds, "Seconds for a pod's model to be downloaded and loaded."),
    Row("labels", cluster_shapes.labels, "Further labels of all objects, a mapping."),
    Row("annotations", cluster_shapes.notes, "Further annotations of all objects, a mapping."),
    Row("image_pull_policy", cluster_shapes.pull_policy, "Always, IfNotPresent or Never."),
    Row("image_pull_secrets", cluster_shapes.object_names, "Names of the cluster's secrets for the image's registry."),
    Row("path", shapes.text, "Another path, below the function's.", here="what is served", run_only=True),
    Row("model_name", shapes.text, "Another name to serve it under.", here="the name in the paths", run_only=True),
    Row("image", shapes.text, "Another image.", run_only=True),
    Row("args", shapes.texts, "Further flags of the server.", here="the server's command line", run_only=True),
)

_ROWS = {row.name: row for row in POD}
SAID_OTHERWISE = {
    "model_id": "path",
    "model_dir": "path",
    "model_revision": "path (hf://org/name:revision)",
    "workers": "replicas",
    "threads": "resources (cpu)",
    "task": "huggingface_task",
}
"""Flags of the server that a run says in other words."""
_NOT_IN_ARGS = {name: said for name, said in SAID_OTHERWISE.items() if name != "task"} | {"model_name": "model_name"}
SERVER: tuple[flags.Parameter, ...] = tuple(p for p in flags.PARAMETERS if p.name not in SAID_OTHERWISE)
"""Parameters of the server that are keywords under their own names, beside huggingface_task."""
_SERVER_NAMES = (
    {"huggingface_task": "task"} | {name: p.name for p in SERVER for name in p.names} | {"model_name": "model_name"}
)
_KEPT = {name: "huggingface_task" if field == "task" else field for name, field in _SERVER_NAMES.items()}
"""Keyword -> name in a spec: one, whatever it was called, so that a run's value meets its task's."""

NO_CLASSES = ("text_embedding", "text_generation", "text2text_generation")


def read(given: Mapping[str, Any], *, on: str = "run") -> dict[str, Any]:
    """Keywords as a spec keeps them; those that are None are as if not given. on: "run" or "task".

    Raises ConfigError for an unknown keyword, with the nearest name, and for a value that is not allowed.
    """
    spec: dict[str, Any] = {}
    for name, value in given.items():
        row = _ROWS.get(name)
        if row is None and name not in _SERVER_NAMES:
            raise ConfigError(_unknown(name))
        if row is not None and row.run_only and on == "task":
            raise ConfigError(f"{name} belongs to a run, not to its task; give it to run()")
        if value is None:
            continue
        kept = kept_name(name)
        if kept in spec:
            raise ConfigError(f"{kept} is given twice, as {kept} and under another name")
        spec[kept] = row.read(name, value) if row else _server_value(name, value)
    server_config(spec)
    return spec


def kept_name(name: str) -> str:
    """How a spec calls the keyword, which may have several names."""
    return name if name in _ROWS else _KEPT[name]


def server_config(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec's parameters of the server, by the names of config.Config.

    Raises ConfigError when they contradict each other, or `args` is no command line of the server.
    """
    keywords = {_SERVER_NAMES[name]: value for name, value in spec.items() if name in _SERVER_NAMES}
    config = flags.from_keywords(**keywords)
    if args := spec.get("args"):
        for word in args:
            name = word.removeprefix("--").partition("=")[0].replace("-", "_")
            if word.startswith("--") and name in _NOT_IN_ARGS:
                raise ConfigError(f"args has {word}; say it with {_NOT_IN_ARGS[name]}")
        config = flags.parse([*flags.to_args(config), *args], {})
    return {p.name: getattr(config, p.name) for p in flags.PARAMETERS if getattr(config, p.name) != p.default}


def kept_only(spec: Mapping[str, Any]) -> list[str]:
    """The parameters in it that mean nothing on this machine, and of those that do the parts that do not."""
    kept = [row.name for row in POD if row.name in spec and not row.here]
    resources = spec.get("resources", {})
    parts = [name for name in resources if name not in ("cpu", "mem")]
    if "mem" in resources and "limits" not in resources["mem"]:
        parts.append("mem without limits")
    types = dict.fromkeys(one["volume_type"] for one in spec.get("volumes", ()) if one["volume_type"] != "host_path")
    named = {"resources": parts, "volumes": list(types)}
    return kept + [f"{name} ({', '.join(some)})" for name, some in named.items() if some]


def merge(run: Mapping[str, Any], task: Mapping[str, Any], profile: Mapping[str, Any]) -> dict[str, Any]:
    """The one rule: run over task over profile; a parameter is taken whole."""
    return {**profile, **task, **run}


def _server_value(name: str, value: object) -> Any:
    """The value as Config has it, checked by the table's own rules; a tuple as a list, since JSON has no other."""
    field = _SERVER_NAMES[name]
    try:
        config = flags.from_keywords(**{name: value})
    except ConfigError as error:
        raise ConfigError(error.message.replace("--task", "huggingface_task")) from error
    kept = getattr(config, field)
    return list(kept) if isinstance(kept, tuple) else kept


def _unknown(name: str) -> str:
    if name in SAID_OTHERWISE:
        return f"unknown parameter {name}; it is said with {SAID_OTHERWISE[name]}"
    near = get_close_matches(name, [*_ROWS, *_SERVER_NAMES], n=1)
    return f"unknown parameter {name}" + (f"; did you mean {near[0]}?" if near else "")
