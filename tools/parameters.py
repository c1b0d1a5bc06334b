"""Write docs/parameters.md from the parameter table; with --check, say whether it is what the table gives.

python tools/parameters.py [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path

from modelserve.flags import Parameter, as_text, by_group

PAGE = Path(__file__).resolve().parent.parent / "docs" / "parameters.md"

HEAD = """\
# Parameters of `modelserve serve`

<!-- Written by tools/parameters.py from src/modelserve/config.py. Change it there and run `make docs`. -->

A flag is written with `_` or `-`, as `--flag value` or `--flag=value`. A flag that is true or false may stand alone for
true, and takes y, yes, t, true, on, 1 or n, no, f, false, off, 0. Names of values are taken in any case. The command
line wins over `MODELSERVE_<NAME>`, that over the other variable named beside it, that over the default; an empty
variable counts as not set, except where an empty text is a value. A wrong value, an unknown flag, and a flag that
belongs to something this version does not have end the start with one line and exit status 2; an unknown `MODELSERVE_`
variable is a warning.

Rows marked ᴷ are known from KServe's Hugging Face runtime; [kserve.md](kserve.md) says what differs from it."""


def render() -> str:
    """The whole page."""
    parts = [HEAD]
    for group, parameters in by_group().items():
        parts += [
            f"\n## {group}\n",
            "| flag | value | default | environment | meaning |",
            "| --- | --- | --- | --- | --- |",
        ]
        parts += map(_row, parameters)
    return "\n".join(parts) + "\n"


def _row(parameter: Parameter) -> str:
    flag = ", ".join(f"`--{name}`" for name in parameter.names) + (" ᴷ" if parameter.source == "kserve" else "")
    default = "" if parameter.default in (None, ()) else f"`{as_text(parameter.default)}`"
    variables = ", ".join(f"`{variable}`" for variable in (parameter.variables[0], parameter.env) if variable)
    meaning = [parameter.help]
    if parameter.synonyms:
        meaning.append(" ".join(f"`{word}` is `{choice}`." for word, choice in parameter.synonyms.items()))
    if parameter.excludes:
        meaning.append(f"Not together with {', '.join(f'`--{name}`' for name in parameter.excludes)}.")
    cells = (flag, _value(parameter), default, variables, " ".join(meaning))
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"


def _value(parameter: Parameter) -> str:
    if parameter.type is str and not parameter.choices:
        return "text"
    return ", ".join(f"`{choice}`" for choice in parameter.choices) or parameter.allowed


def main() -> int:
    page = render()
    if sys.argv[1:] == ["--check"]:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page
        print(f"{PAGE.name} is {'what the table gives' if same else 'not what the table gives: run `make docs`'}.")
        return 0 if same else 1
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
