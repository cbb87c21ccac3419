"""What one packet of a compressed video holds, read from its headers alone, without decoding.

A parser is made for a stream from what the container says of it, and is called with every packet in turn. It returns
the picture in the packet, or None where it does not understand it. It raises Contradiction where something that must be
the same throughout (parameter sets, volume header, size, what encoded it) is another than before. In both cases nothing
can be said about the stream any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Picture(NamedTuple):
    """The picture in one packet.

    shown: it gives a frame. start: decoding may start here. spare: nothing in its temporal layer refers to it.
    position: pictures are shown in the order of it; None: the codec has another rule. intra: it refers to no other.
    """

    shown: bool = True
    start: bool = False
    spare: bool = False
    layer: int = 0
    position: int | None = None
    intra: bool = False


Parser = Callable[[bytes], Picture | None]


class Contradiction(ValueError):
    """Something that has to be the same throughout a stream is another than before, or a picture is missing."""
