"""`modelserve manifest`: what a run would be in a cluster, as YAML. Asks no cluster and stores nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelserve.commands import folder
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
    modelserve manifest bert --kustomize deploy/base
    modelserve manifest --kserve-runtime
    """
    from modelserve.deploy.manifests import kserve, source
    from modelserve.deploy.manifests.text import as_yaml

    asked = parse(argv, MANIFEST_OPTIONS)
    if asked.kserve_runtime:
        if unknown := sorted(asked.parameters.keys() - {"image"}) + ([asked.what] if asked.what else []):
            raise ConfigError(f"--{_RUNTIME} takes --image alone, not {', '.join(unknown)}")
        if asked.kustomize is not None:
            raise ConfigError(f"--kustomize is for a model's objects, and --{_RUNTIME} is one for all; leave one out")
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
    if asked.kustomize is not None:
        return _write(asked.kustomize, found, asked.json)
    if asked.json:
        return print_json(found)
    click.echo(as_yaml(found), nl=False)
    return 0


def _write(directory: str, found: list[dict[str, Any]], json: bool) -> int:
    from modelserve.deploy.manifests import kustomize

    if not directory:
        raise ConfigError("--kustomize is ''; it must be a directory, or one that is to be made")
    if json:
        raise ConfigError("--json prints, and --kustomize writes; leave one out")
    files = kustomize.files(found)
    folder.replace("--kustomize", Path(directory), files, _ours)
    for name in files:
        click.echo(Path(directory) / name)
    return 0


def _ours(directory: Path) -> set[str]:
    """What is there by our kustomization.yaml."""
    from modelserve.deploy.manifests import kustomize

    file = directory / kustomize.KUSTOMIZATION
    return kustomize.written(file.read_text(encoding="utf-8", errors="replace")) if file.is_file() else set()
