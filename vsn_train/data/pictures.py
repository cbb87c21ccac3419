"""The picture in one packet of a compressed video, read from its headers alone, without decoding.

A parser is created for a stream from the container's description of it and is called with every packet in order. It
returns the picture in the packet, or None if it cannot parse it. It raises Contradiction if something changes that must
stay the same (parameter sets, volume header, size, encoder). In both cases the rest of the stream is unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Picture(NamedTuple):
    """The picture in one packet.

    shown: it gives a frame. start: decoding may start here. spare: no picture in its temporal layer refers to it.
    position: presentation order; None: the codec has another rule. intra: it refers to no other picture.
    """

    shown: bool = True
    start: bool = False
    spare: bool = False
    layer: int = 0
    position: int | None = None
    intra: bool = False


Parser = Callable[[bytes], Picture | None]


class Contradiction(ValueError):
    """Something changed that must stay the same throughout a stream, or a picture is missing."""
