"""What benchmarks.accuracy compares: functions, and the libraries that compute them.

Values and derivatives of a function have an exact counterpart in fusedgrad._C. A library
differentiates by its own means: torch and fusedgrad by autograd, JAX by jax.grad; NumPy and SciPy
have values only.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.special
import torch
from torch import Tensor

from benchmarks.contenders import FUSEDGRAD, TORCH

Operation = Callable[[Any, Any, Any], Any]  # (library's functions, x, parameter)

BITS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}


@dataclass(frozen=True)
class Function:
    """A value or a derivative, and the name of its exact counterpart in fusedgrad._C."""

    title: str
    exact: str
    operation: Operation
    order: int = 0
    by: int = 0  # the derivative is by x (0) or by the parameter (1)


@dataclass(frozen=True)
class Library:
    """How a library computes a function at x, for a parameter for each element."""

    name: str
    evaluate: Callable[[Function, Tensor, Tensor], Tensor]
    computes: Callable[[Function, torch.dtype], bool] = lambda function, dtype: True


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def by_autograd(functions: Any, function: Function, x: Tensor, p: Tensor) -> Tensor:
    inputs = [x.clone(), p.clone()]
    if function.order:
        inputs[function.by].requires_grad_()
    result: Tensor = function.operation(functions, *inputs)
    for order in range(1, function.order + 1):
        again = order < function.order
        (result,) = torch.autograd.grad(
            result, inputs[function.by], torch.ones_like(result), create_graph=again
        )
    return result.detach()


OURS = Library(FUSEDGRAD.name, functools.partial(by_autograd, FUSEDGRAD))
TORCHS = Library(TORCH.name, functools.partial(by_autograd, TORCH))


def numpy_and_scipy() -> Library:
    functions = SimpleNamespace(sigmoid=scipy.special.expit, tanh=np.tanh, pow=np.power)

    def evaluate(function: Function, x: Tensor, p: Tensor) -> Tensor:
        with np.errstate(all="ignore"):
            return torch.from_numpy(function.operation(functions, x.numpy(), p.numpy()))

    def computes(function: Function, dtype: torch.dtype) -> bool:
        has_it = function.exact in ("sigmoid", "tanh", "pow", "pow_scalar")
        return has_it and dtype in (torch.float32, torch.float64)

    return Library("NumPy, SciPy", evaluate, computes)


def jax_library() -> Library:
    """Every element by jax.grad of the sum."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)

    def loss(x: Any, target: Any, reduction: str) -> Any:
        """As optax.sigmoid_binary_cross_entropy."""
        log_p, log_not_p = jax.nn.log_sigmoid(x), jax.nn.log_sigmoid(-x)
        return -target * log_p - (1.0 - target) * log_not_p

    functions = SimpleNamespace(
        sigmoid=jax.nn.sigmoid,
        tanh=jnp.tanh,
        pow=jnp.power,
        binary_cross_entropy_with_logits=loss,
    )

    @functools.cache
    def compiled(function: Function) -> Callable[[Any, Any], Any]:
        def derivative(of: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
            gradient: Callable[[Any, Any], Any] = jax.grad(
                lambda x, p: of(x, p).sum(), argnums=function.by
            )
            return gradient

        result: Callable[[Any, Any], Any] = functools.partial(function.operation, functions)
        for _ in range(function.order):
            result = derivative(result)
        jitted: Callable[[Any, Any], Any] = jax.jit(result)
        return jitted

    def converted(x: Tensor) -> Any:
        return jnp.asarray(x.view(BITS[x.dtype]).numpy().view(jnp.dtype(dtype_name(x.dtype))))

    def evaluate(function: Function, x: Tensor, p: Tensor) -> Tensor:
        result = np.array(compiled(function)(converted(x), converted(p)))
        bits = dtype_name(BITS[x.dtype])
        return torch.from_numpy(result.view(bits)).view(x.dtype)

    return Library("JAX", evaluate)


@functools.cache
def libraries() -> tuple[Library, ...]:
    """Those that are installed; fusedgrad first, then torch."""
    jax = [jax_library()] if find_spec("jax") else []
    return OURS, TORCHS, numpy_and_scipy(), *jax


# ------------------------------------------------------------------------------------- functions


def sigmoid(library: Any, x: Any, p: Any) -> Any:
    return library.sigmoid(x)


def tanh(library: Any, x: Any, p: Any) -> Any:
    return library.tanh(x)


def pow_tensor(library: Any, x: Any, p: Any) -> Any:
    return library.pow(x, p)


def pow_scalar(exponent: float) -> Operation:
    return lambda library, x, p: library.pow(x, exponent)


def loss(library: Any, x: Any, p: Any) -> Any:
    return library.binary_cross_entropy_with_logits(x, p, reduction="none")


UNARY = (
    Function("sigmoid", "sigmoid", sigmoid),
    Function("sigmoid′", "sigmoid_derivative", sigmoid, 1),
    Function("sigmoid″", "sigmoid_second_derivative", sigmoid, 2),
    Function("tanh", "tanh", tanh),
    Function("tanh′", "tanh_derivative", tanh, 1),
    Function("tanh″", "tanh_second_derivative", tanh, 2),
)
LOSS = (
    Function("BCE with logits", "binary_cross_entropy_with_logits", loss),
    Function("BCE with logits′", "binary_cross_entropy_with_logits_derivative", loss, 1),
)
POW_TENSOR = (
    Function("pow(x, y)", "pow", pow_tensor),
    Function("pow(x, y), ∂/∂x", "pow_base_derivative", pow_tensor, 1),
    Function("pow(x, y), ∂/∂y", "pow_exponent_derivative", pow_tensor, 1, by=1),
)
TARGETS = (0.0, 1.0, 0.3)
EXPONENTS = (2, 3, 0.5, -0.5, -1, -2, 2.5, 1 / 3, 10, -7.3)


def pow_functions(exponent: float) -> tuple[Function, Function]:
    operation = pow_scalar(exponent)
    return (
        Function(f"pow(x, {exponent:.3g})", "pow_scalar", operation),
        Function(f"pow(x, {exponent:.3g})′", "pow_scalar_base_derivative", operation, 1),
    )


def with_parameters() -> Iterator[tuple[str, Function, float]]:
    """Title, function and parameter of everything that is a function of x alone."""
    for function in UNARY:
        yield function.title, function, 0.0
    for target in TARGETS:
        for function in LOSS:
            yield f"{function.title}, target {target:g}", function, target
