"""A converted model is written, scripted and quantized as the model it was."""

# mypy: disable-error-code="no-untyped-call"

import copy
import functools
import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torch.ao import quantization
from torch.ao.quantization import quantize_fx
from torch.distributed.fsdp import fully_shard
from torch.onnx.utils import _model_to_graph, exporter_context
from torch.utils import mkldnn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import fusedgrad

pytestmark = [pytest.mark.filterwarnings("ignore")]
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


TARGET = torch.rand(4, 3, generator=torch.Generator().manual_seed(1))


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Sigmoid()).eval()


def of_fusedgrad(result: Tensor) -> set[str]:
    """The names of our nodes in the graph of a result."""
    names, nodes = set(), [result.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is not None:
            names.add(node.name())
            nodes += [function for function, _ in node.next_functions]
    return {name for name in names if name.startswith("fusedgrad::")}


def statically_quantized(module: nn.Sequential) -> nn.Sequential:
    stubs = nn.Sequential(quantization.QuantStub(), *module, quantization.DeQuantStub()).eval()
    stubs.qconfig = quantization.get_default_qconfig("fbgemm")
    prepared = quantization.prepare(stubs)
    prepared(X)
    quantized: nn.Sequential = quantization.convert(prepared)
    return quantized


def quantized_by_fx(module: nn.Sequential) -> nn.Module:
    mapping = quantization.get_default_qconfig_mapping("fbgemm")
    prepared = quantize_fx.prepare_fx(module, mapping, (X,))
    prepared(X)
    quantized: nn.Module = quantize_fx.convert_fx(prepared)
    return quantized


def agree(use: Callable[[nn.Sequential], Any]) -> Tensor:
    """The result of a use of the converted model, which is that of the model."""
    result = use(fusedgrad.convert(model()))(X)
    torch.testing.assert_close(result, use(model())(X))
    assert isinstance(result, Tensor)
    return result


def checkpointing() -> None:
    for reentrant in (True, False):
        sequential = functools.partial(checkpoint_sequential, use_reentrant=reentrant)
        agree(lambda module: functools.partial(sequential, module, 2))  # noqa: B023
        x = torch.full((1, 1), 9.0, requires_grad=True)
        checkpoint(fusedgrad.convert(nn.Tanh()), x, use_reentrant=reentrant).backward()
        assert x.grad is not None
        assert x.grad.item() == pytest.approx(1 / math.cosh(9) ** 2, rel=1e-6)


def compiling() -> None:
    torch._dynamo.reset()
    agree(lambda module: torch.compile(module, backend="aot_eager", fullgraph=True))
    x = torch.full((1,), 9.0, requires_grad=True)
    compiled = torch.compile(fusedgrad.convert(nn.Tanh()), backend="aot_eager", fullgraph=True)
    (derivative,) = torch.autograd.grad(compiled(x), x)
    assert derivative.item() == pytest.approx(1 / math.cosh(9) ** 2, rel=1e-6)


def exporting() -> None:
    for strict in (True, False):
        agree(lambda module: torch.export.export(module, (X,), strict=strict).module())  # noqa: B023
        program = torch.export.export(fusedgrad.convert(model()), (X,), strict=strict)
        assert "fusedgrad" not in str(program.run_decompositions().graph)


def scripting() -> None:
    for use in (torch.jit.script, lambda module: torch.jit.trace(module, X)):
        agree(use)
        agree(lambda module: torch.jit.freeze(use(module)))  # noqa: B023
        converted = use(fusedgrad.convert(model()))
        graph = str(converted.inlined_graph)
        assert "aten::tanh" in graph
        assert "aten::sigmoid" in graph
        assert "fusedgrad::" not in graph
        saved = io.BytesIO()
        torch.jit.save(converted, saved)
        saved.seek(0)
        assert torch.equal(torch.jit.load(saved)(X), converted(X))


def onnx_nodes(module: nn.Module) -> list[str]:
    """The kinds of nodes that torch.onnx.export(dynamo=False) writes."""
    with exporter_context(module, torch.onnx.TrainingMode.EVAL, verbose=False):
        graph = _model_to_graph(module, (X,))[0]
    return [node.kind() for node in graph.nodes()]


def writing_onnx() -> None:
    # The exporter of dynamo=True needs onnxscript: tests/check_companions.py.
    nodes = onnx_nodes(fusedgrad.convert(model()))
    assert nodes == onnx_nodes(model())
    assert nodes == ["onnx::Gemm", "onnx::Tanh", "onnx::Gemm", "onnx::Sigmoid"]


def tracing_by_fx() -> None:
    agree(torch.fx.symbolic_trace)
    traced = torch.fx.symbolic_trace(fusedgrad.convert(model()))
    called = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert called == ["0", "1", "2", "3"]
    names = {"fusedgrad::SigmoidBackward", "fusedgrad::TanhBackward"}
    assert of_fusedgrad(traced(X)) == names
    assert "fusedgrad" not in torch.fx.symbolic_trace(fusedgrad.convert(nn.Tanh())).code


def quantizing() -> None:
    torch.backends.quantized.engine = "fbgemm"
    for use in (statically_quantized, quantized_by_fx, quantization.quantize_dynamic):
        agree(use)
        kinds = [
            [type(module).__qualname__ for module in use(made).modules()]
            for made in (model(), fusedgrad.convert(model()))
        ]
        assert kinds[0] == kinds[1]


def training_in_processes() -> None:
    # Several processes: tests/test_distributed.py.
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        agree(nn.parallel.DistributedDataParallel)
        mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
        sharded = agree(lambda module: fully_shard(module, mesh=mesh))
        assert of_fusedgrad(sharded) == {"fusedgrad::SigmoidBackward", "fusedgrad::TanhBackward"}
    finally:
        dist.destroy_process_group()


def attributing() -> None:
    # With captum and others themselves: tests/check_companions.py.
    table = {nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.BCELoss: "loss"}
    found = [table.get(type(module)) for module in fusedgrad.convert(model())]
    assert found == [None, "tanh", None, "sigmoid"]
    assert table[type(fusedgrad.convert(nn.BCELoss()))] == "loss"
    assert type(fusedgrad.nn.Tanh()) not in table
    module = fusedgrad.convert(nn.Tanh())
    seen: list[Tensor] = []
    module.register_full_backward_hook(lambda _, by_input, by_output: seen.extend(by_input))
    module(torch.full((1,), 9.0, requires_grad=True)).backward()
    assert seen[0].item() == pytest.approx(1 / math.cosh(9) ** 2, rel=1e-6)


def loading_states() -> None:
    for source, destination in ((model(), fusedgrad.convert(model())),) * 2:
        destination.load_state_dict(source.state_dict())
        source.load_state_dict(destination.state_dict())
    loss = nn.BCEWithLogitsLoss(pos_weight=torch.ones(3))
    keys = loss.state_dict().keys()
    assert fusedgrad.convert(loss).state_dict().keys() == keys


def copying() -> None:
    agree(copy.deepcopy)
    agree(lambda module: pickle.loads(pickle.dumps(module)))
    loss = fusedgrad.convert(nn.BCELoss())
    for copied in (copy.copy(loss), copy.deepcopy(loss)):
        copied.reduction = "none"
        assert copied(TARGET, TARGET).shape == TARGET.shape
    assert loss(TARGET, TARGET).dim() == 0


def taking_special_tensors() -> None:
    # Each kind of them below.
    agree(
        lambda module: lambda x: mkldnn.to_mkldnn(copy.deepcopy(module))(x.to_mkldnn()).to_dense()
    )
    sparse = X.to_sparse()
    torch.testing.assert_close(fusedgrad.convert(nn.Tanh())(sparse).to_dense(), torch.tanh(X))


# The first column of the table of docs/usage.md: what holds it
ROWS: dict[str, Callable[[], None]] = {
    "activation checkpointing": checkpointing,
    "`torch.compile`": compiling,
    "`torch.export`": exporting,
    "`torch.jit.script`, `trace` and `freeze`": scripting,
    "ONNX": writing_onnx,
    "FX tracing": tracing_by_fx,
    "quantization": quantizing,
    "distributed training": training_in_processes,
    "attribution, second-order extensions, gradients of each sample": attributing,
    "state dicts": loading_states,
    "copies and pickles": copying,
    "nested, sparse, quantized, mkldnn, masked and complex tensors": taking_special_tensors,
}


def rows_of_the_page() -> list[str]:
    page = (Path(__file__).parent.parent / "docs" / "usage.md").read_text()
    section = page.split("## Deployment\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")]
    return rows[2:]


def test_page_has_the_rows_that_are_tested() -> None:
    assert sorted(rows_of_the_page()) == sorted(ROWS)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("row", rows_of_the_page())
def test_row_of_the_page_holds(row: str) -> None:
    ROWS[row]()


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
