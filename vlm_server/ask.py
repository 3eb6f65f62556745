"""Asks a running server one question about one picture.

Example:
  python -m vlm_server.ask --address=127.0.0.1:50051 --task=dmc/cartpole/swingup --image=frame.png
  python -m vlm_server.ask --address=host:50051 --ca_file=ca.pem --token_file=me.token --image=frame.png
"""

from __future__ import annotations

import grpc
from absl import flags
from covr.prior.channel import connect
from covr.prior.v1 import prior_pb2 as pb
from covr.prior.v1 import prior_pb2_grpc
from PIL import Image, UnidentifiedImageError

from vlm_server import command_line

_ADDRESS = flags.DEFINE_string("address", None, "Address of the server, as it printed it.")
_TOKEN_FILE = flags.DEFINE_string("token_file", "", "File with the token that the server wants, mode 0600.")
_CA_FILE = flags.DEFINE_string("ca_file", "", "PEM certificates to check the server's with; given, TLS is used.")
_TASK = flags.DEFINE_string("task", "dmc/cartpole/swingup", "Task to ask about, as in vlm_server/tasks.py.")
_IMAGE = flags.DEFINE_string("image", None, "File with the picture, in any format that Pillow reads.")
_RUN = flags.DEFINE_string("run", "", "Run whose adapters answer; empty: the base model.")
_ADAPTER = flags.DEFINE_string("adapter", "", "Version of that run's adapter; empty: the active one.")
_STATE = flags.DEFINE_list("state", [], "Scalars that the prompt mentions, e.g. speed=7.5,yaw=-90.")
_CONSTRAINT = flags.DEFINE_enum(
    "constraint", "default", ["default", "free", "template"], "Which replies can be generated."
)
_TIMEOUT = flags.DEFINE_float("timeout_s", 60.0, "How long to wait for the answer.", lower_bound=0.1)

_CONSTRAINTS = {
    "default": pb.Decoding.CONSTRAINT_UNSPECIFIED,
    "free": pb.Decoding.CONSTRAINT_FREE,
    "template": pb.Decoding.CONSTRAINT_TEMPLATE,
}
_STATUS = {
    pb.REPLY_STATUS_OK: "ok",
    pb.REPLY_STATUS_CLIPPED: "clipped (a number was out of its range)",
    pb.REPLY_STATUS_MALFORMED: "malformed (the text does not answer; there is no action)",
}


def read_frame(path: str) -> pb.Frame:
    """The picture of a file as RGB.

    Raises:
        ValueError: no such file, or not a picture.
    """
    try:
        with Image.open(path) as image:
            pixels = image.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"image: cannot read {path!r} ({type(error).__name__})") from None
    return pb.Frame(height=pixels.height, width=pixels.width, channels=3, data=pixels.tobytes())


def read_state(pairs: list[str]) -> dict[str, float]:
    """{"speed": 7.5} of ["speed=7.5"].

    Raises:
        ValueError: a pair that is not name=number.
    """
    state = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            state[name] = float(value)
        except ValueError:
            raise ValueError(f"state: must be name=number,..., not {pair!r}") from None
    return state


def main() -> int:
    for flag in (_ADDRESS, _IMAGE):
        if not flag.value:
            raise ValueError(f"--{flag.name} must be given")
    seen = pb.Observation(frame=read_frame(_IMAGE.value), state=read_state(_STATE.value))
    request = pb.PredictRequest(
        task=_TASK.value,
        run=_RUN.value,
        adapter=_ADAPTER.value,
        observations=[seen],
        decoding=pb.Decoding(constraint=_CONSTRAINTS[_CONSTRAINT.value]),
    )
    with connect(_ADDRESS.value, -1, _TOKEN_FILE.value, _CA_FILE.value) as channel:
        stub = prior_pb2_grpc.PriorServiceStub(channel)
        try:
            info = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=_TIMEOUT.value)
            reply = stub.Predict(request, timeout=_TIMEOUT.value)
        except grpc.RpcError as error:
            raise ValueError(f"{_ADDRESS.value} answers {error.code().name}: {error.details()}") from None
    names = next([action.name for action in task.actions] for task in info.tasks if task.name == _TASK.value)
    prediction, timings = reply.predictions[0], reply.timings
    lines = [("status", _STATUS[prediction.status])]
    lines += [(name, f"{value:+.2f}") for name, value in zip(names, prediction.action, strict=False)]
    lines += [
        ("prompt", repr(prediction.prompt)),
        ("text", repr(prediction.text)),
        ("model", info.model),
        ("adapter", f"{reply.adapter.version} (sha256 {reply.adapter.digest[:16]}...)"),
        (
            "time",
            f"queue {timings.queue_ms:.1f} ms, encode {timings.encode_ms:.1f} ms, generate "
            f"{timings.generate_ms:.1f} ms, {prediction.new_tokens} tokens, batch of {timings.batch_size}",
        ),
    ]
    width = max(len(name) for name, _ in lines) + 2
    for name, value in lines:
        print(f"{name:<{width}}{value}")
    return 0


if __name__ == "__main__":
    command_line.run(main, "vlm_server.ask")
