"""From the name a user gives a model to the folders its weights are in."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from rlhf.engine import embedded

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
MEMBER = "member_"  # an ensemble's run holds its reward models in folders of this name and a number from 1
# Weights that run code when they are opened (pickles) are not fetched.
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
HUB_FILES_IGNORED = ["onnx/*", "openvino/*", "original/*", "runs/*"]
ACCEPTED = (
    f"accepted are {embedded.NAME!r} (the embedded model), a folder with config.json or adapter_config.json, "
    "and a hub name like 'organisation/model'"
)


@dataclass(frozen=True)
class ModelSource:
    """Where a model's weights are.

    `backbone` is a folder with config.json, `adapter` a folder with adapter_config.json or None, `name` what the user
    called the model, and `quantization` how the backbone was loaded when the adapter was trained.
    """

    backbone: Path
    adapter: Path | None
    name: str
    quantization: str = "none"


def resolve_model(name: str | Path) -> ModelSource:
    """The folders behind `name`: the embedded model, a local folder, or a model that the hub gives.

    The folder of a run that trained an adapter names its backbone; a relative name in it is looked up from
    that folder first, then from the current one.

    Raises ValueError when `name` is none of these or cannot be had.
    """
    name = str(name)
    if not name.strip():
        raise ValueError(f"the model's name is empty; {ACCEPTED}")
    folder = _model_folder(name)
    adapter_config = folder / "adapter_config.json"
    if not adapter_config.is_file():
        return ModelSource(folder, None, name)
    return ModelSource(_backbone_of(adapter_config), folder, name, quantization_of(folder))


def reward_members(folder: str | Path) -> list[Path]:
    """The reward models that a folder stands for: the members of its ensemble in order, else the folder itself.

    Raises:
        ValueError: a member of the ensemble is missing.
    """
    folder = Path(folder)
    found = [path for path in folder.glob(f"{MEMBER}*") if path.is_dir()]
    if not found:
        return [folder]
    members = [folder / f"{MEMBER}{number}" for number in range(1, len(found) + 1)]
    missing = sorted(path.name for path in set(members) - set(found))
    if missing:
        raise ValueError(f"{folder} holds {len(found)} members of an ensemble and no {missing[0]}: its run did not end")
    return members


def quantization_of(run: Path) -> str:
    """What the configuration of a run of this framework says; adapters from elsewhere have none."""
    config = run / "config.yaml"
    settings = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else None
    return str(settings.get("quantization", "none")) if isinstance(settings, dict) else "none"


def _model_folder(name: str) -> Path:
    """A folder with config.json or adapter_config.json, embedded, from the disk or from the hub."""
    if name == embedded.NAME:
        return embedded.materialise()
    folder = Path(name).expanduser()
    if not folder.exists():
        folder = _fetch_from_hub(name)
    if not folder.is_dir():
        raise ValueError(f"model {name!r} is a file; {ACCEPTED}")
    if not any((folder / file).is_file() for file in ("config.json", "adapter_config.json")):
        raise ValueError(f"model {name!r}: {folder} has neither config.json nor adapter_config.json; {ACCEPTED}")
    return folder.absolute()


def _backbone_of(adapter_config: Path) -> Path:
    """The backbone that an adapter was trained on, as its configuration names it."""
    field = "base_model_name_or_path"
    try:
        base = json.loads(adapter_config.read_text(encoding="utf-8")).get(field)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{adapter_config} is not a JSON object ({error})") from error
    if not isinstance(base, str) or not base:
        raise ValueError(f"{adapter_config}: field {field!r} is {base!r}; name the backbone there")
    beside = adapter_config.parent / base
    try:
        backbone = _model_folder(str(beside) if base != embedded.NAME and beside.is_dir() else base)
    except ValueError as error:
        raise ValueError(f"{adapter_config}: field {field!r}: {error}") from error
    if (backbone / "adapter_config.json").is_file():
        raise ValueError(
            f"{adapter_config}: field {field!r} names {base!r}, which is an adapter itself; "
            "merge that adapter into its backbone and name the merged folder"
        )
    return backbone


def _fetch_from_hub(name: str) -> Path:
    """Folder of the hub's model `name` in the hub's own cache."""
    if not HUB_NAME.fullmatch(name):
        raise ValueError(f"model {name!r} is not known; {ACCEPTED}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        folder = snapshot_download(name, allow_patterns=HUB_FILES, ignore_patterns=HUB_FILES_IGNORED)
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"model {name!r} is no local folder and could not be had from the hub ({reason}); {ACCEPTED}"
        ) from error
    if not any(Path(folder).glob("*.safetensors")):
        raise ValueError(f"model {name!r} has no safetensors weights on the hub; choose one that has")
    return Path(folder)
