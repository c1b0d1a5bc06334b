"""Every parameter of a run, and each place in the manifests that it touches: the rule that test_rows.py holds.

Data; knows no test.
"""

from __future__ import annotations

from typing import Any

from tests.deploy.manifests.made import ID

GONE = object()
POD = "Deployment.spec.template.spec"
BOX = f"{POD}.containers[modelserve]"
NAME = "bert-0123456789ab"
CLAIM = f"{NAME}-data"
SELF = {"modelserve/run": ID}
TERM = f"{POD}.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0]"
ONE_NODE = {
    f"{TERM}.labelSelector.matchLabels.modelserve/run": SELF["modelserve/run"],
    f"{TERM}.topologyKey": "kubernetes.io/hostname",
}
"""A disk that only one node may have keeps the pods together."""


def claim(name: str, size: str, mode: str, storage_class: str | None = None) -> dict[str, Any]:
    """A new claim, but for its labels."""
    place = "PersistentVolumeClaim.spec"
    found = {f"{place}.accessModes[{mode}]": True, f"{place}.resources.requests.storage": size}
    found |= {"PersistentVolumeClaim.metadata.name": name}
    return found | ({f"{place}.storageClassName": storage_class} if storage_class else {})


def mounted(name: str, path: str) -> dict[str, Any]:
    return {f"{BOX}.volumeMounts[{name}].name": name, f"{BOX}.volumeMounts[{name}].mountPath": path}


def volume(kind: str, spec: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    return [{"volume_type": kind, "name": "data", "mount_path": "/data", "spec": spec or {}}]


DATA = mounted("data", "/data") | {f"{POD}.volumes[data].name": "data"}

ROWS: list[tuple[str, Any, dict[str, Any]]] = [
    ("node_selector", [{"key": "gpu", "value": "a100"}], {f"{POD}.nodeSelector.gpu": "a100"}),
    (
        "volumes",
        volume("persistent_volume_claim", {"size": "5Gi", "storage_class": "fast", "sub_path": "a/b"}),
        DATA
        | claim(CLAIM, "5Gi", "ReadWriteOnce", "fast")
        | {f"{POD}.volumes[data].persistentVolumeClaim.claimName": CLAIM, f"{BOX}.volumeMounts[data].subPath": "a/b"}
        | ONE_NODE,
    ),
    (
        "volumes",
        volume("persistent_volume_claim", {"accessMode": "readwritemany"}),
        DATA
        | claim(CLAIM, "10Gi", "ReadWriteMany")
        | {f"{POD}.volumes[data].persistentVolumeClaim.claimName": CLAIM},
    ),
    (
        "volumes",
        volume("persistent_volume_claim", {"claim_name": "there"}),
        DATA | {f"{POD}.volumes[data].persistentVolumeClaim.claimName": "there"},
    ),
    (
        "volumes",
        volume("shared_volume", {"claimName": "there"}),
        DATA | {f"{POD}.volumes[data].persistentVolumeClaim.claimName": "there"},
    ),
    ("volumes", volume("shared_volume"), DATA | {f"{POD}.volumes[data].persistentVolumeClaim.claimName": "data"}),
    (
        "volumes",
        volume("empty_dir", {"size_limit": "1Gi", "medium": "memory"}),
        DATA | {f"{POD}.volumes[data].emptyDir.sizeLimit": "1Gi", f"{POD}.volumes[data].emptyDir.medium": "Memory"},
    ),
    (
        "volumes",
        volume("ephemeral", {"size": "3Gi", "storage_class": "fast"}),
        DATA
        | {
            f"{POD}.volumes[data].ephemeral.volumeClaimTemplate.spec.{key}": value
            for key, value in {
                "accessModes[ReadWriteOnce]": True,
                "resources.requests.storage": "3Gi",
                "storageClassName": "fast",
            }.items()
        },
    ),
    ("volumes", volume("host_path", {"path": "/srv"}), DATA | {f"{POD}.volumes[data].hostPath.path": "/srv"}),
    (
        "resources",
        {"cpu": {"requests": "1500m", "limits": "3"}, "mem": "2Gi", "disk": {"limits": "20Gi"}},
        {
            f"{BOX}.resources.requests.cpu": "1500m",
            f"{BOX}.resources.limits.cpu": "3",
            f"{BOX}.resources.requests.memory": "2Gi",
            f"{BOX}.resources.limits.ephemeral-storage": "20Gi",
            f"{BOX}.args[--threads=3]": True,
        },
    ),
    (
        "resources",
        {"gpu": 1, "amd.com/gpu": {"limits": "2"}},
        {
            f"{BOX}.resources.{amounts}.{name}": count
            for amounts in ("requests", "limits")
            for name, count in (("nvidia.com/gpu", "1"), ("amd.com/gpu", "2"))
        },
    ),
    (
        "affinity",
        {"node_affinity": {"preferred_during_scheduling_ignored_during_execution": [{"weight": 1, "preference": {}}]}},
        {
            f"{POD}.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight": 1,
            f"{POD}.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference": {},
        },
    ),
    (
        "affinity",
        {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]}},
        {
            f"{POD}.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey": "zone",
        },
    ),
    (
        "tolerations",
        [{"key": "gpu", "operator": "equal", "value": "a", "effect": "NoExecute", "toleration_seconds": 60}],
        {
            f"{POD}.tolerations[0].{key}": value
            for key, value in {
                "key": "gpu",
                "operator": "Equal",
                "value": "a",
                "effect": "NoExecute",
                "tolerationSeconds": 60,
            }.items()
        },
    ),
    ("envs", [{"name": "A", "value": "1e3"}], {f"{BOX}.env[A].name": "A", f"{BOX}.env[A].value": "1e3"}),
    ("envs", {"HF_HOME": "/data"}, {f"{BOX}.env[HF_HOME].value": "/data"}),
    (
        "secrets",
        ["secret://hf", "secret://other/TOKEN"],
        {
            f"{BOX}.envFrom[0].secretRef.name": "hf",
            f"{BOX}.env[TOKEN].name": "TOKEN",
            f"{BOX}.env[TOKEN].valueFrom.secretKeyRef.name": "other",
            f"{BOX}.env[TOKEN].valueFrom.secretKeyRef.key": "TOKEN",
        },
    ),
    ("replicas", 3, {"Deployment.spec.replicas": 3}),
    ("service_type", "nodeport", {"Service.spec.type": "NodePort"}),
    ("runtime_class", "nvidia", {f"{POD}.runtimeClassName": "nvidia"}),
    ("priority_class", "high", {f"{POD}.priorityClassName": "high"}),
    ("image", "own:1", {f"{BOX}.image": "own:1"}),
    ("image_pull_policy", "never", {f"{BOX}.imagePullPolicy": "Never"}),
    ("image_pull_secrets", "regcred", {f"{POD}.imagePullSecrets[regcred].name": "regcred"}),
    (
        "startup_timeout",
        61,
        {f"{BOX}.startupProbe.failureThreshold": 13, "Deployment.spec.progressDeadlineSeconds": 661},
    ),
    (
        "shutdown_timeout",
        90.5,
        {f"{POD}.terminationGracePeriodSeconds": 106, f"{BOX}.args[--shutdown_timeout=90.5]": True},
    ),
    (
        "model_cache",
        "20Gi",
        claim(f"{NAME}-modelserve-cache", "20Gi", "ReadWriteOnce")
        | {
            f"{POD}.volumes[modelserve-cache].persistentVolumeClaim.claimName": f"{NAME}-modelserve-cache",
            f"{POD}.volumes[modelserve-cache].emptyDir": GONE,
        }
        | ONE_NODE,
    ),
    (
        "model_cache",
        {"claim_name": "models"},
        {
            f"{POD}.volumes[modelserve-cache].persistentVolumeClaim.claimName": "models",
            f"{POD}.volumes[modelserve-cache].emptyDir": GONE,
        },
    ),
    (
        "disruption_budget",
        "50%",
        {
            "PodDisruptionBudget.spec.maxUnavailable": "50%",
            "PodDisruptionBudget.spec.selector.matchLabels.modelserve/run": SELF["modelserve/run"],
            "PodDisruptionBudget.metadata.name": NAME,
        },
    ),
    ("disruption_budget", {"min_available": 2}, {
        "PodDisruptionBudget.spec.minAvailable": 2,
        "PodDisruptionBudget.spec.selector.matchLabels.modelserve/run": SELF["modelserve/run"],
        "PodDisruptionBudget.metadata.name": NAME,
    }),
    ("enable_grpc", False, {
        f"{BOX}.args[--enable_grpc=false]": True,
        **{f"{BOX}.ports[grpc].{key}": GONE for key in ("name", "containerPort", "protocol")},
        **{f"Service.spec.ports[grpc].{key}": GONE for key in ("name", "port", "targetPort", "protocol")},
    }),
    *(
        (name, value, {f"{BOX}.args[--{flag}]": True})
        for name, value, flag in [
            ("huggingface_task", "FILL_MASK", "task=fill_mask"),
            ("backend", "huggingface", "backend=huggingface"),
            ("tokenizer_revision", "v1", "tokenizer_revision=v1"),
            ("max_length", 128, "max_length=128"),
            ("disable_lower_case", True, "disable_lower_case=true"),
            ("disable_special_tokens", True, "disable_special_tokens=true"),
            ("dtype", "BFLOAT16", "dtype=bfloat16"),
            ("trust_remote_code", True, "trust_remote_code=true"),
            ("return_token_type_ids", True, "return_token_type_ids=true"),
            ("return_probabilities", True, "return_probabilities=true"),
            ("disable_log_requests", False, "disable_log_requests=false"),
            ("max_log_len", 9, "max_log_len=9"),
            ("args", ["--max_batch_tokens=64"], "max_batch_tokens=64"),
        ]
    ),
    *((name, False, {}) for name in ("trust_remote_code", "return_probabilities", "disable_lower_case")),
]  # fmt: skip
"""Parameter, value, and every leaf of the manifests that it adds, changes or takes away. The rows of the seed's table
first; `scaling`, `service_name`, `labels`, `annotations`, `namespace`, `http_port` and `profile` have tests of their
own, since they touch many places. `tensor_input_names` belongs to a later version, and `action` is no choice yet."""
