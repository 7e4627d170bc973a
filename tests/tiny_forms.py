"""Overrides that make a recipe of each architecture small: for tests that need a network, not the network."""

from __future__ import annotations

from typing import Any

from alignrank.weights.catalog import recipe_names
from alignrank.weights.recipe import load_recipe

# Towers of one convolution, which `dcn` makes deformable: exports take most of the tests' time, and each node counts.
_CSP = {
    "model.backbone": "csp",
    "model.freeze": 0,
    "model.norm": "learn",
    "neck.width": 32,
    "head.convs": 1,
    "train.imgsz": 64,
}
_TRANSFORMER: dict[str, Any] = {
    "model.backbone": "csp",
    "model.freeze": 0,
    "model.norm": "learn",
    "model.drop_path": 0.0,
    "model.checkpointing": False,
    "transformer.width": 32,
    "transformer.heads": 4,
    "transformer.points": 2,
    "transformer.encoder": 1,
    "transformer.decoder": 2,
    "transformer.hidden": 64,
    "transformer.checkpointing": False,
    "queries.one_to_one": 20,
    "train.imgsz": 64,
    "train.batch": 4,
}
_HYBRID: dict[str, Any] = {
    "encoder_in_channels": [12, 16, 24],
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 32,
    "encoder_attention_heads": 4,
    "d_model": 32,
    "decoder_in_channels": [32, 32, 32],
    "decoder_layers": 2,
    "decoder_ffn_dim": 32,
    "decoder_attention_heads": 4,
    "num_queries": 20,
    "num_denoising": 4,
}
_RESNET = {
    "model_type": "rt_detr_resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 12, 16, 24],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}
# Configurations of transformers, by architecture.
HOSTS: dict[str, dict[str, Any]] = {
    "rt_detr": _HYBRID | {"backbone_config": _RESNET},
    "rt_detr_v2": _HYBRID | {"backbone_config": _RESNET},
    "d_fine": _HYBRID
    | {
        "backbone_config": {
            "model_type": "hgnet_v2",
            "hidden_sizes": [8, 12, 16, 24],
            "stem_channels": [3, 8, 8],
            "stage_in_channels": [8, 8, 12, 16],
            "stage_mid_channels": [8, 8, 8, 8],
            "stage_out_channels": [8, 12, 16, 24],
            "stage_num_blocks": [1, 1, 1, 1],
            "stage_numb_of_layers": [1, 1, 1, 1],
            "out_features": ["stage2", "stage3", "stage4"],
        },
        "decoder_n_points": [2, 2, 2],
        "depth_mult": 0.34,
    },
    "deformable_detr": {
        "backbone_config": {
            "model_type": "timm_backbone",
            "backbone": "test_resnet",
            "features_only": True,
            "use_pretrained_backbone": False,
            "out_indices": [2, 3, 4],
        },
        "d_model": 64,
        "encoder_layers": 1,
        "encoder_ffn_dim": 32,
        "encoder_attention_heads": 4,
        "decoder_layers": 2,
        "decoder_ffn_dim": 32,
        "decoder_attention_heads": 4,
        "num_queries": 20,
        "auxiliary_loss": True,
        "dropout": 0.0,
    },
    "rf_detr": {
        "backbone_config": {
            "model_type": "rf_detr_dinov2",
            "hidden_size": 24,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
            "num_windows": 2,
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        "d_model": 32,
        "decoder_layers": 2,
        "decoder_ffn_dim": 32,
        "decoder_self_attention_heads": 4,
        "decoder_cross_attention_heads": 4,
        "num_queries": 10,
        "group_detr": 2,
        "dropout": 0.0,
    },
}
# Samples as large as all there is: nothing is random. Of torchvision's detectors with two stages.
TWO_STAGES = {
    "rpn_pre_nms_top_n_train": 60,
    "rpn_post_nms_top_n_train": 40,
    "rpn_pre_nms_top_n_test": 60,
    "rpn_post_nms_top_n_test": 40,
    "rpn_batch_size_per_image": 200_000,
    "box_batch_size_per_image": 400,
    "box_positive_fraction": 0.5,
}
_FORMS: dict[str, dict[str, Any]] = {
    "alignrank": {"head.width": 16, "head.box_width": 32},
    "deformable_detr": _TRANSFORMER,
    "dino": _TRANSFORMER | {"denoising.queries": 10},
    "reppoints": _CSP | {"head.groups": 8},
    "retinanet": _CSP,
    "varifocalnet": _CSP | {"head.groups": 8},
}


FINE = "+fine"
# A host of each class of neck, the cheapest to export: what comes after the neck does not see FINE.
FINE_NECKS = [f"{name}{FINE}" for name in ("retinanet-r50", "yolov5-s", "yolov6-s", "yolov8-n", "yolov12-s")]


def tiny_form(name: str) -> dict[str, Any]:
    """Of a recipe; of one with FINE in its neck where the name ends so."""
    recipe = load_recipe(recipe_of(name))
    if recipe.detector == "transformers":
        return tiny_host(recipe.architecture.model.architecture)  # type: ignore[attr-defined]
    if recipe.detector == "torchvision":
        return tiny_torchvision(recipe.architecture.model.architecture)  # type: ignore[attr-defined]
    form = {"model.size": "t"} | _FORMS.get(recipe.detector, {}) | ({"neck.fine": True} if name.endswith(FINE) else {})
    many = getattr(getattr(recipe.architecture, "queries", None), "one_to_many", 0)
    return form | ({"queries.one_to_many": 30} if many else {})


def tiny_host(architecture: str) -> dict[str, Any]:
    """Of a detector of transformers."""
    return {
        "model.config": HOSTS[architecture],
        "model.hub": "",
        "train.imgsz": 64,
        "train.batch": 4,
        "train.freeze": [],
    }


def tiny_torchvision(architecture: str) -> dict[str, Any]:
    """Of a detector of torchvision."""
    return {
        "model.backbone": "timm:test_resnet",
        "model.width": 64,  # group norms of one channel would say nothing of maps of one cell
        "model.config": TWO_STAGES if architecture.startswith("faster") else {},
        "model.hub": "",
        "train.imgsz": 64,
        "train.batch": 4,
        "train.freeze": [],
    }


def recipe_of(name: str) -> str:
    """Its name without FINE."""
    return name.removesuffix(FINE)


def fine_hosts() -> list[str]:
    """The names of the distinct recipes whose necks have FINE, with it."""
    return [f"{name}{FINE}" for name in distinct_recipes() if hasattr(load_recipe(name).architecture, "neck")]


def distinct_recipes() -> list[str]:
    """One recipe of each tiny architecture: some differ only in what a tiny form leaves out (schedules, depth)."""
    forms = {str(load_recipe(name, overrides=tiny_form(name)).architecture): name for name in recipe_names()[::-1]}
    return sorted(forms.values())
