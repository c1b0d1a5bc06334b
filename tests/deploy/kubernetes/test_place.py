"""Which cluster is meant, and as whom it is asked: as kubectl would take it."""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path

import pytest
import yaml

from modelserve.deploy.kubernetes import place
from modelserve.deploy.kubernetes.cluster import Cluster
from modelserve.errors import ConfigError, TargetRefused
from tests.deploy.kubernetes.fake import ADMIN, Fake


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def asks(fake: Fake, **given: str) -> str:
    """The namespace that a list is asked of."""
    cluster = Cluster(**given)
    try:
        cluster.list("Pod")
        return cluster.place.namespace
    finally:
        cluster.close()


def test_the_usual_file(fake: Fake, tmp_path: Path) -> None:
    (tmp_path / ".kube").mkdir()
    fake.kubeconfig(tmp_path / ".kube" / "config", namespace="default")
    assert asks(fake) == "default"
    assert place.find()[0] == place.Place(str(tmp_path / ".kube/config"), "fake", "default", fake.url)


def test_the_variable_may_name_several(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.namespace("team")
    first = fake.kubeconfig(tmp_path / "a", context="one")
    second = fake.kubeconfig(tmp_path / "b", context="two", namespace="team")
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join([str(first), str(second)]))
    assert asks(fake) == "default"
    assert asks(fake, context="two") == "team"
    assert asks(fake, context="two", namespace="default") == "default"
    with pytest.raises(ConfigError, match=r"context is 'three'; .* has one, two"):
        Cluster(context="three")


def test_what_is_given_wins(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match=r"kubeconfig is '.*missing', where there is no file"):
        Cluster()
    assert asks(fake, kubeconfig=str(fake.kubeconfig(tmp_path / "k"))) == "default"


@pytest.mark.parametrize("text", ["", "{", "a: b", "contexts: []\ncurrent-context: x", "[1]"])
def test_a_file_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "k").write_text(text)
    with pytest.raises(ConfigError, match=r"the kubeconfig .*k cannot be (used|read)"):
        Cluster(str(tmp_path / "k"))


def test_a_plugin_gives_the_credentials(fake: Fake, tmp_path: Path) -> None:
    """As clouds have it."""
    config = yaml.safe_load(fake.kubeconfig(tmp_path / "k").read_text())
    said = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": ADMIN}}
    script = tmp_path / "plugin.py"
    script.write_text(f"import json; print(json.dumps({said!r}))")
    config["users"][0]["user"] = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": sys.executable,
            "args": [str(script)],
            "interactiveMode": "Never",
        }
    }
    (tmp_path / "k").write_text(yaml.safe_dump(config))
    assert asks(fake, kubeconfig=str(tmp_path / "k")) == "default"


def test_a_certificate_that_is_none(fake: Fake, tmp_path: Path) -> None:
    config = yaml.safe_load(fake.kubeconfig(tmp_path / "k").read_text())
    config["clusters"][0]["cluster"]["server"] = fake.url.replace("http:", "https:")
    config["clusters"][0]["cluster"]["certificate-authority-data"] = base64.b64encode(b"nonsense").decode()
    (tmp_path / "k").write_text(yaml.safe_dump(config))
    with pytest.raises((ConfigError, TargetRefused, Exception)) as found:
        asks(fake, kubeconfig=str(tmp_path / "k"))
    assert "Traceback" not in str(found.value)


def test_a_proxy(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake is the proxy, too: it sees the whole URL of a host that there is not."""
    config = yaml.safe_load(fake.kubeconfig(tmp_path / "k").read_text())
    config["clusters"][0]["cluster"] = {"server": "http://cluster.example", "proxy-url": fake.url}
    (tmp_path / "k").write_text(yaml.safe_dump(config))
    cluster = Cluster(str(tmp_path / "k"))
    assert cluster.configuration.proxy == fake.url
    cluster.close()
    config["clusters"][0]["cluster"] = {"server": "http://cluster.example"}
    (tmp_path / "k").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("HTTP_PROXY", fake.url)
    assert place.find(str(tmp_path / "k"))[1].proxy == fake.url
    monkeypatch.setenv("NO_PROXY", "cluster.example")
    assert place.find(str(tmp_path / "k"))[1].no_proxy == "cluster.example"


def test_the_account_of_a_pod(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="this is no pod with an account"):
        Cluster()
    with pytest.raises(ConfigError, match="context is 'x', and there is no kubeconfig that has it"):
        Cluster(context="x")
    account = tmp_path / "account"
    account.mkdir()
    for name, text in {"token": ADMIN, "ca.crt": "a certificate", "namespace": "team\n"}.items():
        (account / name).write_text(text)
    monkeypatch.setattr(place, "_ACCOUNT", account)
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_TOKEN_FILENAME", str(account / "token"))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_CERT_FILENAME", str(account / "ca.crt"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    found, configuration = place.find()
    assert found == place.Place("", "", "team", "https://10.0.0.1:443")
    assert configuration.api_key["BearerToken"] == f"bearer {ADMIN}"
    assert place.find(namespace="other")[0].namespace == "other"


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(ConfigError, match=r"run: pip install 'modelserve\[kubernetes\]'"):
        Cluster()
