"""Draw what the operators do to frames and channels: docs/drawings/*.png, explained in docs/operators.md.

Writes shift.png, shuffle.png, blocks.png, placement.png, reach.png, hybrid.png and attention.png into --output.

    python scripts/draw_operators.py
    python scripts/draw_operators.py --output /tmp/drawings --only shuffle

The figures are computed: labelled tensors go through the operators, and the figures show where the labels come out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no window system needed
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from vsn_train.models import create_model
from vsn_train.models.backbone import insert_operator, placement
from vsn_train.models.hybrid import HybridConv2d
from vsn_train.models.shift import ShiftedBlock, ShiftedConv2d
from vsn_train.models.shuffle import video_shuffle

# Okabe and Ito's colours, which are colour-blind safe.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#DDDDDD"
FRAMES = plt.get_cmap("cividis")  # of frame numbers; colour-blind safe
ZEROS, SEVERAL = -1, -2  # cells without a frame, or that depend on several


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/drawings"), help="folder")
    parser.add_argument("--only", choices=sorted(DRAWINGS), help="one of the figures")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, draw in DRAWINGS.items():
        if arguments.only in (None, name):
            torch.manual_seed(0)
            figure = draw()
            path = arguments.output / f"{name}.png"
            figure.savefig(path, dpi=130, facecolor="white")
            plt.close(figure)
            print(f"written: {path}")


def labelled(num_frames: int, channels: int) -> Tensor:
    """(T, C, 1, 1): every channel of frame t has the value t + 1; 0 means no frame."""
    return torch.arange(1.0, num_frames + 1).view(-1, 1, 1, 1).expand(-1, channels, 1, 1).contiguous()


def draw_cells(axis: Axes, texts: list[list[str]], frames: np.ndarray, highest: int) -> None:
    """texts: (rows, columns). frames: the frame of each cell, 0 to `highest`, or SEVERAL or ZEROS."""
    for row, column in np.ndindex(frames.shape):
        frame = frames[row, column]
        look: dict[str, Any] = {"facecolor": FRAMES(frame / max(highest, 1)), "edgecolor": "white"}
        if frame == SEVERAL:
            look["facecolor"] = GREY
        elif frame == ZEROS:
            look = {"facecolor": "white", "edgecolor": "#888888", "hatch": "////"}
        axis.add_patch(plt.Rectangle((column, row), 1, 1, linewidth=0.8, **look))
        dark = frame >= 0 and frame <= highest / 2
        axis.text(
            column + 0.5, row + 0.5, texts[row][column], ha="center", va="center", size=9,
            color="white" if dark else "black",
        )  # fmt: skip
    axis.set(xlim=(0, frames.shape[1]), ylim=(frames.shape[0], 0), aspect="equal")
    axis.tick_params(length=0)
    for side in axis.spines.values():
        side.set_visible(False)


def draw_frame_numbers(axis: Axes, x: Tensor, title: str) -> None:
    """Draw labels x, (T, C, 1, 1): columns are frames, rows are channels; a cell shows the frame that it comes from."""
    frames = len(x)
    labels = x[..., 0, 0].T.numpy().round().astype(int) - 1
    draw_cells(axis, [[str(each) if each >= 0 else "" for each in row] for row in labels], labels, frames - 1)
    axis.set_title(title, size=10)
    axis.set_xticks(np.arange(frames) + 0.5, [f"{t}" for t in range(frames)], size=8)
    axis.set_xlabel("frame", size=9)
    axis.set_yticks([])


def draw_shift() -> plt.Figure:
    """The inputs of a block's first convolution and of its shortcut, for both placements of the shift."""
    frames, channels = 8, 8
    figure, axes = plt.subplots(1, 4, figsize=(13, 4.3), layout="constrained")
    draw_frame_numbers(axes[0], labelled(frames, channels), "a block's input")
    for axis, where, place in ((axes[1], "residual", "conv1"), (axes[2], "inplace", "conv1"), (axes[3], "inplace", "")):
        seen = read_in_shifted_block(labelled(frames, channels), where)
        what = "what conv1 reads" if place else "what the shortcut adds"
        draw_frame_numbers(axis, seen[place], f"placement={where}:\n{what}")
    residual = read_in_shifted_block(labelled(frames, channels), "residual")[""]
    assert torch.equal(residual, labelled(frames, channels))  # stated in the caption
    axes[0].set_ylabel("channels, an eighth a row", size=9)
    return figure


def read_in_shifted_block(x: Tensor, where: str) -> dict[str, Tensor]:
    """The input of "conv1", and that of the block (""), which its shortcut adds."""
    block: Any = BasicBlock(x.shape[1], x.shape[1])
    inner = block
    seen: dict[str, Tensor] = {}
    block.conv1.register_forward_pre_hook(lambda _, inputs: seen.update(conv1=inputs[0]))
    inner.register_forward_pre_hook(lambda _, inputs: seen.update({"": inputs[0]}))
    if where == "inplace":
        block = ShiftedBlock(block, len(x))
    else:
        block.conv1 = ShiftedConv2d(block.conv1, len(x))
    with torch.no_grad():
        block.eval()(x)
    return seen


def draw_shuffle() -> plt.Figure:
    """Frames and channel groups of four frames before the shuffle, after one and after two."""
    frames = 4
    start = torch.arange(frames * frames).view(frames, frames, 1, 1).float()
    once = video_shuffle(start, frames)
    twice = video_shuffle(once, frames)
    figure, axes = plt.subplots(1, 3, figsize=(10, 4.2), layout="constrained")
    for axis, x, title in (
        (axes[0], start, "before"),
        (axes[1], once, "shuffled: frame i holds\ngroup i of every frame"),
        (axes[2], twice, "shuffled again:\neverything is back"),
    ):
        labels = x[..., 0, 0].T.numpy().astype(int)
        sources = labels // frames
        draw_cells(
            axis, [[f"{each // frames}, {each % frames}" for each in row] for row in labels], sources, frames - 1
        )
        axis.set_title(title, size=10)
        axis.set_xticks(np.arange(frames) + 0.5, range(frames), size=8)
        axis.set_yticks(np.arange(frames) + 0.5, range(frames), size=8)
        axis.set_xlabel("frame", size=9)
    axes[0].set_ylabel("channel group", size=9)
    return figure


def draw_blocks() -> plt.Figure:
    """The frames that each slot depends on, at every place of a bottleneck: VSN compact, headtail, and TSM."""
    frames = 4
    places = ["conv1", "conv2", "conv3", "out"]
    rows = ("tsm", "vsn_compact", "vsn_headtail")
    figure, axes = plt.subplots(3, 4, figsize=(10.5, 9), layout="constrained")
    for line, operator in zip(axes, rows, strict=True):
        reach = reach_in_bottleneck(operator, frames)
        for axis, place in zip(line, places, strict=True):
            sets = reach[place]  # (T, G, T): slot (frame, group) depends on frame
            counts = sets.sum(2).T
            texts = [[describe_frames(sets[t, g]) for t in range(frames)] for g in range(frames)]
            alone = np.where(counts == 1, sets.argmax(2).T, np.where(counts == 0, ZEROS, SEVERAL))
            draw_cells(axis, texts, alone, frames - 1)
            shown = {"conv1": "conv1 reads", "conv2": "conv2 reads", "conv3": "conv3 reads", "out": "the block gives"}
            title = "tsm, fold_div=4" if operator == "tsm" else operator
            axis.set_title(f"{title}:\n{shown[place]}", size=10)
            axis.set_xticks(np.arange(frames) + 0.5, range(frames), size=8)
            axis.set_yticks([])
            axis.set_xlabel("frame", size=8)
        line[0].set_ylabel("channel group", size=9)
    return figure


def describe_frames(depends: np.ndarray) -> str:
    if depends.all():
        return "all"
    return ",".join(str(frame) for frame in np.flatnonzero(depends))


def reach_in_bottleneck(operator: str, frames: int) -> dict[str, np.ndarray]:
    """Place -> bool (T, G, T): whether group g of frame t changes there if the block's input frame j changes."""
    channels = 8 * frames
    network = nn.Module()
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        setattr(network, stage, nn.Sequential(Bottleneck(channels, channels // 4)))
    options = {"tsm": {}, "sth": {"variant": "hybrid", "p": 0.25, "integration": "sum"}}.get(
        operator, {"standard_block": "tsm", "where": "last", "remainder": "error"}
    )
    if operator == "tsm":
        options = {"fold_div": 4}  # the shifted channels are then one group
    insert_operator(network, operator, frames, **options)
    block: Any = network.layer1[0]  # type: ignore[index]
    seen: dict[str, Tensor] = {}
    for name in ("conv1", "conv2", "conv3"):
        layer = getattr(block, name)
        inner = getattr(layer, "conv", layer)
        inner.register_forward_pre_hook(keep(seen, name))

    def run(x: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            seen["out"] = block.eval()(x)
        return {name: each.clone() for name, each in seen.items()}

    # Far above zero, so that no ReLU hides a change.
    x = torch.rand(frames, channels, 5, 5) + 5
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.abs()
    before = run(x)
    reach = {name: np.zeros((frames, frames, frames), bool) for name in before}
    for frame in range(frames):
        changed = x.clone()
        changed[frame] += 1
        for name, after in run(changed).items():
            groups = (after != before[name]).unflatten(1, (frames, -1)).flatten(2).any(2)
            reach[name][:, :, frame] = groups.numpy()
    return reach


def keep(seen: dict[str, Tensor], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[name] = inputs[0]

    return hook


def draw_placement() -> plt.Figure:
    """The operator in each block of ResNet-50, read from the networks."""
    rows: list[tuple[str, str, dict[str, Any]]] = [
        ("tsn", "tsn", {}),
        ("tsm", "tsm", {}),
        ("vsn_compact", "vsn_compact", {}),
        ("vsn_compact,\nstandard_block=plain", "vsn_compact", {"standard_block": "plain"}),
        ("vsn_headtail", "vsn_headtail", {}),
        ("sth", "sth", {}),
    ]
    kinds = {"-": 0, "shift": 1, "shuffle": 2, "hybrid": 3}
    table, names = [], []
    for _, operator, options in rows:
        with torch.device("meta"):
            found = placement(create_model(operator, "resnet50", 8, 10, **options))
        names = [name for name, _ in found]
        table.append([kinds[what.split()[0]] for _, what in found])
    figure, axis = plt.subplots(figsize=(10, 3.9), layout="constrained")
    axis.pcolormesh(
        table, cmap=ListedColormap([GREY, BLUE, ORANGE, GREEN]), vmin=-0.5, vmax=3.5, edgecolors="white", lw=2
    )
    axis.set_yticks(np.arange(len(rows)) + 0.5, [title for title, _, _ in rows], size=9)
    axis.set_xticks(np.arange(len(names)) + 0.5, [name.removeprefix("layer") for name in names], size=9)
    axis.invert_yaxis()
    axis.set_xlabel("stage.block of ResNet-50", size=9)
    stage_of = [name.split(".")[0] for name in names]
    for at in range(1, len(names)):
        if stage_of[at] != stage_of[at - 1]:
            axis.axvline(at, color="black", lw=1.2)
    axis.tick_params(length=0)
    axis.legend(
        handles=[
            Patch(color=colour, label=label)
            for colour, label in (
                (GREY, "as in the 2D network"),
                (BLUE, "channels shifted"),
                (ORANGE, "channel groups shuffled and restored"),
                (GREEN, "3 x 3 is a hybrid convolution"),
            )
        ],
        loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=4, frameon=False, fontsize=9,
    )  # fmt: skip
    return figure


def draw_hybrid() -> plt.Figure:
    """The kernel and the taps of each pair of channels, found with impulses."""
    channels = 16
    forms = [("hybrid", 0.25), ("hybrid", 0.5), ("merge", 0.25)]
    figure, axes = plt.subplots(1, 5, figsize=(14, 3.9), width_ratios=[1, 1, 1, 0.95, 0.95], layout="constrained")
    kinds = ListedColormap([BLUE, ORANGE])
    for axis, (variant, p) in zip(axes, forms, strict=False):
        response = impulse_response(channels, variant, p)  # (Co, Ci, 3, 3, 3)
        temporal = response[:, :, [0, 2]].any((2, 3, 4))
        spatial = response[:, :, 1].sum((2, 3)) > 1
        assert (temporal ^ spatial).all()
        axis.pcolormesh(temporal.astype(int), cmap=kinds, vmin=0, vmax=1, edgecolors="white", lw=0.6)
        axis.set(aspect="equal", xlabel="input channel", title=f"variant={variant}, p=1/{round(1 / p)}")
        axis.set_xticks([0.5, channels - 0.5], ["0", str(channels - 1)])
        axis.set_yticks([0.5, channels - 0.5], ["0", str(channels - 1)])
        axis.invert_yaxis()
    axes[0].set_ylabel("output channel")
    response = impulse_response(channels, "hybrid", 0.25)
    for axis, pair, title, colour in (
        (axes[3], (0, 0), "a temporal pair: 3 x 1 x 1", ORANGE),
        (axes[4], (0, channels - 1), "a spatial pair: 1 x 3 x 3", BLUE),
    ):
        taps = response[pair]
        for time in range(3):
            for row in range(3):
                for column in range(3):
                    place = (column + 0.55 * time, row + 3.6 * time)
                    axis.add_patch(
                        plt.Rectangle(place, 0.92, 0.92, facecolor=colour if taps[time, row, column] else "#F2F2F2",
                                      edgecolor="#888888", lw=0.7)
                    )  # fmt: skip
            axis.text(4.6, 3.6 * time + 1.5, ("frame before", "frame", "frame after")[time], va="center", size=8)
        axis.set(xlim=(-0.3, 8.2), ylim=(10.6, -0.4), aspect="equal")
        axis.set_title(title, size=10)
        axis.axis("off")
    figure.legend(
        handles=[Patch(color=ORANGE, label="read through time"), Patch(color=BLUE, label="read through space")],
        loc="outside lower center", ncols=2, frameon=False,
    )  # fmt: skip
    return figure


def impulse_response(channels: int, variant: str, p: float) -> np.ndarray:
    """bool (Co, Ci, 3, 3, 3): the taps (time, down, right) that connect an output channel to an input channel."""
    layer = HybridConv2d(channels, channels, 5, p=p, variant=variant, integration="sum")
    nn.init.ones_(layer.spatial)
    nn.init.ones_(layer.temporal)
    response = np.zeros((channels, channels, 3, 3, 3), bool)
    for channel in range(channels):
        x = torch.zeros(5, channels, 5, 5)
        x[2, channel, 2, 2] = 1
        with torch.no_grad():
            heard = layer(x)[1:4, :, 1:4, 1:4] > 0  # frame 1 hears it with its tap for the frame after
        response[:, channel] = heard.flip(0, 2, 3).transpose(0, 1).numpy()
    return response


def draw_attention() -> plt.Figure:
    """Equation 3 on one clip: the outputs of both branches, and the attention weights computed from them."""
    channels, frames = 8, 4
    layer = HybridConv2d(channels, channels, frames, p=0.25, integration="attention")
    assert layer.attention is not None
    nn.init.normal_(layer.attention.weight, std=0.4)  # as if trained: a new layer weighs both branches equally
    means: dict[str, Tensor] = {}
    plain = layer._integrate

    def listen(o_T: Tensor, o_S: Tensor) -> Tensor:
        means["temporal"], means["spatial"] = (each.mean((0, 2, 3)) for each in (o_T, o_S))
        return plain(o_T, o_S)

    layer._integrate = listen  # type: ignore[method-assign]
    with torch.no_grad():
        layer(torch.rand(frames, channels, 8, 8))
    assert layer.last_attention is not None
    shares = layer.last_attention[0].numpy()
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    places = np.arange(channels)
    for offset, (name, colour) in zip((-0.2, 0.2), (("temporal", ORANGE), ("spatial", BLUE)), strict=True):
        axes[0].bar(
            places + offset,
            means[name].numpy(),
            0.38,
            color=colour,
            edgecolor="black",
            lw=0.4,
            label=f"$O_{name[0].upper()}$",
        )
    axes[0].axhline(0, color="black", lw=0.8)
    axes[0].set(title="mean of each branch over time and space", xlabel="output channel", xticks=places)
    axes[0].legend(frameon=False, ncols=2)
    axes[1].bar(places, shares[0], 0.7, color=ORANGE, edgecolor="black", lw=0.4, label="$a_T$")
    axes[1].bar(places, shares[1], 0.7, bottom=shares[0], color=BLUE, edgecolor="black", lw=0.4, label="$a_S$")
    axes[1].axhline(0.5, color="black", lw=0.8, ls="--")
    axes[1].set(
        title="weights of the branches: $O = a_T O_T + a_S O_S$", xlabel="output channel", xticks=places, ylim=(0, 1)
    )
    axes[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def draw_reach() -> plt.Figure:
    """Temporal receptive field: the frames that a frame's features depend on, after one and all stages of ResNet-18."""
    frames = 8
    operators = ("tsn", "tsm", "vsn_compact", "vsn_headtail", "sth")
    figure, axes = plt.subplots(2, len(operators), figsize=(12.5, 5.6), layout="constrained")
    for column, operator in enumerate(operators):
        for axis, after in zip(axes[:, column], ("layer1", "layer4"), strict=True):
            reach = reach_in_network(operator, after, frames)
            axis.pcolormesh(reach, cmap=ListedColormap([GREY, GREEN]), vmin=0, vmax=1, edgecolors="white", lw=1)
            axis.set(aspect="equal", xticks=[0.5, frames - 0.5], yticks=[0.5, frames - 0.5])
            axis.set_xticklabels(["0", str(frames - 1)])
            axis.set_yticklabels(["0", str(frames - 1)])
            axis.invert_yaxis()
            axis.set_title(f"{operator}, {'first stage' if after == 'layer1' else 'whole network'}", size=9)
    for axis in axes[:, 0]:
        axis.set_ylabel("features of frame", size=9)
    for axis in axes[1]:
        axis.set_xlabel("depend on frame", size=9)
    return figure


def reach_in_network(operator: str, after: str, frames: int) -> np.ndarray:
    """bool (T, T): whether the features of frame t after a stage of ResNet-18 depend on input frame j."""
    # float64, so that a change is not lost to rounding in a network with random weights.
    network: Any = create_model(operator, "resnet18", frames, 2).backbone.double().eval()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, HybridConv2d):  # its outer temporal taps start at zero
                nn.init.normal_(layer.temporal, std=0.2)
    seen: dict[str, Tensor] = {}
    network.get_submodule(after).register_forward_hook(lambda module, inputs, output: seen.update(x=output))
    x = torch.rand(frames, 3, 32, 32, dtype=torch.float64)
    rows = []
    with torch.no_grad():
        network(x)
        before = seen["x"]
        for frame in range(frames):
            changed = x.clone()
            changed[frame] = 1 - changed[frame]
            network(changed)
            rows.append((seen["x"] != before).flatten(1).any(1).numpy())
    return np.stack(rows, axis=1)


DRAWINGS: dict[str, Callable[[], plt.Figure]] = {
    "shift": draw_shift,
    "shuffle": draw_shuffle,
    "blocks": draw_blocks,
    "placement": draw_placement,
    "reach": draw_reach,
    "hybrid": draw_hybrid,
    "attention": draw_attention,
}

if __name__ == "__main__":
    main()
