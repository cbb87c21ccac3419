"""How processes find each other in a store that may hold what is left of an earlier start."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import torch.distributed as dist

from vsn_train.engine.distributed import _agree_on_store_prefix


def test_processes_that_are_started_anew_agree_on_a_prefix_of_their_own():
    wait = timedelta(seconds=20)
    server = dist.TCPStore("localhost", 0, None, True, wait)

    def start(rank: int, late: float) -> str:
        client = dist.TCPStore("localhost", server.port, None, False, wait)
        time.sleep(late)
        return _agree_on_store_prefix(client, rank, 3)

    prefixes = []
    for delays in ((0, 0.1, 0.2), (0.2, 0, 0.1), (0, 0.2, 0.1)):  # whoever comes late, the others find old numbers
        with ThreadPoolExecutor(3) as together:
            found = set(together.map(start, range(3), delays))
        assert len(found) == 1
        prefixes += found
    assert len(set(prefixes)) == 3
