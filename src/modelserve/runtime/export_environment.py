"""The Python that exports models for OpenVINO: in an environment of its own, since its packages clash with ours.

Made on first use under the user's cache directory, called after a hash of its pins, so that other pins are another
environment. A file that is written last tells a whole environment from half of one. Blocks; several processes may ask
at once.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from modelserve.errors import LoadError
from modelserve.runtime.building import Say
from modelserve.runtime.conversions import cache, exporter, pins

log = logging.getLogger(__name__)

_DONE = "made"
"""A file in an environment that is whole."""
_VERSIONS = (
    "import importlib.metadata as m, json; "
    "print(json.dumps({n: m.version(n) for n in ('optimum-intel', 'transformers', 'torch', 'openvino', 'nncf')}))"
)


def python(given: str | None, say: Say) -> tuple[Path, str]:
    """The interpreter, and what tells its exporter from others. given: one that has the packages already.

    Raises LoadError.
    """
    if given is not None:
        path = Path(shutil.which(given) or given).expanduser()
        if not path.is_file():
            raise LoadError(f"--python {given} is no program; give the python of an environment with optimum-intel")
        return path, exporter(versions(path))
    text = f"{platform.python_version()} {platform.machine()}\n{pins()}"
    directory = cache() / "environments" / hashlib.sha256(text.encode()).hexdigest()[:16]
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{directory}.lock"):
        if not (directory / _DONE).is_file():
            _make(directory, say)
    return directory / "bin" / "python", exporter(pins())


def versions(path: Path) -> str:
    """Versions of what exports, as JSON. Raises LoadError for an environment that lacks it."""
    done = subprocess.run([path, "-I", "-c", _VERSIONS], capture_output=True, text=True, check=False, env=environ())
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it ends with an error"])[-1]
        raise LoadError(
            f"{path} cannot export models for OpenVINO ({reason}); it needs optimum-intel with openvino and nncf"
        )
    return done.stdout.strip()


def environ() -> dict[str, str]:
    """For its processes: nothing that points Python at our own packages."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


def _make(directory: Path, say: Say) -> None:
    """Raises LoadError with pip's last words."""
    shutil.rmtree(directory, ignore_errors=True)  # its files name its place, so it is made there; _DONE comes last
    say("making the exporter's environment, about 1.5 GB, once")
    _run([sys.executable, "-m", "venv", str(directory)], say)
    made = directory / "bin" / "python"
    wanted = directory / "pins.txt"
    wanted.write_text(pins(), encoding="utf-8")
    torch = next(line for line in pins().splitlines() if line.startswith("torch=="))
    pip = [str(made), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    try:
        # torch alone with what it asks for: its build for GPUs wants packages that its build for CPUs does not have.
        _run([*pip, "--constraint", str(wanted), torch], say)
        _run([*pip, "--no-deps", "--requirement", str(wanted)], say)
        (directory / _DONE).write_text(versions(made), encoding="utf-8")
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise


def _run(command: Sequence[str], say: Say) -> None:
    """A step of making it; what it prints about what it does is told."""
    last: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environ()
    ) as process:
        assert process.stdout is not None, "a pipe"
        try:
            for line in process.stdout:
                last = [*last[-20:], line.strip()]
                if line.startswith(("Collecting ", "Installing ", "Processing ", "Successfully ")):
                    say(f"environment: {line.strip()[:100]}")
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        said = next((line for line in reversed(last) if line.startswith("ERROR")), last[-1] if last else "")
        raise LoadError(f"the exporter's environment cannot be made ({said.removeprefix('ERROR: ')}); give --python")
