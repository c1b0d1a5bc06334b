"""What a manifest says is enough for a server: its words, its variables, its few writable places, no capability."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

import modelserve
from modelserve import flags
from tests.deploy.manifests.made import container_of, made, pod_of
from tests.deploy.manifests.rows import ROWS
from tests.hub import Hub
from tests.models import tiny

POD = r"""
set -e
root=$1; shift
needed=$1; shift
mount -t tmpfs tmpfs "$root"
for one in /*; do
  if [ -L "$one" ]; then cp -a "$one" "$root"
  elif [ -d "$one" ] && case $one in /proc|/dev|/sys|/tmp|/cache) false;; esac; then
    mkdir "$root$one"; mount --bind "$one" "$root$one"; mount -o remount,ro,bind "$root$one"
  fi
done
mkdir "$root/proc" "$root/dev" "$root/tmp" "$root/cache"
mount --rbind /proc "$root/proc"; mount --rbind /dev "$root/dev"
for place in /tmp /cache /dev/shm; do mount -t tmpfs tmpfs "$root$place"; done
for one in $needed; do
  case $one in /tmp/*|/cache/*)
    mkdir -p "$root$one"; mount --bind "$one" "$root$one"; mount -o remount,ro,bind "$root$one";;
  esac
done
mount -o remount,ro "$root"
exec chroot "$root" setpriv --no-new-privs --inh-caps=-all --bounding-set=-all -- "$@"
"""
"""A mount namespace as a kubelet makes one: a root that is only read, and a new place for each volume of the manifest.
As root without a capability, since this machine's Python may be root's own. Python and the source may lie in /tmp."""


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, value, _ in ROWS if name not in ("chat_template",)]
)
def test_the_server_takes_its_words(name: str, value: Any) -> None:
    args = container_of(made(**{name: value}))["args"]
    config = flags.parse(args, {})
    assert (config.model_name, config.model_id) == ("bert", "google-bert/bert-base-uncased")
    assert flags.parse(flags.to_args(config), {}) == config


@pytest.mark.slow
def test_a_server_runs_as_its_manifest_says(tmp_path: Path) -> None:
    if not can_mount():
        pytest.skip("needs a mount namespace: root on Linux, with unshare and setpriv")
    with Hub({"google-bert/bert-base-uncased": tiny("bert", "fill_mask")}) as hub:
        found = made(
            http_port=free_port(), grpc_port=free_port(), envs={"HF_ENDPOINT": hub.environment()["HF_ENDPOINT"]}
        )
        box = container_of(found)
        assert {one["mountPath"] for one in box["volumeMounts"]} == {"/tmp", "/cache", "/dev/shm"}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        variables = {one["name"]: one["value"] for one in box["env"]} | {"PATH": path}
        needed = " ".join({sys.prefix, sys.base_prefix, str(Path(modelserve.__file__).parents[1])})
        command = ["unshare", "--mount", "sh", "-c", POD, "pod", str(tmp_path), needed, *box["command"], *box["args"]]
        with (tmp_path.parent / f"{tmp_path.name}.log").open("w+") as log:
            process = subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT)
            try:
                for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                    await_probe(box[probe]["httpGet"], process, log.name)
                url = f"http://127.0.0.1:{box['ports'][0]['containerPort']}/v1/models/bert:predict"
                assert httpx.post(url, json={"instances": ["A [MASK]."]}, timeout=60).status_code == 200
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0, Path(log.name).read_text()
                assert time.monotonic() - began < pod_of(found)["terminationGracePeriodSeconds"]
            finally:
                process.kill()
                process.wait()
    assert list(tmp_path.iterdir()) == [], "nothing was written here"


def await_probe(get: dict[str, Any], process: subprocess.Popen[bytes], log: str) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None, Path(log).read_text()
        try:
            if httpx.get(f"http://127.0.0.1:{get['port']}{get['path']}", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"{get['path']} never was 200:\n{Path(log).read_text()}")


def can_mount() -> bool:
    if not (shutil.which("unshare") and shutil.which("setpriv")):
        return False
    done = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
    )
    return done.returncode == 0


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
