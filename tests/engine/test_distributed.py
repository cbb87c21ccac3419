"""How processes find each other in a store that may hold what is left of an earlier start."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import torch.distributed as dist

from vsn_train.engine.distributed import _agree_on_a_name


def test_processes_that_are_started_anew_agree_on_a_name_of_their_own():
    wait = timedelta(seconds=20)
    server = dist.TCPStore("localhost", 0, None, True, wait)

    def start(rank: int, late: float) -> str:
        client = dist.TCPStore("localhost", server.port, None, False, wait)
        time.sleep(late)
        return _agree_on_a_name(client, rank, 3)

    names = []
    for delays in ((0, 0.1, 0.2), (0.2, 0, 0.1), (0, 0.2, 0.1)):  # whoever comes late, the others find old numbers
        with ThreadPoolExecutor(3) as together:
            found = set(together.map(start, range(3), delays))
        assert len(found) == 1
        names += found
    assert len(set(names)) == 3
