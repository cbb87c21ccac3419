import time

import torch

from vsn_train.run.network import fastest_choices


def test_the_fastest_of_what_is_open_is_chosen_and_said():
    def step(precision, channels_last):
        time.sleep({("fp32", False): 0.03, ("fp32", True): 0.02, ("bf16", False): 0.04, ("bf16", True): 0.001}[
            precision, channels_last
        ])  # fmt: skip

    *best, lines = fastest_choices(step, ["fp32", "bf16"], [False, True], torch.device("cpu"))
    assert best == ["bf16", True]
    assert len(lines) == 4
    assert lines[0].startswith("runtime=auto: bf16 with channels_last memory ")
    assert lines[0].endswith("the fastest: chosen")
