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
TRITON = "nvcr.io/nvidia/tritonserver:26.09-py3"
LABELS = {
    "app.kubernetes.io/name": "modelserve",
    "app.kubernetes.io/instance": NAME,
    "app.kubernetes.io/version": "1",
    "app.kubernetes.io/component": "triton",
    "app.kubernetes.io/part-of": "demo",
    "app.kubernetes.io/managed-by": "modelserve",
    "modelserve/project": "demo",
    "modelserve/function": "bert",
    "modelserve/kind": "huggingfaceserve",
    "modelserve/run": f"{ID}.triton",
}
NOTES = {
    "prometheus.io/scrape": "true",
    "prometheus.io/port": "8002",
    "prometheus.io/path": "/metrics",
    "modelserve/key": f"store://demo/run/huggingfaceserve+serve:run/{ID}",
    "modelserve/function": "huggingfaceserve://demo/bert:1",
}
"""Labels and annotations of the pods of a Triton that has its own."""
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


def probe(kind: str, path: str, period: int, failures: int) -> dict[str, Any]:
    said = {"periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures}
    said |= {"httpGet.path": path, "httpGet.port": 8000}
    return {f"{kind}Probe.{key}": one for key, one in said.items()}


def triton(place: str, pod: str, image: str = TRITON) -> dict[str, Any]:
    """The container of a Triton at this place in a pod, with what is its own of the pod's volumes."""
    said: dict[str, Any] = {
        "name": "triton",
        "image": image,
        "args[tritonserver]": True,
        "env[HOME].name": "HOME",
        "env[HOME].value": "/tmp",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext.allowPrivilegeEscalation": False,
        "securityContext.capabilities.drop[ALL]": True,
        "securityContext.privileged": False,
        "securityContext.readOnlyRootFilesystem": True,
    }
    said |= probe("startup", "/v2/health/live", 5, 360)
    said |= probe("readiness", "/v2/health/ready", 5, 2) | probe("liveness", "/v2/health/live", 10, 3)
    for name, port in {"http-triton": 8000, "grpc-triton": 8001, "http-metrics": 8002}.items():
        said |= {f"ports[{name}].{key}": one for key, one in port_of(name, port).items()}
    for name, path in {"modelserve-triton-tmp": "/tmp", "modelserve-triton-shm": "/dev/shm"}.items():
        said |= {f"volumeMounts[{name}].name": name, f"volumeMounts[{name}].mountPath": path}
    tmp, shm = (f"{pod}.volumes[modelserve-triton-{name}]" for name in ("tmp", "shm"))
    return {f"{place}.{key}": one for key, one in said.items()} | {
        f"{tmp}.name": "modelserve-triton-tmp",
        f"{tmp}.emptyDir": {},
        f"{shm}.name": "modelserve-triton-shm",
        f"{shm}.emptyDir.medium": "Memory",
        f"{shm}.emptyDir.sizeLimit": "2Gi",
    }


def port_of(name: str, port: int) -> dict[str, Any]:
    return {"name": name, "containerPort": port, "protocol": "TCP"}


def models(place: str, pod: str) -> dict[str, Any]:
    """A volume with models, but for what it is."""
    name = "modelserve-triton-models"
    mount = {"name": name, "mountPath": "/models", "readOnly": True}
    return {
        f"{pod}.volumes[{name}].name": name,
        f"{place}.args[--model-repository=/models]": True,
        **{f"{place}.volumeMounts[{name}].{key}": one for key, one in mount.items()},
    }


SIDE = f"{POD}.initContainers[triton]"
IN_THE_POD = {
    f"{SIDE}.restartPolicy": "Always",
    f"{POD}.terminationGracePeriodSeconds": 55,
    "Deployment.spec.progressDeadlineSeconds": 4200,
}
"""It ends after the server, and begins before."""
BEHIND = "TritonDeployment.spec"
ITS_POD = f"{BEHIND}.template.spec"
ITS_BOX = f"{ITS_POD}.containers[triton]"
APART = {
    "TritonDeployment.metadata.name": f"{NAME}-triton",
    f"{BEHIND}.progressDeadlineSeconds": 2400,
    f"{BEHIND}.selector.matchLabels.modelserve/run": f"{ID}.triton",
    f"{BEHIND}.strategy.type": "RollingUpdate",
    f"{BEHIND}.strategy.rollingUpdate.maxSurge": 1,
    f"{BEHIND}.strategy.rollingUpdate.maxUnavailable": 0,
    **{f"{BEHIND}.template.metadata.labels.{key}": one for key, one in LABELS.items()},
    **{f"{BEHIND}.template.metadata.annotations.{key}": one for key, one in NOTES.items()},
    f"{ITS_POD}.automountServiceAccountToken": False,
    f"{ITS_POD}.enableServiceLinks": False,
    f"{ITS_POD}.terminationGracePeriodSeconds": 45,
    **{f"{ITS_POD}.securityContext.{key}": 1000 for key in ("runAsUser", "runAsGroup", "fsGroup")},
    f"{ITS_POD}.securityContext.runAsNonRoot": True,
    f"{ITS_POD}.securityContext.fsGroupChangePolicy": "OnRootMismatch",
    f"{ITS_POD}.securityContext.seccompProfile.type": "RuntimeDefault",
    f"{ITS_BOX}.lifecycle.preStop.exec.command[sleep]": True,
    f"{ITS_BOX}.lifecycle.preStop.exec.command[5]": True,
    "TritonService.metadata.name": f"{NAME}-triton",
    "TritonService.spec.type": "ClusterIP",
    "TritonService.spec.selector.modelserve/run": f"{ID}.triton",
    **{
        f"TritonService.spec.ports[{name}].{key}": one
        for name, port in {"http-triton": 8000, "grpc-triton": 8001, "http-metrics": 8002}.items()
        for key, one in {"name": name, "port": port, "targetPort": name, "protocol": "TCP"}.items()
    },
    f"{BOX}.env[TRITON_HOST].name": "TRITON_HOST",
    f"{BOX}.env[TRITON_HOST].value": f"{NAME}-triton",
}

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
    (
        "triton",
        {"model_repository": {"claim_name": "there", "sub_path": "a/b"}},
        triton(SIDE, POD)
        | models(SIDE, POD)
        | IN_THE_POD
        | {
            f"{POD}.volumes[modelserve-triton-models].persistentVolumeClaim.claimName": "there",
            f"{SIDE}.volumeMounts[modelserve-triton-models].subPath": "a/b",
            f"{BOX}.args[--predictor_host=127.0.0.1:8000]": True,
        },
    ),
    (
        "triton",
        {
            "form": "Container",
            "image": "own:1",
            "model_repository": "s3://models/bert",
            "args": "--log-verbose=1",
            "envs": {"HOME": "/dev/shm"},
            "resources": {"gpu": 1, "cpu": {"limits": 2}},
        },
        triton(SIDE, POD, "own:1")
        | IN_THE_POD
        | {
            f"{SIDE}.args[--model-repository=s3://models/bert]": True,
            f"{SIDE}.args[--log-verbose=1]": True,
            f"{SIDE}.env[HOME].value": "/dev/shm",
            f"{SIDE}.resources.limits.cpu": "2",
            **{f"{SIDE}.resources.{amounts}.nvidia.com/gpu": "1" for amounts in ("requests", "limits")},
            f"{BOX}.args[--predictor_host=127.0.0.1:8000]": True,
        },
    ),
    (
        "triton",
        {
            "form": "deployment",
            "model_repository": {"volume_type": "host_path", "spec": {"path": "/srv"}, "mount_path": "/models"},
            "replicas": 2,
            "secrets": ["secret://hf", "secret://other/TOKEN"],
            "nodeSelector": {"gpu": "a100"},
            "tolerations": [{"key": "gpu", "operator": "exists"}],
            "affinity": {"pod_anti_affinity": {"required_during_scheduling_ignored_during_execution": []}},
            "runtimeClass": "nvidia",
        },
        triton(ITS_BOX, ITS_POD)
        | models(ITS_BOX, ITS_POD)
        | APART
        | {
            f"{BEHIND}.replicas": 2,
            f"{ITS_POD}.volumes[modelserve-triton-models].hostPath.path": "/srv",
            f"{ITS_POD}.nodeSelector.gpu": "a100",
            f"{ITS_POD}.tolerations[0].key": "gpu",
            f"{ITS_POD}.tolerations[0].operator": "Exists",
            f"{ITS_POD}.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution": [],
            f"{ITS_POD}.runtimeClassName": "nvidia",
            f"{ITS_BOX}.envFrom[0].secretRef.name": "hf",
            f"{ITS_BOX}.env[TOKEN].name": "TOKEN",
            f"{ITS_BOX}.env[TOKEN].valueFrom.secretKeyRef.name": "other",
            f"{ITS_BOX}.env[TOKEN].valueFrom.secretKeyRef.key": "TOKEN",
            f"{BOX}.args[--predictor_host=$(TRITON_HOST):8000]": True,
        },
    ),
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
            ("tensor_input_names", ["input_ids", "attention_mask"], "tensor_input_names=input_ids,attention_mask"),
            ("predictor_host", "triton.models:8000", "predictor_host=triton.models:8000"),
            ("predictor_protocol", "GRPC-v2", "predictor_protocol=grpc-v2"),
            ("predictor_use_ssl", True, "predictor_use_ssl=true"),
            ("predictor_ca_file", "/etc/ca.pem", "predictor_ca_file=/etc/ca.pem"),
            ("predictor_request_timeout_seconds", 7, "predictor_request_timeout_seconds=7"),
            ("predictor_request_retries", 2, "predictor_request_retries=2"),
            ("predictor_max_batch_size", 64, "predictor_max_batch_size=64"),
            ("enable_predictor_health_check", True, "enable_predictor_health_check=true"),
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
own, since they touch many places. `action` is no choice yet."""
