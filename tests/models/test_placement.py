"""Where each operator sits in each network, against the papers' figures and tables as written out here."""

import pytest

from vsn_train.models import create_model
from vsn_train.models.backbone import ARCHS, OPERATORS, placement, placement_table

DEPTHS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}
# MobileNetV2's blocks with expansion and shortcut, by stage of equal width.
MOBILENET = [[3], [5, 6], [8, 9, 10], [12, 13], [15, 16]]
INSIDE = {  # in a bottleneck, a basic block, an inverted residual
    "shift": ("shift 1/8 before conv1", "shift 1/8 before conv1", "shift 1/8 before conv.0.0"),
    "vsn_compact": (
        "shuffle before conv2, restore before conv3",
        "shuffle before conv2, restore after bn2",
        "shuffle before conv.0.0, restore before conv.2",
    ),
    "vsn_headtail": (
        "shuffle before conv1, restore after bn3",
        "shuffle before conv1, restore after bn2",
        "shuffle before conv.0.0, restore after conv.3",
    ),
    "sth": (
        "hybrid 1/4 attention at conv2",
        "hybrid 1/4 attention at conv1, hybrid 1/4 attention at conv2",
        "depthwise hybrid 1/4 at conv.1.0",
    ),
}


def expected_placement(operator, arch, standard_block="tsm", where="last"):
    kind = {"mobilenet_v2": 2, "resnet18": 1, "resnet34": 1}.get(arch, 0)
    if arch == "mobilenet_v2":
        names = [f"features.{i}" for i in range(1, 18)]
        stages = [[f"features.{i}" for i in stage] for stage in MOBILENET]
        shiftable = [name for stage in stages for name in stage]
    else:
        stages = [[f"layer{s}.{i}" for i in range(depth)] for s, depth in enumerate(DEPTHS[arch], 1)]
        names = [name for stage in stages for name in stage]
        shiftable = [name for stage in stages for name in stage[:: 2 if arch == "resnet101" else 1]]
    table = dict.fromkeys(names, "-")
    if operator == "sth":
        table = dict.fromkeys(names, INSIDE["sth"][kind])
        if arch == "mobilenet_v2":
            table["features.1"] = "depthwise hybrid 1/4 at conv.0.0"  # the block without expansion
    if operator == "tsm" or (operator.startswith("vsn") and standard_block == "tsm"):
        table |= dict.fromkeys(shiftable, INSIDE["shift"][kind])
    if operator == "tsm_online":
        table |= dict.fromkeys(shiftable, INSIDE["shift"][kind].replace("1/8", "1/8 from the past"))
    if operator.startswith("vsn"):
        shuffled = [name for stage in stages for name in (stage if where == "all" else stage[-1:])]
        table |= dict.fromkeys(shuffled, INSIDE[operator][kind])
    return list(table.items())


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_placement(operator, arch):
    model = create_model(operator, arch, num_frames=8, num_classes=3)
    assert placement(model) == expected_placement(operator, arch)
    assert placement(model.backbone) == placement(model)
    lines = placement_table(model).splitlines()
    assert [tuple(line.split(maxsplit=1)) for line in lines] == placement(model)


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnet101", "mobilenet_v2"])
@pytest.mark.parametrize("operator", ["vsn_compact", "vsn_headtail"])
@pytest.mark.parametrize("options", [{"standard_block": "plain"}, {"where": "all"}])
def test_options_of_vsn(operator, arch, options):
    model = create_model(operator, arch, num_frames=8, num_classes=3, **options)
    assert placement(model) == expected_placement(operator, arch, **options)


@pytest.mark.parametrize(("arch", "blocks"), [("resnet50", 16), ("resnet101", 33), ("mobilenet_v2", 10)])
def test_inplace_shift_wraps_whole_blocks_and_in_resnet101_all_of_them(arch, blocks):
    residual = placement(create_model("tsm", arch, num_frames=8, num_classes=3))
    inplace = placement(create_model("tsm", arch, num_frames=8, num_classes=3, placement="inplace"))
    assert [name for name, _ in inplace] == [name for name, _ in residual]
    assert [what for _, what in inplace].count("shift 1/8 before block and shortcut") == blocks
    assert [what for _, what in inplace].count("-") == len(inplace) - blocks


def test_frames_that_do_not_divide_the_channels():
    model = create_model("vsn_compact", "resnet18", num_frames=5, num_classes=3, remainder="keep")
    assert placement(model) == expected_placement("vsn_compact", "resnet18")


def test_table_reads_as_documented():
    text = placement_table(create_model("vsn_compact", "resnet18", num_frames=8, num_classes=3))
    assert text.splitlines()[:2] == [
        "layer1.0  shift 1/8 before conv1",
        "layer1.1  shuffle before conv2, restore after bn2",
    ]
