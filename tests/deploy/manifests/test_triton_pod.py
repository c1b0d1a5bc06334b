"""What a manifest says is enough for a real Triton: its variables and probes, few writable places, no capability."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import httpx
import pytest

import modelserve
from tests.deploy.manifests.made import behind_of, container_of, made, of_kind, pod_of
from tests.deploy.manifests.test_pod import POD, await_probe, can_mount
from tests.models import tiny
from tests.process import serve
from tests.triton import triton
from tests.triton_models import Model, write

APART = {"model_repository": {"volume_type": "host_path", "spec": {"path": "/srv"}}, "form": "deployment"}


@pytest.mark.slow
def test_a_triton_runs_as_its_manifest_says(tmp_path: Path) -> None:
    """Its root is only read, and it has no capability. The image's entry point is not here, nor its user."""
    if not can_mount():
        pytest.skip("needs a mount namespace: root on Linux, with unshare and setpriv")
    directory = tiny("bert", "fill_mask")
    write(tmp_path / "models", Model("bert", directory, "fill_mask"))
    (tmp_path / "models" / "bert" / "seen.jsonl").symlink_to("/dev/null")  # tests' models write beside them
    found = made(triton=APART)
    spec = of_kind(behind_of(found), "Deployment")["spec"]["template"]["spec"]
    (box,) = spec["containers"]
    assert {one["mountPath"] for one in box["volumeMounts"]} == {"/models", "/tmp", "/dev/shm"}
    assert box["args"] == ["tritonserver", "--model-repository=/models"]
    (root := tmp_path / "root").mkdir()
    with triton(tmp_path / "models", ready=False) as server:
        server.kill()
        needed = [sys.prefix, sys.base_prefix, Path(modelserve.__file__).parents[1], tmp_path / "models", directory]
        needed.append(Path(next(one for one in server.command if "--backend-dir" in one).partition("=")[2]).parent)
        server.command[:0] = ["unshare", "--mount", "sh", "-c", POD, "pod", str(root), " ".join(map(str, needed))]
        server.env |= {one["name"]: one["value"] for one in box["env"]}
        server.restart(ready=False)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            await_probe(box[probe]["httpGet"] | {"port": server.http_port}, server.process, str(server.output))
        model = httpx.get(f"{server.url}/v2/models/bert").json()
        assert [one["name"] for one in model["outputs"]] == ["logits"]
        words = [one for one in container_of(found)["args"] if one.startswith("--predictor_protocol")]
        host = f"--predictor_host={server.host('v2')}"
        with serve("--model_dir", directory, "--model_name=bert", host, *words) as before:
            answer = before.post("/v1/models/bert:predict", {"instances": ["A [MASK]."]})
            assert answer.status_code == 200, before.log
            assert before.get("/info").json()["backend"] == "remote"
        began = time.monotonic()
        server.process.terminate()
        assert server.process.wait(60) == 0, server.log
        assert time.monotonic() - began < spec["terminationGracePeriodSeconds"] - 5
    assert list(root.iterdir()) == [], "nothing was written here"
    assert pod_of(found)["securityContext"] == spec["securityContext"]
