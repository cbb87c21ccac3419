"""Detect damage in a video from FFmpeg's error log.

A decoder that meets damage makes up what is missing and goes on. It marks some of the images and logs every case as an
error; files that are whole log none.
"""

from __future__ import annotations


def errors_heard() -> int:
    """How many errors FFmpeg has logged in this process, all its threads together, from the first call on.

    PyAV counts them only while it listens. It is told to when nobody else did; nothing is printed.
    """
    from av import logging

    if logging.get_level() is None:
        logging.set_level(logging.PANIC)
    return int(logging.get_last_error()[0])
