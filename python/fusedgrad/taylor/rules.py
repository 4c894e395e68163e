"""What operations do with Taylor coefficients: linear ones, products, and what is made of them.

A linear operation does with each coefficient what it does with the value; a product of two tensors
follows Leibniz's rule. The elementwise operations are those of `fuse`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree

from fusedgrad import _C
from fusedgrad.fuse.graph import input_named
from fusedgrad.fuse.vocabulary import RULES
from fusedgrad.taylor.tensor import (
    HANDLERS,
    PLAIN_TYPES,
    VALUE,
    Coefficients,
    Frame,
    Handler,
    Jet,
    Key,
    check_grad_mode,
    elementwise,
    jets_in,
    refused,
)

_Arguments = tuple[Any, ...]
_Keywords = dict[str, Any]
_T = Tensor


def _frame_of(func: Any, jets: Sequence[Jet]) -> Frame:
    frame = jets[0].frame
    check_grad_mode(func, frame)
    if len(jets) > 1 and any(jet.frame is not frame for jet in jets):
        raise refused(func, "meets a jet of another call")
    return frame


def _found(owners: Sequence[Any], names: str) -> list[Any]:
    found = []
    for name in names.split():
        for owner in owners:
            function = getattr(owner, name, None)
            if function is not None and function not in found:
                found.append(function)
    return found


def _register(handler: Handler, functions: Sequence[Any]) -> None:
    for function in functions:
        HANDLERS.setdefault(function, handler)


# ------------------------------------------------------------------------------------------ linear


def _aligned(jets: Sequence[Jet], frame: Frame) -> tuple[tuple[Key, ...], list[Tensor]]:
    """The keys of all together, and the coefficients of each with zeros where it has none."""
    keys = frame.ordered({key for jet in jets for key in jet.settle().keys})
    stacks = []
    for jet in jets:
        if jet.keys == keys:
            stacks.append(jet.stack())
        else:
            own = jet.rows()
            zero = torch.zeros_like(own[VALUE])
            stacks.append(torch.stack([own.get(key, zero) for key in keys]))
    return keys, stacks


def _linear(func: Any, args: _Arguments, kwargs: _Keywords) -> Any:
    """Of any operation that is linear in its jets together."""
    args, kwargs = _with_conditions(args, kwargs)
    leaves, structure = _pytree.tree_flatten((args, kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Jet)]
    if not places:
        return func(*args, **kwargs)
    jets = [leaves[i] for i in places]
    frame = _frame_of(func, jets)
    if kwargs.get("out") is not None:
        raise refused(func, "writes into a tensor")
    keys, stacks = _aligned(jets, frame)

    def body(*rows: Tensor) -> Any:
        filled = list(leaves)
        for place, row in zip(places, rows, strict=True):
            filled[place] = row
        own_args, own_kwargs = _pytree.tree_unflatten(filled, structure)
        return func(*own_args, **own_kwargs)

    try:
        result = torch.vmap(body, randomness="same")(*stacks)
    except RuntimeError:
        each = [body(*rows) for rows in zip(*(s.unbind(0) for s in stacks), strict=True)]
        columns, shape = [], _pytree.tree_structure(each[0])
        for column in zip(*(_pytree.tree_leaves(e) for e in each), strict=True):
            columns.append(torch.stack(column))
        result = _pytree.tree_unflatten(columns, shape)
    return _pytree.tree_map(lambda stack: Jet.of_stack(frame, keys, stack), result)


def _with_conditions(args: _Arguments, kwargs: _Keywords) -> tuple[_Arguments, _Keywords]:
    """The arguments, comparisons among them as plain tensors."""
    if not any(jet.is_condition for jet in jets_in(args, kwargs)):
        return args, kwargs
    return cast(
        tuple[_Arguments, _Keywords],
        _pytree.tree_map(
            lambda v: v.condition() if isinstance(v, Jet) and v.is_condition else v, (args, kwargs)
        ),
    )


def _of_stack(func: Any, args: _Arguments, kwargs: _Keywords) -> Any:
    """Of one that does the same with a tensor of one dimension more."""
    jet, *rest = args
    if not isinstance(jet, Jet) or jet.is_condition or jets_in(rest, kwargs):
        return _cast_or_linear(func, args, kwargs)
    frame = _frame_of(func, [jet])
    stack = func(jet.stack(), *rest, **kwargs)
    if not stack.is_floating_point():  # an integer does not move
        return func(_value(jet), *rest, **kwargs)
    return Jet.of_stack(frame, jet.keys, stack)


def _cast_or_linear(func: Any, args: _Arguments, kwargs: _Keywords) -> Any:
    rule = RULES.get(func)
    if rule is not None and isinstance(args[0], Jet) and args[0].is_condition:
        return elementwise(func, rule, args, kwargs)
    return _linear(func, args, kwargs)


def _index(func: Any, args: _Arguments, kwargs: _Keywords) -> Any:
    jet, index = args
    parts = index if isinstance(index, tuple) else (index,)
    simple = all(part is None or part is Ellipsis or type(part) in (int, slice) for part in parts)
    if not simple or not isinstance(jet, Jet):
        return _linear(func, args, kwargs)
    frame = _frame_of(func, [jet])
    return Jet.of_stack(frame, jet.settle().keys, func(jet.stack(), (slice(None), *parts)))


def _shaped(func: Any, args: _Arguments, kwargs: _Keywords) -> Any:
    """reshape and view: of the stack, the number of coefficients first."""
    jet, *sizes = args
    if kwargs or not sizes or not isinstance(jet, Jet) or isinstance(sizes[0], torch.dtype):
        return _linear(func, args, kwargs)
    frame = _frame_of(func, [jet])
    if len(sizes) == 1 and not isinstance(sizes[0], int):
        sizes = list(sizes[0])
    stack = jet.stack()
    return Jet.of_stack(frame, jet.keys, func(stack, (stack.shape[0], *sizes)))


_LINEAR = (
    "adjoint atleast_1d atleast_2d atleast_3d broadcast_to chunk cumsum diag diag_embed diagonal "
    "dsplit expand expand_as flatten flip fliplr flipud gather hsplit index_select masked_select "
    "mean moveaxis movedim narrow permute ravel repeat repeat_interleave reshape_as roll rot90 "
    "select split split_with_sizes squeeze sum swapaxes swapdims t take take_along_dim "
    "tensor_split tile trace transpose tril triu unbind unflatten unfold unsqueeze view_as vsplit "
    "sum_to_size"
)
_LINEAR_FUNCTIONS = (
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "fold unfold pixel_shuffle pixel_unshuffle interpolate upsample channel_shuffle"
)
# Linear in all of their tensors together, those that do not move among them
_JOINING = "cat column_stack concat concatenate diff dstack hstack row_stack stack vstack"


def _joining(func: Any, args: _Arguments, kwargs: _Keywords) -> Any:
    frame = _frame_of(func, jets_in(args, kwargs))

    def lifted(value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, Jet):
            return value
        return Jet.of_rows(frame, {VALUE: value})

    args, kwargs = _with_conditions(args, kwargs)
    args, kwargs = _pytree.tree_map(lifted, (args, kwargs))
    return _linear(func, args, kwargs)


_register(_joining, _found((torch, _T), _JOINING))
_register(_linear, _found((torch, _T), _LINEAR))
_register(_linear, _found((F, torch), _LINEAR_FUNCTIONS))
_register(
    lambda func, args, kwargs: _linear(lambda x: func(x), args, kwargs),
    [getattr(_T, name).__get__ for name in ("T", "mT", "H", "mH")],
)
_register(
    _of_stack,
    _found((torch, _T), "clone contiguous to double float half bfloat16 type_as cpu cuda"),
)
_register(_index, [_T.__getitem__])
_register(_shaped, _found((torch, _T), "reshape view"))


def _padded(func: Any, args: _Arguments, kwargs: _Keywords) -> Any:
    """Zeros around zeros: only the value is padded with another number."""
    names = dict(zip(("input", "pad", "mode", "value"), args, strict=False)) | kwargs
    value = names.pop("value", None)
    padded = _linear(F.pad, (), names)
    if value in (None, 0) or names.get("mode", "constant") != "constant":
        return padded
    jet = names["input"]
    around = F.pad(
        torch.zeros(jet.shape, dtype=jet.dtype, device=jet.device), names["pad"], value=value
    )
    return _add(torch.add, (padded, around))


_register(_padded, [F.pad])


# ---------------------------------------------------------------------------------------- products


def _add(func: Any, args: _Arguments) -> Any:
    return elementwise(func, RULES[func], args, {})


def _product(func: Any, args: _Arguments, kwargs: _Keywords) -> Any:
    """Of an operation that is linear in each of its tensors: Leibniz's rule."""
    args, kwargs = _with_conditions(args, kwargs)
    leaves, structure = _pytree.tree_flatten((args, kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Jet)]
    if len(places) < 2:
        return _linear(func, args, kwargs)
    if len(places) > 2:
        raise refused(func, "of more than two tensors that move: multiply two at a time")
    jets = [leaves[i] for i in places]
    frame = _frame_of(func, jets)
    if kwargs.get("out") is not None:
        raise refused(func, "writes into a tensor")
    first, second = (jet.rows() for jet in jets)

    def of(a: Tensor, b: Tensor) -> Tensor:
        filled = list(leaves)
        filled[places[0]], filled[places[1]] = a, b
        own_args, own_kwargs = _pytree.tree_unflatten(filled, structure)
        return cast(Tensor, func(*own_args, **own_kwargs))

    rows: dict[Key, Tensor] = {}

    def add(key: Key, factor: int, a: Tensor | None, b: Tensor | None) -> None:
        if factor and a is not None and b is not None:
            term = of(a, b) if factor == 1 else factor * of(a, b)
            rows[key] = rows[key] + term if key in rows else term

    n = frame.order
    for direction, sign in enumerate(frame.signs):
        for k in range(n + 1):
            for j in range(k + 1):
                ends = j in (0, k)
                if (k == 0 or (k == n and ends)) and direction > 0:
                    continue  # once for all directions
                key = VALUE if k == 0 else frame.top if k == n else (k, direction)
                of_first = VALUE if j == 0 else frame.top if j == n else (j, direction)
                left = k - j
                of_second = VALUE if left == 0 else frame.top if left == n else (left, direction)
                factor = math.comb(k, j) * (sign if k == n and not ends else 1)
                add(key, factor, first.get(of_first), second.get(of_second))
    return Jet.of_rows(frame, rows)


_PRODUCTS = (
    "matmul mm bmm mv dot inner outer ger kron einsum tensordot vdot chain_matmul __matmul__ "
    "cross linalg_cross"
)
_register(_product, _found((torch, _T), _PRODUCTS))
_register(_product, [torch.linalg.cross, torch.linalg.vecdot, torch.linalg.matmul])


def _matmul(func: Any, args: _Arguments, kwargs: _Keywords) -> Any:
    """One matrix product for all coefficients, where a constant matrix comes second."""
    first, second = args if len(args) == 2 else (None, None)
    if (
        isinstance(first, Jet)
        and isinstance(second, Tensor)
        and not isinstance(second, Jet)
        and second.dim() == 2
        and not first.is_condition
        and len(first.shape) > 0
        and not kwargs
    ):
        frame = _frame_of(func, [first])
        return Jet.of_stack(frame, first.settle().keys, torch.matmul(first.stack(), second))
    return _product(func, args, kwargs)


for _function in _found((torch, _T), "matmul mm __matmul__"):
    HANDLERS[_function] = _matmul
HANDLERS[_T.__rmatmul__] = lambda func, args, kwargs: _matmul(
    torch.matmul, (args[1], args[0]), kwargs
)


def _linear_layer(func: Any, args: _Arguments, kwargs: _Keywords) -> Any:
    """One matrix product for all coefficients; the bias joins the next elementwise operation."""
    if len(args) == 3 and not kwargs:
        input, weight, bias = args
    else:
        names = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
        input, weight, bias = names["input"], names["weight"], names.get("bias")
    if isinstance(input, Jet) and not isinstance(weight, Jet) and not input.is_condition:
        check_grad_mode(func, input.frame)
        given = input.settle()
        spread = given.spread
        stack = given.stack() if spread is None else spread[0]
        is_own = type(stack) in PLAIN_TYPES and type(weight) in PLAIN_TYPES
        linear = _C.linear_of_rows if is_own else F.linear
        stack = linear(stack, weight)
        if spread is None:
            made = Coefficients(given.keys, stack)
        else:
            made = Coefficients(given.keys, None, None, (stack, linear(spread[1], weight)))
        if bias is None or isinstance(bias, Jet):
            product = Jet.of(input.frame, made)
        else:
            shape, dtype, device = stack.shape[1:], stack.dtype, stack.device
            leaves, form = (made, bias), None
            is_own = is_own and type(bias) in PLAIN_TYPES and bias.dtype is weight.dtype
            if is_own and not kwargs and not torch.is_autocast_enabled(device.type):
                form = cast(Any, input._form).setdefault(func, (_sum_of_two(), {}))[1]
            return Jet.pending(input.frame, _sum_of_two(), leaves, shape, dtype, device, form)
    else:
        product = _product(F.linear, (input, weight), {})
    return _with_bias(product, bias, 1)


def _with_bias(product: Jet, bias: Any, dimensions: int) -> Jet:
    """A pending sum with a bias of the dimension that has as many dimensions from the end."""
    if bias is None:
        return product
    if dimensions > 1:
        bias = _reshaped(bias, (-1, *[1] * (dimensions - 1)))
    if isinstance(bias, Jet):
        return cast(Jet, _add(torch.add, (product, bias)))
    leaves, shape = (product.settle(), bias), product.shape
    return Jet.pending(product.frame, _sum_of_two(), leaves, shape, product.dtype, product.device)


@functools.cache
def _sum_of_two() -> Any:
    """x0 + x1."""
    return input_named("x0") + input_named("x1")


def _reshaped(tensor: Tensor, sizes: tuple[int, ...]) -> Tensor:
    if isinstance(tensor, Jet):
        return cast(Tensor, _shaped(torch.reshape, (tensor, sizes), {}))
    return tensor.reshape(sizes)


_register(_linear_layer, [F.linear])


def _convolution(spatial: int) -> Handler:
    def handler(func: Any, args: _Arguments, kwargs: _Keywords) -> Any:
        names = ("input", "weight", "bias")
        given = dict(zip(names, args, strict=False)) | kwargs
        bias = given.pop("bias", None)
        product = _product(func, (given.pop("input"), given.pop("weight"), None, *args[3:]), given)
        return _with_bias(product, bias, spatial + 1)

    return handler


for _spatial in (1, 2, 3):
    for _function in (f"conv{_spatial}d", f"conv_transpose{_spatial}d"):
        _register(_convolution(_spatial), [getattr(F, _function)])


def _added_product(product: Callable[..., Any], scale: str, of_added: str = "") -> Handler:
    """input * beta + product(a, b) * alpha, where the numbers have these names."""

    def handler(func: Any, args: _Arguments, kwargs: _Keywords) -> Any:
        added, a, b = args
        given = dict(kwargs)
        alpha, beta = given.pop(scale, 1), given.pop(of_added, 1)
        if given:
            raise refused(func, f"with {', '.join(given)} is not known")
        with _dispatching():
            return beta * added + alpha * product(a, b)

    return handler


for _names, _function in (
    ("addmm", torch.matmul),
    ("baddbmm", torch.matmul),
    ("addmv", torch.matmul),
    ("addr", torch.outer),
):
    _register(_added_product(_function, "alpha", "beta"), _found((torch, _T), _names))
for _names, _function in (("addcmul", torch.mul), ("addcdiv", torch.div)):
    _register(_added_product(_function, "value"), _found((torch, _T), _names))


# --------------------------------------------------------- made of others, which are called on jets


def _dispatching() -> Any:
    """Inside a handler: operations on jets are taken the jets of again."""
    return torch._C._EnableTorchFunction()


def _made_of(body: Callable[..., Any]) -> Handler:
    def handler(func: Any, args: _Arguments, kwargs: _Keywords) -> Any:
        with _dispatching():
            return body(*args, **kwargs)

    return handler


def _softmax(
    input: Any, dim: int, *, dtype: torch.dtype | None = None, _stacklevel: int = 3
) -> Any:
    x = input if dtype is None else input.to(dtype)
    shifted = torch.exp(x - _value(x).amax(dim, keepdim=True))
    return shifted / shifted.sum(dim, keepdim=True)


def _logsumexp(input: Any, dim: Any, keepdim: bool = False) -> Any:
    largest = _value(input).amax(dim, keepdim=True)
    total = torch.log(torch.exp(input - largest).sum(dim, keepdim=True)) + largest
    return total if keepdim else total.squeeze(dim)


def _log_softmax(
    input: Any, dim: int, *, dtype: torch.dtype | None = None, _stacklevel: int = 3
) -> Any:
    x = input if dtype is None else input.to(dtype)
    return x - _logsumexp(x, dim, True)


def _value(x: Any) -> Tensor:
    """The value, as a constant."""
    return (x.rows()[VALUE] if isinstance(x, Jet) else x).detach()


def _layer_norm(
    input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    dims = tuple(range(-len(normalized_shape), 0))
    centred = input - input.mean(dims, keepdim=True)
    result = centred * torch.rsqrt((centred * centred).mean(dims, keepdim=True) + eps)
    result = result if weight is None else result * weight
    return result if bias is None else result + bias


def _batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if training or running_mean is None:
        raise refused(F.batch_norm, "in training mixes the batch: call eval()")
    shape = (-1, *[1] * (input.dim() - 2))
    scale = torch.rsqrt(running_var + eps)
    scale = scale if weight is None else scale * weight
    shift = -running_mean * scale if bias is None else bias - running_mean * scale
    return input * scale.reshape(shape) + shift.reshape(shape)


def _vector_norm(x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False) -> Any:
    if ord != 2:
        raise refused(torch.linalg.vector_norm, f"of order {ord!r} is not known, expected 2")
    squares = x * x
    total = squares.sum() if dim is None else squares.sum(dim, keepdim)
    return torch.sqrt(total)


def _norm(
    input: Any, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Any:
    if dtype is not None:
        raise refused(torch.norm, "with dtype is not known: cast the tensor")
    return _vector_norm(input, 2 if p in ("fro", None) else p, dim, keepdim)


def _norm_of_matrix_or_vector(
    A: Any, ord: Any = None, dim: Any = None, keepdim: bool = False
) -> Any:
    is_vector = A.dim() == 1 if dim is None else isinstance(dim, int)
    if ord is not None and not is_vector:
        raise refused(torch.linalg.norm, f"of a matrix of order {ord!r} is not known")
    return _vector_norm(A, 2 if ord is None else ord, dim, keepdim)


def _mse_loss(
    input: Any,
    target: Any,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    weight: Any = None,
) -> Any:
    if size_average is not None or reduce is not None or weight is not None:
        raise refused(F.mse_loss, "with weight, size_average or reduce is not known")
    return _reduced((input - target) ** 2, reduction)


def _dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """All coefficients lose the same elements."""
    if inplace:
        raise refused(F.dropout, "changes a tensor in place: bind the result to a name instead")
    ones = torch.ones(input.shape, dtype=input.dtype, device=input.device)
    return input * F.dropout(ones, p) if training and p else input


def _reduced(losses: Any, reduction: str) -> Any:
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


_register(_made_of(_softmax), [torch.softmax, _T.softmax, F.softmax])
_register(_made_of(_log_softmax), [torch.log_softmax, _T.log_softmax, F.log_softmax])
_register(_made_of(_logsumexp), [torch.logsumexp, _T.logsumexp])
_register(_made_of(_layer_norm), [F.layer_norm])
_register(_made_of(_batch_norm), [F.batch_norm])
_register(_made_of(_vector_norm), [torch.linalg.vector_norm])
_register(_made_of(_norm), [torch.norm, _T.norm])
_register(_made_of(_norm_of_matrix_or_vector), [torch.linalg.norm])
_register(_made_of(_dropout), [F.dropout])
_register(_made_of(_mse_loss), [F.mse_loss])


# --------------------------------------------------------------------------- what is only asked


def _asked(func: Any, args: _Arguments, kwargs: _Keywords) -> Any:
    return func(*args, **kwargs)


def _requires_grad(func: Any, args: _Arguments, kwargs: _Keywords) -> bool:
    jet = args[0]
    if jet.is_condition:
        return False
    return any(row.requires_grad for row in jet.rows().values())


def _truth(func: Any, args: _Arguments, kwargs: _Keywords) -> Any:
    (jet,) = args
    return func(jet.condition() if jet.is_condition else _value(jet))


def _like(func: Any, args: _Arguments, kwargs: _Keywords) -> Any:
    jet, *rest = args
    model = torch.empty(jet.shape, dtype=jet.dtype, device=jet.device)
    return func(model, *rest, **kwargs)


def _getters(names: str) -> list[Any]:
    return [getattr(_T, name).__get__ for name in names.split()]


_register(
    _asked,
    [
        *_getters(
            "shape dtype device ndim layout is_cuda is_cpu is_meta is_sparse itemsize nbytes"
        ),
        *_found(
            (torch, _T),
            "dim ndimension size numel nelement is_floating_point is_complex is_signed "
            "element_size get_device __len__ is_tensor is_conj is_neg is_nonzero",
        ),
        *(torch.result_type, torch.is_storage, _T.__hash__),
    ],
)
_register(lambda func, args, kwargs: False, _getters("is_leaf is_quantized is_nested"))
_register(_requires_grad, _getters("requires_grad"))
_register(_truth, [_T.__bool__])
_register(lambda func, args, kwargs: Jet.__repr__(args[0]), [_T.__repr__, _T.__str__])
_register(
    _like,
    _found(
        (torch, _T),
        "zeros_like ones_like empty_like rand_like randn_like randint_like new_zeros new_ones "
        "new_empty new_full new_tensor",
    ),
)


def _iterated(func: Any, args: _Arguments, kwargs: _Keywords) -> Any:
    return iter(_linear(torch.unbind, args, kwargs))


_register(_iterated, [_T.__iter__])
