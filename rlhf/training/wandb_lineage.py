"""What a run was made from and what it made, as artifacts of Weights & Biases: data -> reward model -> policy.

Data and models that a run starts from are its inputs, its adapter and head its output. Of a data file goes out what
identifies it, its name, SHA-256 and number of rows, and none of its content.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.training.wandb_session import is_offline, read_identity, staging, warn

OUTPUT_FILES = ("adapter_config.json", "adapter_model.safetensors", "*_head.safetensors")
COUNTED_ENDINGS = (".jsonl", ".ndjson")
HASH_LENGTH = 12  # hexadecimal digits of a data file's SHA-256 in its artifact's name


def record_data(run: Any, data: Mapping[str, str]) -> None:
    """Record data files, by path with their SHA-256, as inputs of type `dataset`; online and offline.

    The public `use_artifact` refuses offline runs and waits for the server online. What it calls does neither: the
    record says that the artifact is an input, and whoever sends it acts on that.
    """
    for path, sha256 in data.items():
        try:
            artifact = data_artifact(Path(path), sha256)
            run._log_artifact(artifact, is_user_created=True, use_after_commit=True)
        except Exception as error:  # the model's metadata names the file all the same
            warn(f"data file {path} is not recorded as an input: {' '.join(str(error).split())}")


def data_artifact(path: Path, sha256: str) -> Any:
    """An artifact that stands for a data file's content without holding it."""
    import wandb

    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem)[:64]
    metadata = {"name": path.name, "sha256": sha256, "rows": _count_rows(path)}
    artifact = wandb.Artifact(f"{stem}-{sha256[:HASH_LENGTH]}", type="dataset", metadata=metadata)
    # a reference of a scheme that W&B does not know: it keeps the text, and opens nothing
    artifact.add_reference(f"sha256:{sha256}", name=path.name, checksum=False)
    return artifact


def _count_rows(path: Path) -> int | None:
    """Lines of a JSON Lines file that are not empty; None for other files."""
    if path.suffix not in COUNTED_ENDINGS:
        return None
    with path.open("rb") as lines:
        return sum(bool(line.strip()) for line in lines)


def link_parents(run: Any, parents: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """The models that a run was made from; those that W&B tracked are named, and linked when online."""
    linked = {name: dict(parent) for name, parent in parents.items()}
    for name, parent in linked.items():
        artifact = read_identity(Path(parent["path"])).get("artifact")
        if artifact is None:
            continue
        parent["artifact"] = artifact
        if not is_offline(run):  # offline it raises
            try:
                run.use_artifact(artifact)
            except Exception as error:  # not uploaded, say: the metadata names it all the same
                warn(f"the {name}'s artifact {artifact} is not linked: {' '.join(str(error).split())}")
    return linked


def log_output(run: Any, folder: Path, stage: str, *, parents: Mapping[str, Any], data: Mapping[str, str]) -> str:
    """Hand over adapter and head, never the backbone; gives the artifact's name for runs that start from it."""
    import wandb

    adapter = folder / "adapter"
    output = adapter if adapter.is_dir() else folder  # SFT keeps its adapter beside the merged model
    name = f"{stage}-{run.id}"
    metadata = {"stage": stage, "parents": parents, "data": data}
    artifact = wandb.Artifact(name, type="model", metadata=metadata)
    with staging(run):
        for file in sorted(file for pattern in OUTPUT_FILES for file in output.glob(pattern)):
            artifact.add_file(str(file), name=file.name)
        run.log_artifact(artifact)
    owner = [run.entity] if run.entity else []
    return "/".join([*owner, run.project, f"{name}:latest"])
