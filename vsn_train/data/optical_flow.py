"""Compute optical flow between consecutive frames and write it as images: flow_x_00001.jpg, flow_y_00001.jpg, …

The format of two-stream networks (TSN, section 3.1; layout of TSM): displacements from -20 to 20 pixels are mapped to 0
to 255, with 128 for no motion, and saved as grey JPEG. A video of F frames has F - 1 fields; field i leads from frame i
to frame i + 1 and has the time of frame i in times.txt.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vsn_train.atomic import part_of
from vsn_train.data.prepare import every_frame
from vsn_train.data.times import write_times
from vsn_train.data.video import open_video
from vsn_train.errors import InputError, VideoError

METHODS = ("tvl1", "dis")

# (H, W) uint8 grey image, the next one -> (H, W, 2) displacement in x and y, pixels
Estimator = Callable[[np.ndarray, np.ndarray], np.ndarray]


def flow_estimator(method: str) -> Estimator:
    """ "tvl1": TV-L1 (Zach, Pock, Bischof, 2007) with OpenCV's defaults, as in the published two-stream results.

    "dis": dense inverse search (Kroeger et al., ECCV 2016), coarser and much faster: 9 ms for a field of 320x240 pixels
    on one core of an AMD EPYC, TV-L1 680 ms.
    Raises InputError if OpenCV with its contributed modules is not installed.
    """
    if method not in METHODS:
        raise InputError(f"unknown flow method {method!r}: choose one of {', '.join(METHODS)}")
    try:
        import cv2

        cv2.setNumThreads(1)  # the processes are the parallelism
        estimator: Any = (
            cv2.optflow.DualTVL1OpticalFlow_create()
            if method == "tvl1"
            else cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        )
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{method} flow needs OpenCV with its contributed modules: pip install 'vsn-train[flow]'"
        ) from error
    return lambda first, second: estimator.calc(first, second, None)


def quantize(flow: np.ndarray, bound: float) -> np.ndarray:
    """Displacements in pixels, float (…) -> uint8: -bound or less is 0, no motion 128, bound or more 255."""
    return np.rint((flow.clip(-bound, bound) + bound) * (255 / (2 * bound))).astype(np.uint8)


def extract_flow(source: Path, target: Path, method: str, bound: float, short_side: int, quality: int) -> int:
    """Write the flow of one video, or of a folder of images, into the folder `target`; returns the number of fields.

    The folder gets its name when it is complete. short_side: pixels that the short side of larger frames is reduced to.
    Raises VideoError and then leaves nothing behind.
    """
    estimate = flow_estimator(method)
    import cv2

    part = part_of(target)  # unique to this process: another one may work on the same video
    part.mkdir(parents=True)
    try:
        fields = 0
        with open_video(source) as video:
            if video.num_frames < 2:
                raise VideoError(str(source), "it has one frame; optical flow needs two")
            scale = min(1.0, short_side / min(video.height, video.width))
            size = (round(video.width * scale), round(video.height * scale))
            before = None
            for image in every_frame(video):
                grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
                if scale < 1:
                    grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
                if before is not None:
                    fields += 1
                    field = quantize(estimate(before, grey), bound)
                    for channel, axis in enumerate("xy"):
                        encoded = cv2.imencode(".jpg", field[..., channel], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
                        (part / f"flow_{axis}_{fields:05d}.jpg").write_bytes(encoded.tobytes())
                before = grey
            times = video.times
        write_times(part, None if times is None else times[:fields])
        try:
            part.rename(target)
        except OSError:
            if not target.is_dir():  # else another process has written the same flow
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return fields
