"""Virtual environments for libraries whose pins clash with ours, made on demand under .venvs and kept.

Knows nothing of what runs in them. Safe when several processes ask for the same one at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / ".venvs"


def environment(requirements: Path, *, checked: bool = True) -> Path:
    """The Python of an environment with exactly these packages; the file pins every one, dependencies included.

    It is called like the file without `requirements-`, and made again when the file or this Python changes.
    checked: whether pip finds them sound, which those that lack a dependency on purpose are not.
    """
    name = requirements.stem.removeprefix("requirements-")
    directory, stamp = ROOT / name, ROOT / name / "requirements.sha256"
    python = directory / "bin" / "python"
    wanted = hashlib.sha256(f"{sys.version} {requirements.read_text()}".encode()).hexdigest()
    ROOT.mkdir(exist_ok=True)
    with (ROOT / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return python
        shutil.rmtree(directory, ignore_errors=True)
        _run(sys.executable, "-m", "venv", directory)
        pip = (python, "-m", "pip", "--disable-pip-version-check", "--no-input")
        _run(*pip, "install", "--quiet", "--no-deps", "--requirement", requirements)
        if checked:
            _run(*pip, "check")
        stamp.write_text(wanted)
    return python


def _run(*command: str | Path) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
