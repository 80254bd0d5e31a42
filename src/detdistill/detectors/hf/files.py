"""A detector in a folder as transformers' `save_pretrained` writes it: read without a pickle and without its code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detdistill.detectors.hf.architectures import ARCHITECTURES
from detdistill.detectors.hf.boxes import BOXES_ALONE
from detdistill.detectors.hf.building import described, transformers
from detdistill.detectors.preprocess import Channels
from detdistill.errors import ConfigError
from detdistill.files import read_json

PREFIX = "hf:"
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_NO_CLASS = "N/A"


@dataclass(frozen=True, slots=True)
class Described:
    """What a folder says of its detector.

    Attributes:
        kind: transformers' own name of the kind of model.
        config: the whole configuration.
        classes: names by the model's own index, those that it has no name for left out.
        pixels: mean and std, of pixels in [0, 1]; None each where nobody says.
        image: the size of its images, as `data.image` has it; empty where nobody says.
        stretched: height and width to which its own images were stretched; None where they kept their ratio.
    """

    kind: str
    config: Mapping[str, Any]
    classes: Mapping[int, str]
    pixels: tuple[Channels | None, Channels | None]
    image: Mapping[str, int]
    stretched: tuple[int, int] | None


def is_folder(name: str) -> bool:
    """Whether it is a folder of transformers'."""
    return (Path(name).expanduser() / CONFIG).is_file()


def moved(text: str, change: Callable[[str], str]) -> str:
    """A text ``hf:FOLDER`` with its path changed; one that names no folder that is there as it is."""
    name = text.removeprefix(PREFIX)
    return f"{PREFIX}{change(name)}" if Path(name).expanduser().is_dir() and not name.startswith("~") else text


def read_folder(name: str | Path) -> Described:
    """What there is beside the weights.

    Raises:
        ConfigError: the configuration is of no kind of detector that there is here, or needs code of its own.
    """
    folder = Path(name).expanduser()
    content = read_json(folder / CONFIG)
    kind = str(content.get("model_type")) if isinstance(content, dict) else ""
    if kind not in (known := (*ARCHITECTURES, *BOXES_ALONE)):
        raise ConfigError(
            f"The model_type in {folder / CONFIG} must be one of {', '.join(known)}, got '{kind}'. Take a detector of "
            "one of these kinds."
        )
    with transformers() as package:
        try:
            config = package.AutoConfig.for_model(kind).from_pretrained(folder, local_files_only=True)
        except (OSError, TypeError, ValueError, KeyError) as error:
            raise ConfigError(
                f"{folder / CONFIG} must be a configuration of {kind}, got: {' '.join(str(error).split())[:200]}. "
                "Restore the file as it was written."
            ) from error
    names = {int(slot): str(one) for slot, one in config.id2label.items() if str(one) != _NO_CLASS}
    processor = read_json(folder / PROCESSOR) if (folder / PROCESSOR).is_file() else {}
    image, stretched = _image(processor.get("size"))
    return Described(kind, described(config), names, _pixels(processor), image, stretched)


def _pixels(processor: Mapping[str, Any]) -> tuple[Channels | None, Channels | None]:
    """Mean and std of pixels in [0, 1], whatever the processor multiplies pixels up to 255 by."""
    if not processor:
        return None, None
    scale = 255 * float(processor.get("rescale_factor", 1 / 255)) if processor.get("do_rescale", True) else 255.0
    normalises = processor.get("do_normalize", True) and processor.get("image_mean") and processor.get("image_std")
    mean, std = (processor["image_mean"], processor["image_std"]) if normalises else ([0.0] * 3, [1.0] * 3)
    return tuple(one / scale for one in mean), tuple(one / scale for one in std)  # type: ignore[return-value]


def _image(size: Any) -> tuple[dict[str, int], tuple[int, int] | None]:
    """Our words for a processor's size, and the height and width to which it stretches images."""
    if not isinstance(size, Mapping):
        return {}, None
    given = {key: int(value) for key, value in size.items() if isinstance(value, int)}
    short, long = given.get("shortest_edge"), given.get("longest_edge")
    stretched = (given["height"], given["width"]) if "height" in given and "width" in given else None
    if short is None:
        sides = [given[key] for key in ("height", "width", "max_height", "max_width") if key in given]
        if not sides:
            return {}, None
        short, long = min(sides), max(sides)
    return {"short_side": short, "long_side": max(short, long or short), "pad_multiple": 32}, stretched


def require_safe(folder: Path) -> None:
    """Refuses a folder whose weights are not in safetensors.

    Raises:
        ConfigError: it has a pickle alone, or no weights.
    """
    if any((folder / name).is_file() for name in _WEIGHTS):
        return
    pickled = sorted(one.name for one in folder.glob("*.bin"))
    if pickled:
        raise ConfigError(
            f"The weights in {folder} must be {_WEIGHTS[0]}, got {pickled[0]}, a pickle, which can run code when it is "
            "read. Save the model by transformers' save_pretrained where you trust it, and give that folder."
        )
    raise ConfigError(
        f"{folder} must hold {_WEIGHTS[0]}, got no weights. Give the folder that transformers' save_pretrained wrote."
    )
