"""The activation behind convolutions: in place where nothing learns, and only there."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from alignrank.nn.conv import SiLU


def test_it_overwrites_where_nothing_learns() -> None:
    """x sigmoid(x): ln 3 has the sigmoid 3/4."""
    x = torch.tensor([0.0, 1.0986123])
    assert SiLU()(x).data_ptr() == x.data_ptr()
    assert x.tolist() == pytest.approx([0, 0.8239592])


def test_it_leaves_the_input_where_something_learns() -> None:
    """Slope at 0: 1/2, at ln 3: 3/4 + ln 3 x 3/16."""
    leaf = torch.tensor([0.0, 1.0986123], requires_grad=True)
    x = leaf * 1
    y = SiLU()(x)
    assert y.data_ptr() != x.data_ptr()
    y.sum().backward()
    assert leaf.grad is not None
    assert_close(x, leaf)
    assert leaf.grad.tolist() == pytest.approx([0.5, 0.9559898])
