"""What the benchmarks count and compare; how fast anything is, no test says."""

import json
import sys
from functools import partial

import numpy as np
import pytest
import torch

from vsn_train.bench.network import ModelTimes, Setting, Workload, compiled, model_action, time_models
from vsn_train.bench.reference_operators import to_reference
from vsn_train.bench.step import check_choice, time_steps
from vsn_train.bench.table import NETWORKS, NetworkTimes, measured_table, paper_table
from vsn_train.bench.timing import peak_memory, ratio
from vsn_train.engine.interleave import interleave
from vsn_train.errors import InputError
from vsn_train.models import create_model
from vsn_train.tools.main import main

SMALL = Workload("resnet18", 4, 32, 1, 5)


def test_every_action_runs_once_a_round_and_none_is_always_first():
    calls = []
    times = interleave({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=5, warmup=1)
    assert {name: len(values) for name, values in times.items()} == dict.fromkeys("abc", 5)
    rounds = ["".join(calls[i : i + 3]) for i in range(0, len(calls), 3)]
    assert rounds == ["abc", "bca", "cab", "abc", "bca", "cab"]


def test_ratios_are_taken_within_rounds():
    reference = np.array([1.0, 2.0, 4.0])
    assert (ratio(reference * 1.5, reference).median, ratio(reference * 1.5, reference).high) == (1.5, 1.5)


def test_peak_memory_counts_what_is_alive_together():
    def action():
        first = torch.ones(1_000_000)
        del first
        both = torch.ones(2_000_000), torch.ones(500_000)
        return both[0].numel()

    assert peak_memory(action, "cpu") == pytest.approx(4 * 2_500_000, rel=1e-3)


@pytest.fixture(scope="module")
def memory_without_operator():
    return peak_of_step("tsn")


@pytest.mark.parametrize("operator", ["tsm", "tsm:placement=inplace", "tsm_online", "vsn_compact", "vsn_headtail"])
def test_shift_and_shuffle_need_no_more_memory_for_training_than_the_network_without(operator, memory_without_operator):
    """A copy kept beside its source would be 7 or 8 percent more, at this size too."""
    assert peak_of_step(operator) <= 1.02 * memory_without_operator


def peak_of_step(name):
    work = Workload("resnet50", 8, 64, 1, 5)
    action = model_action(name, work, Setting(), "train")
    action()  # the optimizer's momentum is no part of a step
    return peak_memory(action, "cpu")


def test_models_are_timed_in_both_modes_and_memory_is_that_of_training():
    settings = [Setting(), Setting(channels_last=True)]
    forward = time_models(["tsn", "sth:reference,integration=sum"], settings, SMALL, "forward", 2)
    assert {times.shape for times in forward.times.values()} == {(2,)}
    assert len(forward.times) == 4
    assert not forward.memory
    training = time_models(["tsn"], settings[:1], SMALL, "train", 1)
    parameters = 11_179_077  # ResNet-18 with 5 classes: weights, momentum and gradients at least
    assert training.memory["tsn", settings[0]] > 3 * 4 * parameters


def test_every_compiled_model_is_compiled(monkeypatch):
    """torch keeps eight graphs for the same code and runs what comes later as it is."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.utils.counters.clear()
    for layers in range(1, 11):
        compiled(torch.nn.Sequential(*[torch.nn.Linear(4, 4) for _ in range(layers)]))(torch.ones(1, 4))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 10


def test_a_fast_form_without_a_reference_form_is_not_compared_with_itself():
    model = create_model("tsn", "resnet18", 4, 5)
    model.backbone.layer1[0].conv1 = ShuffledShift()
    with pytest.raises(AssertionError, match="ShuffledShift"):
        to_reference(model)


class ShuffledShift(torch.nn.Conv2d):
    __module__ = "vsn_train.models.shuffled_shift"

    def __init__(self):
        super().__init__(64, 64, 3)


@pytest.mark.parametrize("name", ["tsx", "tsm:fold=3", "tsm:fold_div"])
def test_an_unknown_model_is_a_message(name):
    with pytest.raises(InputError):
        model_action(name, SMALL, Setting(), "forward")


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """Runs vsn-tools bench in this process; returns its Markdown and the results of its JSON."""

    def run(arguments, code=0):
        monkeypatch.setattr(sys, "argv", ["vsn-tools", "bench", *arguments.split(), "--output", str(tmp_path / "out")])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
        text = (tmp_path / "out.md").read_text()
        assert "cores" in text
        return text, json.loads((tmp_path / "out.json").read_text())["results"]

    return run


def test_the_script_writes_a_table_with_hardware_and_its_figures(benchmark):
    table, results = benchmark(
        "model tsm/tsn --arch mobilenet_v2 --num-frames 2 --size 32 --channels-last on --rounds 2 --batch 1 2"
    )
    assert table.count("training step") == 2
    assert {(each["model"], each["mode"], each["work"]["batch"]) for each in results} == {
        (model, mode, batch) for model in ("tsm", "tsn") for mode in ("forward", "train") for batch in (1, 2)
    }
    assert all(len(each["seconds"]) == 2 for each in results)


# ---- Switches of the training step -----------------------------------------------------------------------------------


def test_the_script_times_switches(benchmark):
    choices = ["fp32", "channels_last", "adamw,fused,ema", "accumulate"]
    text, results = benchmark(
        f"step --only {' '.join(choices)} --arch mobilenet_v2 --num-frames 2 --size 32 --rounds 2"
    )  # fmt: skip
    assert [row["switches"] for row in results["steps"]] == choices
    assert all(len(row["seconds"]) == 2 and row["peak_bytes"] > 4 * 2_000_000 for row in results["steps"])
    assert results["saving"]["megabytes"] > 2 * 4 * 2.2
    assert all(results["workers"][key] > 0 for key in ("kept_s", "started_s"))
    assert all(f"| {choice} " in text for choice in choices)


def test_switches_change_the_memory_that_they_are_for():
    """Recomputed blocks keep their inputs alone; clips one by one need the memory of one."""
    work = Workload("mobilenet_v2", 2, 64, 4, 5)
    memory = time_steps(["fp32", "recompute", "accumulate"], "tsn", work, rounds=1).memory
    assert memory["recompute"] < 0.8 * memory["fp32"]
    assert memory["accumulate"] < 0.8 * memory["fp32"]


@pytest.mark.slow
def test_gradients_beside_their_buckets_are_a_second_copy():
    work = Workload("mobilenet_v2", 2, 32, 2, 5)
    choices = ["fp32", "copied_gradients", "accumulate,exchange_every_batch"]
    found = time_steps(choices, "tsn", work, rounds=1, processes=2)
    gradients = 4 * 2_230_277  # MobileNetV2 with 5 classes
    # When the last gradient is there, most activations are not any more.
    assert 0.5 * gradients < found.memory["copied_gradients"] - found.memory["fp32"] < 1.05 * gradients
    assert {choice: len(seconds) for choice, seconds in found.times.items()} == dict.fromkeys(choices, 1)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("bf61", "no such switch"),
        ("tf32", "CUDA"),
        ("static_graph", "--processes"),
        ("accumulate", "--batch"),
    ],
)
def test_a_switch_that_changes_nothing_is_a_message(choice, message):
    with pytest.raises(InputError, match=message):
        check_choice(choice, SMALL, processes=1)


# ---- Compared with the papers' speed tables --------------------------------------------------------------------------


def made_times(seconds, batch, arch="resnet50"):
    """Every network at its seconds, contiguous; twice as fast in channels_last."""
    settings = {Setting(): 1.0, Setting(channels_last=True): 0.5}
    times = {
        (network, setting): np.full(3, factor * each)
        for network, each in zip(NETWORKS, seconds, strict=True)
        for setting, factor in settings.items()
    }
    return ModelTimes(Workload(arch, 8, 224, batch), "forward", times, {})


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_table_beside_the_papers_by_hand():
    single = made_times([0.8, 1.0, 1.1, 1.2, 1.3], 1)  # tsn, tsm, compact, headtail, sth
    each = NetworkTimes(single, made_times([6.4, 8.0, 8.8, 9.6, 16.0], 4))
    assert ["STH attention, resnet50, 8 frames", "650.0", "1.300 (1.300-1.300)", "0.50", "0.500 (0.500-0.500)"] in [
        row[:5] for row in cells(measured_table([each]))
    ]
    rows = cells(paper_table([each]))
    found = {(row[0], row[1]): row[2:] for row in rows}
    assert found["VSN compact, resnet50, 8 frames", "VSN, table 6"] == [
        "its TSM", "0.948", "1.100 (1.100-1.100)", "1.027", "0.909 (0.909-0.909)",
    ]  # fmt: skip
    assert found["STH attention, resnet50, 8 frames", "STH, table 9"] == [
        "its TSM", "-", "-", "0.856", "0.500 (0.500-0.500)",
    ]  # fmt: skip
    assert found["VSN compact, resnet101, 8 frames", "VSN, table 6"] == [
        "its TSN", "1.075", "not measured", "0.967", "not measured",
    ]  # fmt: skip
    assert len(rows) == 5  # a table's own reference is not compared with itself


def test_live_video_is_timed_both_ways(benchmark):
    text, results = benchmark("live --arch resnet18 mobilenet_v2 --num-frames 2 --size 32 --rounds 2 --threads 1")
    assert [each["arch"] for each in results] == ["resnet18", "mobilenet_v2"]
    for each in results:
        for kind in ("seconds", "cpu_seconds"):
            assert {way: len(times) for way, times in each[kind].items()} == {"stream": 2, "whole clip": 2}
    assert "stream, CPU ms" in text
    assert "resnet18, 2 frames of 32 x 32" in text


def test_the_script_times_all_networks_and_adds_another_size(benchmark, capsys):
    selection = "table --arch resnet18 --size 32 --batch 2 --rounds 1 --frames"
    text, results = benchmark(f"{selection} 4")
    assert {(row["model"], row["work"]["batch"]) for row in results} == {(n, b) for n in NETWORKS for b in (1, 2)}
    assert "## Compared with the papers" in text
    added, both = benchmark(f"{selection} 2 --add")
    assert both[len(results) :] == results
    assert added.count("resnet18, 2 frames") == added.count("resnet18, 4 frames") == len(NETWORKS)
    benchmark(f"{selection} 2 --add --channels-last off", code=2)
    assert "settings was" in capsys.readouterr().err
