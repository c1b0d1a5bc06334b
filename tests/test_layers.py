"""Imports point down, light things stay light, and every row of the registry loads."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelserve import registry

PACKAGE = Path(registry.__file__).parent

BOTTOM = {"types", "config", "param", "errors", "registry", "environment", "urls"}
WIRE = {"pb", "datatypes"}
FLAGS = BOTTOM | {"vllm_flags", "predictor"}
SHARED = FLAGS | {"flags", "logs", "generation"}
SERVER = {"parent", "progress", "server", "supervisor", "worker"}

MAY_IMPORT: dict[str, set[str]] = {
    **{name: set() for name in BOTTOM},
    "config": {"param"},
    "vllm_flags": set(),
    "predictor": {"errors"},
    "generation": {"types", "errors"},
    "flags": FLAGS,
    "logs": BOTTOM,
    "__init__": SHARED | {"client", "deploy"},
    "tasks": SHARED,
    **{name: set() for name in WIRE},
    "backends": SHARED | WIRE | {"tasks.base"},
    "runtime": SHARED | {"tasks", "backends"},
    "protocols": SHARED | WIRE | {"runtime"},
    **{name: SHARED | SERVER | {"tasks", "backends", "runtime", "protocols"} for name in SERVER},
    "client": SHARED,
    "deploy": SHARED | {"client"},
    "demo": SHARED | {"client"},
    "listing": BOTTOM,
    "run_line": SHARED | {"deploy"},
    "commands": SHARED | {"deploy", "client", "listing", "run_line"},
    "cli": SHARED | {"server", "deploy", "client", "commands"},
    "__main__": {"cli"},
}
"""Folder or file of the package -> what of the package it may import besides itself. Rows of the registry are strings,
so they point up without importing. `tasks.base` holds the contract between a task and a backend, `States`."""

HEAVY = (
    "torch",
    "transformers",
    "grpc",
    "kubernetes",
    "starlette",
    "uvicorn",
    "numpy",
    "tokenizers",
    "huggingface_hub",
    "httpx2",
    "rich",
    "psycopg",
)


def sources() -> list[Path]:
    return sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if "_pb2" not in path.name)


def exists(module: str) -> bool:
    path = PACKAGE.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def imported(source: str) -> Iterator[str]:
    """Modules of the package that a source imports, anywhere in it, without the leading `modelserve.`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "modelserve":
                module = name.removeprefix("modelserve").removeprefix(".")
                yield module if exists(module) else module.rpartition(".")[0]


def forbidden(importer: str, source: str) -> list[str]:
    """What `importer`, a module of the package, imports against the table."""
    own = importer.split(".")[0]
    allowed = MAY_IMPORT[own] | {own}
    return [
        module
        for module in imported(source)
        if module and not any(module == name or module.startswith(name + ".") for name in allowed)
    ]


@pytest.mark.parametrize("path", sources(), ids=str)
def test_imports_point_down(path: Path) -> None:
    module = ".".join(path.with_suffix("").parts)
    assert path.with_suffix("").parts[0] in MAY_IMPORT, f"{path} has no place in MAY_IMPORT yet"
    assert forbidden(module, (PACKAGE / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("importer", "source", "found"),
    [
        ("runtime.model", "from modelserve.protocols import status", ["protocols.status"]),
        ("runtime.model", "import modelserve.cli", ["cli"]),
        ("backends.huggingface", "from modelserve.tasks.fill_mask import FillMask", ["tasks.fill_mask"]),
        ("backends.huggingface", "from modelserve.tasks.base import States", []),
        ("deploy.local", "def up():\n    from modelserve.runtime.load import load", ["runtime.load"]),
        ("protocols.v1", "from modelserve import backends, types", ["backends"]),
        ("protocols.v1", "from modelserve.protocols.context import Context", []),
        ("errors", "from modelserve.types import TextPair", ["types"]),
    ],
)
def test_the_rule_sees(importer: str, source: str, found: list[str]) -> None:
    assert forbidden(importer, source) == found


@pytest.mark.parametrize(
    "path", [path for path in sources() if path.stem in SHARED | {"cli", "__init__"} and path.parent == Path()], ids=str
)
def test_the_bottom_names_nothing_heavy(path: Path) -> None:
    tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    allowed = {"numpy"} if path.name == "types.py" else set()
    assert {name.split(".")[0] for name in names} & (set(HEAVY) - allowed) == set()


@pytest.mark.parametrize(
    "statement",
    [
        "import modelserve",
        "import modelserve; modelserve.ConfigError, modelserve.__version__",
        "import modelserve.cli",
        "import modelserve.__main__",
        "from modelserve.cli import main; main(['serve', '--help'])",
        "from modelserve.cli import main; main(['run', '--help'])",
        "from modelserve.cli import main; main(['runs', '--json'])",
        "from modelserve.cli import main; main(['functions', '--json'])",
        "from modelserve.cli import main; main(['secrets', '--json'])",
    ],
)
def test_light(statement: str, tmp_path: Path) -> None:
    program = f"{statement}\nimport sys; sys.exit(str(sorted(set(sys.modules) & set({HEAVY}))))"
    environ = os.environ | {"MODELSERVE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environ)
    assert done.stderr == "[]\n"


@pytest.mark.parametrize("task", sorted(registry.TASKS))
def test_task_rows_load(task: str) -> None:
    assert registry.load(registry.TASKS[task]).name == task


@pytest.mark.parametrize("backend", sorted(registry.BACKENDS))
def test_backend_rows_load(backend: str) -> None:
    assert callable(registry.load(registry.BACKENDS[backend]))


@pytest.mark.parametrize("engine", sorted(registry.ENGINES))
def test_every_engine_loads(engine: str) -> None:
    assert callable(registry.load(registry.ENGINES[engine]))


@pytest.mark.parametrize("protocol", sorted(registry.PROTOCOLS))
def test_protocol_rows_load(protocol: str) -> None:
    assert callable(registry.load(registry.PROTOCOLS[protocol]))
