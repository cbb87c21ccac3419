"""torchvision's ImageNet weights, `weights=imagenet`: from torch.hub's cache, or downloaded into it.

Of the two sets of weights that torchvision has for some networks it is the first, IMAGENET1K_V1, with which the papers
here start.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torchvision.models import get_model_weights

from vsn_train.errors import InputError

IMAGENET = "imagenet"  # what is written in place of a file's name


def imagenet_file(arch: str, urls: Mapping[str, str] | None = None) -> Path:
    """The file with the weights of a network, its hash checked.

    arch: as of `create_model`. urls: arch -> address, which ends in <name>-<first hex digits of SHA-256>.pth; None:
    torchvision's. Raises InputError where the file is neither in the cache nor can be downloaded, or is another one.
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
                f"weights={IMAGENET}: {url} cannot be downloaded ({error}); download it elsewhere and put it at "
                f"{path}, or name a file that is here: weights=FILE"
            ) from error
    with path.open("rb") as file:
        found = hashlib.sha256()
        while block := file.read(1 << 20):
            found.update(block)
    if not found.hexdigest().startswith(digits):
        raise InputError(
            f"weights={IMAGENET}: {path} is not the file of {url}: its SHA-256 begins with "
            f"{found.hexdigest()[: len(digits)]}, expected {digits}; remove it, and it is downloaded again"
        )
    return path
