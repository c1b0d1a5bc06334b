"""A home for the commands' tests, one run that they share, and what a person types and sees. No run is left."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from modelserve import cli
from modelserve.deploy import catalog
from tests.deploy.runs import orphans
from tests.models import tiny


class Done(NamedTuple):
    """What a command line came to."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Typed = Callable[..., Done]


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Typed:
    """A command line, in this process."""

    def type_(*words: str) -> Done:
        capsys.readouterr()
        status = cli.main(words)
        return Done(status, *capsys.readouterr())

    return type_


def shell(*words: str, **options: Any) -> subprocess.Popen[str]:
    """A command line, in a process of its own."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-m", "modelserve", *words], text=True, **pipes | options)


@contextlib.contextmanager
def home_at(directory: Path) -> Iterator[Path]:
    """MODELSERVE_HOME, and the end of every run that was made there."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("MODELSERVE_")]:
            patch.delenv(name)
        patch.setenv("MODELSERVE_HOME", str(directory))
        patch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
        try:
            yield directory
        finally:
            if (directory / "modelserve.db").exists():
                for run in catalog.list_runs():
                    run.delete()
                catalog.store().close()
            catalog._store.cache_clear()
        assert not orphans(str(directory))


@pytest.fixture(scope="package", autouse=True)
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with home_at(tmp_path_factory.mktemp("home")) as directory:
        yield directory


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """An empty one, for one test."""
    with home_at(tmp_path / "home") as directory:
        yield directory


@pytest.fixture(scope="session")
def model() -> Path:
    return tiny("bert", "fill_mask")


@pytest.fixture(scope="package")
def served(shared_home: Path, model: Path) -> str:
    """The id of a run of the function `bert` in the shared home, which no test ends."""
    catalog.get_or_create_project("default").new_secret("TOKEN", "kept-from-view")
    words = ["--detach", "--name=bert", "--resources=cpu=1", "--env", "GREETING=hello", "--secret", "TOKEN"]
    assert cli.main(["run", str(model), *words, "--model_name", "tiny"]) == 0
    (run,) = catalog.list_runs(function="bert", project="default")
    return run.id
