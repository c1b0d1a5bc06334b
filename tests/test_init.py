"""`import modelserve`: its names are those that it says, each loads, and none is loaded before it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import modelserve
from modelserve import errors

HEAVY = {"torch", "transformers", "grpc", "kubernetes", "sqlalchemy", "yaml", "httpx2", "rich", "numpy", "cryptography"}


def test_every_name_loads() -> None:
    assert modelserve.__all__ == sorted(set(modelserve.__all__)) == dir(modelserve)
    for name in modelserve.__all__:
        assert getattr(modelserve, name).__name__ == name if name != "__version__" else modelserve.__version__
    assert not hasattr(modelserve, "nothing")


def test_what_type_checkers_read_is_the_table() -> None:
    tree = ast.parse(Path(modelserve.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        (node.module, alias.name, alias.asname)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    table = {(module, name, name) for module, names in modelserve._HOMES.items() for name in names}
    assert imported == table
    assert {name for *_, name in table} | {"__version__"} == set(modelserve.__all__)


def test_every_error_of_the_sdk_is_public() -> None:
    sdk = {one.__name__ for one in errors.DeployError.__subclasses__()}
    assert sdk <= set(modelserve.__all__)
    assert {"ModelServeError", "ConfigError", "LoadError", "DeployError"} <= set(modelserve.__all__)


def test_it_is_light() -> None:
    program = "import modelserve, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())
