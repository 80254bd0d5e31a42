"""A timm backbone with a feature pyramid on top, its normalisation and its frozen part as asked."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, Self

import timm
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool

from detdistill.detectors.anatomy import Sides, anatomy
from detdistill.detectors.load_report import load_tensors, require_finite
from detdistill.detectors.settings import PyramidSettings, check_backbone
from detdistill.errors import ConfigError, MissingDependencyError, astray, typed

# A file that is no checkpoint fails wherever torch's unpickler happens to trip over it.
_UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError)
_BROKEN_FILE = (*_UNREADABLE, UnpicklingError, SafetensorError)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group-norm whose groups fit the width: at most 32 of them, at least 8 channels each (or one group)."""
    most = max(1, min(32, channels // 8))
    return nn.GroupNorm(max(groups for groups in range(1, most + 1) if channels % groups == 0), channels)


_FPN_NORMS: dict[str, Callable[[int], nn.Module] | None]
_FPN_NORMS = {"none": None, "batch": nn.BatchNorm2d, "group": group_norm}


class ExtraLevels(ExtraFPNBlock):  # type: ignore[misc]
    """Coarser levels below the FPN's last: convolutions of stride 2, a ReLU before each but the first."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, 2, 1) for _ in range(levels))
        for conv in self.convs.children():
            if isinstance(conv, nn.Conv2d) and conv.bias is not None:
                nn.init.kaiming_uniform_(conv.weight, a=1)
                nn.init.zeros_(conv.bias)

    def forward(
        self, results: list[Tensor], features: list[Tensor], names: list[str]
    ) -> tuple[list[Tensor], list[str]]:
        """`results` and `names`, longer by the extra levels."""
        last = results[-1]
        for index, conv in enumerate(self.convs):
            last = conv(last if index == 0 else last.relu())
            results.append(last)
            names.append(f"extra{index}")
        return results, names


class PyramidBackbone(nn.Module):
    """Normalised images in, pyramid levels out, fine to coarse; torchvision's detectors accept it as `backbone`.

    The levels' names are "0", "1", ... and "pool" for one that only subsamples.
    """

    def __init__(
        self, body: Any, fpn: FeaturePyramidNetwork, settings: PyramidSettings, *, pools: bool, frozen: list[nn.Module]
    ) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn
        self.name = settings.backbone
        self.sides = anatomy(settings.backbone).sides or Sides()
        self._strides = tuple(body.feature_info.reduction())
        self.out_channels = settings.fpn_channels
        levels = [str(level) for level in range(len(settings.strides))]
        self._level_names = [*levels[:-1], "pool"] if pools else levels
        self._channels_last_axis = "NHWC" in str(getattr(body, "output_fmt", ""))
        names = {id(module): name for name, module in body.named_modules()}
        self._frozen_names = tuple(names[id(module)] for module in frozen)
        self.train(self.training)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> OrderedDict[str, Tensor]:
        """The pyramid's levels by name. Gradients flow to the images and to what is not frozen.

        Images are padded with zeros to what the body takes, and its maps cut to the images.

        Raises:
            ConfigError: the images are larger than the body takes.
        """
        height, width = images.shape[-2:]
        padded = self.sides.padded(height, width, name=self.name)
        if padded != (height, width):
            images = functional.pad(images, (0, padded[1] - width, 0, padded[0] - height))
        maps = self.body(images)
        if self._channels_last_axis:
            maps = [level.permute(0, 3, 1, 2).contiguous() for level in maps]
        if padded != (height, width):
            cells = [(-(-height // stride), -(-width // stride)) for stride in self._strides]
            maps = [level[..., :rows, :columns] for level, (rows, columns) in zip(maps, cells, strict=True)]
        levels = self.fpn(OrderedDict(zip(self._level_names, maps, strict=False)))
        return OrderedDict(zip(self._level_names, levels.values(), strict=True))

    def train(self, mode: bool = True) -> Self:
        """As always, except that what is frozen stays in eval mode."""
        super().train(mode)
        for name in self._frozen_names:
            self.body.get_submodule(name).eval()
        return self


def build_backbone(settings: PyramidSettings, *, extra: Literal["conv", "pool"] = "conv") -> PyramidBackbone:
    """The timm backbone that a detector's settings ask for, with an FPN that gives maps at exactly `settings.strides`.

    Strides the backbone has come from it; coarser ones are added after the FPN: by convolutions of stride 2, or (one
    level only) by subsampling, as `extra` says. Weights that are not `settings.pretrained` are drawn from torch's
    global CPU generator.

    Raises:
        ConfigError: unknown name, strides that the backbone does not have, weights that do not fit.
        MissingDependencyError: `settings.pretrained` is True and the weights cannot be downloaded.
    """
    name, strides, channels = settings.backbone, settings.strides, settings.fpn_channels
    check_backbone(name)
    indices, extras = _choose_levels(name, strides)
    if anatomy(name).sides is None:
        raise ConfigError(
            f"The maps of the backbone '{name}' must have the cells that its strides {anatomy(name).strides} say, got "
            "others. Take another backbone, such as resnet18."
        )
    body = _create_body(name, indices, pretrained=settings.pretrained)
    if settings.norm == "group":
        _replace_batch_norm(body)
    frozen = _freeze(body, stages=settings.freeze_stages)
    if settings.norm in ("frozen", "frozen_statistics"):
        norms = [module for module in body.modules() if isinstance(module, nn.BatchNorm2d)]
        frozen += norms
        if settings.norm == "frozen":
            for module in norms:
                module.requires_grad_(False)
    pools = bool(extras) and extra == "pool"
    if pools and extras > 1:
        raise ConfigError(
            f"student.strides must ask for at most one level beyond the backbone '{name}', got {strides}. "
            f"Set student.strides={typed(strides[: len(indices) + 1])}."
        )
    block = LastLevelMaxPool() if pools else ExtraLevels(channels, extras) if extras else None
    norm = _FPN_NORMS[settings.fpn_norm]
    fpn = FeaturePyramidNetwork(body.feature_info.channels(), channels, extra_blocks=block, norm_layer=norm)
    return PyramidBackbone(body, fpn, settings, pools=pools, frozen=frozen)


def _choose_levels(name: str, strides: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """Which of the backbone's own maps to take, as negative indices, and how many levels to add."""
    offered = anatomy(name).strides
    position = dict(zip(offered, anatomy(name).indices, strict=True))
    own = [stride for stride in strides if stride <= offered[-1]]
    if not own or any(stride not in position for stride in own):
        remedy, first = "Take another backbone", offered[-1]
        while first // 2 in position and first > strides[0]:
            first //= 2
        if first.bit_count() == 1:
            fitting = [first * 2**level for level in range(max(1, strides[-1] // first).bit_length())]
            remedy += f", or set student.strides={typed(fitting)}"
        raise ConfigError(
            f"student.strides must start at strides that the backbone '{name}' has, {tuple(sorted(position))}, "
            f"got {strides}. {remedy}."
        )
    return tuple(position[stride] for stride in own), len(strides) - len(own)


def _create_body(name: str, indices: tuple[int, ...], *, pretrained: bool | str | None) -> Any:
    arguments = {"features_only": True, "out_indices": indices, **anatomy(name).arguments}
    if pretrained is not True:
        body = timm.create_model(name, **arguments)
        if isinstance(pretrained, str):
            _load_body(body, name, Path(pretrained))
        return body
    try:
        return timm.create_model(name, pretrained=True, **arguments)
    except (OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise MissingDependencyError(
            f"The pretrained weights of '{name}' must be downloadable or cached, got the error '{reason}'. "
            "Give student.pretrained the path of a state dict (.safetensors or .pth) instead of true, or null."
        ) from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a .pth file read with ``weights_only=True``.

    Raises:
        ConfigError: the file is missing, unreadable, or holds something else than named tensors.
    """
    if not path.is_file():
        raise ConfigError(f"The weights {path} must be a file, got none there. {astray(path)}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _BROKEN_FILE as error:
        raise ConfigError(
            f"The weights {path} must be a state dict in .safetensors or .pth, got a file that cannot be read "
            f"({type(error).__name__}). Save the state dict alone with safetensors."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ConfigError(
            f"The weights {path} must be a state dict, got something else. Save model.state_dict() alone."
        )
    return content


def _names_in_extractor(name: str) -> tuple[str, ...]:
    """timm's feature extractors keep a module's name, flatten the first dot, or put the model below "model"."""
    return name, name.replace(".", "_", 1), f"model.{name}"


def _load_body(body: Any, name: str, path: Path) -> None:
    given, wanted = read_state_dict(path), body.state_dict()
    require_finite(given, source=str(path))
    with torch.device("meta"):
        whole = timm.create_model(name, **anatomy(name).arguments).state_dict()
    named: dict[str, Tensor] = {}
    for key, value in given.items():
        inside = next((name for name in _names_in_extractor(key) if name in wanted), None)
        if inside is not None or key not in whole:
            named[inside or key] = value
    report = load_tensors(body, named, source=str(path))
    if report.fraction < 1 or report.unexpected:
        raise ConfigError(
            f"The weights {path} must fit timm's '{name}' in timm's names (its classifier aside), got tensors that do "
            f"not:\n{report.text()}\nGive the file of this very model."
        )


def _freeze(body: Any, *, stages: int) -> list[nn.Module]:
    """Stops the training of all that computes maps up to stride 2^(stages+1); the modules to keep in eval mode."""
    if stages == 0:
        return []
    last = max((i for i in body.feature_info.info if i["reduction"] <= 2 ** (stages + 1)), key=lambda i: i["reduction"])
    starts = tuple(f"{name}." for name in _names_in_extractor(last["module"]))
    names, modules = zip(*body.named_modules(), strict=True)
    reached = [index for index, name in enumerate(names) if f"{name}.".startswith(starts)]
    for module in modules[1 : max(reached, default=0) + 1]:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
    learning = ((module, [one.requires_grad for one in module.parameters()]) for module in modules[1:])
    return [module for module, learns in learning if learns and not any(learns)]


def _replace_batch_norm(module: nn.Module) -> None:
    """Group-norm in the place of every batch-norm below `module`, with the same scale, shift and activation."""
    for name, child in module.named_children():
        if not isinstance(child, nn.BatchNorm2d):
            _replace_batch_norm(child)
            continue
        norm = group_norm(child.num_features)
        norm.load_state_dict({"weight": child.weight.detach(), "bias": child.bias.detach()})
        norm.requires_grad_(child.weight.requires_grad)
        norm.train(child.training)
        after = list(child.children())  # timm's fused norms carry their activation
        setattr(module, name, nn.Sequential(norm, *after) if after else norm)
