"""ONNX Runtime, ready to run a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def session_of(model: Path | bytes, *, optimized: bool = True) -> Any:
    """An InferenceSession on the CPU, with as many threads as PyTorch has. model: a file, or what would be in it.
    optimized: by the runtime; else node by node as the graph has it.

    Raises what ONNX Runtime raises, which has no class in common but Exception.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Idle threads of one session would slow down what runs beside it by half.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
