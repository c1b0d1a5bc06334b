"""The compiled messages are those of the .proto, and its numbers are the protocol's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from modelserve import pb

FOLDER = Path(pb.__file__).parent


def test_the_compiled_form_is_that_of_the_proto(tmp_path: Path) -> None:
    compiled = tmp_path / "inference.binpb"
    command = ["-m", "grpc_tools.protoc", f"-I{FOLDER}", f"--descriptor_set_out={compiled}", "inference.proto"]
    subprocess.run([sys.executable, *command], check=True, cwd=FOLDER)
    assert compiled.read_bytes() == (FOLDER / "inference.binpb").read_bytes(), "run `make proto`"


def test_the_wire_form_of_a_request_is_the_protocols() -> None:
    """Written by hand from the protocol's field numbers."""
    request = pb.ModelInferRequest(model_name="m", model_version="1", id="7", raw_input_contents=[b"raw"])
    request.parameters["k"].string_param = "v"
    request.inputs.add(name="i", datatype="BYTES", shape=[2])
    request.outputs.add(name="o")
    assert request.SerializeToString() == b"".join(
        (
            b"\x0a\x01m",
            b"\x12\x011",
            b"\x1a\x017",
            b"\x22\x08\x0a\x01k\x12\x03\x1a\x01v",
            b"\x2a\x0d\x0a\x01i\x12\x05BYTES\x1a\x01\x02",
            b"\x32\x03\x0a\x01o",
            b"\x3a\x03raw",
        )
    )


def test_our_names_are_not_in_the_processs_default_pool() -> None:
    """Else tritonclient or kserve could not be imported beside us: they register these names, each its own way."""
    check = (
        "from google.protobuf import descriptor_pool; import modelserve.protocols.grpc;"
        "descriptor_pool.Default().FindFileContainingSymbol('inference.ModelInferRequest')"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert "KeyError" in done.stderr
