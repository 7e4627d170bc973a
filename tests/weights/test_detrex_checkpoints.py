"""Public Rank-DETR and H-Deformable-DETR checkpoints: the names and shapes of both code bases, written down here."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from test_foreign_checkpoints import Shapes, resnet
from test_foreign_checkpoints import tiny_checkpoint as vfnet_checkpoint
from torch import Tensor

from alignrank.detectors import DETECTORS
from alignrank.detectors.deformable_detr import DeformableDetr, DeformableDetrConfig
from alignrank.errors import InputError
from alignrank.weights import checkpoint
from alignrank.weights.coco_names import COCO_IDS, COCO_NAMES
from alignrank.weights.detrex import renamed
from alignrank.weights.foreign import convert
from alignrank.weights.recipe import load_recipe

SECOND_HEADS = ("transformer.decoder.class_embed.", "transformer.decoder.bbox_embed.")
# The smallest network that has every kind of tensor.
TINY = """
detector: deformable_detr
model: {backbone: timm:resnet18, norm: frozen}
transformer: {width: 32, heads: 2, points: 2, encoder: 1, decoder: 2, hidden: 64}
rank: {head: true, query_layer: true}
queries: {one_to_one: 5, one_to_many: 7}
"""


def linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def layer_norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def deformable(name: str, width: int, samples: int) -> Shapes:
    """samples: heads * levels * points."""
    return {
        **linear(f"{name}.sampling_offsets", samples * 2, width),
        **linear(f"{name}.attention_weights", samples, width),
        **linear(f"{name}.value_proj", width, width),
        **linear(f"{name}.output_proj", width, width),
    }


def multihead(name: str, width: int) -> Shapes:
    own: Shapes = {f"{name}.in_proj_weight": (3 * width, width), f"{name}.in_proj_bias": (3 * width,)}
    return own | linear(f"{name}.out_proj", width, width)


def detectron2_resnet(blocks: tuple[int, ...], *, bottleneck: bool) -> Shapes:
    """torchvision's ResNet by detectron2's names."""
    shapes: Shapes = {}
    for name, shape in resnet(blocks, bottleneck=bottleneck).items():
        parts = name.split(".")
        if parts[-1] == "num_batches_tracked":
            continue
        if parts[1] in ("conv1", "bn1"):
            own = ["stem", "conv1"] if parts[1] == "conv1" else ["stem", "conv1", "norm"]
        else:
            own = [f"res{int(parts[1][-1]) + 1}", parts[2]]
            if parts[3] == "downsample":
                own += ["shortcut"] if parts[4] == "0" else ["shortcut", "norm"]
            else:
                own += [parts[3]] if parts[3].startswith("conv") else [f"conv{parts[3][-1]}", "norm"]
        shapes[".".join(["backbone", *own, parts[-1]])] = shape
    return shapes


def swin_tiny(prefix: str) -> Shapes:
    """As Swin's authors and detectron2 name it."""
    shapes: Shapes = {f"{prefix}.patch_embed.proj.weight": (96, 3, 4, 4), f"{prefix}.patch_embed.proj.bias": (96,)}
    shapes |= layer_norm(f"{prefix}.patch_embed.norm", 96)
    for i, count in enumerate((2, 2, 6, 2)):
        width = 96 * 2**i
        for block in range(count):
            own = f"{prefix}.layers.{i}.blocks.{block}"
            shapes |= layer_norm(f"{own}.norm1", width) | layer_norm(f"{own}.norm2", width)
            shapes |= {f"{own}.attn.relative_position_bias_table": (169, 3 * 2**i)}
            shapes |= {f"{own}.attn.relative_position_index": (49, 49)}
            shapes |= linear(f"{own}.attn.qkv", 3 * width, width) | linear(f"{own}.attn.proj", width, width)
            shapes |= linear(f"{own}.mlp.fc1", 4 * width, width) | linear(f"{own}.mlp.fc2", width, 4 * width)
        if i < 3:
            shapes |= {f"{prefix}.layers.{i}.downsample.reduction.weight": (2 * width, 4 * width)}
            shapes |= layer_norm(f"{prefix}.layers.{i}.downsample.norm", 4 * width)
        if i:
            shapes |= layer_norm(f"{prefix}.norm{i}", width)
    return shapes


def detrex_layers(config: DeformableDetrConfig) -> Shapes:
    part = config.transformer
    width, samples = part.width, part.heads * 4 * part.points
    shapes: Shapes = {}
    for i in range(part.encoder):
        own = f"transformer.encoder.layers.{i}"
        shapes |= deformable(f"{own}.attentions.0", width, samples)
        shapes |= layer_norm(f"{own}.norms.0", width) | layer_norm(f"{own}.norms.1", width)
        shapes |= linear(f"{own}.ffns.0.layers.0.0", part.hidden, width)
        shapes |= linear(f"{own}.ffns.0.layers.1", width, part.hidden)
    for i in range(part.decoder):
        own = f"transformer.decoder.layers.{i}"
        shapes |= multihead(f"{own}.attentions.0.attn", width) | deformable(f"{own}.attentions.1", width, samples)
        for j in range(3):
            shapes |= layer_norm(f"{own}.norms.{j}", width)
        shapes |= linear(f"{own}.ffns.0.layers.0.0", part.hidden, width)
        shapes |= linear(f"{own}.ffns.0.layers.1", width, part.hidden)
    return shapes


def original_layers(config: DeformableDetrConfig) -> Shapes:
    part = config.transformer
    width, samples = part.width, part.heads * 4 * part.points
    shapes: Shapes = {}
    for i in range(part.encoder):
        own = f"transformer.encoder.layers.{i}"
        shapes |= deformable(f"{own}.self_attn", width, samples)
        shapes |= layer_norm(f"{own}.norm1", width) | layer_norm(f"{own}.norm2", width)
        shapes |= linear(f"{own}.linear1", part.hidden, width) | linear(f"{own}.linear2", width, part.hidden)
    for i in range(part.decoder):
        own = f"transformer.decoder.layers.{i}"
        shapes |= multihead(f"{own}.self_attn", width) | deformable(f"{own}.cross_attn", width, samples)
        for j in (1, 2, 3):
            shapes |= layer_norm(f"{own}.norm{j}", width)
        shapes |= linear(f"{own}.linear1", part.hidden, width) | linear(f"{own}.linear2", width, part.hidden)
    return shapes


def heads(config: DeformableDetrConfig) -> Shapes:
    """Of all layers and the encoder's, once under the model and once under its decoder."""
    width, shapes = config.transformer.width, {}
    for prefix in ("", "transformer.decoder."):
        for i in range(config.transformer.decoder + 1):
            shapes |= linear(f"{prefix}class_embed.{i}", config.num_classes, width)
            for j, outputs in enumerate((width, width, 4)):
                shapes |= linear(f"{prefix}bbox_embed.{i}.layers.{j}", outputs, width)
    return shapes


def two_stages(width: int) -> Shapes:
    return {
        **linear("transformer.enc_output", width, width),
        **layer_norm("transformer.enc_output_norm", width),
        **linear("transformer.pos_trans", 2 * width, 2 * width),
        **layer_norm("transformer.pos_trans_norm", 2 * width),
    }


def detrex(config: DeformableDetrConfig, backbone: Shapes, channels: tuple[int, ...]) -> Shapes:
    """A Rank-DETR checkpoint of the authors."""
    width, layers = config.transformer.width, config.transformer.decoder
    rows = config.queries.one_to_one + config.queries.one_to_many
    shapes = {**backbone, "query_embedding.weight": (rows, width), "transformer.level_embeds": (4, width)}
    for i, entering in enumerate(channels):
        shapes |= {f"neck.convs.{i}.conv.weight": (width, entering, 1, 1), f"neck.convs.{i}.conv.bias": (width,)}
        shapes |= layer_norm(f"neck.convs.{i}.norm", width)
    shapes |= {"neck.extra_convs.0.conv.weight": (width, channels[-1], 3, 3), "neck.extra_convs.0.conv.bias": (width,)}
    shapes |= layer_norm("neck.extra_convs.0.norm", width)
    shapes |= detrex_layers(config) | heads(config) | two_stages(width)
    if config.rank.head:
        for i in range(layers):
            shapes |= {f"rank_adaptive_classhead_emb.{i}.weight": (rows, config.num_classes)}
    if config.rank.query_layer:
        for i in range(layers - 1):
            shapes |= {f"transformer.decoder.rank_aware_content_query.{i}.weight": (rows, width)}
            shapes |= linear(f"transformer.decoder.pre_racq_trans.{i}", width, width)
            shapes |= linear(f"transformer.decoder.post_racq_trans.{i}", width, 2 * width)
    return shapes


def original(config: DeformableDetrConfig, backbone: Shapes, channels: tuple[int, ...]) -> Shapes:
    """A checkpoint of H-Deformable-DETR's own code."""
    width = config.transformer.width
    rows = config.queries.one_to_one + config.queries.one_to_many
    shapes = {**backbone, "query_embed.weight": (rows, width), "transformer.level_embed": (4, width)}
    for i, entering in enumerate((*channels, channels[-1])):
        side = 3 if i == len(channels) else 1
        shapes |= {f"input_proj.{i}.0.weight": (width, entering, side, side), f"input_proj.{i}.0.bias": (width,)}
        shapes |= layer_norm(f"input_proj.{i}.1", width)
    return shapes | original_layers(config) | heads(config) | two_stages(width)


def torchvision_body(blocks: tuple[int, ...], *, bottleneck: bool) -> Shapes:
    """Without counts of batches: the norms are frozen."""
    shapes = resnet(blocks, bottleneck=bottleneck)
    return {
        f"backbone.0.body.{name.removeprefix('backbone.')}": shape
        for name, shape in shapes.items()
        if not name.endswith("num_batches_tracked")
    }


def config_of(**sections: Any) -> DeformableDetrConfig:
    return DeformableDetrConfig.parse(sections, where="test")


def tiny(classes: int = 3, *, ranks: bool = True, many: int = 7) -> DeformableDetrConfig:
    return config_of(
        num_classes=classes,
        transformer={"width": 32, "heads": 2, "points": 2, "encoder": 1, "decoder": 2, "hidden": 64},
        rank={"head": ranks, "query_layer": ranks},
        queries={"one_to_one": 5, "one_to_many": many},
    )


def values(shapes: Shapes) -> dict[str, Tensor]:
    """Random tensors; what stands under two names is one tensor, and one norm serves all levels, as in detrex."""
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) * 0.05 for name, shape in shapes.items()}
    for name in tensors:
        if name.endswith("running_var"):
            tensors[name] = tensors[name].abs() + 1
        if name.startswith(("class_embed", "bbox_embed")):
            tensors[name] = tensors[f"transformer.decoder.{name}"]
        if name.startswith("neck.") and ".norm." in name:
            tensors[name] = tensors[f"neck.convs.0.norm.{name.rpartition('.')[2]}"]
    return tensors


def tiny_checkpoint(kind: str, classes: int = 3, **options: Any) -> dict[str, Tensor]:
    channels = (128, 256, 512)
    if kind == "detrex":
        backbone = detectron2_resnet((2, 2, 2, 2), bottleneck=False)
        return values(detrex(tiny(classes, **options), backbone, channels))
    backbone = torchvision_body((2, 2, 2, 2), bottleneck=False)
    return values(original(tiny(classes, ranks=False, **options), backbone, channels))


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


def empty(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("kind", "ranks", "millions"), [("detrex", True, 49.0559), ("detrex", False, 47.5423), ("original", False, 47.5423)]
)
def test_the_papers_networks(kind: str, ranks: bool, millions: float) -> None:
    """R50, 80 classes, 300 queries: every public tensor has a place, every place has a tensor, and their number is that
    of spec/rank_detr.md, section 8, which does not count what is frozen.
    """
    config = config_of(
        num_classes=80,
        model={"backbone": "timm:resnet50", "norm": "frozen"},
        rank={"head": ranks, "query_layer": ranks},
        queries={"one_to_many": 0},
    )
    if kind == "detrex":
        shapes = detrex(config, detectron2_resnet((3, 4, 6, 3), bottleneck=True), (512, 1024, 2048))
    else:
        shapes = original(config, torchvision_body((3, 4, 6, 3), bottleneck=True), (512, 1024, 2048))
    with torch.device("meta"):
        model = DeformableDetr(config)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 4) == millions
    theirs = {name: tensor.shape for name, tensor in renamed(empty(shapes), "test").items()}
    assert theirs == {name: tensor.shape for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("prefix", ["backbone", "backbone.0.body"])
def test_swin(prefix: str) -> None:
    """timm's names for the same tensors, and a norm for each of the three maps; what is computed is left out."""
    ours = {name: tensor.shape for name, tensor in renamed(empty(swin_tiny(prefix)), "test").items()}
    with torch.device("meta"):
        body = timm.create_model("swin_tiny_patch4_window7_224", features_only=True, out_indices=(1, 2, 3))
    expected = {f"backbone.body.{name}": tensor.shape for name, tensor in body.state_dict().items()}
    for i, width in enumerate((192, 384, 768)):
        expected |= {f"backbone.norms.{i}.{part}": torch.Size([width]) for part in ("weight", "bias")}
    assert ours == expected


PAIRS = {
    "detrex": {
        "decoder.layers.1.self_attention.in_proj_bias": "transformer.decoder.layers.1.attentions.0.attn.in_proj_bias",
        "decoder.layers.1.attention.offsets.bias": "transformer.decoder.layers.1.attentions.1.sampling_offsets.bias",
        "decoder.layers.0.self_norm.weight": "transformer.decoder.layers.0.norms.0.weight",
        "decoder.layers.0.norm.weight": "transformer.decoder.layers.0.norms.1.weight",
        "decoder.layers.0.feed_forward.norm.weight": "transformer.decoder.layers.0.norms.2.weight",
        "encoder.0.norm.bias": "transformer.encoder.layers.0.norms.0.bias",
        "encoder.0.feed_forward.norm.bias": "transformer.encoder.layers.0.norms.1.bias",
        "decoder.ranks.fusions.0.embedding": "transformer.decoder.rank_aware_content_query.0.weight",
        "decoder.ranks.biases.1.weight": "rank_adaptive_classhead_emb.1.weight",
        "decoder.boxes.0.2.weight": "bbox_embed.0.layers.1.weight",
        "proposal_classes.weight": "class_embed.2.weight",
        "proposal_boxes.4.bias": "bbox_embed.2.layers.2.bias",
        "mapper.convs.3.weight": "neck.extra_convs.0.conv.weight",
        "backbone.body.layer3.1.bn2.running_mean": "backbone.res4.1.conv2.norm.running_mean",
        "backbone.body.layer2.0.downsample.0.weight": "backbone.res3.0.shortcut.weight",
    },
    "original": {
        # The norms of a decoder layer run in the order 2, 1, 3.
        "decoder.layers.1.self_attention.in_proj_weight": "transformer.decoder.layers.1.self_attn.in_proj_weight",
        "decoder.layers.1.attention.offsets.bias": "transformer.decoder.layers.1.cross_attn.sampling_offsets.bias",
        "decoder.layers.0.self_norm.weight": "transformer.decoder.layers.0.norm2.weight",
        "decoder.layers.0.norm.weight": "transformer.decoder.layers.0.norm1.weight",
        "decoder.layers.0.feed_forward.norm.weight": "transformer.decoder.layers.0.norm3.weight",
        "encoder.0.norm.bias": "transformer.encoder.layers.0.norm1.bias",
        "encoder.0.attention.value.bias": "transformer.encoder.layers.0.self_attn.value_proj.bias",
        "encoder.0.feed_forward.norm.bias": "transformer.encoder.layers.0.norm2.bias",
        "decoder.boxes.0.2.weight": "bbox_embed.0.layers.1.weight",
        "proposal_classes.weight": "class_embed.2.weight",
        "mapper.convs.3.weight": "input_proj.3.0.weight",
        "mapper.norms.1.bias": "input_proj.1.1.bias",
        "backbone.body.layer3.1.bn2.running_mean": "backbone.0.body.layer3.1.bn2.running_mean",
    },
}


@pytest.mark.parametrize("kind", ["detrex", "original"])
def test_values_arrive(kind: str, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through a file as it is published, command line and all: tensors where they belong, options told by them."""
    tensors = tiny_checkpoint(kind)
    source = tmp_path / "theirs.pth"
    torch.save({"model": tensors, "epoch": 12, "args": Namespace(lr=2e-4, names=["a"])}, source)
    loaded = checkpoint.load(convert(source, tmp_path / "ours.safetensors", model=recipe, classes=["a", "b", "c"]))
    for ours, theirs in PAIRS[kind].items():
        assert torch.equal(loaded.weights[ours], tensors[theirs]), ours
    said = capsys.readouterr().err
    if kind == "detrex":
        assert said == ""
    else:
        assert "it has rank.head=false rank.query_layer=false" in " ".join(said.split())
        assert not any(".ranks." in name for name in loaded.weights)


def test_same_outputs(recipe: str, tmp_path: Path) -> None:
    """To the bit, of a network whose tensors went out under public names and came back."""
    torch.manual_seed(0)
    network = DETECTORS["deformable_detr"].model(load_recipe(recipe, num_classes=3).architecture).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    names = [name for name in tiny_checkpoint("detrex") if not name.startswith(SECOND_HEADS)]
    places = renamed({name: torch.tensor(i) for i, name in enumerate(names)}, "test")
    state = network.state_dict()
    torch.save({names[int(i)]: state[ours] for ours, i in places.items()}, tmp_path / "theirs.pth")
    path = convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors", model=recipe, classes=["a", "b", "c"])
    converted = checkpoint.load(path).build_model().eval()
    images = torch.rand(2, 3, 96, 128)
    with torch.no_grad():
        found, expected = converted(images), network(images)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.boxes, expected.boxes)
    assert expected.logits.std() > 0


@pytest.mark.parametrize(
    ("many", "said"),
    [(7, ""), (0, "queries.one_to_many=0"), (2, "queries.one_to_many=2"), (-2, "queries.one_to_one=3")],
)
def test_queries_of_training_or_of_inference(
    many: int, said: str, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipe has 5 and 7; so many rows as a file has, it has, and what differs is said."""
    tensors = tiny_checkpoint("detrex")
    for name in [n for n in tensors if n.startswith(("query_embedding", "rank_adaptive")) or "content_query" in n]:
        tensors[name] = tensors[name][: 5 + many]
    torch.save(tensors, tmp_path / "theirs.pth")
    path = convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors", model=recipe, classes=["a", "b", "c"])
    queries = checkpoint.load(path).recipe.architecture.queries  # type: ignore[attr-defined]
    assert (queries.one_to_one, queries.one_to_many) == (min(5, 5 + many), max(0, many))
    assert said in (found := " ".join(capsys.readouterr().err.split()))
    assert bool(found) == bool(said)


def test_layers_are_told(recipe: str, tmp_path: Path) -> None:
    """A file with another number of layers than the recipe has."""
    path = tmp_path / "one.yaml"
    path.write_text(TINY.replace("decoder: 2", "decoder: 6").replace("encoder: 1", "encoder: 3"))
    torch.save(tiny_checkpoint("detrex"), tmp_path / "theirs.pth")
    converted = convert(
        tmp_path / "theirs.pth", tmp_path / "ours.safetensors", model=str(path), classes=["a", "b", "c"]
    )
    part = checkpoint.load(converted).recipe.architecture.transformer  # type: ignore[attr-defined]
    assert (part.encoder, part.decoder) == (1, 2)


@pytest.mark.parametrize("kind", ["detrex", "original"])
def test_channels_of_coco_s_ids(kind: str, recipe: str, tmp_path: Path) -> None:
    """91 channels become the 80 that are classes; proposals go on by channel 0."""
    tensors = tiny_checkpoint(kind, 91)
    torch.save(tensors, source := tmp_path / "theirs.pth")
    loaded = checkpoint.load(convert(source, tmp_path / "ours.safetensors", model=recipe))
    assert loaded.classes == COCO_NAMES
    assert len(COCO_IDS) == 80
    toothbrush, train = COCO_NAMES.index("toothbrush"), COCO_NAMES.index("train")
    classes = loaded.weights["decoder.classes.1.weight"]
    assert torch.equal(classes[toothbrush], tensors["class_embed.1.weight"][90])
    assert torch.equal(classes[train], tensors["class_embed.1.weight"][7])
    proposals = loaded.weights["proposal_classes.bias"]
    assert proposals[0] == tensors["class_embed.2.bias"][0]
    assert proposals[train] == tensors["class_embed.2.bias"][7]
    if kind == "detrex":
        biases = loaded.weights["decoder.ranks.biases.0.weight"]
        assert torch.equal(biases[:, train], tensors["rank_adaptive_classhead_emb.0.weight"][:, 7])
    assert loaded.build_model() is not None

    names = [str(i) for i in range(91)]
    loaded = checkpoint.load(
        convert(tmp_path / "theirs.pth", tmp_path / "all.safetensors", model=recipe, classes=names)
    )
    assert len(loaded.classes) == 91
    assert torch.equal(loaded.weights["decoder.classes.1.weight"], tensors["class_embed.1.weight"])


def broken(case: str) -> dict[str, Tensor]:
    tensors = tiny_checkpoint("detrex")
    if case == "missing":
        del tensors["transformer.pos_trans_norm.bias"]
    elif case == "no mixed selection":
        del tensors["query_embedding.weight"]
    elif case == "unknown":
        tensors["label_enc.weight"] = torch.zeros(3, 32)
    elif case == "shape":
        tensors["neck.convs.0.conv.bias"] = torch.zeros(7)
    elif case == "scalar":
        tensors["query_embedding.weight"] = torch.zeros(())
    elif case == "whole numbers":
        tensors["transformer.level_embeds"] = torch.zeros(4, 32, dtype=torch.int64)
    elif case == "sparse":
        tensors["transformer.level_embeds"] = torch.zeros(4, 32).to_sparse()
    elif case == "two values":
        tensors["class_embed.1.bias"] = tensors["class_embed.1.bias"] + 1
    elif case == "two types":
        tensors["class_embed.1.bias"] = tensors["class_embed.1.bias"].half()
    elif case == "no layers":
        tensors = {name: tensor for name, tensor in tensors.items() if "decoder.layers" not in name}
    elif case == "many layers":
        tensors["transformer.encoder.layers.99999999.norms.0.bias"] = torch.zeros(32)
    elif case == "rows":
        tensors["rank_adaptive_classhead_emb.0.weight"] = torch.zeros(5, 3)
    elif case == "no classes":
        tensors = {name: tensor for name, tensor in tensors.items() if "class_embed" not in name}
    return tensors


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("missing", "there is no tensor for position.1.bias"),
        ("no mixed selection", "there is no tensor for embedding"),
        ("unknown", "tensor label_enc.weight does not belong to"),
        ("shape", "the tensor for mapper.convs.0.bias has shape [7]"),
        ("scalar", "the tensor for embedding has shape []"),
        ("whole numbers", "the tensor for level_embedding has another kind of numbers (torch.int64"),
        ("sparse", "the tensor for level_embedding has another kind of numbers (torch.float32, torch.sparse"),
        ("two values", "differs from another of the same part, decoder.classes.1.bias"),
        ("two types", "differs from another of the same part, decoder.classes.1.bias"),
        ("no layers", "there is no tensor for decoder."),
        ("many layers", "transformer.encoder: "),
        ("rows", "the tensor for decoder.ranks.biases.0.weight has shape [5, 3]"),
        ("no classes", "there is no tensor for decoder.classes.0.bias"),
    ],
)
def test_checkpoints_that_do_not_fit(case: str, said: str, recipe: str, tmp_path: Path) -> None:
    source = tmp_path / "theirs.pth"
    torch.save(broken(case), source)
    with pytest.raises(InputError) as caught:
        convert(source, tmp_path / "ours.safetensors", model=recipe, classes=["a", "b", "c"])
    assert said in str(caught.value)
    assert str(source) in str(caught.value)
    assert not (tmp_path / "ours.safetensors").exists()


def test_recipe_of_another_kind(recipe: str, tmp_path: Path) -> None:
    """Both ways it is said what the file is, and which recipe to try."""
    torch.save(tiny_checkpoint("detrex"), tmp_path / "rank.pth")
    torch.save(vfnet_checkpoint(), tmp_path / "vfnet.pth")
    with pytest.raises(InputError, match=r"a Rank-DETR or H-Deformable-DETR checkpoint.*try --model rank-h-detr-r50"):
        convert(tmp_path / "rank.pth", tmp_path / "ours.safetensors")
    with pytest.raises(InputError, match=r"is a VarifocalNet checkpoint.*try --model vfnet-r50"):
        convert(tmp_path / "vfnet.pth", tmp_path / "ours.safetensors", model=recipe)
