"""A control plane on loopback: etcd, kube-apiserver and kube-controller-manager as child processes, for tests.

There is no node, no scheduler and no kubelet: Deployments make Pods, deletes are garbage-collected, quotas count, and
no Pod ever runs. `python -m tests.deploy.kubernetes.control_plane COMMAND…` runs a command with
MODELSERVE_TEST_KUBECONFIG set to it, or where the variable is set already, to the cluster that it names; without a
command it serves until Ctrl-C. build.py makes the programs, and is called where there are none yet.

Everything lies in a temporary directory. The processes are ended by their pids, and by the kernel when whoever started
them dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml

from tests.deploy.kubernetes import build, certificates

KUBECONFIG = "MODELSERVE_TEST_KUBECONFIG"
ETCD = "MODELSERVE_TEST_ETCD"
"""etcd's URL, where whoever tests may compact it."""
_ISSUER = "https://kubernetes.default.svc"
_WITHOUT = ("nodelifecycle", "nodeipam", "attachdetach", "csrsigning", "csrapproving", "csrcleaner", "bootstrapsigner")
"""Controllers that would only look after nodes."""
_PR_SET_PDEATHSIG = 1
_START_S = 90
"""kube-apiserver takes 5 s on an idle machine."""


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """kubeconfig: of an administrator. server, etcd: their URLs. directory: where the logs are."""

    kubeconfig: Path
    server: str
    etcd: str
    directory: Path

    def compact(self) -> int:
        """etcd forgets all but what is now: a watch from before is 410. Returns the revision."""
        return compact(self.etcd)


def compact(etcd: str) -> int:
    """As ControlPlane.compact, of etcd at this URL."""
    header = httpx.post(f"{etcd}/v3/kv/range", json={"key": "AA=="}, timeout=10).raise_for_status().json()["header"]
    revision = int(header["revision"])
    httpx.post(f"{etcd}/v3/kv/compaction", json={"revision": revision}, timeout=10).raise_for_status()
    return revision


@contextlib.contextmanager
def running() -> Iterator[ControlPlane]:
    """Builds what is not built yet. Raises build.CannotBuild."""
    programs = build.build()
    directory = Path(tempfile.mkdtemp(prefix="control-plane-"))
    started: list[subprocess.Popen[bytes]] = []
    try:
        client, peer, secure, metrics = _free_ports(4)
        authority = certificates.Authority(directory)
        etcd, server = f"http://127.0.0.1:{client}", f"https://127.0.0.1:{secure}"
        kubeconfig = _kubeconfig(directory, server, authority, "admin")
        log = directory / "etcd.log"
        started.append(_start(log, [programs.etcd, *_etcd(directory, etcd, f"http://127.0.0.1:{peer}")]))
        _until(lambda: _answers(f"{etcd}/health"), started[-1], log)
        log = directory / "kube-apiserver.log"
        started.append(_start(log, [programs.apiserver, *_apiserver(directory, authority, etcd, secure)]))
        _until(lambda: _ready(kubeconfig), started[-1], log)
        log = directory / "kube-controller-manager.log"
        own = _kubeconfig(directory, server, authority, "system:kube-controller-manager")
        command = [programs.controller_manager, *_controller_manager(directory, authority, own, metrics)]
        started.append(_start(log, command))
        _until(lambda: _has_service_account(kubeconfig), started[-1], log)
        yield ControlPlane(kubeconfig, server, etcd, directory)
    finally:
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        shutil.rmtree(directory)


def _etcd(directory: Path, client: str, peer: str) -> list[str]:
    return [
        f"--data-dir={directory / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--logger=zap",
        "--log-level=warn",
    ]


def _apiserver(directory: Path, authority: certificates.Authority, etcd: str, port: int) -> list[str]:
    pair = authority.server("kube-apiserver")
    key = certificates.signing_key(directory / "accounts.key")
    # Without a cache, watches read etcd, and a compaction is seen as 410: with one, only after hundreds of events.
    uncached = ("deployments.apps#0", "replicasets.apps#0", "pods#0", "events#0")
    return [
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        "--advertise-address=192.0.2.1",  # of nobody: no loopback is allowed, and nothing in this cluster asks there
        "--endpoint-reconciler-type=none",
        f"--cert-dir={directory}",
        f"--etcd-servers={etcd}",
        "--etcd-compaction-interval=0",
        f"--watch-cache-sizes={','.join(uncached)}",
        f"--tls-cert-file={pair.certificate}",
        f"--tls-private-key-file={pair.key}",
        f"--client-ca-file={authority.certificate}",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        f"--service-account-issuer={_ISSUER}",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--authorization-mode=RBAC",
        "--allow-privileged=true",
        "--profiling=false",
    ]


def _controller_manager(directory: Path, authority: certificates.Authority, kubeconfig: Path, port: int) -> list[str]:
    return [
        f"--kubeconfig={kubeconfig}",
        f"--controllers={','.join(['*', *(f'-{one}' for one in _WITHOUT)])}",
        f"--service-account-private-key-file={directory / 'accounts.key'}",
        f"--root-ca-file={authority.certificate}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        "--port=0",
        f"--cert-dir={directory}",
        "--leader-elect=false",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]


def _kubeconfig(directory: Path, server: str, authority: certificates.Authority, user: str) -> Path:
    """Of a user who may do anything."""
    pair = authority.client(user, "system:masters")
    text = yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "tests", "cluster": {"server": server, "certificate-authority": str(authority.certificate)}}
            ],
            "users": [
                {"name": user, "user": {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}}
            ],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": user}}],
            "current-context": "tests",
        }
    )
    path = directory / f"{user.replace(':', '-')}.kubeconfig"
    path.write_text(text, encoding="utf-8")
    return path


def _start(log: Path, command: list[str | Path]) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=log.parent, preexec_fn=_die_with_parent
        )


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _until(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        if condition():
            return
        time.sleep(0.1)
    said = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise AssertionError(f"{log.stem} did not start within {_START_S} s:\n{said}")


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException), urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)["health"] == "true"
    return False


def _ready(kubeconfig: Path) -> bool:
    with contextlib.suppress(httpx.TransportError), client(kubeconfig) as asking:
        return asking.get("/readyz").status_code == 200
    return False


def _has_service_account(kubeconfig: Path) -> bool:
    """Whether Pods may be made: their account, and its token, are the controllers' to make."""
    with client(kubeconfig) as asking:
        answer = asking.get("/api/v1/namespaces/default/serviceaccounts/default")
        return answer.status_code == 200 and bool(answer.json().get("secrets"))


def client(kubeconfig: Path) -> httpx.Client:
    """Plain HTTP to a cluster of `running`."""
    said = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
    cluster, user = said["clusters"][0]["cluster"], said["users"][0]["user"]
    context = ssl.create_default_context(cafile=cluster["certificate-authority"])
    context.load_cert_chain(user["client-certificate"], user["client-key"])
    return httpx.Client(base_url=cluster["server"], verify=context, timeout=30)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def main(command: list[str]) -> int:
    if os.environ.get(KUBECONFIG):
        return subprocess.run(command, check=False).returncode
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that all is ended and removed
    try:
        with running() as plane:
            if command:
                variables = {KUBECONFIG: str(plane.kubeconfig), ETCD: plane.etcd}
                return subprocess.run(command, env=os.environ | variables, check=False).returncode
            print(f"export {KUBECONFIG}={plane.kubeconfig} {ETCD}={plane.etcd}", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
            return 0
    except build.CannotBuild as error:
        print(f"There is no control plane: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
