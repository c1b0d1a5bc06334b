"""What a run's server is started with, from the sealed spec."""

from __future__ import annotations

from typing import Any

import pytest

from modelserve.deploy.notes import Ports
from modelserve.deploy.plan import Plan
from modelserve.deploy.record import Record
from modelserve.errors import ConfigError


def plan(ports: Ports | None = None, secrets: dict[str, str] | None = None, **spec: Any) -> Plan:
    spec = {"function": "huggingfaceserve://p/f:1", "path": "/model", "model_name": "m", **spec}
    record = Record(project="p", type="run", kind="huggingfaceserve+serve:run", name="i", id="i", spec=spec)
    return Plan.of(record, secrets or {}, ports)


def test_the_first_start_takes_free_ports() -> None:
    first = plan()
    assert first.args == ["--model_name=m", "--model_dir=/model", "--http_port=0", "--grpc_port=0"]
    assert not first.recorded
    assert plan(http_port=9000).args[-2:] == ["--http_port=9000", "--grpc_port=0"]


def test_a_later_start_takes_those_that_the_run_has_had() -> None:
    later = plan(Ports(1111, 2222, pid=3), http_port=9000)
    assert later.args[-2:] == ["--http_port=1111", "--grpc_port=2222"]
    assert later.recorded
    assert plan(Ports(1111, None, pid=3)).args[-2:] == ["--http_port=1111", "--grpc_port=0"]


def test_the_service_is_where_this_machine_reaches_it() -> None:
    assert plan().service(Ports(1111, 2222, pid=3)) == {
        "name": "i",
        "url": "127.0.0.1:1111",
        "ports": [
            {"name": "http", "port": 1111, "protocol": "TCP"},
            {"name": "grpc", "port": 2222, "protocol": "TCP"},
        ],
        "urls": ["127.0.0.1:1111"],
    }
    named = plan(service_name="bert", host="::1").service(Ports(1111, None, pid=3))
    assert (named["name"], named["url"], len(named["ports"])) == ("bert", "[::1]:1111", 1)


def test_bounds() -> None:
    assert plan().memory_bytes is None
    assert plan(resources={"mem": {"requests": "1Gi"}}).memory_bytes is None  # a request bounds nothing
    assert plan(resources={"mem": {"limits": "1.5Gi"}}).memory_bytes == 3 * 2**29
    assert "--threads=2" in plan(resources={"cpu": {"requests": "1", "limits": "1500m"}}).args
    assert "--workers=3" in plan(replicas=3).args
    assert plan().shutdown_timeout_s == 30
    assert plan(shutdown_timeout=1).shutdown_timeout_s == 1
    with pytest.raises(ConfigError, match="memory is '1m'"):
        plan(resources={"mem": {"limits": "1m"}})


def test_a_secret_wins_over_a_variable_and_is_in_no_repr() -> None:
    given = plan(secrets={"TOKEN": "s3cret"}, envs=[{"name": "TOKEN", "value": "t"}, {"name": "A", "value": "b"}])
    assert given.variables == {"TOKEN": "s3cret", "A": "b"}
    assert "s3cret" not in repr(given)
