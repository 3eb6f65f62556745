"""A trained policy as an ONNX graph, for bases that look at their stack through one plain encoder.

ONNX convolves NCHW pictures with OIHW kernels, the learner NHWC with HWIO; the rows of the dense layer behind the
convolutions are put into the order in which NCHW flattens.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from covr_jax.agent import ACTOR, pick
from covr_jax.learner import Learner
from covr_jax.networks import LAYER_NORM_EPSILON, PLAIN, conv_output_size
from covr_jax.types import Params

OPSET, IR_VERSION = 17, 8  # the first with LayerNormalization; read by onnxruntime since 1.13


def check(learner: Learner) -> None:
    """ValueError, in one line, for a base whose policy this module cannot write."""
    networks, name = learner.base.networks, learner.config.base
    reason = None
    if networks.masker:
        reason = "masks its pictures"
    elif learner.base.sight.remembers or networks.residual or networks.conv is not PLAIN.conv:
        reason = "reads the decision before"
    if reason:
        raise ValueError(f"base {name!r} {reason}, which the ONNX export does not cover; take --format=stablehlo")


class _Graph:
    """Nodes in a row, each fed with the one before."""

    def __init__(self, source: str) -> None:
        self.nodes, self.constants, self._newest = [], [], source

    def add(self, operator: str, *constants: np.ndarray, output: str | None = None, **attributes) -> None:
        names = [f"constant_{len(self.constants) + i}" for i in range(len(constants))]
        self.constants += [
            numpy_helper.from_array(np.ascontiguousarray(array), name)
            for array, name in zip(constants, names, strict=True)
        ]
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, [self._newest, *names], [output], **attributes))
        self._newest = output


def serialise(learner: Learner, params: Params, render_size: int) -> bytes:
    """Input ``stacks`` uint8 [N,H,W,3S] of render size, output ``action`` float32 [N,A]; N is free.

    Raises ValueError for a base that ``check`` refuses.
    """
    check(learner)
    config, graph = learner.config, _Graph("stacks")
    arrays = pick(params, ("conv", *ACTOR))
    _centre_view(graph, render_size, config.image_size)
    graph.add("Transpose", perm=[0, 3, 1, 2])
    graph.add("Div", np.float32(255.0))
    for i, stride in enumerate(config.strides):
        layer = arrays["conv"][f"layer_{i}"]
        kernel = np.asarray(layer["kernel"]).transpose(3, 2, 0, 1)
        graph.add("Conv", kernel, np.asarray(layer["bias"]), strides=[stride, stride])
        graph.add("Relu")
    graph.add("Flatten")
    head, actor = arrays["actor_head"], arrays["actor"]
    side = conv_output_size(config.image_size, config.kernels, config.strides)
    rows = np.asarray(head["linear"]["kernel"]).reshape(side, side, config.filters[-1], -1)
    graph.add("Gemm", rows.transpose(2, 0, 1, 3).reshape(-1, rows.shape[-1]), np.asarray(head["linear"]["bias"]))
    norm = head["norm"]
    graph.add(
        "LayerNormalization", np.asarray(norm["scale"]), np.asarray(norm["bias"]), epsilon=LAYER_NORM_EPSILON
    )
    if learner.base.networks.tanh:
        graph.add("Tanh")
    for name in ("linear_0", "linear_1"):
        graph.add("Gemm", np.asarray(actor[name]["kernel"]), np.asarray(actor[name]["bias"]))
        graph.add("Relu")
    last, mean = actor["linear_2"], slice(learner.action_dim)  # behind the mean: log standard deviations
    graph.add("Gemm", np.asarray(last["kernel"])[:, mean], np.asarray(last["bias"])[mean])
    graph.add("Tanh", output="action")

    stacks = ["N", render_size, render_size, 3 * learner.frame_stack]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "policy",
            [helper.make_tensor_value_info("stacks", TensorProto.UINT8, stacks)],
            [helper.make_tensor_value_info("action", TensorProto.FLOAT, ["N", learner.action_dim])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="covr-jax",
    )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _centre_view(graph: _Graph, render_size: int, image_size: int) -> None:
    """``augment.centre_view`` and the cast to float32: [N,H,W,3S] -> [N,v,v,3S], at (r - v) // 2 or (v - r) // 2."""
    if image_size < render_size:
        at = (render_size - image_size) // 2
        graph.add("Slice", *(np.array(ends, np.int64) for ends in ([at] * 2, [at + image_size] * 2, [1, 2])))
    graph.add("Cast", to=TensorProto.FLOAT)
    if image_size > render_size:
        before = (image_size - render_size) // 2
        after = image_size - render_size - before
        graph.add("Pad", np.array([0, before, before, 0, 0, after, after, 0], np.int64))
