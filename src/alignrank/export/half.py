"""An ONNX file's weights in 16 bits: half the size. What is computed stays in 32."""

from __future__ import annotations

from typing import Any

import numpy as np

# Numbers in a tensor from which on it is a weight; shorter ones are constants of operators.
WEIGHTS_FROM = 256
SUFFIX = ".half"


def halve(model: Any) -> None:
    """In place: every float32 weight of an ONNX model becomes float16 and a cast, which runtimes do once, at loading.

    Values beyond float16's range become its largest.
    """
    from onnx import TensorProto, helper, numpy_helper

    largest = np.finfo(np.float16).max
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < WEIGHTS_FROM:
            continue
        name = tensor.name
        half = numpy_helper.to_array(tensor).clip(-largest, largest).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, name + SUFFIX))
        casts.append(helper.make_node("Cast", [name + SUFFIX], [name], to=TensorProto.FLOAT, name=f"{name}.cast"))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
