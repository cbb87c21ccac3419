"""weights=imagenet: torch.hub's cache, a download, its hash, and no network. Files and server are the test's own."""

from __future__ import annotations

import hashlib
import http.server
import threading
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torchvision

from tests.conftest import SMALL, run_command
from vsn_train.errors import InputError
from vsn_train.models import create_model, imagenet
from vsn_train.models.imagenet import imagenet_file
from vsn_train.models.weights import load_weights

NOBODY = "http://127.0.0.1:9"  # where nothing listens


@pytest.fixture
def source(tmp_path):
    """(folder, network): a file of a ResNet-18 in it, named after its hash as torchvision's are."""
    folder = tmp_path / "server"
    folder.mkdir()
    network = torchvision.models.resnet18()
    torch.save(network.state_dict(), folder / "weights")
    digits = hashlib.sha256((folder / "weights").read_bytes()).hexdigest()[:8]
    (folder / "weights").rename(folder / f"resnet18-{digits}.pth")
    return folder, network


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hub" / "checkpoints"


def test_a_file_in_the_cache_starts_the_network(source, cache, monkeypatch):
    folder, network = source
    (file,) = folder.iterdir()
    cache.mkdir(parents=True)
    file.rename(cache / file.name)
    address = SimpleNamespace(url=f"{NOBODY}/{file.name}")
    monkeypatch.setattr(imagenet, "get_model_weights", lambda arch: {"IMAGENET1K_V1": address})
    model = create_model("tsm", "resnet18", 2, 3, weights="imagenet")
    assert torch.equal(model.backbone.layer1[0].conv1.conv.weight, network.layer1[0].conv1.weight)
    report = load_weights(model, "imagenet")
    assert report.layout == "torchvision"
    assert set(report.skipped) == {"fc.weight", "fc.bias"}


def test_it_is_downloaded_once(source, cache):
    folder, _ = source
    (file,) = folder.iterdir()

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        urls = {"resnet18": f"http://127.0.0.1:{server.server_port}/{file.name}"}
        found = imagenet_file("resnet18", urls)
        wrong = urls["resnet18"].replace(file.name, "resnet18-00000000.pth")
        file.rename(folder / "resnet18-00000000.pth")
        with pytest.raises(InputError, match=r'cannot be downloaded \(invalid hash value \(expected "00000000"'):
            imagenet_file("resnet18", {"resnet18": wrong})
        server.shutdown()
    assert list(cache.iterdir()) == [found]
    assert imagenet_file("resnet18", urls) == found  # the server is gone


def test_a_damaged_file_in_the_cache_is_refused(source, cache):
    (file,) = source[0].iterdir()
    cache.mkdir(parents=True)
    (cache / file.name).write_bytes(b"half of it")
    with pytest.raises(InputError, match=r"its SHA-256 starts with \w{8}, expected \w{8}; remove it"):
        imagenet_file("resnet18", {"resnet18": f"{NOBODY}/{file.name}"})


def test_without_a_network_the_command_says_what_to_do(tmp_path, cache):
    values = [f"dataset.root={tmp_path / 'data'}", "dataset.train_videos=12", "dataset.val_videos=12"]
    result = run_command(
        "vsn-train", *values, *SMALL, "weights=imagenet", f"hydra.run.dir={tmp_path}/run", cwd=tmp_path,
        https_proxy=NOBODY, TORCH_HOME=str(cache.parents[1]),
    )  # fmt: skip
    assert result.code == 2
    name = "resnet18-f37072fd.pth"
    assert f"weights=imagenet: https://download.pytorch.org/models/{name} cannot be downloaded (" in result.err
    assert f"download it elsewhere and copy it to {cache / name}, or use a local file: weights=FILE" in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "run").exists()


def test_torchvisions_table_has_every_network_that_is_built_here():
    urls = {
        arch: torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"].url
        for arch in ("resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2")
    }
    assert urls["resnet50"].endswith("/resnet50-0676ba61.pth")
