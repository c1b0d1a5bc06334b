"""The Triton behind a run's server: what spans several objects, what it is refused with, and how the two meet."""

from __future__ import annotations

from typing import Any

import pytest

from modelserve import flags
from modelserve.deploy.manifests import pod
from modelserve.errors import ConfigError
from tests.deploy.manifests.made import behind_of, container_of, made, of_kind, pod_of, workload
from tests.deploy.manifests.rows import NAME

MODELS = {"model_repository": {"claim_name": "there"}}
APART = MODELS | {"form": "deployment"}


def sidecar(**given: Any) -> dict[str, Any]:
    (found,) = pod_of(made(**given))["initContainers"]
    return dict(found)


@pytest.mark.parametrize("form", [MODELS, APART], ids=["container", "deployment"])
@pytest.mark.parametrize(("protocol", "port"), [("v2", 8000), ("grpc-v2", 8001)])
def test_the_server_asks_it_where_it_listens(form: dict[str, Any], protocol: str, port: int) -> None:
    found = made(triton=form, predictor_protocol=protocol, tensor_input_names=["input_ids"])
    box = container_of(found)
    config = flags.parse(box["args"], {})
    assert (config.predictor_protocol, config.tensor_input_names) == (protocol, ("input_ids",))
    host, _, said = str(config.predictor_host).rpartition(":")
    assert int(said) == port
    if form is MODELS:
        assert host == "127.0.0.1"
        assert port in [one["containerPort"] for one in sidecar(triton=form)["ports"]]
    else:
        service = of_kind(behind_of(found), "Service")
        assert host == "$(TRITON_HOST)"
        assert {"name": "TRITON_HOST", "value": service["metadata"]["name"]} in box["env"]
        assert port in [one["port"] for one in service["spec"]["ports"]]


def test_objects_are_in_the_order_in_which_they_are_read() -> None:
    found = made(triton=APART | {"secrets": ["KEY"]}, triton_values={"KEY": "s3cret"}, values={"A": "1"})
    assert [(one["kind"], one["metadata"]["name"]) for one in found] == [
        ("Secret", NAME),
        ("Secret", f"{NAME}-triton"),
        ("Deployment", f"{NAME}-triton"),
        ("Service", f"{NAME}-triton"),
        ("Deployment", NAME),
        ("Service", NAME),
    ]


def test_it_has_its_own_secrets_and_the_server_has_the_servers() -> None:
    given: dict[str, Any] = {"triton": MODELS | {"secrets": ["KEY"]}, "triton_values": {"KEY": "s3cret"}}
    found = made(**given, values={"TOKEN": "s3cret"}, secrets=["TOKEN"])
    own = {one["metadata"]["name"]: one["data"] for one in found if one["kind"] == "Secret"}
    assert {name: list(data) for name, data in own.items()} == {NAME: ["TOKEN"], f"{NAME}-triton": ["KEY"]}
    box = sidecar(**given)
    (key,) = [one for one in box["env"] if one["name"] == "KEY"]
    assert key["valueFrom"] == {"secretKeyRef": {"name": f"{NAME}-triton", "key": "KEY"}}
    assert "KEY" not in [one["name"] for one in container_of(found)["env"]]
    assert "s3cret" not in repr(workload(**given))


def test_it_ends_after_the_server_and_both_within_the_grace() -> None:
    """A sidecar is told to end when the containers of the pod have ended, in what is left of the grace."""
    alone, both = made(shutdown_timeout=60.0), made(triton=MODELS, shutdown_timeout=60.0)
    assert sidecar(triton=MODELS)["restartPolicy"] == "Always"
    assert "lifecycle" not in sidecar(triton=MODELS)
    more = pod_of(both)["terminationGracePeriodSeconds"] - pod_of(alone)["terminationGracePeriodSeconds"]
    assert more == pod.MARGIN_S
    template = of_kind(behind_of(made(triton=APART)), "Deployment")["spec"]["template"]["spec"]
    assert template["terminationGracePeriodSeconds"] > pod.PRE_STOP_S + 30, "the drain: --exit-timeout-secs' default"


def test_the_run_s_own_parameters_are_for_both() -> None:
    given: dict[str, Any] = {
        "image_pull_policy": "Never",
        "image_pull_secrets": ["regcred"],
        "priority_class": "high",
        "namespace": "models",
        "labels": {"team": "ml", "app.kubernetes.io/component": "own"},
        "startup_timeout": 60,
    }
    deployment = of_kind(behind_of(made(triton=APART, **given)), "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    assert (spec["priorityClassName"], spec["imagePullSecrets"]) == ("high", [{"name": "regcred"}])
    for box in (spec["containers"][0], sidecar(triton=MODELS, **given)):
        assert box["imagePullPolicy"] == "Never"
        assert box["startupProbe"]["failureThreshold"] == 12
    assert deployment["metadata"]["namespace"] == "models"
    assert deployment["metadata"]["labels"]["team"] == "ml"
    assert deployment["metadata"]["labels"]["app.kubernetes.io/component"] == "own"
    assert deployment["spec"]["progressDeadlineSeconds"] == 660


def test_nodes_are_said_for_each() -> None:
    found = made(
        triton=APART | {"node_selector": {"gpu": "a100"}}, node_selector={"cpu": "fast"}, runtime_class="gvisor"
    )
    its = of_kind(behind_of(found), "Deployment")["spec"]["template"]["spec"]
    assert (its["nodeSelector"], pod_of(found)["nodeSelector"]) == ({"gpu": "a100"}, {"cpu": "fast"})
    assert "runtimeClassName" not in its


def test_a_profile_s_base_is_laid_under_the_server_s_pods_alone() -> None:
    base = {"kind": "Deployment", "spec": {"template": {"spec": {
        "dnsPolicy": "Default", "initContainers": [{"name": "triton", "tty": True}],
        "containers": [{"name": "proxy", "image": "proxy:1"}],
    }}}}  # fmt: skip
    apart = behind_of(made(triton=APART, template={"bases": [base]}))
    spec = of_kind(apart, "Deployment")["spec"]["template"]["spec"]
    assert ("dnsPolicy" in spec, [one["name"] for one in spec["containers"]]) == (False, ["triton"])
    box = sidecar(triton=MODELS, template={"bases": [base]})
    assert (box["tty"], box["args"][0]) == (True, "tritonserver")


def test_a_device_is_what_the_profile_calls_it() -> None:
    box = sidecar(triton=MODELS | {"resources": {"gpu": 1}}, template={"gpu_key": "nvidia.com/mig-1g.5gb"})
    assert box["resources"]["limits"] == {"nvidia.com/mig-1g.5gb": "1"}


def test_scaling_by_the_share_of_a_resource_is_of_the_server_s_container() -> None:
    given: dict[str, Any] = {"scaling": {"max_replicas": 2}, "resources": {"cpu": "1"}}
    target = {"type": "Utilization", "averageUtilization": 80}
    (metric,) = of_kind(made(triton=MODELS, **given), "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["containerResource"] == {"name": "cpu", "container": "modelserve", "target": target}
    (metric,) = of_kind(made(triton=APART, **given), "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["resource"] == {"name": "cpu", "target": target}


def test_its_pods_are_begun_by_themselves() -> None:
    """A change of the server alone does not load the models anew."""
    from modelserve.deploy.manifests import objects
    from modelserve.deploy.manifests.workload import Workload

    record = workload(triton=APART).record
    begun = record.replace(status={"begun": "2", "triton_begun": "1"})
    found = objects.of(Workload.of(begun, {}, {}, "i"))
    notes = [one["spec"]["template"]["metadata"]["annotations"] for one in found if one["kind"] == "Deployment"]
    assert [one["modelserve/begun"] for one in notes] == ["1", "2"]
    specs = ["modelserve/spec" in one["metadata"]["annotations"] for one in found if one["kind"] == "Deployment"]
    assert specs == [False, True], "a run is found by what serves it"


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"predictor_host": "other:8000"},
        "predictor_host is 'other:8000', and triton is one of the run's own; give only one of them",
    ),
    ({"args": ["--predictor_host=other:8000"]}, "predictor_host is 'other:8000', and triton is"),
    ({"predictor_protocol": "v1"}, "predictor_protocol is 'v1'; Triton's are v2 and grpc-v2"),
    ({"predictor_use_ssl": True}, "predictor_use_ssl is for a predictor elsewhere"),
    ({"backend": "vllm"}, "--backend vllm runs the model here, and --predictor_host elsewhere"),
    ({"http_port": 8000}, "http_port is 8000, which is Triton's in the same pod; give another"),
    ({"grpc_port": 8002}, "grpc_port is 8002, which is Triton's in the same pod; give another"),
    (
        {"flavor": "kserve"},
        "triton is for flavor 'deployment'; with KServe write an InferenceService with Triton as its",
    ),
    (
        {"kind": "sklearnserve", "path": "s3://b/a.skops"},
        "triton is for Hugging Face models, and this is a sklearnserve",
    ),
    (
        {"triton": MODELS | {"resources": {"gpu": {"requests": 1, "limits": 2}}}},
        "requests and limits of a device are the same",
    ),
    ({"triton": MODELS | {"secrets": ["secret://"]}}, "a secret is 'secret://'; it must be one of the cluster"),
    ({"triton": MODELS, "triton_values": {"1a": "x"}}, "secrets has '1a', which is no variable of a pod"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_no_cluster_would_take_is_one_sentence(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as found:
        made(**({"triton": MODELS} | given))
    assert said in found.value.message


def test_ports_of_the_server_are_free_where_it_is_apart() -> None:
    assert "--http_port=8000" in container_of(made(triton=APART, http_port=8000))["args"]
