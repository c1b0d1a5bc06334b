"""A built wheel serves from an environment that holds the wheel, the dependencies that it declares, and nothing else.

The dependencies are linked from this environment, not installed again (PyTorch alone would take minutes): what is
proven is that the wheel is complete and that what it declares is all it needs. That a package index gives those
dependencies is proven by `make`, which installs them into an empty .venv.
"""

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.blocks import ROOT
from tests.models import minilm
from tests.process import started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # Built from a copy: setuptools leaves build/ in the tree, and puts what it finds there into the next wheel.
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, folder)
    pip("wheel", "--no-deps", "--wheel-dir", folder, folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of the environment."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    pip("--python", python, "install", "--no-deps", wheel)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (installed,) = distributions(name="modelserve", path=[str(site_packages)])
    found: dict[str, Distribution] = {}
    collect(installed, "", found)
    assert "torch" in found
    assert "sentence-transformers" not in found
    for dependency in found.values():
        tops = {file.parts[0] for file in dependency.files or ()} - {"..", "__pycache__"}
        for top in tops:
            if not (site_packages / top).exists():  # two distributions may share a folder (google/)
                (site_packages / top).symlink_to(str(dependency.locate_file(top)))
    return python


def pip(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *map(str, words)], check=True, timeout=200)


def collect(wanting: Distribution, extra: str, found: dict[str, Distribution]) -> None:
    """Add the distributions that one declares it needs, and those that these need."""
    for requirement in map(Requirement, wanting.requires or ()):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        if name not in found:
            found[name] = distribution(name)
            for wanted in ("", *requirement.extras):
                collect(found[name], wanted, found)


def test_it_holds_what_belongs_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"modelserve", "huggingfaceserver"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    source = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src").rglob("*")
        if path.is_file() and path.suffix != ".pyc" and ".egg-info" not in str(path)
    }
    assert {name for name in names if ".dist-info/" not in name} == source


def test_it_serves(python: Path) -> None:
    command = [str(python.parent / "modelserve"), "serve", "--model_dir", str(minilm()), "--model_name", "minilm"]
    with started([*command, "--http_port=0", "--grpc_port=0"], env={"PYTHONPATH": ""}) as server:
        answer = server.post("/v1/models/minilm:predict", {"instances": ["Hello"]})
        assert len(answer.json()["predictions"][0]) == 384
        assert server.stop() == 0


@pytest.mark.parametrize("command", ["modelserve", "huggingfaceserver"])
def test_both_commands_start(python: Path, command: str) -> None:
    words = [python, "-m", command, "--help"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: " in done.stdout
