import torch

from vsn_train.engine.distributed import Process
from vsn_train.engine.meter import Meter


def test_meter_goes_on_with_the_sums_of_any_number_of_processes():
    sums = [[1.0, 2, 3, 4], [10.0, 20, 30, 40]]
    meter = Meter(Process(0, 1, torch.device("cpu")), sums)
    assert meter.read() == {"loss": 11 / 44, "top1": 50.0, "top5": 75.0}
    assert meter.new_videos == 0
