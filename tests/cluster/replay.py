"""Asks a cluster what was recorded of another: `python -m tests.cluster.replay RECORDINGS.jsonl`, as a Markdown table.

The cluster is the one that MODELSERVE_TEST_KUBECONFIG names, without nodes: what nodes said when it was recorded,
kubelet.py says here. Names, versions and tokens of the recording are replaced by this cluster's. Only exchanges that
differ are shown: in their status, or in the reason or message of a Status.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.cluster import kubelet, places
from tests.cluster.api import JSON, Answer, Api, Json, deployments, pods
from tests.deploy.kubernetes.control_plane import KUBECONFIG

_SAID = {
    "web": kubelet.ready,
    "noimage": kubelet.image_never_there,
    "crash": kubelet.crash_loop,
    "toobig": kubelet.unschedulable,
    "nosecret": kubelet.secret_missing,
    "unready": kubelet.loading,
    "oom": kubelet.oom_killed,
    "nopvc": kubelet.claim_missing,
}
_POD = re.compile(rf"/pods/({'|'.join(_SAID)})-[a-z0-9]+-[a-z0-9]+/")
_NAMESPACE = "tr"


class Replay:
    """In a namespace of its own, which the exchanges make and remove."""

    def __init__(self, api: Api, limited: str, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._as = {
            "no credentials": api.as_bearer(""),
            "wrong token": api.as_bearer("wrong"),
            "token without rights": api.as_bearer(limited),
            "token without rights: can I?": api.as_bearer(limited),
        }
        self._answers: dict[str, Answer] = {}

    def ask(self, recorded: Json) -> Answer:
        title = recorded["title"]
        self._wait(title)
        path, _, query = (
            recorded["path"].replace(f"/namespaces/{_NAMESPACE}", f"/namespaces/{self._namespace}").partition("?")
        )
        if found := _POD.search(path):
            listed = self._api.get(pods(self._namespace), labelSelector=f"app={found[1]}").ok()["items"]
            path = path.replace(found[0], f"/pods/{listed[0]['metadata']['name']}/")
        said = dict(part.split("=", 1) for part in query.split("&")) if query else {}
        said = {key: value.replace("%3D", "=") for key, value in said.items()} | self._versions(title)
        client = self._as.get(title, self._api)
        content = recorded["contentType"] or JSON
        self._answers[title] = client.ask(recorded["method"], path, said, self._body(recorded), content)
        return self._answers[title]

    def _wait(self, title: str) -> None:
        """Until the cluster is where it was when this was recorded."""
        if title == "apply without fieldManager":
            account = f"/api/v1/namespaces/{self._namespace}/serviceaccounts/default"
            places.until(lambda: self._api.get(account).status == 200, 30, "the namespace's account")
        if title == "deployment available":
            places.until(lambda: self._status("web").get("availableReplicas"), 30, "web")
        if title.startswith("after its deadline: deployment "):
            name = title.rpartition(" ")[2]
            places.until(lambda: "ProgressDeadlineExceeded" in str(self._status(name)), 60, f"the deadline of {name}")

    def _status(self, name: str) -> Json:
        status: Json = self._api.get(deployments(self._namespace, name)).ok().get("status", {})
        return status

    def _versions(self, title: str) -> dict[str, str]:
        if title == "list, continue":
            return {"continue": self._answers["list with limit"].json["metadata"]["continue"]}
        if title == "watch from now, 2 s":
            return {"resourceVersion": self._answers["list with limit"].json["metadata"]["resourceVersion"]}
        return {}

    def _body(self, recorded: Json) -> Any:
        body = recorded["request"]
        if recorded["title"] == "replace with an old resourceVersion":
            found = self._answers["get to replace"].json
            return found | {"metadata": found["metadata"] | {"resourceVersion": "1"}}
        text = json.dumps(body).replace(f'"{_NAMESPACE}"', f'"{self._namespace}"') if body else None
        return None if text is None else json.loads(text)


def differences(recordings: Path, api: Api) -> Iterator[tuple[int, Json, Answer]]:
    """(number, as recorded, as answered here) of each exchange."""
    recorded = [json.loads(line) for line in recordings.read_text(encoding="utf-8").splitlines()]
    with places.namespace(api) as home:
        name = f"{home}-tr"
        replay = Replay(api, places.user(api, home, "limited", []), name)
        node = kubelet.Kubelet(api, name, lambda pod: _SAID[pod["metadata"]["labels"]["app"]](pod))
        try:
            for number, one in enumerate(recorded, 1):
                if one["title"] == "apply without fieldManager":
                    node.__enter__()
                yield number, one, replay.ask(one)
        finally:
            api.delete(f"/api/v1/namespaces/{name}")
            node.__exit__(None, None, None)


def _told(status: int, text: str, namespace: str) -> tuple[int, str, str]:
    """Status, reason and message, without what no two clusters have in common."""
    try:
        said = json.loads(text)
    except ValueError:
        return status, "", " ".join(text.split()) if status >= 400 else ""
    if not isinstance(said, dict) or said.get("kind") != "Status":
        return status, "", ""
    message = " ".join(re.sub(namespace, _NAMESPACE, said.get("message", "")).split())
    message = re.sub(r"-[a-z0-9]{6,10}-[a-z0-9]{5}\b", "-POD", message)
    message = re.sub(r'User "[^"]*"', 'User "…"', message)
    return status, said.get("reason", ""), message


def main(recordings: Path) -> None:
    api = Api.of(os.environ[KUBECONFIG])
    same, rows = 0, []
    for number, one, answer in differences(recordings, api):
        text = one["response"] if isinstance(one["response"], str) else json.dumps(one["response"])
        there = _told(one["status"], text, _NAMESPACE)
        here = _told(answer.status, answer.text, r"modelserve-test-[0-9a-f]{10}-tr")
        same += there[0] == here[0]
        if there != here:
            cells = (
                f"{status} {reason} {message}".strip().replace("|", "\\|") for status, reason, message in (there, here)
            )
            rows.append(f"| {number} | {one['title']} | {' | '.join(cells)} |")
    version = api.get("/version").ok()["gitVersion"]
    print(f"{same} of {number} exchanges have the same status.\n")
    print(f"| | exchange | recorded | {version} |\n| --- | --- | --- | --- |")
    print("\n".join(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
