"""Two processes on loopback agree with one: DTensor, tensor parallel, DDP and FSDP2."""

# mypy: disable-error-code="no-untyped-call"

import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn

import fusedgrad

WORLD = 2


def _process(rank: int, port: int, check: Callable[[Any], None]) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)  # the same numbers in every process
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    from torch.distributed.device_mesh import init_device_mesh

    try:
        check(init_device_mesh("cpu", (WORLD,)))
    finally:
        dist.destroy_process_group()


def in_two_processes(check: Callable[[Any], None]) -> None:
    """Run `check(mesh)` in two processes, whose first exception is raised here."""
    # Forked from a server that has imported torch but run nothing: seconds faster than spawn.
    multiprocessing.set_forkserver_preload(["torch.distributed.tensor", "fusedgrad", "pytest"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.start_processes(  # type: ignore[attr-defined]
        _process, (port, check), nprocs=WORLD, start_method="forkserver"
    )


def distributed(tensor: Tensor, mesh: Any, placement: Any) -> Any:
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.detach(), mesh, [placement]).requires_grad_()


def full(tensor: Any) -> Tensor:
    from torch.distributed.tensor import DTensor

    assert isinstance(tensor, DTensor)
    return tensor.full_tensor()


ELEMENTWISE: dict[str, tuple[Callable[..., Tensor], int]] = {
    "sigmoid": (fusedgrad.sigmoid, 1),
    "tanh": (fusedgrad.tanh, 1),
    "pow scalar": (lambda x: fusedgrad.pow(x, 2.5), 1),
    "pow of a number": (lambda x: fusedgrad.pow(2.5, x), 1),
    "pow": (fusedgrad.pow, 2),
    "loss": (lambda p, t, w: fusedgrad.binary_cross_entropy(p, t, w, reduction="none"), 3),
    "loss of logits": (
        lambda x, t, w, p: fusedgrad.binary_cross_entropy_with_logits(
            x, t, w, pos_weight=p, reduction="none"
        ),
        4,
    ),
}
REDUCED: dict[str, tuple[Callable[..., Tensor], int]] = {
    f"{reduction} of {name}": (
        lambda *a, loss=loss, reduction=reduction: loss(*a, reduction),
        count,
    )
    for reduction in ("mean", "sum")
    for name, (loss, count) in {
        "loss": (
            lambda p, t, w, reduction: fusedgrad.binary_cross_entropy(p, t, w, reduction=reduction),
            3,
        ),
        "loss of logits": (
            lambda x, t, w, p, reduction: fusedgrad.binary_cross_entropy_with_logits(
                x, t, w, pos_weight=p, reduction=reduction
            ),
            4,
        ),
    }.items()
}


def check_operations(mesh: Any) -> None:
    from torch.distributed.tensor import Replicate, Shard

    for name, (function, count) in (ELEMENTWISE | REDUCED).items():
        for placements in (
            [Shard(0)] * count,
            [Shard(1)] * count,
            [Replicate()] * count,
            [Shard(0), *[Replicate()] * (count - 1)],
            [Replicate(), *[Shard(0)] * (count - 1)],
            [Shard(1), *[Shard(0)] * (count - 1)],
        ):
            # 5 rows: uneven shards, and an uneven number of elements for the mean.
            inputs = [torch.rand(5, 4, dtype=torch.float64) for _ in range(count)]
            whole = [tensor.clone().requires_grad_() for tensor in inputs]
            parts = [distributed(x, mesh, p) for x, p in zip(inputs, placements, strict=True)]
            expected, result = function(*whole), function(*parts)
            if name in ELEMENTWISE and Shard(0) in placements[:1]:
                assert result.placements == (Shard(0),), name  # type: ignore[attr-defined]
            torch.testing.assert_close(full(result), expected, msg=f"{name} {placements}")

            cotangent = torch.rand_like(expected)
            first = torch.autograd.grad(expected, whole, cotangent, create_graph=True)
            first_of_parts = torch.autograd.grad(
                result, parts, distributed(cotangent, mesh, Replicate()), create_graph=True
            )
            for one, two in zip(first, first_of_parts, strict=True):
                torch.testing.assert_close(full(two), one, msg=f"gradient: {name} {placements}")

            second = torch.autograd.grad(first[0].sum(), whole[0])[0]
            second_of_parts = torch.autograd.grad(first_of_parts[0].sum(), parts[0])[0]
            torch.testing.assert_close(
                full(second_of_parts), second, msg=f"second derivative: {name} {placements}"
            )


def test_operations_on_shards_agree_with_the_whole() -> None:
    in_two_processes(check_operations)


def check_corners(mesh: Any) -> None:
    from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
    from torch.distributed.tensor import (
        DTensor,
        Partial,
        Replicate,
        Shard,
        distribute_tensor,
    )

    x = torch.randn(4, 3, dtype=torch.float64)
    sharded = distribute_tensor(x, mesh, [Shard(0)])

    # A partial sum is summed before a function that is not linear, and kept by one that is.
    partial = DTensor.from_local(x, mesh, [Partial("sum")], run_check=False)
    torch.testing.assert_close(full(fusedgrad.tanh(partial)), fusedgrad.tanh(2 * x))
    whole = distribute_tensor(x, mesh, [Replicate()])
    gradient = torch.ops.fusedgrad.tanh_backward(partial, whole)
    assert gradient.placements == (Partial("sum"),)
    torch.testing.assert_close(full(gradient), torch.ops.fusedgrad.tanh_backward(2 * x, x))
    # Linear in two arguments: the other must not be counted once for each process.
    second = torch.ops.fusedgrad.pow_double_backward.Tensor_Tensor
    expected = second(2 * x, x, x, x.abs(), x)
    for got, want in zip(second(partial, whole, whole, whole.abs(), whole), expected, strict=True):
        torch.testing.assert_close(full(got), want)

    # Operands broadcast: a row, a column, a number.
    for small in (x[0], x[:, :1], x[0, 0]):
        other = distribute_tensor(small.abs(), mesh, [Replicate()])
        expected = fusedgrad.pow(x.abs(), small.abs())
        torch.testing.assert_close(full(fusedgrad.pow(sharded.abs(), other)), expected)
        torch.testing.assert_close(full(fusedgrad.pow(other, sharded)), small.abs() ** x)

    # A dimension shorter than the mesh leaves a process without elements.
    logits, target = torch.randn(1, 3), torch.rand(1, 3)
    loss = fusedgrad.binary_cross_entropy_with_logits(
        distributed(logits, mesh, Shard(0)), distribute_tensor(target, mesh, [Shard(0)])
    )
    torch.testing.assert_close(
        full(loss), fusedgrad.binary_cross_entropy_with_logits(logits, target)
    )
    loss.backward()
    nothing = distribute_tensor(torch.empty(0, 3), mesh, [Shard(0)])
    assert full(fusedgrad.binary_cross_entropy(nothing, nothing)).isnan()

    # Strides, out= and PyTorch's own spellings.
    transposed = distribute_tensor(torch.randn(3, 4), mesh, [Shard(0)]).t()
    assert fusedgrad.sigmoid(transposed).stride() == (1, 4)
    out = distribute_tensor(torch.empty_like(x), mesh, [Shard(1)])
    assert fusedgrad.sigmoid(sharded, out=out) is out
    torch.testing.assert_close(full(out), fusedgrad.sigmoid(x))
    with fusedgrad.patched():
        torch.testing.assert_close(full(sharded**2), x**2)

    # Meshes of two dimensions, and one that a process is no part of.
    plane = init_device_mesh("cpu", (1, WORLD))
    target = torch.rand_like(x)
    loss = fusedgrad.binary_cross_entropy_with_logits(
        distribute_tensor(x, plane, [Shard(1), Shard(0)]),
        distribute_tensor(target, plane, [Shard(0), Shard(0)]),
    )
    torch.testing.assert_close(full(loss), fusedgrad.binary_cross_entropy_with_logits(x, target))

    alone = DeviceMesh("cpu", [0])
    result: Any = fusedgrad.sigmoid(distribute_tensor(x, alone, [Shard(0)]))
    assert result.to_local().shape == (x.shape if dist.get_rank() == 0 else (0,))

    with pytest.raises(RuntimeError, match=r"mixed torch\.Tensor and DTensor"):
        fusedgrad.pow(sharded, x)


def test_partial_sums_broadcasts_empty_shards_and_meshes() -> None:
    in_two_processes(check_corners)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), fusedgrad.nn.Tanh(), nn.Linear(8, 1), fusedgrad.nn.Sigmoid()
    ).double()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 4, dtype=torch.float64, generator=generator)
    return x, torch.rand(6, 1, dtype=torch.float64, generator=generator)


def trained_by_one_process() -> nn.Sequential:
    single = model()
    train(single, single, *batch())
    return single


def train(called: nn.Module, owner: nn.Module, x: Any, target: Any) -> None:
    """Two steps of gradient descent; the second feels the gradients of the first."""
    optimizer = torch.optim.SGD(owner.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        fusedgrad.nn.BCELoss()(called(x), target).backward()
        optimizer.step()


def assert_parameters_equal(distributed_model: nn.Module) -> None:
    from torch.distributed.tensor import DTensor

    for one, many in zip(
        trained_by_one_process().parameters(), distributed_model.parameters(), strict=True
    ):
        value = many.full_tensor() if isinstance(many, DTensor) else many
        torch.testing.assert_close(value.detach(), one.detach())


def own_rows() -> tuple[Tensor, Tensor]:
    rank = dist.get_rank()
    x, target = batch()
    return x.chunk(WORLD)[rank], target.chunk(WORLD)[rank]


def check_training(mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate, Shard, distribute_module, distribute_tensor
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )
    from torch.nn.parallel import DistributedDataParallel

    replicated = model()
    train(DistributedDataParallel(replicated), replicated, *own_rows())
    assert_parameters_equal(replicated)

    sharded = model()
    for layer in (sharded[0], sharded[2]):
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    train(sharded, sharded, *own_rows())
    assert_parameters_equal(sharded)

    # The activation between the layers runs on a DTensor sharded by columns.
    parallel = parallelize_module(
        model(),
        mesh,
        {
            "0": ColwiseParallel(use_local_output=False),
            "2": RowwiseParallel(input_layouts=Shard(1), use_local_output=False),
        },
    )
    x, target = batch()
    train(parallel, parallel, x, distribute_tensor(target, mesh, [Replicate()]))
    assert_parameters_equal(parallel)

    # Everything is a DTensor, and the batch is sharded.
    everywhere = distribute_module(model(), mesh)
    train(
        everywhere,
        everywhere,
        distribute_tensor(x, mesh, [Shard(0)]),
        distribute_tensor(target, mesh, [Shard(0)]),
    )
    assert_parameters_equal(everywhere)


def test_training_in_parallel_gives_the_parameters_of_one_process() -> None:
    in_two_processes(check_training)
