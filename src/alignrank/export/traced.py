"""A network traced by PyTorch's exporter: what its ONNX file is made of, and what that is compared with."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stdout
from typing import Any

import torch
from torch import nn

from alignrank.export.graph import ExportGraph, dynamic_sides, no_other_sides
from alignrank.input_size import Size


def onnx_program(graph: ExportGraph, size: Size) -> Any:
    """A torch.onnx.ONNXProgram of a dynamic batch: `model_proto`, and the `exported_program` that it was made from.

    Raises InputError where a `dynamic` graph turns out to be of one size.
    """
    for module in graph.modules():
        if isinstance(module, nn.ReLU | nn.SiLU):
            module.inplace = False  # the exporter would rewrite each one: up to a fifth of its time, for the same file
    # The exporter talks on stdout, which is for results, and warns of its own internals.
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), no_other_sides(graph):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            # Two images: a batch of one would be taken for a constant.
            (torch.zeros(2, 3, *size),),
            dynamo=True,
            input_names=["images"],
            output_names=[*graph.outputs, *graph.choices],
            dynamic_shapes={"images": dynamic_sides(graph)},
            verbose=False,
        )
    assert program is not None
    return program
