"""torchvision's ImageNet weights for `weights=imagenet`, from torch.hub's cache or downloaded to it.

These are IMAGENET1K_V1, with which the papers' trainings start, not the newer IMAGENET1K_V2.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torchvision.models import get_model_weights

from vsn_train.errors import InputError

IMAGENET = "imagenet"  # given instead of a file name


def imagenet_file(arch: str, urls: Mapping[str, str] | None = None) -> Path:
    """The file with the weights of a network, with verified hash.

    arch: see `create_model`. urls: arch -> URL that ends in <name>-<first hex digits of SHA-256>.pth; None:
    torchvision's. Raises InputError if the file is not in the cache and cannot be downloaded, or has another hash.
    """
    url = urls[arch] if urls else get_model_weights(arch)["IMAGENET1K_V1"].url
    name = url.rpartition("/")[2]
    digits = Path(name).stem.rpartition("-")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digits, progress=sys.stderr.isatty())
        except (OSError, RuntimeError) as error:  # no network, no place; another hash
            raise InputError(
                f"weights={IMAGENET}: {url} cannot be downloaded ({error}); download it elsewhere and copy it to "
                f"{path}, or use a local file: weights=FILE"
            ) from error
    with path.open("rb") as file:
        found = hashlib.sha256()
        while block := file.read(1 << 20):
            found.update(block)
    if not found.hexdigest().startswith(digits):
        raise InputError(
            f"weights={IMAGENET}: {path} is not the file of {url}: its SHA-256 starts with "
            f"{found.hexdigest()[: len(digits)]}, expected {digits}; remove it to download it again"
        )
    return path
