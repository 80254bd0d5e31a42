"""Models of transformers' built from a configuration alone: nothing is fetched, and no code but transformers' runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from detdistill.detectors.hf.architectures import ARCHITECTURES
from detdistill.errors import ConfigError, MissingDependencyError, installing, suggestion

_NAMES = ("id2label", "label2id", "transformers_version", "architectures", "dtype", "_name_or_path")
_MOST_QUERIES = 10_000
_ANY_SIZE = {"anchor_image_size": None, "eval_size": None}


@contextmanager
def transformers() -> Iterator[Any]:
    """The package, which says nothing within but errors and draws no bars.

    Raises:
        MissingDependencyError: it, or SciPy, whose matching its losses need, is not installed.
    """
    try:
        import scipy.optimize  # noqa: F401
        import transformers as package
        from transformers.utils import logging
    except ImportError as error:
        raise MissingDependencyError(
            f"A detector of transformers' (hf:...) must have transformers and scipy installed, got {error}. "
            f"{installing('detdistill[detr]')}"
        ) from error
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield package
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def config_of(kind: str, changes: Mapping[str, Any], *, classes: int, wanted: Mapping[str, Any]) -> Any:
    """A configuration: the kind's defaults with changes, for images of any size.

    Args:
        kind: transformers' own name of the kind of model.
        changes: what is to differ.
        classes: how many, where the changes do not say it.
        wanted: what counts whatever the changes say, of the keys that the kind has.

    Raises:
        ConfigError: the kind is unknown, or a key or value is none of its configuration's.
    """
    if kind not in ARCHITECTURES:
        raise ConfigError(
            f"The kind of a detector of transformers' must be one of {', '.join(ARCHITECTURES)}, got '{kind}'. "
            f"{suggestion(kind, ARCHITECTURES, listed=True)}"
        )
    with transformers() as package:
        known = package.AutoConfig.for_model(kind).to_dict()
        unknown = [key for key in changes if key not in known and key not in ("num_labels", "model_type")]
        if unknown:
            raise ConfigError(
                f"student.config must have keys of {kind}'s configuration, got '{unknown[0]}'. "
                f"{suggestion(unknown[0], known)}"
            )
        given = {"num_labels": classes, **plain(changes)}
        given |= {key: value for key, value in {**_ANY_SIZE, **wanted}.items() if key in known}
        given.pop("model_type", None)
        try:
            found = package.AutoConfig.for_model(kind, **given)
            if not 1 <= (queries := ARCHITECTURES[kind](found).queries) <= _MOST_QUERIES:
                raise ValueError(f"{queries} queries, of which it can have 1 to {_MOST_QUERIES}")
            return found
        except Exception as error:  # its checks raise what they like
            raise unfit(kind, error) from error


def described(config: Any) -> dict[str, Any]:
    """A configuration as JSON can hold it, without the classes' names."""
    found: dict[str, Any] = _nameless(config.to_dict())
    return found | {"num_labels": config.num_labels}


def _nameless(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _nameless(value) for key, value in tree.items() if key not in _NAMES}
    return tree


def plain(tree: Any) -> Any:
    """A tree of mappings and sequences as dictionaries and lists."""
    if isinstance(tree, Mapping):
        return {key: plain(value) for key, value in tree.items()}
    return [plain(value) for value in tree] if isinstance(tree, (list, tuple)) else tree


def new_model(config: Any, *, learns: bool) -> Any:
    """A model in training mode with weights drawn from torch's global CPU generator.

    Batch-norms begin as torch begins them, with a scale of 1: transformers draws RT-DETR's around 0, at which every
    query of a fresh model says the same and nothing is learnt for long.

    Args:
        learns: whether all of the backbone learns, its norms too; else what transformers holds fast is held.

    Raises:
        ConfigError: the configuration's parts do not fit together.
    """
    with transformers() as package:
        try:
            model = package.AutoModelForObjectDetection.from_config(config)
        except Exception as error:
            raise unfit(config.model_type, error) from error
    if learns:
        _thaw(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return model.to(torch.float32).train()


def _thaw(model: nn.Module) -> None:
    """Puts batch-norms in the place of frozen ones, of the same tensors, and lets every layer learn."""
    for module in list(model.modules()):
        for name, part in list(module.named_children()):
            if "FrozenBatchNorm" in type(part).__name__:
                setattr(module, name, nn.BatchNorm2d(len(part.get_buffer("weight"))))
    for name, parameter in model.named_parameters():
        if "backbone" in name.split("."):
            parameter.requires_grad_(True)


def unfit(kind: str, error: Exception) -> ConfigError:
    """What there is to say of a configuration whose parts do not fit together."""
    said = " ".join(str(error).split())
    return ConfigError(
        f"student.config must fit together as a configuration of {kind}, got: {said[:200] or type(error).__name__}. "
        "Leave out what was changed last."
    )
