"""The notebook runs from top to bottom, in a real kernel, and says what it promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"

EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_notebook_runs(tmp_path: Path) -> None:
    executed = tmp_path / "executed.ipynb"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EXECUTE, str(NOTEBOOK), str(executed)],
        env=os.environ | {"MODELSERVE_HOME": str(tmp_path / "home"), "IPYTHONDIR": str(tmp_path / "ipython")},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    cells = [cell for cell in json.loads(executed.read_text())["cells"] if cell["cell_type"] == "code"]
    said = ["".join(text(output) for output in cell["outputs"]) for cell in cells]
    assert "did you mean replicas?" in said[2]
    assert "We refund the price within five days" in said[4]
    assert said[-1] == "'STOPPED'"


def text(output: dict[str, object]) -> str:
    """What a person reads of an output."""
    data = output.get("data")
    shown = data["text/plain"] if isinstance(data, dict) else output.get("text", "")
    return "".join(shown) if isinstance(shown, list) else str(shown)


def test_the_notebook_is_committed_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
