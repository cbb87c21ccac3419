"""Compare the videos and classes of a resumed run with those at its start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vsn_train.data.datasets.listing import class_name_of
from vsn_train.data.manifest import Manifest
from vsn_train.engine.state import Checkpoint
from vsn_train.errors import InputError

FOLDER = "manifests"  # in the run folder: train.npz and val.npz, whose hashes are in the checkpoint


def save_manifests(run_folder: Path, manifests: Sequence[Manifest]) -> None:
    """Save the manifests, to compare the videos of a resumed run with; a checkpoint has only their hashes."""
    (run_folder / FOLDER).mkdir(parents=True, exist_ok=True)
    for manifest in manifests:
        manifest.save(run_folder / FOLDER / f"{manifest.split}.npz")


def check_same_classes(checkpoint: Checkpoint, path: Path, manifest: Manifest) -> None:
    """Raise InputError if names or order of the classes have changed: scores would belong to other classes."""
    before, now = checkpoint.class_names, list(manifest.class_names)
    if list(map(class_name_of, before)) == list(map(class_name_of, now)):
        return
    where = next((i for i, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), min(len(before), len(now)))
    gone, added = [name for name in before if name not in set(now)], [name for name in now if name not in set(before)]
    parts = [f"{len(names)} {what} (first {names[0]!r})" for names, what in ((gone, "gone"), (added, "new")) if names]
    raise InputError(
        f"cannot resume from {path}: its classes are not those of {manifest.root}: {len(before)} then, {len(now)} now, "
        f"{', '.join(parts) or 'the same names in another order'}; they differ first at index {where}; restore the "
        "classes, or start a new run in another hydra.run.dir"
    )


def differing_videos(checkpoint: Checkpoint, manifests: Sequence[Manifest], run_folder: Path) -> list[str]:
    """The changes in each split, with counts and first names; empty if there are none or the file is too old to tell.

    manifests: the current ones of the training and the validation split.
    """
    lines: list[str] = []
    for manifest, before in zip(manifests, checkpoint.manifests, strict=False):
        if manifest.content_hash() == before:
            continue
        kind = {"train": "training", "val": "validation"}.get(manifest.split, manifest.split)
        earlier = _earlier(run_folder / FOLDER / f"{manifest.split}.npz", before)
        lines += _differences(earlier, manifest, kind) if earlier else [f"the {kind} videos or their labels differ"]
    return lines


def _earlier(path: Path, content_hash: str) -> Manifest | None:
    """The manifest with that hash; None if it was not saved or has another hash."""
    try:
        found = Manifest.load(path)
    except InputError:
        return None
    return found if found.content_hash() == content_hash else None


def _differences(before: Manifest, now: Manifest, kind: str) -> list[str]:
    then, here = _labels(before), _labels(now)
    changes = {
        "gone": [name for name in then if name not in here],
        "new": [name for name in here if name not in then],
        "of another class": [name for name in here if name in then and here[name] != then[name]],
    }
    lines = []
    for what, names in changes.items():
        if names:
            was = f" of {len(then)}" if what != "new" else ""
            lines.append(f"{len(names)}{was} {kind} videos {what}, first {names[0].decode()}")
    return lines or [f"the {kind} videos are the same in another order"]


def _labels(manifest: Manifest) -> dict[bytes, int]:
    return dict(zip(manifest.ids.tolist(), manifest.labels.tolist(), strict=True))
