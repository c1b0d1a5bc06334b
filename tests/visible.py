"""Prints what can be imported, for the test of benchmarks/as_installed.py."""

import importlib.util

print(", ".join(f"{name} {importlib.util.find_spec(name) is not None}" for name in ("scipy", "torch")))
