"""FINE in the hybrid encoders of transformers: what stays, what changes, and how it goes out again."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import (
    Deimv2Config,
    Deimv2Model,
    DFineConfig,
    DFineForObjectDetection,
    DFineModel,
    PreTrainedModel,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrModel,
    RTDetrResNetConfig,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
    RTDetrV2Model,
)

from alignrank.errors import InputError
from alignrank.nn.fine import FINE
from alignrank.plug import add_fine, remove_fine


def tiny(levels: int = 3, width: int = 40) -> dict[str, Any]:
    """One class, and a width that does not make heads of 16."""
    stages = [f"stage{number}" for number in range(1, 5)][-levels:]
    sizes = [8, 12, 16, 24]
    backbone = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=sizes, depths=[1, 1, 1, 1], layer_type="basic", out_features=stages
    )
    return {
        "backbone_config": backbone,
        "encoder_in_channels": sizes[-levels:],
        "feat_strides": [4, 8, 16, 32][-levels:],
        "encode_proj_layers": [levels - 1],
        "encoder_hidden_dim": width,
        "encoder_ffn_dim": 32,
        "encoder_attention_heads": 4,
        "d_model": 32,
        "decoder_in_channels": [width] * levels,
        "num_feature_levels": levels,
        "decoder_layers": 2,
        "decoder_ffn_dim": 32,
        "decoder_attention_heads": 4,
        "num_queries": 6,
        "num_denoising": 4,
        "num_labels": 1,
    }


def built(kind: type[PreTrainedModel], config: type[Any], **changes: Any) -> Any:
    """On random weights that let something through: the library begins norms near 0."""
    model = kind(config(**tiny(**changes)))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return model


HOSTS: dict[str, Callable[[], Any]] = {
    "rt-detr": lambda: built(RTDetrForObjectDetection, RTDetrConfig),
    "rt-detr-v2": lambda: built(RTDetrV2ForObjectDetection, RTDetrV2Config),
    "d-fine": lambda: built(DFineForObjectDetection, DFineConfig),
    "rt-detr-model": lambda: built(RTDetrModel, RTDetrConfig),
    "rt-detr-v2-model": lambda: built(RTDetrV2Model, RTDetrV2Config),
    "d-fine-model": lambda: built(DFineModel, DFineConfig),
}
hosts = pytest.mark.parametrize("name", HOSTS)
detectors = pytest.mark.parametrize("name", ["rt-detr", "rt-detr-v2", "d-fine"])


def picture(images: int = 2) -> Tensor:
    """Levels of 12 x 20, 6 x 10 and 3 x 5 cells; the hosts take no sizes whose levels are not halves of each other."""
    return torch.rand(images, 3, 91, 154, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def outputs(model: Any) -> list[Tensor]:
    """What it says of two images, and of one alone."""
    training = model.training
    model.eval()
    found = [value for count in (2, 1) for value in model(picture(count)).values() if isinstance(value, Tensor)]
    model.train(training)
    return found


def loss(model: Any) -> Tensor:
    torch.manual_seed(2)  # the noise of denoising queries
    labels = [
        {"class_labels": torch.tensor([0]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.3]])},
        {"class_labels": torch.tensor([0, 0]), "boxes": torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.6, 0.6, 0.4, 0.3]])},
    ]
    total: Tensor = model.train()(pixel_values=picture(), labels=labels).loss
    return total


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def fine_of(model: nn.Module) -> list[FINE]:
    return [module for module in model.modules() if isinstance(module, FINE)]


@hosts
def test_zero_init_leaves_the_outputs_bit_for_bit(name: str) -> None:
    model = HOSTS[name]().eval()
    weights, before = copy.deepcopy(model.state_dict()), outputs(model)
    assert add_fine(model, zero_init=True) is model
    assert [(fine.pool_high.kernel, fine.pool_low.kernel) for fine in fine_of(model)] == [(1, 2), (2, 4)]
    assert {module.training for module in model.modules()} == {False}
    assert equal(outputs(model), before)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in weights.items())


@detectors
def test_zero_init_leaves_the_loss_bit_for_bit(name: str) -> None:
    model = HOSTS[name]()
    before = loss(copy.deepcopy(model))
    assert before.isfinite()
    assert torch.equal(loss(add_fine(model, zero_init=True)), before)


@hosts
def test_removed_it_is_as_it_was(name: str) -> None:
    model = HOSTS[name]().eval()
    before, keys, classes = outputs(model), list(model.state_dict()), [type(module) for module in model.modules()]
    assert not equal(outputs(add_fine(model)), before)
    with pytest.raises(InputError, match="has FINE already"):
        add_fine(model)
    assert remove_fine(model) is model
    assert list(model.state_dict()) == keys
    assert [type(module) for module in model.modules()] == classes
    assert equal(outputs(model), before)


@pytest.mark.parametrize("zero_init", [False, True])
@detectors
def test_all_of_it_learns(name: str, zero_init: bool) -> None:
    """But the keys' bias, which softmax does not see: rounding alone moves it, or nothing."""
    model = add_fine(HOSTS[name](), zero_init=zero_init)
    before = {key: value.clone() for key, value in model.named_parameters() if ".fine." in key}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(10):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    after = dict(model.named_parameters())
    assert len(before) == 2 * (16 + zero_init)
    still = {key for key, value in before.items() if torch.equal(after[key], value)}
    assert {key for key in still if not key.endswith("key.bias")} == set()


@detectors
def test_the_way_down_by_hand(name: str) -> None:
    """What the encoder gives to the way up, from its own parts and FINE's equation."""
    encoder = add_fine(HOSTS[name]().model.encoder.eval())
    encoder.config.encoder_layers = 0  # the coarsest map as it is
    with torch.no_grad():
        maps = [torch.rand(2, 40, side, 2 * side) for side in (12, 6, 3)]
        first, second = fine_of(encoder)
        seen: list[Tensor] = []
        for block in encoder.pan_blocks:
            block.register_forward_pre_hook(lambda block, inputs: seen.append(inputs[0]))
        encoder(list(maps))
        plain = [type(block).plain.forward for block in encoder.fpn_blocks]
        coarse = encoder.lateral_convs[0](maps[2])
        fused = torch.cat([interpolate(coarse, scale_factor=2.0), first(maps[1], coarse)], 1)
        middle = encoder.lateral_convs[1](plain[0](encoder.fpn_blocks[0], fused))
        fused = torch.cat([interpolate(middle, scale_factor=2.0), second(maps[0], middle)], 1)
        fine = plain[1](encoder.fpn_blocks[1], fused)
    torch.testing.assert_close(seen[0], torch.cat([encoder.downsample_convs[0](fine), middle], 1))
    assert torch.equal(seen[1][:, 40:], coarse)


@pytest.mark.parametrize(("levels", "modules"), [(2, 1), (4, 2)])
def test_as_many_modules_as_there_are_fusions(levels: int, modules: int) -> None:
    """With a fourth level of stride 4, its fusion is left alone."""
    model = built(RTDetrModel, RTDetrConfig, levels=levels)
    assert len(fine_of(add_fine(model))) == modules
    assert fine_of(model.encoder.fpn_blocks[0])
    assert model.eval()(torch.rand(1, 3, 96, 160)).last_hidden_state.isfinite().all()


def test_state_dicts_and_folders_go_in_both_ways(tmp_path: Path) -> None:
    """A folder that was saved with FINE is read as the plain model; FINE's weights come after `add_fine`."""
    plain, model = HOSTS["rt-detr"](), add_fine(HOSTS["rt-detr"]())
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert sorted(missing) == sorted(key for key in model.state_dict() if ".fine." in key) != []
    other = add_fine(HOSTS["rt-detr"]())
    other.load_state_dict(model.state_dict(), strict=True)
    assert equal(outputs(other), outputs(model))
    model.save_pretrained(tmp_path)
    # Copied: weights in a mapped file lie at any address, and where they are not aligned kernels round differently.
    read = copy.deepcopy(RTDetrForObjectDetection.from_pretrained(tmp_path))
    assert not fine_of(read)
    assert equal(outputs(read), outputs(remove_fine(copy.deepcopy(model))))
    # Only those: the library writes some of its own under names of older releases.
    weights = {key: value for key, value in load_file(tmp_path / "model.safetensors").items() if ".fine." in key}
    missing, unexpected = add_fine(read).load_state_dict(weights, strict=False)
    assert not unexpected
    assert not any(".fine." in key for key in missing)
    assert equal(outputs(read), outputs(model))


@detectors
def test_copies_and_pickles_have_it(name: str) -> None:
    model = add_fine(HOSTS[name]())
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert equal(outputs(other), outputs(model))
        nn.init.zeros_(fine_of(other)[0].output.weight)  # its own
        assert fine_of(model)[0].output.weight.any()
        remove_fine(other)


@detectors
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    """Of the encoder, where FINE is: it has the host's type and gives the host's bits."""
    encoder = HOSTS[name]().model.encoder.to(dtype).eval()
    maps = [torch.rand(1, 40, side, 2 * side, dtype=dtype) for side in (12, 6, 3)]
    with torch.no_grad():
        before = encoder(list(maps))[0]
        add_fine(encoder, zero_init=True)
        assert {parameter.dtype for parameter in encoder.parameters()} == {dtype}
        assert equal(encoder(list(maps))[0], before)
        after = add_fine(remove_fine(encoder))(list(maps))[0]
    assert all(level.isfinite().all() and level.dtype == dtype for level in after)


@detectors
def test_autocast(name: str) -> None:
    model = HOSTS[name]()
    with torch.autocast("cpu", torch.bfloat16):
        before = outputs(model)
        assert equal(outputs(add_fine(model, zero_init=True)), before)
        changed = outputs(add_fine(remove_fine(model)))
    assert [value.dtype for value in changed] == [value.dtype for value in before]
    assert not equal(changed, before)


def test_another_encoder_is_no_host() -> None:
    """DEIMv2 adds levels instead of joining their channels."""
    with torch.device("meta"):
        model = Deimv2Model(Deimv2Config())
    with pytest.raises(InputError, match=r"Deimv2Model has no place for FINE; hosts are: .*RT-DETRv2.*D-FINE"):
        add_fine(model)
