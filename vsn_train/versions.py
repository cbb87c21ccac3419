"""Which versions of other packages are installed, from their metadata: nothing is imported for it."""

from __future__ import annotations

import importlib.metadata

from vsn_train import __version__


def installed(*packages: str) -> dict[str, str]:
    """package -> version, in this order, of those that are installed: decord has no wheel for some platforms."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def version_line() -> str:
    """What --version prints: ours, and those of what decides numbers."""
    packages = ("torch", "torchvision", "av")
    found = installed(*packages)
    others = (f"{package} {found[package]}" if package in found else f"no {package}" for package in packages)
    return f"vsn-train {__version__} ({', '.join(others)})"
