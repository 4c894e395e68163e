"""The functions of this package: jets, and the differential operators that are made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree

from fusedgrad.fuse.jet_function import MOST_ORDERS
from fusedgrad.taylor import rules  # noqa: F401  (fills the table of operations)
from fusedgrad.taylor.tensor import VALUE, Coefficients, Frame, Jet, Key

Function = Callable[..., Any]


def jet(
    function: Function, primals: Sequence[Any], series: Sequence[Sequence[Tensor] | None]
) -> tuple[Any, Any]:
    """The value of a function and its derivatives along a curve, in one pass.

    With the conventions of `jax.experimental.jet`: at a time 0 the curve is at `primals`, and
    `series` has for each of them its first, second, ... derivative by time, *not* divided by
    factorials; the results are the value and the derivatives of the function along the curve.

        y, (y1, y2) = fusedgrad.jet(f, (x,), ((v, w),))
        # y1 = f'(x) v,  y2 = f''(x) v v + f'(x) w

    The function is any Python function or module of linear operations (Linear, convolutions,
    products with constants, indexing, reshapes, transposes, cat, stack, sums and means), products
    (mul, matmul, einsum, by Leibniz's rule) and the elementwise operations of `fuse`, which are
    fused between two linear ones. All coefficients are rows of one tensor, so that a Linear is one
    matrix product. The results are differentiable by parameters and inputs.

    Args:
        function: of tensors; what it returns may be a tensor, or a structure of them.
        primals: its arguments.
        series: for each argument its derivatives, of its shape and dtype. None, or fewer than
            another has, are zeros, at no cost.

    Returns:
        The function's value, and in its structure lists of derivatives, as many as the longest of
        `series`, 8 at most.

    Raises:
        TaylorError: an operation whose series is not known, with the user's line.
        TypeError, ValueError: series that do not fit the primals.
    """
    if len(primals) != len(series):
        raise ValueError(
            f"jet(): got {len(primals)} primals and {len(series)} series, expected one series, or "
            "None, for each"
        )
    given = [() if own is None else tuple(own) for own in series]
    order = max((len(own) for own in given), default=0)
    if not 1 <= order <= MOST_ORDERS:
        raise ValueError(f"jet(): got {order} derivatives, expected 1 to {MOST_ORDERS}")
    frame = Frame(order)
    arguments = [
        _lifted(frame, i, primal, own) if own else primal
        for i, (primal, own) in enumerate(zip(primals, given, strict=True))
    ]
    leaves, structure = _pytree.tree_flatten(function(*arguments))
    values, derivatives = [], []
    for leaf in leaves:
        rows = _rows_of(leaf)
        values.append(rows.get(VALUE, leaf))
        if not isinstance(leaf, Tensor):
            derivatives.append(leaf)
            continue
        zero = None
        own = []
        for k in range(1, order + 1):
            row = rows.get((k, 0))
            if row is None:
                zero = torch.zeros_like(rows[VALUE]) if zero is None else zero
                row = zero
            own.append(row)
        derivatives.append(own)
    return (
        _pytree.tree_unflatten(values, structure),
        _pytree.tree_unflatten(derivatives, structure),
    )


def _rows_of(result: Any) -> dict[Key, Tensor]:
    if isinstance(result, Jet):
        with torch._C.DisableTorchFunctionSubclass():
            return {VALUE: result.condition()} if result.is_condition else result.rows()
    return {VALUE: result} if isinstance(result, Tensor) else {}


def _lifted(frame: Frame, place: int, primal: Any, series: tuple[Any, ...]) -> Jet:
    if not isinstance(primal, Tensor) or not primal.is_floating_point():
        what = primal.dtype if isinstance(primal, Tensor) else type(primal).__name__
        raise TypeError(f"jet(): primal {place} is {what}, expected a tensor of floats")
    for k, derivative in enumerate(series, start=1):
        if not isinstance(derivative, Tensor) or derivative.dtype is not primal.dtype:
            what = derivative.dtype if isinstance(derivative, Tensor) else type(derivative).__name__
            raise TypeError(
                f"jet(): derivative {k} of primal {place} is {what}, expected a tensor of "
                f"{primal.dtype}"
            )
        if derivative.shape != primal.shape:
            raise ValueError(
                f"jet(): derivative {k} of primal {place} has shape {tuple(derivative.shape)}, "
                f"expected {tuple(primal.shape)}"
            )
    keys = (VALUE, *((k, 0) for k in range(1, len(series) + 1)))
    return Jet.of_stack(frame, keys, torch.stack([primal, *series]))


def derivatives(function: Function, x: Tensor, direction: Tensor, order: int) -> tuple[Tensor, ...]:
    """f(x) and its first `order` derivatives by t of f(x + t direction), at t = 0.

    Args:
        function: of a tensor, returning one: see `jet`.
        x: where.
        direction: of the dtype of `x`, and of a shape that broadcasts to it.
        order: 1 to 8.
    """
    if type(order) is not int or not 1 <= order <= MOST_ORDERS:
        raise ValueError(
            f"derivatives(): order is {order!r}, expected an int from 1 to {MOST_ORDERS}"
        )
    frame = Frame(order)
    along = direction if direction.shape == x.shape else direction.expand_as(x)
    lifted = _lifted(frame, 0, x, (along,))
    result = _one_tensor("derivatives()", function(lifted))
    rows = _rows_of(result)
    keys = [VALUE, *((k, 0) for k in range(1, order + 1))]
    return tuple([rows[key] if key in rows else torch.zeros_like(rows[VALUE]) for key in keys])


def _one_tensor(name: str, result: Any) -> Tensor:
    if not isinstance(result, Tensor):
        raise TypeError(f"{name}: the function returns {type(result).__name__}, expected a tensor")
    return result


class Laplacian(NamedTuple):
    """What `laplacian` found on its way."""

    value: Tensor
    gradient: Tensor  # (..., directions): the first derivatives along them
    laplacian: Tensor


class Bilaplacian(NamedTuple):
    """What `bilaplacian` found on its way."""

    value: Tensor
    gradient: Tensor  # (..., directions): the first derivatives along them
    laplacian: Tensor
    bilaplacian: Tensor


def laplacian(
    function: Function, *, weight: Tensor | None = None, directions: Tensor | None = None
) -> Callable[..., Laplacian]:
    """The Laplacian of a function of points, the sum of its second derivatives by each coordinate.

    `laplacian(f)(x, *rest)` for `x` of shape (..., D), of which the last dimension are coordinates
    and the others a batch, which `f(x, *rest)` must not mix; it returns the value, the gradient of
    shape (*value.shape, D), and the Laplacian, of the value's shape. In the collapsed form: the sum
    of the second derivatives is one coefficient, and not one for each coordinate.

    Args:
        function: of points: see `jet` for what it may do.
        weight: a symmetric matrix C of shape (D, D), for the sum of C_ij times the derivative by
            x_i and x_j. The gradient's directions are then C's eigenvectors, each times the root of
            the magnitude of its eigenvalue.
        directions: of shape (S, D), for the mean of the second derivatives along each of them: an
            estimate of the Laplacian, where their mean outer product is the identity. The gradient
            is along them.
    """
    if weight is not None and directions is not None:
        raise ValueError("laplacian(): got weight and directions, expected one of them at most")

    def operator(x: Tensor, *rest: Any) -> Laplacian:
        vectors, signs = _vectors(x, weight, directions)
        frame = Frame(2, signs)
        found = _along("laplacian()", function, x, rest, frame, vectors)
        value = found.row(VALUE)
        total = found.row(frame.top) if frame.top in found.keys else torch.zeros_like(value)
        if directions is not None:
            total = total / len(signs)
        return Laplacian(value, _gradient(found, value, len(signs)), total)

    return operator


def bilaplacian(
    function: Function, *, directions: Tensor | None = None
) -> Callable[..., Bilaplacian]:
    """The Laplacian of the Laplacian, as `laplacian` is called.

    By fourth derivatives along the D coordinates and the D (D - 1) diagonals between two of them,
    in the collapsed form; the sum cancels more digits the larger D is.

    Args:
        function: of points: see `jet` for what it may do.
        directions: of shape (S, D) from the normal distribution, for an estimate: a third of the
            mean of the fourth derivatives along them, beside which the Laplacian is one too.
    """

    def operator(x: Tensor, *rest: Any) -> Bilaplacian:
        count = x.shape[-1]
        if directions is None:
            vectors, signs = _diagonals(x)
        else:
            vectors, signs = _vectors(x, None, directions)
            count = len(signs)
        frame = Frame(4, signs)
        found = _along("bilaplacian()", function, x, rest, frame, vectors)
        rows = found.rows()
        value = rows[VALUE]
        zero = torch.zeros_like(value)
        scale = 1.0 if directions is None else 1.0 / count
        axes = 1.0 if directions is not None else _axis_scale(count)
        second = sum((rows.get((2, d), zero) for d in range(count)), zero) * (scale / axes**2)
        highest = rows.get(frame.top, zero) * (1.0 if directions is None else scale / 3)
        return Bilaplacian(value, _gradient(found, value, count) / axes, second, highest)

    return operator


def _gradient(found: Coefficients, value: Tensor, count: int) -> Tensor:
    keys = [(1, d) for d in range(count)]
    if all(key in found.keys for key in keys):
        return found.rows_of(keys).movedim(0, -1)
    zero = torch.zeros_like(value)
    rows = found.rows()
    return torch.stack([rows.get(key, zero) for key in keys], -1)


def _along(
    name: str,
    function: Function,
    x: Tensor,
    rest: tuple[Any, ...],
    frame: Frame,
    vectors: Tensor,
) -> Coefficients:
    """The coefficients of the function where `x` moves along each of the vectors."""
    between = [1] * (x.dim() - 1)
    moving = vectors.reshape(len(vectors), *between, -1)
    keys = (VALUE, *((1, d) for d in range(len(vectors))))
    lifted = Jet.of(frame, Coefficients(keys, None, None, (x[None], moving)))
    result = _one_tensor(name, function(lifted, *rest))
    if isinstance(result, Jet) and not result.is_condition:
        with torch._C.DisableTorchFunctionSubclass():
            return result.settle()
    return Coefficients((VALUE,), None, [_rows_of(result)[VALUE]])


def _vectors(
    x: Tensor, weight: Tensor | None, directions: Tensor | None
) -> tuple[Tensor, tuple[int, ...]]:
    """The directions whose second derivatives are added, and with which signs."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() == 0:
        raise TypeError("expected a tensor of floats whose last dimension are coordinates")
    count = x.shape[-1]
    if directions is not None:
        if directions.dim() != 2 or directions.shape[1] != count or not len(directions):
            raise ValueError(
                f"directions has shape {tuple(directions.shape)}, expected (S, {count})"
            )
        return directions.to(x), (1,) * len(directions)
    if weight is None:
        return torch.eye(count, dtype=x.dtype, device=x.device), (1,) * count
    if weight.shape != (count, count):
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected ({count}, {count})")
    if weight.requires_grad:
        raise ValueError("weight requires a gradient, expected a constant")
    wide = weight.double()
    if not torch.allclose(wide, wide.mT):
        raise ValueError("weight is not symmetric: pass (weight + weight.mT) / 2")
    values, basis = torch.linalg.eigh(wide)
    kept = values.abs() > values.abs().max() * count * torch.finfo(torch.float64).eps
    if not kept.any():
        kept[0] = True
    values, basis = values[kept], basis[:, kept]
    scaled = (basis * values.abs().sqrt()).mT.to(x)
    return scaled, tuple(1 if v > 0 else -1 for v in values.tolist())


def _axis_scale(count: int) -> float:
    """What the coordinates' directions are multiplied by in `_diagonals`."""
    weight = abs(1 - (count - 1) / 3)
    return float(weight**0.25) if weight else 1.0


def _diagonals(x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Directions of which the fourth derivatives, with signs, add up to the bilaplacian.

    (a + b)^4 + (a - b)^4 = 2 a^4 + 12 a^2 b^2 + 2 b^4 gives each mixed term.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() == 0:
        raise TypeError("expected a tensor of floats whose last dimension are coordinates")
    count = x.shape[-1]
    axes = torch.eye(count, dtype=torch.float64, device=x.device)
    pairs = [
        axes[i] + sign * axes[j] for i in range(count) for j in range(i) for sign in (1.0, -1.0)
    ]
    weight = 1 - (count - 1) / 3
    scaled = [_axis_scale(count) * axis for axis in axes] + [(1 / 6) ** 0.25 * p for p in pairs]
    sign = 1 if weight > 0 else -1 if weight < 0 else 0
    return torch.stack(scaled).to(x), (*[sign] * count, *[1] * len(pairs))
