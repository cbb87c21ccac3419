"""torch.compile takes every operator as one graph, and computes what the eager network computes."""

from __future__ import annotations

import copy

import pytest
import torch
import torch._inductor.config as inductor
import torch.nn.functional as F
from torch import nn

from tests.cuda.device import DEVICE, ON_GPU, OPERATORS, example_batch, example_model, record, worst_gradient
from vsn_train.data.transforms import normalize
from vsn_train.engine.precision import autocast_for
from vsn_train.models import Recognizer

# Compiling takes long on a CPU: one stage of some networks then, else two, with blocks of stride 1 and 2.
COMPILED = OPERATORS if ON_GPU else ("tsm", "sth")
PRECISIONS, STAGES = (("fp32", "bf16"), 2) if ON_GPU else (("fp32",), 1)
# Relative difference from the eager network. bf16: the compiler leaves roundings out, so that either side has its own.
TOLERANCES = {"fp32": 1e-4, "bf16": 24 * torch.finfo(torch.bfloat16).eps}


@pytest.fixture(autouse=True)
def cold_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    with inductor.patch(compile_threads=4):  # of each process that runs tests
        yield
    torch._dynamo.reset()


def first_stages(operator: str) -> Recognizer:
    """ResNet-18 without its last stages: compiling them takes time and finds nothing new.

    Kinks are rounded off as in test_cuda_operators.py.
    """
    model = example_model(operator, "resnet18")
    for stage in range(STAGES + 1, 5):
        setattr(model.backbone, f"layer{stage}", nn.Identity())
    model.head = nn.Linear(64 * 2 ** (STAGES - 1), 10)
    for module in list(model.modules()):
        if isinstance(getattr(module, "relu", None), nn.ReLU):
            module.relu = nn.ELU(inplace=True)
    model.backbone.maxpool = nn.AvgPool2d(3, 2, 1)
    return model.to(DEVICE, memory_format=torch.channels_last if ON_GPU else torch.contiguous_format)


@pytest.mark.parametrize("operator", COMPILED)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_compiled_network_is_one_graph_and_gives_the_same(operator, precision):
    eager = first_stages(operator)
    compiled = copy.deepcopy(eager)
    batch = example_batch(4, 4, 64 if ON_GPU else 32)
    networks = {"eager": eager, "compiled": torch.compile(compiled, fullgraph=True)}
    logits = {}
    for name, network in networks.items():
        with autocast_for(precision, DEVICE):
            found = network(normalize(batch.video)).float()
        F.cross_entropy(found, batch.label).backward()
        logits[name] = found.detach()
    difference = float((logits["compiled"] - logits["eager"]).norm() / logits["eager"].norm())
    gradients = [{name: each.grad for name, each in model.named_parameters()} for model in (compiled, eager)]
    worst, name = worst_gradient(*gradients)
    record("compiled", operator=operator, precision=precision, logits=difference, gradient=worst, parameter=name)
    assert difference < TOLERANCES[precision]
    assert worst < TOLERANCES[precision], name
