"""Puts a run's student into a hub of models, or into a folder that is laid out as one."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detdistill.data.writing import require_empty
from detdistill.detectors.families.own import OwnSettings
from detdistill.detectors.frozen import digest
from detdistill.detectors.hf.files import PREFIX
from detdistill.detectors.hf_teachers import without_bars
from detdistill.errors import ConfigError
from detdistill.export.parity import MOST_LOST, MOST_LOST_INT8, STUDENT, Agreement, proof_of
from detdistill.files import atomic_folder, read_json, write_bytes, write_text
from detdistill.progress import Progress, Silence, in_bytes
from detdistill.report.card import Exported, model_card
from detdistill.report.page.gather import gather
from detdistill.store.layout import DESCRIPTION, WEIGHTS, RunFolder
from detdistill.store.students import load_detector, save_detector
from detdistill.store.sums import SHA256

CARD = "README.md"
EXPORTED = "model.onnx"
FILES = (CARD, DESCRIPTION, WEIGHTS)
"""All that leaves this machine, and EXPORTED where it is asked for."""
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9]([\w.-]{0,94}\w)?", flags=re.ASCII)
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")


@dataclass(frozen=True, slots=True)
class PushOutcome:
    """What was pushed.

    Attributes:
        name: ``"OWNER/NAME"``.
        place: the address of the repository, or the folder.
        sizes: of the files, in bytes.
    """

    name: str
    place: str
    sizes: Mapping[str, int]

    def table(self) -> list[str]:
        """The files, where they are, and how they are loaded."""
        files = ", ".join(f"{name} ({in_bytes(size)})" for name, size in self.sizes.items())
        source = self.name if "://" in self.place else self.place
        return [f"{files} in {self.place}", f'detdistill.load_detector("{PREFIX}{source}") reads it']

    def as_dict(self) -> Mapping[str, Any]:
        """The same for JSON."""
        return {"name": self.name, "place": self.place, "bytes": dict(self.sizes)}


def push_job(
    path: Path,
    text: str,
    *,
    to_folder: Path | None = None,
    onnx: Path | None = None,
    licence: str | None = None,
    public: bool = False,
    progress: Progress | None = None,
) -> PushOutcome:
    """Puts a student into a hub; the words are those of `detdistill.push`."""
    watcher = progress or Silence()
    name = _name(text)
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise ConfigError(
            f"--licence must be a licence as the hub writes it, got {licence!r}. "
            "Write for example --licence apache-2.0."
        )
    if to_folder is not None:
        require_empty(to_folder)
        with atomic_folder(to_folder) as folder:
            sizes = _filled(folder, path, name, licence, onnx)
        return PushOutcome(name, str(to_folder), sizes)
    token = _token(name)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sizes = _filled(folder, path, name, licence, onnx)
        watcher.say(f"uploading {', '.join(sizes)} to {name}")
        place = _uploaded(folder, name, token=token, public=public)
    return PushOutcome(name, place, sizes)


def _name(text: str) -> str:
    name = text.removeprefix(PREFIX)
    if not text.startswith(PREFIX) or not _NAME.fullmatch(name) or "--" in name or ".." in name:
        raise ConfigError(
            f"The place to push to must be {PREFIX}OWNER/NAME, of letters, digits, -, _ and ., got {text!r}. "
            f"Write for example {PREFIX}me/my-detector."
        )
    return name


def _filled(folder: Path, path: Path, name: str, licence: str | None, onnx: Path | None) -> dict[str, int]:
    """Writes the files of a run's student, and returns their sizes in bytes."""
    found = gather(path)
    if not RunFolder(path).config.is_file():
        raise ConfigError(
            f"{path} must be the folder of one training or distillation, got that of several. Give one in it."
        )
    loaded = load_detector(path)
    settings = loaded.detector.settings
    if settings is None or isinstance(settings, OwnSettings):
        raise ConfigError(
            f"The student of {path} must be of a family that detdistill builds, got code of your own, which is not "
            "uploaded. Copy its run together with that code."
        )
    proof = None
    if onnx is not None:
        proof, content = _proved(onnx, run=path, student=digest(loaded.detector))
        write_bytes(folder / EXPORTED, content)
    save_detector(loaded.detector, folder, image=loaded.image)
    data = found.settings.get("data", {})
    source = next((str(data[key]) for key in ("folder", "val", "train") if data.get(key)), "")
    card = model_card(
        name,
        found=found,
        class_names=loaded.class_names,
        image=loaded.image,
        family=settings.family,
        parameters=sum(one.numel() for one in loaded.detector.parameters()),
        data=Path(source).name or "not recorded",
        licence=licence,
        exported=proof,
    )
    write_text(folder / CARD, card)
    return {one: (folder / one).stat().st_size for one in (*FILES, EXPORTED) if (folder / one).is_file()}


def _proved(path: Path, *, run: Path, student: str) -> tuple[Exported, bytes]:
    """An exported file's figures, and its content.

    Args:
        student: the digest of the run's student, which it must be.

    Raises:
        ConfigError: it is no such file, another than its figures are of, or worse than PyTorch.
    """
    figures, content, why = proof_of(path), b"", None
    proof: Any = read_json(figures) if figures.is_file() else None
    if path.suffix != ".onnx" or not path.is_file():
        why = "which is no .onnx that is there"
    elif not isinstance(proof, dict) or not {STUDENT, SHA256} <= proof.keys():
        why = f"without its figures in {figures.name}"
    elif proof[SHA256] != hashlib.sha256(content := path.read_bytes()).hexdigest():
        why = f"which is another than {figures.name} tells of"
    elif proof[STUDENT] != student:
        why = "which holds another student"
    if why is not None:
        raise ConfigError(
            f"--onnx must be what detdistill export made of {run}, got {path}, {why}. "
            f"Write detdistill export {run} --out {path.with_suffix('.onnx')} first."
        )
    if (lost := proof["ap_lost"]) > (most := MOST_LOST_INT8 if proof["bits"] == 8 else MOST_LOST):
        raise ConfigError(
            f"The AP of {path} must be at most {most} points below PyTorch's, got {lost:.2f} below. Leave --onnx out."
        )
    return Exported(EXPORTED, proof, Agreement(**proof["agreement"]).text()), content


def _token(name: str) -> str:
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise ConfigError(
            f"The hub must be reachable for {PREFIX}{name}, got HF_HUB_OFFLINE=1. Unset it, or add --to-folder FOLDER."
        )
    token = get_token()
    if token is None:
        raise ConfigError(
            f"A token of the hub must be there to push {PREFIX}{name}, got none. "
            "Log in by hf auth login, or set HF_TOKEN."
        )
    return token


def _uploaded(folder: Path, name: str, *, token: str, public: bool) -> str:
    """The address of the repository that the files are in."""
    from huggingface_hub import HfApi

    hub = HfApi(token=token)
    try:
        with without_bars():
            there = hub.list_repo_files(name) if hub.repo_exists(name) else []
            if DESCRIPTION not in there and {*there} - {".gitattributes"}:
                raise ConfigError(
                    f"{PREFIX}{name} must be new or hold a detector that push wrote, got a repository of other files. "
                    "Give another name."
                )
            place = hub.create_repo(name, private=not public, repo_type="model", exist_ok=True)
            hub.upload_folder(
                repo_id=name,
                folder_path=folder,
                repo_type="model",
                allow_patterns=[*FILES, EXPORTED],
                delete_patterns=[EXPORTED],  # of the student that was there before
                commit_message="A detector by detdistill",
            )
    except ConfigError:
        raise
    except Exception as error:  # of the network or the hub
        said = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        raise ConfigError(
            f"{PREFIX}{name} must take the upload, got: {said}. Check the name, the token's rights and the network."
        ) from error
    return str(place)
