"""A converted model is written, scripted and quantized as the model it was."""

# mypy: disable-error-code="no-untyped-call"

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization
from torch.utils import mkldnn

import fusedgrad

pytestmark = [pytest.mark.filterwarnings("ignore")]
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Sigmoid()).eval()


def statically_quantized(module: nn.Sequential) -> Tensor:
    stubs = nn.Sequential(quantization.QuantStub(), *module, quantization.DeQuantStub()).eval()
    stubs.qconfig = quantization.get_default_qconfig("fbgemm")
    prepared = quantization.prepare(stubs)
    prepared(X)
    result: Tensor = quantization.convert(prepared)(X)
    return result


USES: dict[str, Callable[[nn.Sequential], Tensor]] = {
    "script": lambda module: torch.jit.script(module)(X),
    "trace": lambda module: torch.jit.trace(module, X)(X),
    "freeze": lambda module: torch.jit.freeze(torch.jit.script(module))(X),
    "FX": lambda module: torch.fx.symbolic_trace(module)(X),
    "export": lambda module: torch.export.export(module, (X,)).module()(X),
    "compile": lambda module: torch.compile(module, backend="aot_eager")(X),
    "static quantization": statically_quantized,
    "dynamic quantization": lambda module: quantization.quantize_dynamic(module)(X),
    "mkldnn": lambda module: mkldnn.to_mkldnn(copy.deepcopy(module))(X.to_mkldnn()).to_dense(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_converted_model_deploys_as_the_original(use: Callable[[nn.Sequential], Tensor]) -> None:
    torch.backends.quantized.engine = "fbgemm"
    torch.testing.assert_close(use(fusedgrad.convert(model())), use(model()))


@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, X)])
def test_traced_and_scripted_graphs_have_pytorchs_operators(make: Any) -> None:
    graph = str(make(fusedgrad.convert(model())).inlined_graph)
    assert "aten::tanh" in graph
    assert "fusedgrad::" not in graph


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("kind", [nn.BCELoss, nn.BCEWithLogitsLoss])
def test_losses_are_scripted(kind: Any, reduction: str) -> None:
    loss = kind(weight=torch.rand(3), reduction=reduction)
    scripted = torch.jit.script(fusedgrad.convert(copy.deepcopy(loss)))
    x, target = torch.rand(2, 4, 3)
    torch.testing.assert_close(scripted(x, target), loss(x, target))


TENSORS: dict[str, Callable[[], Tensor]] = {
    "jagged": lambda: torch.nested.nested_tensor([X[:2], X[2:3]], layout=torch.jagged),
    "quantized": lambda: torch.quantize_per_tensor(X, 0.1, 0, torch.quint8),
    "mkldnn": X.to_mkldnn,
    "complex": lambda: X + 1j * X,
    "masked": lambda: torch.masked.masked_tensor(X, X > 0),
}


@pytest.mark.parametrize("kind", [nn.Sigmoid, nn.Tanh])
@pytest.mark.parametrize("make", TENSORS.values(), ids=TENSORS.keys())
def test_converted_module_takes_what_the_module_took(
    make: Callable[[], Tensor], kind: type[nn.Module]
) -> None:
    expected = kind()(make())
    result = fusedgrad.convert(kind())(make())
    assert type(result) is type(expected)
    if expected.is_nested:
        result, expected = result.values(), expected.values()
    assert str(result) == str(expected)


def test_converted_module_takes_sparse_tensors() -> None:
    sparse = X.to_sparse()
    result = fusedgrad.convert(nn.Tanh())(sparse)
    torch.testing.assert_close(result.to_dense(), torch.tanh(X))


@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, X)])
def test_convert_refuses_a_module_of_torch_jit_and_leaves_it_whole(make: Any) -> None:
    fixed = make(model())
    expected = fixed(X)
    outer = nn.Sequential(nn.Tanh(), fixed)
    for module in (fixed, outer):
        with pytest.raises(TypeError, match=r"torch\.jit, whose code is fixed"):
            fusedgrad.convert(module)
    assert torch.equal(fixed(X), expected)
    assert type(outer[0]) is nn.Tanh


class Loss(nn.Module):
    def __init__(self, **weights: Any) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return fusedgrad.binary_cross_entropy_with_logits(x, target, **self.weights)


@pytest.mark.parametrize("batch", [3, 4])
@pytest.mark.parametrize("name", ["weight", "pos_weight"])
def test_weight_of_each_class_is_exported_with_a_dynamic_batch(name: str, batch: int) -> None:
    loss = Loss(**{name: torch.rand(3)})
    shapes = ({0: torch.export.Dim("batch")},) * 2
    x, target = torch.rand(2, batch, 3)
    exported = torch.export.export(loss, (x, target), dynamic_shapes=shapes, strict=False).module()
    x, target = torch.rand(2, 5, 3)
    torch.testing.assert_close(exported(x, target), loss(x, target))
