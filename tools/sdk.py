"""Write the tables of docs/sdk.md from what they describe; with --check, say whether they are up to date.

python tools/sdk.py [--check]

A table stands between `<!-- name -->` and `<!-- end -->`; the rest of the page is written by hand.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from modelserve import errors
from modelserve.deploy import states
from modelserve.deploy.kinds import KINDS
from modelserve.deploy.parameters import POD, SAID_OTHERWISE, Row

PAGE = Path(__file__).resolve().parent.parent / "docs" / "sdk.md"


def render(page: str) -> str:
    """The page with its tables as they should be."""
    tables = {
        "kinds": _table(("kind", "what"), [(f"`{kind.name}`", kind.help) for kind in KINDS.values()]),
        "parameters": _table(
            ("parameter", "given to", "value", "on this machine"),
            [(f"`{row.name}`", _given_to(row), row.help, row.here or "kept, no effect") for row in POD],
        ),
        "otherwise": _table(
            ("flag of the server", "said with"),
            [(f"`--{flag}`", said) for flag, said in SAID_OTHERWISE.items()],
        ),
        "states": _table(
            ("state", "meaning", "may become"),
            [(state, meaning, ", ".join(states.NEXT[state]) or "nothing") for state, meaning in states.MEANING.items()],
        ),
        "errors": _table(
            ("error", "when"),
            [
                ("`ConfigError`", "What was given is wrong: a parameter, a name, a path, a file. Nothing was done."),
                *((f"`{one.__name__}`", _sentence(one)) for one in _below(errors.DeployError)),
            ],
        ),
    }
    for name, table in tables.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        page, count = re.subn(pattern, lambda found, table=table: found[1] + table + found[2], page, flags=re.S)
        if count != 1:
            raise ValueError(f"{PAGE.name} has {count} places for the table {name!r}")
    return page


def _below(error: type[Exception]) -> list[type[Exception]]:
    return [one for below in error.__subclasses__() for one in (below, *_below(below))]


def _sentence(error: type[Exception]) -> str:
    return " ".join((error.__doc__ or "").split())


def _given_to(row: Row) -> str:
    return "run" if row.run_only else "run, task" if row.name == "profile" else "run, task, profile"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    written = ("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
    return "\n" + "".join(written) + "\n"


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    written = render(page)
    if sys.argv[1:] == ["--check"]:
        same = page == written
        print(f"{PAGE.name} {'is up to date' if same else 'is not up to date: run `make docs`'}.")
        return 0 if same else 1
    PAGE.write_text(written, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
