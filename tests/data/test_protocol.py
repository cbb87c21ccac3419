import pytest

from vsn_train.data.protocol import Protocol

TRAINED = (256, 224)  # short side and crop that the network was trained for


@pytest.mark.parametrize(
    ("protocol", "name"),
    [
        (Protocol(1, "uniform", 1, 256, 224), "center_1clip"),
        (Protocol(2, "uniform", 1, 256, 224), "center_2clip"),
        (Protocol(10, "dense", 10, 256, 224), "tencrop_10clip"),
        (Protocol(10, "dense", 3, 256, 256), "threecrop_10clip"),
        (Protocol(2, "uniform", 3, 256, 256), "fullres_3crop_2clip"),
        (Protocol(1, "uniform", 3, 256, 256), "fullres_3crop_1clip"),
        (Protocol(4, "dense", 5, 256, 224), "fivecrop_4clip"),
        (Protocol(5, "dense", 10, 256, 224), "tencrop_5clip"),
        (Protocol(1, "dense", 1, 256, 224), "center_1clip_dense"),
        (Protocol(10, "uniform", 3, 256, 256), "threecrop_10clip_uniform"),
        (Protocol(2, "uniform", 3, 256, 224), "threecrop_2clip_crop224"),
        (Protocol(1, "uniform", 1, 256, 256), "center_1clip_crop256"),
        (Protocol(1, "uniform", 1, 320, 224, "probabilities"), "center_1clip_short320_probabilities"),
    ],
)
def test_a_result_is_named_as_what_it_is(protocol, name):
    assert protocol.name(*TRAINED) == name
    assert protocol.views == protocol.clips * protocol.crops
