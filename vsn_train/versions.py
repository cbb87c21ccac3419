"""Versions of installed packages, read from their metadata without importing them."""

from __future__ import annotations

import importlib.metadata

from vsn_train import __version__


def installed(*packages: str) -> dict[str, str]:
    """package -> version, for the packages that are installed (decord has no wheel for some platforms)."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def version_line() -> str:
    """The output of --version: our version, and those of the packages that affect results."""
    packages = ("torch", "torchvision", "av")
    found = installed(*packages)
    others = (f"{package} {found[package]}" if package in found else f"no {package}" for package in packages)
    return f"vsn-train {__version__} ({', '.join(others)})"
