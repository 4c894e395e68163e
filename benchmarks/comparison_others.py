"""What JAX and MLX compute of the questions on standard input, for benchmarks.comparison.

Runs in an environment of its own, without torch: `build/others/bin/python comparison_others.py`.
A question is [function, order, x, target]; the answers go to standard output, as JSON.
"""

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

Question = tuple[str, int, float, float]
Answers = dict[str, list[float | None]]


def nth(gradient: Callable[[Any], Any], function: Any, order: int) -> Any:
    for _ in range(order):
        function = gradient(function)
    return function


def with_jax(questions: list[Question]) -> Answers:
    import jax

    highest = jax.lax.AccuracyMode.HIGHEST

    def loss(x: Any, target: float) -> Any:
        """As optax.sigmoid_binary_cross_entropy 0.2.8."""
        log_p, log_not_p = jax.nn.log_sigmoid(x), jax.nn.log_sigmoid(-x)
        return -target * log_p - (1 - target) * log_not_p

    plain = {"sigmoid": jax.nn.sigmoid, "tanh": jax.numpy.tanh, "loss": loss}
    exact = {
        "sigmoid": lambda x: jax.lax.logistic(x, accuracy=highest),
        "tanh": lambda x: jax.lax.tanh(x, accuracy=highest),
    }

    def answers(functions: dict[str, Any]) -> list[float | None]:
        found: list[float | None] = []
        for name, order, x, target in questions:
            if name not in functions:
                found.append(None)
                continue
            function = functions[name]
            of_x = (lambda x, f=function, t=target: f(x, t)) if name == "loss" else function
            found.append(float(jax.jit(nth(jax.grad, of_x, order))(jax.numpy.float32(x))))
        return found

    title = f"JAX {version('jax')}"
    return {title: answers(plain), "JAX, `accuracy=HIGHEST`": answers(exact)}


def with_mlx(questions: list[Question]) -> Answers:
    import mlx.core as mx
    from mlx.nn.losses import binary_cross_entropy

    found: list[float | None] = []
    for name, order, x, target in questions:

        def function(x: Any, name: str = name, target: float = target) -> Any:
            if name == "loss":
                return binary_cross_entropy(x, mx.array(target), reduction="sum")
            return getattr(mx, name)(x)

        found.append(nth(mx.grad, function, order)(mx.array(float(x))).item())
    return {f"MLX {version('mlx')}": found}


def races_that_pallas_reports() -> dict[str, bool]:
    """Whether the interpreter of Pallas' GPU kernels reports a race, run on the CPU."""
    import jax
    from jax._src.pallas.mosaic_gpu.interpret.gpu_callbacks import reset_gpu_interpret_mode_state
    from jax.experimental.pallas import mosaic_gpu

    def reported(index: Callable[[], Any], **launch: Any) -> bool:
        def kernel(out: Any) -> None:
            out[index()] = jax.numpy.float32(1)

        run = mosaic_gpu.kernel(
            kernel,
            out_type=jax.ShapeDtypeStruct((2,), jax.numpy.float32),
            interpret=mosaic_gpu.InterpretGPUParams(detect_races=True),
            **launch,
        )
        try:
            jax.block_until_ready(run())
        except jax.errors.JaxRuntimeError as error:
            if "RACE DETECTED" not in str(error):
                raise
            return True
        finally:
            reset_gpu_interpret_mode_state()
        return False

    threads = {"num_threads": 2, "thread_name": "i"}
    grid = {"grid": (2,), "grid_names": ("i",)}
    return {
        "two threads of a block write one element": reported(lambda: 0, **threads),
        "two threads of a block write two elements": reported(
            lambda: jax.lax.axis_index("i"), **threads
        ),
        "two blocks write one element": reported(lambda: 0, **grid),
        "two blocks write two elements": reported(lambda: jax.lax.axis_index("i"), **grid),
    }


if __name__ == "__main__":
    asked = [tuple(question) for question in json.load(sys.stdin)]
    numbers = with_jax(asked) | with_mlx(asked)
    json.dump({"numbers": numbers, "races": races_that_pallas_reports()}, sys.stdout)
