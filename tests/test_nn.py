"""The modules stand in for those of torch.nn."""

# mypy: disable-error-code="no-untyped-call"

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import fusedgrad

LOSSES = {
    "BCELoss": (fusedgrad.nn.BCELoss, nn.BCELoss),
    "BCEWithLogitsLoss": (fusedgrad.nn.BCEWithLogitsLoss, nn.BCEWithLogitsLoss),
}
MODULES = {
    "Sigmoid": (fusedgrad.nn.Sigmoid, nn.Sigmoid),
    "Tanh": (fusedgrad.nn.Tanh, nn.Tanh),
    **LOSSES,
}

modules = pytest.mark.parametrize(("ours", "theirs"), MODULES.values(), ids=MODULES.keys())
losses = pytest.mark.parametrize(("ours", "theirs"), LOSSES.values(), ids=LOSSES.keys())


@modules
def test_module_is_one_of_torch_nn(ours: type[nn.Module], theirs: type[nn.Module]) -> None:
    assert isinstance(ours(), theirs)
    assert repr(ours()) == repr(theirs())


@pytest.mark.parametrize("name", ["Sigmoid", "Tanh"])
def test_activation_is_the_function(name: str) -> None:
    x = torch.randn(5)
    module = MODULES[name][0]()
    assert torch.equal(module(x), getattr(fusedgrad, name.lower())(x))


@pytest.mark.parametrize("name", ["Sigmoid", "Tanh"])
def test_gradient_through_a_module_is_the_functions(name: str) -> None:
    x = torch.full((1,), 15.0, requires_grad=True)  # where torch.nn's is 0 or far off
    grads = [
        torch.autograd.grad(function(x), x)[0]
        for function in (MODULES[name][0](), getattr(fusedgrad, name.lower()))
    ]
    assert torch.equal(*grads)
    assert not torch.equal(grads[0], torch.autograd.grad(MODULES[name][1]()(x), x)[0])


def weights() -> dict[str, Tensor]:
    return {"weight": torch.tensor([1.0, 2.0, 3.0])}


@losses
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_loss_honours_weight_and_reduction(
    ours: type[nn.Module], theirs: type[nn.Module], reduction: str
) -> None:
    x, t = torch.rand(2, 3), torch.rand(2, 3)
    expected = theirs(**weights(), reduction=reduction)(x, t)
    torch.testing.assert_close(ours(**weights(), reduction=reduction)(x, t), expected)


def test_loss_of_logits_honours_pos_weight() -> None:
    x, t, p = torch.rand(2, 3), torch.rand(2, 3), torch.tensor([1.0, 2.0, 3.0])
    expected = nn.BCEWithLogitsLoss(pos_weight=p)(x, t)
    torch.testing.assert_close(fusedgrad.nn.BCEWithLogitsLoss(pos_weight=p)(x, t), expected)


@losses
def test_loss_takes_the_deprecated_arguments(
    ours: type[nn.Module], theirs: type[nn.Module]
) -> None:
    with pytest.warns(UserWarning, match="size_average and reduce args will be deprecated"):
        assert ours(size_average=False).reduction == "sum"


@losses
def test_state_dicts_are_interchangeable(ours: type[nn.Module], theirs: type[nn.Module]) -> None:
    state = ours(**weights()).state_dict()
    assert state.keys() == theirs(**weights()).state_dict().keys()
    for source, destination in ((ours, theirs), (theirs, ours)):
        module = destination(weight=torch.zeros(3))
        module.load_state_dict(source(**weights()).state_dict())
        assert torch.equal(module.get_buffer("weight"), weights()["weight"])


@losses
def test_weights_move_with_the_module(ours: type[nn.Module], theirs: type[nn.Module]) -> None:
    module = ours(**weights()).double()
    x = torch.rand(2, 3, dtype=torch.float64)
    assert module.get_buffer("weight").dtype is torch.float64
    assert module(x, x).dtype is torch.float64


@modules
def test_module_survives_pickle_and_deepcopy(
    ours: type[nn.Module], theirs: type[nn.Module]
) -> None:
    module = ours()
    for copied in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert type(copied) is ours


def test_a_network_trains() -> None:
    x = torch.randn(64, 4)
    t = (x.sum(1, keepdim=True) > 0).float()
    network = nn.Sequential(nn.Linear(4, 8), fusedgrad.nn.Tanh(), nn.Linear(8, 1))
    loss = fusedgrad.nn.BCEWithLogitsLoss()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    first = loss(network(x), t).item()
    for _ in range(50):
        optimizer.zero_grad()
        loss(network(x), t).backward()
        optimizer.step()
    assert loss(network(x), t).item() < first / 4
