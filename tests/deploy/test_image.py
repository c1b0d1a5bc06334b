"""The Containerfile: linted, held against what a pod expects of it, its steps run in an empty directory, and built
where there is a container engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

import modelserve
from modelserve.config import Config
from modelserve.deploy.manifests.pod import COMMAND
from modelserve.deploy.manifests.variables import PLACES
from modelserve.environment import environment_defaults
from tests.blocks import ROOT

FILE = ROOT / "Containerfile"
TEXT = FILE.read_text()


def instructions(kind: str) -> list[str]:
    """What follows each instruction of the kind, its continued lines joined."""
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"(?m)^#.*\n", "", TEXT))
    return [line.split(" ", 1)[1] for line in joined.splitlines() if line.startswith(f"{kind} ")]


@pytest.mark.slow
def test_the_linter_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, "--no-color", "--failure-threshold", "style", FILE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_its_variables_are_those_of_a_pod_and_of_the_server() -> None:
    (said,) = instructions("ENV")
    variables = dict(re.findall(r'(\w+)="?([^\s"]+)"?', said))
    assert PLACES.items() <= variables.items()
    ours: dict[str, str] = {}
    environment_defaults(ours)
    for name in ("HF_HUB_DISABLE_TELEMETRY", "SAFETENSORS_FAST_GPU"):
        assert variables[name] == ours[name]


def test_it_starts_the_server_as_nobody_in_particular() -> None:
    (entry,) = instructions("ENTRYPOINT")
    assert json.loads(entry) == COMMAND
    assert instructions("USER") == ["1000:1000"]
    (ports,) = instructions("EXPOSE")
    assert ports.split() == [str(Config().http_port), str(Config().grpc_port)]


def test_its_version_is_the_packages() -> None:
    assert f"VERSION={modelserve.__version__}" in instructions("ARG")
    assert f"modelserve:{modelserve.__version__} ." in TEXT


def test_it_is_given_what_it_copies_and_no_more() -> None:
    ignored = (ROOT / ".containerignore").read_text()
    assert (ROOT / ".dockerignore").read_text() == ignored
    allowed = [line[1:] for line in ignored.splitlines() if line.startswith("!")]
    copied = [word for said in instructions("COPY") if not said.startswith("--from") for word in said.split()[:-1]]
    assert sorted(copied) == sorted(allowed)
    assert all((ROOT / name).exists() for name in copied)
    assert ignored.startswith("*\n"), "all but what is named: no .venv, no .git, nobody's models"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_its_steps_make_an_environment_that_serves(tmp_path: Path) -> None:
    """Those of its second stage, as they stand, with another place for the environment."""
    source, made = tmp_path / "source", tmp_path / "modelserve"
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        source.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (step,) = (said for said in instructions("RUN") if "pip install" in said)
    step = step.replace("/opt/modelserve", str(made)).replace("python3 ", f"{sys.executable} ", 1)
    environment = {**os.environ, "EXTRAS": "", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_QUIET": "1"}
    subprocess.run(["sh", "-euc", step], cwd=source, env=environment, check=True, timeout=500)
    programs = {path.name for path in (made / "bin").iterdir()}
    assert not {name for name in programs if fnmatch(name, "pip*")}, "an image is not installed into"
    shutil.rmtree(source)
    for words in (["modelserve", "--version"], ["python", "-m", "huggingfaceserver", "--help"]):
        done = subprocess.run(
            [made / "bin" / words[0], *words[1:]], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert "modelserve" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_engine_builds_it(tmp_path: Path) -> None:
    engine = next(
        (
            name
            for name in ("docker", "podman")
            if shutil.which(name)
            and subprocess.run([name, "info"], capture_output=True, check=False, timeout=30).returncode == 0
        ),
        None,
    )
    if engine is None:
        pytest.skip("no container engine answers here")
    told = tmp_path / "id"
    build = [engine, "build", "--file", str(FILE), "--iidfile", str(told), str(ROOT)]
    subprocess.run(build, check=True, timeout=1500)
    image = told.read_text().strip()
    try:
        run = [engine, "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--tmpfs", "/cache"]
        done = subprocess.run([*run, "--entrypoint", "modelserve", image, "--version"], capture_output=True, check=True)
        assert modelserve.__version__.encode() in done.stdout
        look = "id -u; for name in gcc cc c++; do command -v $name; done; true"
        command = [*run, "--entrypoint", "sh", image, "-c", look]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        assert found.stdout.split() == ["1000"]
    finally:
        subprocess.run([engine, "rmi", "--force", image], check=True, timeout=60)
