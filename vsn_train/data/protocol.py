"""The protocol: which views of a video are averaged in an evaluation, and the name of such a result."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Protocol:
    """The views of an evaluation: clips × crops per video. The score of a video is their mean."""

    clips: int  # [clips] clips per video
    placement: str  # "uniform": T segments of the whole video; "dense": windows of 64 frames
    crops: int  # [crops] 1: centre; 3: along the longer side; 5: corners and centre; 10: these five, also flipped
    short_side: int  # [pixels] short side of a frame after resizing
    crop_size: int  # [pixels] height and width of a crop
    average: str = "logits"  # what is averaged: "logits" or "probabilities"

    @property
    def views(self) -> int:
        return self.clips * self.crops

    def name(self, short_side: int, crop_size: int) -> str:
        """The name of the protocol: center_1clip, tencrop_10clip, …, with every setting that differs from the default.

        short_side, crop_size: sizes of the training, in pixels. For three crops the default crop is the short side, so
        that the crops along the longer side cover the frame.
        """
        few = self.clips <= 2
        usual_size = self.short_side if self.crops == 3 else crop_size
        stem = {1: "center", 3: "threecrop", 5: "fivecrop", 10: "tencrop"}[self.crops]
        if self.crops == 3 and few and self.placement == "uniform" and self.crop_size == self.short_side:
            stem = "fullres_3crop"  # TSM's "full resolution" test on Something-Something
        parts = [f"{stem}_{self.clips}clip"]
        parts += [self.placement] if self.placement != ("uniform" if few else "dense") else []
        parts += [f"crop{self.crop_size}"] if self.crop_size != usual_size else []
        parts += [f"short{self.short_side}"] if self.short_side != short_side else []
        parts += ["probabilities"] if self.average != "logits" else []
        return "_".join(parts)
