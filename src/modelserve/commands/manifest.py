"""`modelserve manifest`: what a run would be in a cluster, as YAML. Asks no cluster and stores nothing."""

from __future__ import annotations

import click

from modelserve.commands.named import function_of
from modelserve.commands.run import RunCommand
from modelserve.errors import ConfigError
from modelserve.listing import print_json
from modelserve.run_line import MANIFEST_OPTIONS, parse

_RUNTIME = "kserve-runtime"


class ManifestCommand(RunCommand):
    """The same parameters as `run`, and its own options."""

    options = MANIFEST_OPTIONS


@click.command(cls=ManifestCommand, short_help="Print a run's Kubernetes manifests as YAML.")
def manifest(argv: list[str]) -> int:
    """Print what a run would be on Kubernetes: YAML for `kubectl apply -f -`. No cluster is asked, nothing is stored.

    NAME and PATH are those of `modelserve run`, and so is every parameter.

    \b
    modelserve manifest hf://google-bert/bert-base-uncased --replicas 2 --model_cache 20Gi
    modelserve manifest bert --flavor kserve
    modelserve manifest --kserve-runtime
    """
    from modelserve.deploy.manifests import kserve, source
    from modelserve.deploy.manifests.text import as_yaml

    asked = parse(argv, MANIFEST_OPTIONS)
    if asked.kserve_runtime:
        if unknown := sorted(asked.parameters.keys() - {"image"}) + ([asked.what] if asked.what else []):
            raise ConfigError(f"--{_RUNTIME} takes --image alone, not {', '.join(unknown)}")
        found = [kserve.cluster_runtime(asked.parameters.get("image") or source.image({}))]
    else:
        function = function_of(asked, stored=False)
        target = asked.target or "kubernetes"
        found = function.manifest(
            action="serve",
            target=target,
            with_secrets=asked.with_secrets,
            dry_run=asked.dry_run,
            **asked.parameters,
        )
    if asked.json:
        return print_json(found)
    click.echo(as_yaml(found), nl=False)
    return 0
