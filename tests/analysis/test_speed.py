"""What the benchmarks count and compare; how fast anything is, no test says."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vsn_train.analysis.speed import Setting, Workload, interleave, model_action, peak_memory, ratio, time_models
from vsn_train.errors import InputError

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


@pytest.mark.parametrize("operator", ["tsm", "tsm:placement=inplace", "vsn_compact", "vsn_headtail"])
def test_shift_and_shuffle_need_no_more_memory_for_training_than_the_network_without(operator):
    """At a size where activations, not parameters, are what a step holds."""
    work = Workload("resnet50", 8, 96, 1, 174)
    of, to = (peak_memory(step(name, work), "cpu") for name in (operator, "tsn"))
    assert of <= 1.02 * to


def step(name, work):
    action = model_action(name, work, Setting(), "train")
    action()  # the optimizer's momentum is no part of a step
    return action


def test_models_are_timed_in_both_modes_and_memory_is_that_of_training():
    settings = [Setting(), Setting(channels_last=True)]
    forward = time_models(["tsn", "sth:textbook,integration=sum"], settings, SMALL, "forward", 2)
    assert {times.shape for times in forward.times.values()} == {(2,)}
    assert len(forward.times) == 4
    assert not forward.memory
    training = time_models(["tsn"], settings[:1], SMALL, "train", 1)
    parameters = 11_179_077  # ResNet-18 with 5 classes: weights, momentum and gradients at least
    assert training.memory["tsn", settings[0]] > 3 * 4 * parameters


@pytest.mark.parametrize("name", ["tsx", "tsm:fold=3", "tsm:fold_div"])
def test_an_unknown_model_is_a_message(name):
    with pytest.raises(InputError):
        model_action(name, SMALL, Setting(), "forward")


def test_the_script_writes_a_table_with_hardware_and_its_figures(tmp_path):
    script = Path(__file__).parents[2] / "scripts" / "benchmark.py"
    command = f"{sys.executable} {script} model tsm/tsn --arch resnet18 --num-frames 4 --size 32 --rounds 2 --batch 1 2"
    done = subprocess.run([*command.split(" "), "--output", str(tmp_path / "speed")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "speed.md").read_text()
    assert "cores" in table
    assert table.count("training step") == 2
    results = json.loads((tmp_path / "speed.json").read_text())["results"]
    assert {(each["model"], each["mode"], each["work"]["batch"]) for each in results} == {
        (model, mode, batch) for model in ("tsm", "tsn") for mode in ("forward", "train") for batch in (1, 2)
    }
    assert all(len(each["seconds"]) == 2 for each in results)
