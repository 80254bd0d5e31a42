"""Configurations by name: the published ones, whose weights fit, and small ones that learn from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detdistill.detectors.preprocess import IMAGENET_MEAN, IMAGENET_STD, Channels

_AS_THEY_ARE: tuple[Channels, Channels] = ((0.0,) * 3, (1.0,) * 3)
_IMAGENET: tuple[Channels, Channels] = (IMAGENET_MEAN, IMAGENET_STD)


@dataclass(frozen=True, slots=True)
class Preset:
    """A model by name.

    Attributes:
        kind: transformers' own name of the kind of model.
        config: the keys of its configuration that differ from the kind's defaults.
        pixels: mean and std, of pixels in [0, 1], that the published weights were trained with.
        small: whether it learns from scratch on images of a few hundred pixels.
    """

    kind: str
    config: Mapping[str, Any]
    pixels: tuple[Channels, Channels] = _AS_THEY_ARE
    small: bool = True


def _resnet_d(sizes: list[int], depths: list[int], *, layer: str, stem: int = 64) -> dict[str, Any]:
    """RT-DETR's ResNet-D, its maps of strides 8, 16 and 32."""
    return {
        "model_type": "rt_detr_resnet",
        "embedding_size": stem,
        "hidden_sizes": sizes,
        "depths": depths,
        "layer_type": layer,
        "out_features": ["stage2", "stage3", "stage4"],
    }


def _rt_detr(depth: int) -> dict[str, Any]:
    """RT-DETR's and RT-DETRv2's published sizes."""
    if depth in (18, 34):
        depths = [2, 2, 2, 2] if depth == 18 else [3, 4, 6, 3]
        return {
            "backbone_config": _resnet_d([64, 128, 256, 512], depths, layer="basic"),
            "encoder_in_channels": [128, 256, 512],
            "hidden_expansion": 0.5,
            "decoder_layers": 3 if depth == 18 else 4,
        }
    depths = [3, 4, 6 if depth == 50 else 23, 3]
    wide = {} if depth == 50 else {"encoder_ffn_dim": 2048, "encoder_hidden_dim": 384, "decoder_in_channels": [384] * 3}
    return {"backbone_config": _resnet_d([256, 512, 1024, 2048], depths, layer="bottleneck"), **wide}


def _small(width: int, *, queries: int, stem: int, heads: int = 4) -> dict[str, Any]:
    """What a small hybrid encoder and its decoder have in common."""
    sides = {"encoder": 2 * width, "decoder": 2 * width}
    return {
        "d_model": width,
        "encoder_hidden_dim": width,
        "decoder_in_channels": [width] * 3,
        "encoder_in_channels": [2 * stem, 4 * stem, 8 * stem],
        **{f"{part}_ffn_dim": side for part, side in sides.items()},
        **{f"{part}_attention_heads": heads for part in sides},
        "decoder_layers": 2,
        "num_queries": queries,
        "hidden_expansion": 0.5,
    }


def _hgnet(stem: int) -> dict[str, Any]:
    """D-FINE's HGNetV2 at `stem` channels, its maps of strides 8, 16 and 32."""
    out = [stem, 2 * stem, 4 * stem, 8 * stem]
    return {
        "model_type": "hgnet_v2",
        "stem_channels": [3, stem // 2, stem],
        "stage_in_channels": [stem, *out[:-1]],
        "stage_mid_channels": [max(8, one // 2) for one in out],
        "stage_out_channels": out,
        "hidden_sizes": out,
        "stage_num_blocks": [1, 1, 1, 1],
        "stage_downsample": [False, True, True, True],
        "stage_light_block": [False, False, True, True],
        "stage_kernel_size": [3, 3, 5, 5],
        "stage_numb_of_layers": [2, 2, 2, 2],
        "embedding_size": stem,
        "out_features": ["stage2", "stage3", "stage4"],
    }


def _resnet(sizes: list[int], depths: list[int], *, out: list[str]) -> dict[str, Any]:
    """A small ResNet."""
    return {
        "model_type": "resnet",
        "embedding_size": sizes[0],
        "hidden_sizes": sizes,
        "depths": depths,
        "layer_type": "basic",
        "out_features": out,
    }


def _detr(width: int, *, queries: int, width_key: str = "d_model") -> dict[str, Any]:
    """A small DETR or Deformable DETR, without its backbone."""
    sides = ("encoder", "decoder")
    return {
        width_key: width,
        "num_queries": queries,
        **{f"{part}_layers": 2 for part in sides},
        **{f"{part}_ffn_dim": 2 * width for part in sides},
        **{f"{part}_attention_heads": 4 for part in sides},
        "dropout": 0.0,
        "auxiliary_loss": True,
    }


_TINY = [16, 32, 64, 128]
_LAST, _LAST_THREE = ["stage4"], ["stage2", "stage3", "stage4"]
_SMALL_BACKBONE = _resnet_d([32, 64, 128, 256], [1, 1, 1, 1], layer="basic", stem=32)
_TINY_BACKBONE = _resnet_d(_TINY, [1, 1, 1, 1], layer="basic", stem=16)

PRESETS: Mapping[str, Preset] = {
    "rtdetr_v2_tiny": Preset(
        "rt_detr_v2",
        {"backbone_config": _TINY_BACKBONE, **_small(32, queries=30, stem=16), "num_denoising": 20},
    ),
    "rtdetr_v2_small": Preset(
        "rt_detr_v2", {"backbone_config": _SMALL_BACKBONE, **_small(128, queries=60, stem=32, heads=8)}
    ),
    "rtdetr_tiny": Preset(
        "rt_detr", {"backbone_config": _TINY_BACKBONE, **_small(32, queries=30, stem=16), "num_denoising": 20}
    ),
    "d_fine_tiny": Preset(
        "d_fine", {"backbone_config": _hgnet(16), **_small(32, queries=30, stem=16), "num_denoising": 20}
    ),
    "d_fine_small": Preset("d_fine", {"backbone_config": _hgnet(32), **_small(128, queries=60, stem=32, heads=8)}),
    "detr_tiny": Preset(
        "detr",
        {"backbone_config": _resnet(_TINY, [1, 1, 1, 1], out=_LAST), **_detr(32, queries=20)},
        _IMAGENET,
    ),
    "deformable_detr_tiny": Preset(
        "deformable_detr",
        {"backbone_config": _resnet(_TINY, [1, 1, 1, 1], out=_LAST_THREE), **_detr(32, queries=20)},
        _IMAGENET,
    ),
    "conditional_detr_tiny": Preset(
        "conditional_detr",
        {"backbone_config": _resnet(_TINY, [1, 1, 1, 1], out=_LAST), **_detr(32, queries=20)},
        _IMAGENET,
    ),
    "dab_detr_tiny": Preset(
        "dab-detr",
        {"backbone_config": _resnet(_TINY, [1, 1, 1, 1], out=_LAST), **_detr(32, queries=20, width_key="hidden_size")},
        _IMAGENET,
    ),
    "table_transformer_tiny": Preset(
        "table-transformer",
        {"backbone_config": _resnet(_TINY, [1, 1, 1, 1], out=_LAST), **_detr(32, queries=20)},
        _IMAGENET,
    ),
    **{f"rtdetr_v2_r{depth}vd": Preset("rt_detr_v2", _rt_detr(depth), small=False) for depth in (18, 34, 50, 101)},
    **{f"rtdetr_r{depth}vd": Preset("rt_detr", _rt_detr(depth), small=False) for depth in (18, 34, 50, 101)},
    "detr_resnet_50": Preset("detr", {}, _IMAGENET, small=False),
    "deformable_detr": Preset("deformable_detr", {}, _IMAGENET, small=False),
}
"""The names that may follow ``hf:``, the smallest first."""
