"""Detect damage in a video from FFmpeg's error log.

A decoder conceals damage and continues. It marks only some of the images as corrupt, but logs an error in every case;
intact files log none.
"""

from __future__ import annotations


def errors_heard() -> int:
    """The number of errors that FFmpeg has logged in this process, over all threads, since the first call.

    PyAV counts them only if its logging is enabled. This enables it, at a level that prints nothing, if it is off.
    """
    from av import logging

    if logging.get_level() is None:
        logging.set_level(logging.PANIC)
    return int(logging.get_last_error()[0])
