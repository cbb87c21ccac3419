"""Shares by hand on a network of two layers, the findings on made-up shares, and the command on small checkpoints."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.runs import checkpoint_with
from vsn_train.analysis.attention import (
    Measured,
    WithShares,
    as_json,
    attention_layers,
    by_stage,
    columns_to_measured,
    findings,
    from_json,
    group,
    judgement,
    movement,
    report,
)
from vsn_train.analysis.attention_figures import draw_figures
from vsn_train.data.datasets.motion import load_motion
from vsn_train.data.transforms import normalize
from vsn_train.data.video import open_video
from vsn_train.engine.checkpoint import file_hash, save_checkpoint
from vsn_train.errors import InputError
from vsn_train.models import create_model
from vsn_train.models.hybrid import HybridConv2d
from vsn_train.tools import attention as script
from vsn_train.tools.compose import train_config
from vsn_train.tools.main import main

ROOT = Path(__file__).parents[2]
# Four frames of a 24-frame clip, the middle ones of four equal segments.
MIDDLE = [3, 9, 15, 21]


class TwoLayers(nn.Module):
    """(B, T, 4, H, W) -> (B, 3). The second layer's attention is set by the test."""

    def __init__(self) -> None:
        super().__init__()
        layers = {"first": nn.Module(), "second": nn.Module()}
        for layer in layers.values():
            layer.conv = HybridConv2d(4, 4, 2, p=0.25, integration="attention")
        self.backbone = nn.ModuleDict(layers)

    def forward(self, video):
        x = video.flatten(0, 1)
        for layer in self.backbone.values():
            layer.conv(x)  # both see the input
        return video.mean((1, 3, 4))[:, :3]


def test_shares_by_hand():
    """One pixel, one kernel tap: channel c of O_T is 2 x[c], and of O_S the sum of the other three channels."""
    model = TwoLayers()
    second = model.backbone["second"].conv
    with torch.no_grad():
        second.temporal.zero_()[:, :, 1] = 2
        second.spatial.zero_()[:, :, 1, 1] = 1
        second.attention.weight.copy_(torch.eye(4))
    x = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 2]])
    video = x[:, None, :, None, None].expand(2, 2, 4, 1, 1)
    columns = WithShares(model)(video)
    differences = [[2 * row[c] - (sum(row) - row[c]) for c in range(4)] for row in x.tolist()]  # O_T - O_S
    assert differences == [[2, -1, -1, -1], [-1.5, -1.5, -3, 3]]
    shares = 1 / (1 + np.exp(-np.array(differences)))
    torch.testing.assert_close(columns[:, :3], x[:, :3])
    assert columns[:, 3].tolist() == [0.5, 0.5]
    np.testing.assert_allclose(columns[:, 4], shares.mean(1), rtol=1e-6)
    assert columns[:, 5].tolist() == [0, 0]
    np.testing.assert_allclose(columns[:, 6], abs(shares - 0.5).mean(1), rtol=1e-6)
    assert list(attention_layers(model)) == ["first.conv", "second.conv"]
    softmax = WithShares(model, probabilities=True)(video)[:, :3]
    torch.testing.assert_close(softmax, x[:, :3].softmax(1))


def test_means_over_clips_layers_and_stages_by_hand():
    layers = ["layer1.0.conv1", "layer1.0.conv2", "layer4.0.conv2"]
    columns = np.array([[0.2, 0.4, 0.9, 0.3, 0.1, 0.4], [0.4, 0.4, 0.7, 0.1, 0.1, 0.2]])
    untrained = np.full((1, 6), 0.5)
    run = columns_to_measured("motion", "rgb", 0.25, layers, columns, untrained, {})
    assert run.shares == pytest.approx([0.3, 0.4, 0.8])
    assert run.spreads == pytest.approx([0.1, 0, 0.1])
    assert run.distances == pytest.approx([0.2, 0.1, 0.3])
    assert run.untrained == (0.5, 0.5, 0.5)
    assert run.stages() == pytest.approx({"res2": 0.35, "res5": 0.8})
    assert run.overall == pytest.approx(0.5)
    assert by_stage(layers, (1, 3, 5)) == {"res2": 2, "res5": 5}


@pytest.mark.parametrize(
    "options", [("tsm", {}), ("sth", {"integration": "sum"})], ids=["another operator", "sum of the branches"]
)
def test_a_network_without_attention(options):
    with pytest.raises(InputError, match=r"no layer with attention; expected .*integration=attention"):
        attention_layers(create_model(options[0], "resnet18", 4, 3, **options[1]))


# ---- Findings --------------------------------------------------------------------------------------------------------


def measured(data="motion", modality="rgb", p=0.25, shares=(0.5, 0.5, 0.5, 0.5), seed=0, **facts) -> Measured:
    layers = tuple(f"layer{stage}.0.conv1" for stage in (1, 2, 3, 4))
    known = {"seed": seed, "path": f"{seed}.pt", "arch": "resnet18", "variant": "hybrid", "num_frames": 8, "epoch": 4,
             "top1": 90.0, "n": 360, "protocol": {"name": "center_1clip", "crop_size": 32}, "flow": None,
             "manifest": "fedcba9876543210", "checkpoint": "0123456789abcdef"}  # fmt: skip
    return Measured(data, modality, p, layers, tuple(shares), (0.0,) * 4, (0.1,) * 4, (0.5,) * 4, known | facts)


def verdicts(*runs):
    return [finding.verdict for finding in findings(runs)]


def test_what_was_not_given_is_not_tested():
    assert verdicts(measured(shares=(0.4, 0.5, 0.5, 0.6))) == ["holds", *["not tested"] * 3]
    # Neither are things that differ in more than the one that the finding is about.
    assert verdicts(
        measured(shares=(0.4, 0.5, 0.5, 0.6)),
        measured("motion_static", p=0.5, shares=(0.4, 0.5, 0.5, 0.6)),
        measured("jester", "flow", shares=(0.4, 0.5, 0.5, 0.6)),
    ) == ["holds", *["not tested"] * 3]


@pytest.mark.parametrize(
    ("difference", "verdict"), [(0.02, "holds"), (-0.02, "contradicted"), (0.009, "no difference")]
)
def test_each_finding_can_hold_or_not(difference, verdict):
    base = (0.5,) * 4
    more = tuple(share + difference for share in base)
    assert verdicts(measured(shares=(0.5, 0.5, 0.5, 0.5 + difference)))[0] == verdict
    assert verdicts(measured(p=0.5), measured(p=0.125, shares=more))[1] == verdict
    assert verdicts(measured(shares=more), measured("motion_static"))[2] == verdict
    assert verdicts(measured(modality="flow", shares=more), measured())[3] == verdict


def test_seeds_that_disagree_decide_nothing():
    runs = [measured(seed=0, shares=(0.5, 0.5, 0.5, 0.6)), measured(seed=1, shares=(0.5, 0.5, 0.5, 0.48))]
    finding = findings(runs)[0]
    assert finding.verdict == "undecided"
    assert finding.cases[0].points == pytest.approx((10, -2))
    assert "+4.0 points (-2.0 to +10.0 over 2 seeds): undecided" in judgement(runs)


def test_equal_seeds_are_compared_and_only_neighbouring_p():
    runs = [
        *(measured(p=0.5, seed=seed, shares=(share,) * 4) for seed, share in ((0, 0.4), (1, 0.5))),
        *(measured(p=0.25, seed=seed, shares=(share,) * 4) for seed, share in ((0, 0.45), (1, 0.52), (2, 0.9))),
        measured(p=0.125, seed=3, shares=(0.6,) * 4),
    ]
    cases = {case.what: case.points for case in findings(runs)[1].cases}
    assert cases.keys() == {"motion RGB p=1/4 - motion RGB p=1/2", "motion RGB p=1/8 - motion RGB p=1/4"}
    assert cases["motion RGB p=1/4 - motion RGB p=1/2"] == pytest.approx((5, 2))
    assert cases["motion RGB p=1/8 - motion RGB p=1/4"] == pytest.approx((100 * (0.6 - 1.87 / 3),))


def test_parts_of_a_finding_may_differ():
    runs = [measured(p=0.5), measured(p=0.25, shares=(0.6,) * 4), measured(p=0.125, shares=(0.55,) * 4)]
    assert findings(runs)[1].verdict == "mixed"
    text = judgement(runs)
    assert "Our data agree in part: holds in 1 of 2, contradicted in 1 of 2 comparisons. Measured with one seed" in text
    runs[1:] = [measured(p=0.25, shares=(0.4,) * 4), measured(p=0.125, shares=(0.4,) * 4)]
    expected = "Our data do not support it: contradicted in 1 of 2, no difference in 1 of 2 comparisons."
    assert expected in judgement(runs)


def test_movement_from_the_start_is_told():
    assert movement([measured(shares=(0.505, 0.5, 0.5, 0.5))]).startswith("Training hardly moves the shares: untrained")
    text = movement([measured(), measured("motion_static", seed=1, shares=(0.5, 0.4, 0.5, 0.3))])
    assert text.startswith("Training moves the shares: untrained networks have 50.0 %, and a trained layer lies on ")
    assert "average 3.8 points from that, at most -20.0 points (motion_static RGB p=1/4, layer4.0.conv1)" in text
    assert "Single channels lie on average 10.0 points from 50 %" in text


def test_networks_of_different_kinds_are_not_compared():
    with pytest.raises(InputError, match=r"0\.pt has arch resnet50 and 0\.pt has resnet18.*once for each kind"):
        group([measured(), measured(arch="resnet50")])


def test_results_are_read_back_and_say_the_same():
    runs = [measured(), measured(modality="flow", shares=(0.6,) * 4, seed=1, flow={"method": "dis", "bound": 5.0})]
    again = from_json(json.loads(json.dumps(as_json(runs))))
    assert again == runs
    assert report(again) == report(runs)
    assert "| motion flow p=1/4 " in report(runs)
    assert "Flow: dis, clipped at 5 pixels a frame." in report(runs)


def test_the_documents_say_what_the_results_say():
    results = json.loads((ROOT / "docs" / "results" / "attention.json").read_text())["results"]
    text = judgement(from_json(results))
    document = (ROOT / "docs" / "attention.md").read_text(encoding="utf-8")
    assert f"{script.BEGIN}\n{text}\n\n![" in document
    figures = re.findall(r"!\[.*\]\((.*)\)", document)
    assert figures
    assert all((ROOT / "docs" / figure).is_file() for figure in figures)
    assert text in (ROOT / "docs" / "results" / "attention.md").read_text(encoding="utf-8")


def test_figures_are_drawn_where_there_is_enough_for_them(tmp_path):
    written, absent = draw_figures([measured(seed=0), measured(seed=1)], tmp_path / "a")
    assert [path.name for path in written] == ["a_layers.png"]
    assert len(absent) == 3
    stale = tmp_path / "b_data.png"
    stale.touch()
    runs = [measured(), measured(p=0.5), measured(modality="flow")]
    written, absent = draw_figures(runs, tmp_path / "b")
    assert [path.name for path in written] == ["b_layers.png", "b_p.png", "b_modality.png"]
    assert not stale.exists()
    assert absent[0].startswith("b_data.png is not drawn: it needs a checkpoint on temporal data and one on static")


# ---- The command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    return [
        f"dataset.root={root}", "dataset.train_videos=12", "dataset.val_videos=12", "backbone.arch=resnet18",
        "backbone.num_frames=4", "data.short_side=36", "data.crop_size=32", "data.workers=0", "runtime.threads=1",
    ]  # fmt: skip


def make_checkpoint(path: Path, *values: str) -> Path:
    """A network as it starts, but for attention that a training has moved."""
    config = asdict(train_config(list(values)))
    torch.manual_seed(1)
    classes = load_motion(Path(config["dataset"]["root"]), "val", config["dataset"]["variant"], 0, 12, 12).class_names
    model = create_model(num_classes=len(classes), **config["backbone"])
    for module in model.modules():
        if isinstance(module, HybridConv2d) and module.attention is not None:
            nn.init.normal_(module.attention.weight, std=0.05)
    names, state = list(classes), model.state_dict()
    save_checkpoint(path, checkpoint_with(model=state, config=config, class_names=names, epoch=3, step=30))
    return path


@pytest.fixture(scope="module")
def checkpoint(values, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "last.pt"
    return make_checkpoint(path, *values, "backbone=sth", "backbone.integration=attention", "seed=7")


def run_script(monkeypatch, *arguments) -> int:
    monkeypatch.setattr("sys.argv", ["vsn-tools", "attention", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_command_gives_the_mean_over_channels_and_clips(checkpoint, values, tmp_path, monkeypatch, capsys):
    assert run_script(monkeypatch, f"checkpoint={checkpoint}", f"output={tmp_path}/out/study") == 0, capsys.readouterr()
    results = json.loads((tmp_path / "out" / "study.json").read_text())
    (run,) = results["results"]["runs"]
    manifest = load_motion(Path(values[0].partition("=")[2]), "val", train_videos=12, val_videos=12)
    content = torch.load(checkpoint, weights_only=True)
    model = create_model("sth", "resnet18", 4, 12, integration="attention").eval()
    model.load_state_dict(content["model"])
    shares = []
    for index in range(12):
        with open_video(manifest.path(index)) as video:
            frames = video.read(MIDDLE)
        frames = torch.nn.functional.interpolate(frames.float(), (36, 36), mode="bilinear", antialias=True)
        with torch.no_grad():
            model(normalize(frames.round().to(torch.uint8)[None, ..., 2:34, 2:34]))
        shares.append([float(layer.last_attention[:, 0].mean()) for layer in attention_layers(model).values()])
    np.testing.assert_allclose(run["shares"], np.mean(shares, axis=0), atol=1e-4)
    assert np.ptp(run["shares"]) > 1e-3
    assert run["untrained"] == [0.5] * 16
    assert run["stages"]["res3"] == pytest.approx(np.mean(run["shares"][4:8]))
    facts = run["facts"]
    assert (facts["n"], facts["seed"], facts["epoch"]) == (12, 7, 3)
    assert facts["protocol"]["name"] == "center_1clip"
    assert facts["manifest"] == manifest.content_hash()
    assert facts["checkpoint"] == file_hash(checkpoint)
    assert {"date", "cpu", "versions"} <= results["facts"].keys()
    text = (tmp_path / "out" / "study.md").read_text(encoding="utf-8")
    assert f"| {facts['manifest']} | {facts['checkpoint']} |" in text
    assert "paper: Something V1 flow p=1/4" in text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["study.json", "study.md", "study_layers.png"]


def test_several_checkpoints_another_data_set_and_a_document(checkpoint, values, tmp_path, monkeypatch, capsys):
    document = tmp_path / "about.md"
    document.write_text(f"# Before\n{script.BEGIN}\nold\n{script.END}\nAfter.\n")
    other = make_checkpoint(
        tmp_path / "p8.pt", *values, "backbone=sth", "backbone.integration=attention", "backbone.p=0.125"
    )
    arguments = [f"checkpoint=[{checkpoint},{other}]", f"output={tmp_path}/study", f"document={document}"]
    arguments += ["dataset=motion_static", *values[:3], "protocol.clips=2"]
    assert run_script(monkeypatch, *arguments) == 0, capsys.readouterr()
    out = capsys.readouterr().out
    assert "study_data.png is not drawn" in out
    runs = json.loads((tmp_path / "study.json").read_text())["results"]["runs"]
    assert [run["p"] for run in runs] == [0.25, 0.125]
    assert [run["facts"]["dataset"] for run in runs] == ["motion_static"] * 2
    assert [run["facts"]["top1"] for run in runs] == [None] * 2  # of classes that the network does not know
    assert runs[0]["facts"]["protocol"]["name"] == "center_2clip"
    text = document.read_text(encoding="utf-8")
    assert text.startswith(f"# Before\n{script.BEGIN}\nMeasured: motion_static RGB p=1/4 (seed 7); ")
    assert text.endswith(f"{script.END}\nAfter.\n")
    assert "2. A smaller p is more temporal" in text
    assert "old" not in text
    assert "![study_layers](study_layers.png)\n![study_p](study_p.png)\n" in text
    assert (tmp_path / "study_p.png").exists()


def test_wrong_input_ends_with_one_message_and_writes_nothing(checkpoint, values, tmp_path, monkeypatch, capsys):
    plain = make_checkpoint(tmp_path / "sum.pt", *values, "backbone=sth", "backbone.integration=sum")
    good, output = f"checkpoint={checkpoint}", f"output={tmp_path}/study"
    (tmp_path / "empty.md").write_text("nothing here\n")
    for arguments, message in {
        (
            f"checkpoint={plain}",
        ): r"sum\.pt: this network has no layer with attention; expected .* found .*integration=sum",
        (f"checkpoint=[{checkpoint},{plain}]",): r"sum\.pt: this network has no layer with attention",
        ("dataset=motion",): "checkpoint is not given",
        (f"checkpoint={tmp_path}/none.pt",): r"none\.pt",
        (good, "label=[a,b]"): "2 labels for 1 checkpoints; expected one each",
        (good, "dataset.rot=here"): "rot",
        (good, "protocol=some"): "some",
        (good, "backbone.p=0.5"): "backbone.p=0.5, but .* was trained with 0.25",
        (good, "--quick"): "unrecognized arguments: --quick",
        (good, f"document={tmp_path}/empty.md"): "expected a line <!-- findings --> and",
        (good, f"document={tmp_path}/none.md"): "no such file",
    }.items():
        assert run_script(monkeypatch, *arguments, output) == 2, arguments
        err = capsys.readouterr().err
        assert err.startswith("vsn-tools attention: ")
        assert err.count("\n") == 1
        assert re.search(message, err), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.md", "sum.pt"]


@pytest.mark.slow
def test_the_whole_study_on_few_clips_and_again(tmp_path):
    """The second call trains nothing, since all is there."""
    pytest.importorskip("cv2")
    command = [sys.executable, ROOT / "scripts" / "studies" / "attention.py", "--folder", tmp_path / "runs"]
    command += ["--output", tmp_path / "attention", "--data", tmp_path / "clips", "--seeds", "0"]
    command += ["--train-videos", "12", "--val-videos", "12", "schedule.epochs=1", "runtime.threads=1"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        steps = [line for line in (tmp_path / "runs" / "motion_p4_seed0" / "metrics.jsonl").read_text().splitlines()]
        assert sum('"split": "val"' in line for line in steps) == 1
    names = {path.name for path in tmp_path.glob("attention*")}
    assert names == {
        "attention.md", "attention.json", *(f"attention_{each}.png" for each in ("layers", "p", "data", "modality"))
    }  # fmt: skip
    results = json.loads((tmp_path / "attention.json").read_text())["results"]
    assert all(finding["cases"] for finding in results["findings"])
