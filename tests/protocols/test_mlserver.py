"""MLServer's answers as recorded (record_mlserver.py): the same tensors, names, shapes and content types.

What it refused is refused here, but for what is answered on purpose; where it failed (500), it is answered or a 400.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.conformance.serving import NAME, Serve, Served, start
from tests.estimators import MLFLOW, SKLEARN, model

pytestmark = pytest.mark.asyncio(loop_scope="module")

RECORDED = json.loads(Path(__file__).with_name("mlserver.json").read_text())
ANSWERED_HERE = ("table_pipeline",)
"""Several inputs are columns here, without content_type pd too."""
REFUSED_HERE = ("mlflow_array",)
"""The name of an output that the model does not have; MLServer answers another one."""
NAMED = ("frame_scaler", *MLFLOW)
"""Their outputs are called otherwise than what is asked."""
OWN = ("mlflow_own_frame",)
"""MLServer fails on pandas' own type for texts, which pandas 3 brought."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serve() -> AsyncIterator[Serve]:
    started: dict[str, Served] = {}
    async with AsyncExitStack() as stack:

        async def serve(path: Path, **flags: Any) -> Served:
            if path.name not in started:
                started[path.name] = await start(stack, path, **flags)
            return started[path.name]

        yield serve


def case(exchange: Any) -> str:
    outputs = [output["name"] for output in exchange["request"].get("outputs", ())]
    return "-".join([exchange["model"], *outputs, str(exchange["status"])])


@pytest.mark.parametrize("exchange", RECORDED["exchanges"], ids=case)
async def test_answers_what_mlserver_answers(serve: Serve, exchange: Any) -> None:
    served = await serve(model(exchange["model"]), allow_pickle=True)
    answer = await served.http.post(f"/v2/models/{NAME}/infer", json=exchange["request"])
    ours, theirs = answer.json(), exchange["answer"]
    if answer.status_code != exchange["status"]:
        good = answer.status_code == 200
        assert answer.status_code in (200, 400), ours
        assert (
            exchange["status"] == 500
            or (exchange["status"] == 400 and good and exchange["model"] in ANSWERED_HERE)
            or (exchange["status"] == 200 and not good and exchange["model"] in REFUSED_HERE)
        )
    elif answer.status_code == 200:
        assert (ours["parameters"] or {}) == theirs["parameters"]
        assert ours["id"] == theirs["id"]
        for output, wanted in zip(ours["outputs"], theirs["outputs"], strict=True):
            assert output.pop("data") == pytest.approx(wanted["data"], abs=1e-9)
            assert {name: value for name, value in output.items() if value is not None} == {
                name: value for name, value in wanted.items() if name != "data"
            }


@pytest.mark.parametrize("name", [*SKLEARN, *MLFLOW])
async def test_metadata_says_at_least_what_mlserver_says(serve: Serve, name: str) -> None:
    served = await serve(model(name), allow_pickle=True)
    ours = (await served.http.get(f"/v2/models/{NAME}")).json()
    theirs = RECORDED["metadata"][name]
    for tensor in theirs["inputs"]:
        del tensor["parameters"]
        assert tensor in ours["inputs"]
    assert len(ours["outputs"]) >= len(theirs["outputs"])
    assert ours["inputs"] or name == "mlflow_unsigned"
    asked = next(one for one in RECORDED["exchanges"] if one["model"] == name and (one["status"] == 200 or name in OWN))
    for output in ours["outputs"]:
        wanted = {} if name in NAMED else {"outputs": [{"name": output["name"]}]}
        answer = await served.http.post(f"/v2/models/{NAME}/infer", json=asked["request"] | wanted)
        (given,) = [one for one in answer.json()["outputs"] if one["name"] == output["name"]]
        assert given["datatype"] == output["datatype"]
        assert len(given["shape"]) == len(output["shape"])
        assert all(size in (-1, real) for size, real in zip(output["shape"], given["shape"], strict=True))
