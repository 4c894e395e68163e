"""A fused function's first calls, and its later ones, in the contexts people call it in.

What comes out is compared with what the plain function gives in the same context.
"""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import fusedgrad

pytestmark = pytest.mark.filterwarnings("ignore")

Function = Callable[[Tensor, Tensor], Tensor]

X = torch.linspace(-2, 2, 6, dtype=torch.float64)
W = torch.tensor(0.7, dtype=torch.float64)
OUTSIDE = torch.tensor(0.3, dtype=torch.float64)


def served(x: Tensor, w: Tensor) -> Tensor:
    return torch.sigmoid(x * w) * torch.tanh(x) + 0.5 * w


def runs_again(x: Tensor, w: Tensor) -> Tensor:
    print(end="")
    return served(x, w)


def reads_a_tensor(x: Tensor, w: Tensor) -> Tensor:
    return torch.sigmoid(x * w) + OUTSIDE * w


def stops_gradients(x: Tensor, w: Tensor) -> Tensor:
    with torch.no_grad():
        scale = torch.tanh(w)
    return torch.sigmoid(x * w) + scale * x


def leaves() -> tuple[Tensor, Tensor]:
    return X.clone().requires_grad_(), W.clone().requires_grad_()


def gradients(f: Function) -> tuple[Tensor, ...]:
    x, w = leaves()
    return torch.autograd.grad(f(x, w).sum(), (x, w))


def total(f: Function) -> Function:
    return lambda x, w: f(x, w).sum()


def within(manager: Callable[[], Any], then: Callable[[Function], Any] = gradients) -> Any:
    """The gradients taken in a context."""

    def run(f: Function) -> Any:
        with manager():
            return then(f)

    return run


def after(first: Callable[[Function], Any]) -> Any:
    """The gradients after a first call in a context."""

    def run(f: Function) -> Any:
        first(f)
        return gradients(f)

    return run


def in_a_function_of_autograd(f: Function) -> Any:
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
            ctx.save_for_backward(x, w)
            return f(x, w)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            with torch.enable_grad():
                x, w = (t.detach().requires_grad_() for t in ctx.saved_tensors)
                return torch.autograd.grad(f(x, w), (x, w), grad)

    return gradients(lambda x, w: Own.apply(x, w))  # type: ignore[no-untyped-call]


def in_a_hook(f: Function) -> Any:
    x, w = leaves()
    y = x * w
    y.register_hook(lambda grad: f(grad, w.detach()))  # type: ignore[no-untyped-call]
    return torch.autograd.grad(y.sum(), (x, w))


def in_a_thread(f: Function) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(gradients(f)))
    thread.start()
    thread.join()
    return results[0]


def dual(f: Function) -> Any:
    x, w = leaves()
    with forward_ad.dual_level():
        made = f(forward_ad.make_dual(x, 2 * X), w)  # type: ignore[no-untyped-call]
        value, tangent = forward_ad.unpack_dual(made)  # type: ignore[no-untyped-call]
    return value, tangent, *torch.autograd.grad(tangent.sum(), (x, w), allow_unused=True)


def fake(f: Function) -> Any:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        result = f(mode.from_tensor(X), mode.from_tensor(W))
    return torch.zeros(tuple(result.shape), dtype=result.dtype)


def with_default_dtype(f: Function) -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return gradients(f)
    finally:
        torch.set_default_dtype(before)


def of_autocast(f: Function) -> Any:
    x = X.float().requires_grad_()
    with torch.autocast("cpu"):
        result = f(x, W.float())
    return result, *torch.autograd.grad(result.sum(), x)


def exported(f: Function) -> Any:
    class Module(torch.nn.Module):
        def forward(self, x: Tensor, w: Tensor) -> Tensor:
            return f(x, w)

    return torch.export.export(Module(), (X, W)).module()(X, W)


def checkpointed(f: Function) -> Function:
    return lambda x, w: checkpoint(f, x, w, use_reentrant=False)


def compiled(f: Function) -> Any:
    torch._dynamo.reset()
    return gradients(torch.compile(f, backend="aot_eager"))


def second(f: Function) -> Any:
    x, w = leaves()
    (grad,) = torch.autograd.grad(f(x, w).sum(), x, create_graph=True)
    return torch.autograd.grad(grad.sum(), (x, w), allow_unused=True)


def batched(f: Function) -> Any:
    x, w = leaves()
    rows = torch.eye(6, dtype=torch.float64)
    return torch.autograd.grad(f(x, w), (x, w), rows, is_grads_batched=True)


def changed_in_place(f: Function) -> Any:
    return gradients(lambda x, w: f(2 * x, w).mul_(2))


CONTEXTS: dict[str, Callable[[Function], Any]] = {
    "nothing": gradients,
    "autograd.Function": in_a_function_of_autograd,
    "hook": in_a_hook,
    "thread": in_a_thread,
    "dual": dual,
    "fake": fake,
    "second derivative": second,
    "is_grads_batched": batched,
    "changed in place": changed_in_place,
    "default dtype": with_default_dtype,
    "meta by default": within(lambda: torch.device("meta")),
    "inference": within(torch.inference_mode, lambda f: f(X, W)),
    "after inference": after(within(torch.inference_mode, lambda f: f(X, W))),
    "no_grad": within(torch.no_grad, lambda f: f(*leaves())),
    "after no_grad": after(within(torch.no_grad, lambda f: f(*leaves()))),
    "autocast": of_autocast,
    "after autocast": after(of_autocast),
    "anomaly mode": within(torch.autograd.detect_anomaly),
    "save_on_cpu": within(torch.autograd.graph.save_on_cpu),
    "no hooks": within(lambda: torch.autograd.graph.disable_saved_tensors_hooks("none")),
    "flop counter": within(lambda: FlopCounterMode(display=False)),
    "patched": within(fusedgrad.patched),
    "checkpoint twice": lambda f: gradients(checkpointed(lambda x, w: f(f(x, w), w))),
    "nested checkpoints": lambda f: gradients(checkpointed(checkpointed(f))),
    "compile": compiled,
    "compile, checkpoint": lambda f: compiled(checkpointed(f)),
    "export": exported,
    "jit.trace": lambda f: torch.jit.trace(f, (X, W))(3 * X, W),  # type: ignore[no-untyped-call]
    "make_fx": lambda f: make_fx(f)(X, W)(2 * X, W),
    "make_fx, grad": lambda f: make_fx(torch.func.grad(total(f)))(X, W)(2 * X, W),
    "functionalize": lambda f: torch.func.functionalize(lambda x, w: f(x, w) + 1)(X, W),
    "jvp": lambda f: torch.func.jvp(f, (X, W), (X, W)),
    "linearize": lambda f: torch.func.linearize(lambda x: f(x, W), X)[1](X),
    "vmap": lambda f: torch.func.vmap(f, (0, None))(torch.stack([X, 2 * X]), W),
    "vmap, grad": lambda f: torch.func.vmap(torch.func.grad(f), (0, None))(X, W),
    "hessian": lambda f: torch.func.jacfwd(torch.func.grad(total(f)))(X, W),
    "jacfwd, jacrev": lambda f: torch.func.jacfwd(torch.func.jacrev(lambda x: f(x, W)))(X),
}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("function", [served, runs_again, reads_a_tensor, stops_gradients])
@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS.keys())
def test_first_and_later_calls(context: Callable[[Function], Any], function: Function) -> None:
    expected = context(function)
    fused = fusedgrad.fuse(function)
    for _ in range(3):  # recorded; recorded and proved; served
        torch.testing.assert_close(context(fused), expected)
