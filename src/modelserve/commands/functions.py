"""`modelserve functions`."""

from __future__ import annotations

import click

from modelserve.commands.find import SHORT, json_option, project_option
from modelserve.listing import age, print_json, table
from modelserve.urls import shown


@click.command()
@project_option
@click.option("--all", "every", is_flag=True, help="Every version, not only the newest of each.")
@json_option
def functions(project: str | None, every: bool, as_json: bool) -> int:
    """List functions, newest first."""
    from modelserve.deploy import catalog

    found = catalog.list_functions(project, versions="all" if every else "latest")
    if as_json:
        return print_json([one.to_dict() for one in found])
    rows = [[o.name, o.kind, shown(o.spec.path), o.project, age(o.metadata.created), o.id[:SHORT]] for o in found]
    table(["name", "kind", "path", "project", "age", "version"], rows, "no functions; `modelserve run PATH` makes one")
    return 0
