"""Graphs as text: one line of Python, a Python function, and C++ for the CPU and for CUDA."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence

from fusedgrad.fuse import forms
from fusedgrad.fuse.errors import FuseValueError
from fusedgrad.fuse.expression import (
    CALL,
    LOGIC,
    NEGATION,
    OPERATIONS,
    Expression,
    in_order,
)
from fusedgrad.fuse.functions import FUNCTIONS
from fusedgrad.fuse.graph import Graph

_LEAVES = ("constant", "input", "parameter")
_SAME = ("detach", "no_grad", "replaced", "opaque")  # whose value is their argument's
_REDUCED = ("sin", "cos", "tan")
_POWER = CALL - 1  # `**` binds tighter than a sign
_LINE = 80
_WIDTHS = {"double": 8, "float": 4, "__half": 2, "__nv_bfloat16": 2}  # bytes, of element types
_LONGEST = 5000
# How many exponentials, divisions and the like follow one another in a header's operations, if not
# one. Operations on the same argument share most of theirs.
_CHAINS: dict[str | None, int] = {
    **dict.fromkeys((None, "hypotenuse", "piecewise", "platform"), 0),
    **dict.fromkeys(("logistic_loss", "mish", "softplus"), 2),
}
_MOST_OUTPUTS_OF_LONG = 2  # for more, registers are too few

# What no argument of a function may be called in the text
_CPP_KEYWORDS = (
    "alignas alignof asm auto bool case catch char const consteval constexpr constinit decltype "
    "default delete do double dynamic_cast enum explicit export extern float friend goto inline "
    "int long mutable namespace new noexcept nullptr operator private protected public register "
    "requires short signed sizeof static static_assert static_cast struct switch template this "
    "throw true typedef typeid typename union unsigned using virtual void volatile "
    "T Reduction math fusedgrad cpu cuda"
)
RESERVED = {*_CPP_KEYWORDS.split(), *vars(forms), *(f.name for f in FUNCTIONS)}

# A text, and how tightly what it says binds.
_Written = tuple[str, int]


def _python_constant(value: float) -> str:
    if math.isfinite(value):
        return str(int(value)) if value == int(value) and abs(value) < 1e6 else repr(value)
    return "nan" if value != value else "inf" if value > 0 else "-inf"


def _cpp_constant(value: float) -> str:
    if value != value:
        return 'static_cast<T>(__builtin_nan(""))'
    if math.isinf(value):
        return "math::kInfinity<T>" if value > 0 else "-math::kInfinity<T>"
    return f"T({_python_constant(value) if value or math.copysign(1, value) > 0 else '-0.0'})"


def _python(e: Expression, arguments: Sequence[_Written]) -> _Written:
    if e.operation == "constant":
        number = _python_constant(e.value) if e.value or math.copysign(1, e.value) > 0 else "-0.0"
        return number, NEGATION if number.startswith("-") else CALL
    if e.operation == "power":
        return f"{_inside(arguments[0], CALL)} ** {_python_constant(e.value)}", _POWER
    if e.operation == "pow_derivative":
        base, exponent = arguments
        if e.value == (0, 0):
            return f"{_inside(base, CALL)} ** {_inside(exponent, CALL)}", _POWER
        by_base, by_exponent = e.value
        return f"pow_derivative({base[0]}, {exponent[0]}, {by_base}, {by_exponent})", CALL
    operation = OPERATIONS[e.operation]
    binding = CALL if e.operation == "where" else operation.binding
    return _filled(operation.python, binding, e, arguments)


def _cpp(e: Expression, arguments: Sequence[_Written]) -> _Written:
    if e.operation == "constant":
        return _cpp_constant(e.value), CALL
    if e.operation == "power":
        twice = 2 * e.value
        limit = 16 if twice % 2 == 0 else 5
        if twice == int(twice) and abs(twice) <= limit:
            return f"math::pow_half_integer<{int(twice)}>({arguments[0][0]})", CALL
        return f"math::pow_constant({arguments[0][0]}, {float(e.value)!r})", CALL
    if e.operation == "pow_derivative":
        by_base, by_exponent = e.value
        base, exponent = arguments
        return f"math::pow_derivative<{by_base}, {by_exponent}>({base[0]}, {exponent[0]})", CALL
    operation = OPERATIONS[e.operation]
    if e.operation == "where":
        condition, a, b = (_inside(argument, LOGIC) for argument in arguments)
        return f"{condition} ? {a} : {b}", LOGIC - 1
    return _filled(operation.cpp, operation.binding, e, arguments)


def _filled(template: str, binding: int, e: Expression, arguments: Sequence[_Written]) -> _Written:
    if binding == CALL:
        return template.format(*(text for text, _ in arguments), value=e.value), CALL
    # A right operand that binds as loosely as the operator would be computed in another order; and
    # Python's & binds tighter than its comparisons.
    first = CALL if binding == LOGIC or e.operation == "not" else binding
    rest = CALL if binding == LOGIC else binding + 1
    if binding == NEGATION:
        first = _POWER
    bounds = [first, *[rest] * (len(arguments) - 1)]
    return template.format(*map(_inside, arguments, bounds)), binding


def _inside(written: _Written, least: int) -> str:
    text, binding = written
    return text if binding >= least else f"({text})"


class _Writer:
    """Statements that compute expressions: what is used twice, or is long, gets a name."""

    def __init__(
        self,
        graph: Graph,
        write: Callable[[Expression, Sequence[_Written]], _Written],
        statement: str,
    ) -> None:
        """`statement` is formatted with the type, the name and the text of a named expression."""
        self.statements: list[str] = []
        self.results: list[str] = []
        order = in_order(graph.outputs)
        uses = Counter(argument for e in order for argument in e.arguments)
        uses.update(graph.outputs)
        taken = {*graph.inputs, *graph.parameters}
        written: dict[Expression, _Written] = {}
        for e in order:
            if e.operation in ("input", "parameter"):
                written[e] = e.value, CALL
                continue
            if e.operation in _SAME:
                written[e] = written[e.arguments[0]]
                continue
            text, binding = write(e, [written[argument] for argument in e.arguments])
            if e.operation != "constant" and (uses[e] > 1 or len(text) > _LINE):
                name = f"t{len(self.statements) + 1}"
                while name in taken:
                    name += "_"
                type_name = "bool" if e.is_condition else "T"
                self.statements.append(statement.format(type=type_name, name=name, text=text))
                text, binding = name, CALL
            written[e] = text, binding
        self.results = [written[output][0] for output in graph.outputs]


def expression_text(graph: Graph) -> str:
    """The outputs in Python's notation; what is used twice has a name where the text is long."""
    order = in_order(graph.outputs)
    length: dict[Expression, int] = {}
    for e in order:
        length[e] = 12 + sum(length[argument] for argument in e.arguments)
    arguments = ", ".join((*graph.inputs, *graph.parameters))
    if sum(length[output] for output in graph.outputs) > _LONGEST:
        writer = _Writer(graph, _python, "{name} = {text}")
        lines = [*writer.statements, f"{graph.name}({arguments}) = {', '.join(writer.results)}"]
        return "\n".join(lines)
    written: dict[Expression, _Written] = {}
    for e in order:
        if e.operation in ("input", "parameter"):
            written[e] = e.value, CALL
        elif e.operation in _SAME:
            written[e] = written[e.arguments[0]]
        else:
            written[e] = _python(e, [written[argument] for argument in e.arguments])
    results = ", ".join(written[output][0] for output in graph.outputs)
    return f"{graph.name}({arguments}) = {results}"


def _evaluated(e: Expression, arguments: Sequence[_Written]) -> _Written:
    text, binding = _python(e, arguments)
    # PyTorch's functions take tensors alone.
    return (f"constant({text})", CALL) if e.operation == "constant" else (text, binding)


def python_source(graph: Graph) -> str:
    """A Python function `evaluate` of the inputs and parameters that returns a tuple."""
    writer = _Writer(graph, _evaluated, "    {name} = {text}")
    arguments = ", ".join((*graph.inputs, *graph.parameters))
    results = "".join(f"{result}, " for result in writer.results)
    lines = [f"def evaluate({arguments}):", *writer.statements, f"    return ({results})"]
    return "\n".join(lines) + "\n"


def _headers(graph: Graph) -> list[str]:
    names = {OPERATIONS[e.operation].header for e in in_order(graph.outputs)}
    return [f'#include "math/{name}.h"' for name in sorted({"platform", *filter(None, names)})]


def _functor(graph: Graph, used: Sequence[str]) -> list[str]:
    """A functor template Fused<T> of the elements `used`, which carries the parameters."""
    reduction = ", class Reduction = math::AnyArgument" if _reduced(graph) else ""
    writer = _Writer(graph, _cpp, "    const {type} {name} = {text};")
    made_of = frozenset().union(*graph.made_of)
    arguments = ", ".join(f"T {name}" if name in made_of else "T" for name in used)
    count = len(graph.outputs)
    if count == 1:
        returned, result = "T", f"    return {writer.results[0]};"
    else:
        returned = f"math::Values<T, {count}>"
        result = "    return {{" + (",\n" + " " * 13).join(writer.results) + "}};"
    text = expression_text(graph).splitlines()[-1]
    comment = text if len(text) < 200 else f"{text[:200]}..."
    return [
        f"// {comment}",
        f"template <class T{reduction}>",
        "struct Fused {",
        *(f"  T {name};" for name in graph.parameters),
        f"  FUSEDGRAD_HOST_DEVICE {returned} operator()({arguments}) const {{",
        *writer.statements,
        result,
        "  }",
        "};",
    ]


def _reduced(graph: Graph) -> tuple[Expression, ...]:
    """What sine, cosine and tangent are taken of."""
    taken = (e.arguments[0] for e in in_order(graph.outputs) if e.operation in _REDUCED)
    return tuple(dict.fromkeys(taken))


def _is_moderate(graph: Graph, used: Sequence[str], type_name: str) -> list[str]:
    """A predicate IsModerate of the elements: whether all of `_reduced` are moderate."""
    reduced = Graph(graph.name, graph.inputs, graph.parameters, _reduced(graph), whole=True)
    writer = _Writer(reduced, _cpp, "    const {type} {name} = {text};")
    made_of = frozenset().union(*reduced.made_of)
    arguments = ", ".join(f"T {name}" if name in made_of else "T" for name in used)
    checks = [f"Reduction::is_moderate({result})" for result in writer.results]
    return [
        "struct IsModerate {",
        f"  using T = {type_name};",
        "  using Reduction = math::ModerateArgument;",
        *(f"  T {name};" for name in graph.parameters),
        f"  FUSEDGRAD_HOST_DEVICE bool operator()({arguments}) const {{",
        *writer.statements,
        f"    return {(' &' + chr(10) + ' ' * 11).join(checks)};",
        "  }",
        "};",
    ]


def _made(graph: Graph, type_name: str, functor: str | None = None) -> str:
    values = (f"static_cast<{type_name}>(parameters[{i}])" for i in range(len(graph.parameters)))
    return f"{functor or f'Fused<{type_name}>'}{{{', '.join(values)}}}"


def _text(lines: Sequence[str]) -> str:
    """C++ in lines of at most 100 columns."""
    result: list[str] = []
    for line in lines:
        for part in line.split("\n"):
            comment = part.startswith("//")
            indent = " " * (len(part) - len(part.lstrip()))
            result += textwrap.wrap(
                part.strip(),
                100,
                initial_indent=indent,
                subsequent_indent="// " if comment else f"{indent}    ",
                break_long_words=False,
                break_on_hyphens=False,
            ) or [""]
    return "\n".join(result) + "\n"


def cuda_source(
    graph: Graph,
    used: Sequence[str],
    types: Sequence[str],
    computed: str,
    *,
    sums: bool = False,
    summed: Sequence[bool] = (),
) -> str:
    """CUDA C++ of the kernels of csrc/cuda/fused.cuh.

    Of `sums`, those of fused_sum.cuh; where some outputs are `summed` over dimensions, those of
    fused_over_dimensions.cuh. `types` are the element types, those of the outputs first; `computed`
    is the type in between.
    """
    count = len(graph.outputs)
    in_memory = [not sums] * count + [True] * len(used)
    for i, each in enumerate(summed):
        in_memory[i] = not each
    moved = [name for name, lies in zip(types, in_memory, strict=True) if lies]
    totals = [name for name, lies in zip(types, in_memory, strict=True) if not lies]
    written = count - len(totals)
    if summed:
        header, macro = "fused_over_dimensions", "FUSEDGRAD_SUMMED_KERNEL"
        pack = 16 // max(_WIDTHS[name] for name in moved)
        kernels = {
            name: f"SummedOver<{computed}, {elements}, {written}, {', '.join(moved)}>"
            for name, elements in (("contiguous", pack), ("strided", 1))
        }
        bits = "".join(str(int(each)) for each in reversed(summed))
        named = [
            f"constexpr uint32_t kSummed = 0b{bits};",
            f"using Targets = SumTargets<{', '.join(totals)}>;",
            "",
        ]
        combine = [f"FUSEDGRAD_COMBINE_PIECES_KERNEL({computed})"]
    else:
        header, macro = (
            ("fused_sum", "FUSEDGRAD_SUM_KERNEL") if sums else ("fused", "FUSEDGRAD_KERNEL")
        )
        kernels = {
            kind.lower(): f"{kind}<{moved[0]}, {written}, {len(used)}>"
            if len(set(moved)) == 1
            else f"{kind}Mixed<{computed}, {written}, {', '.join(moved)}>"
            for kind in ("Contiguous", "Strided")
        }
        named = [f"using Outputs = Totals<{', '.join(totals)}>;", ""] if sums else []
        combine = [f"FUSEDGRAD_COMBINE_KERNEL({computed})"] if sums else []
    lines = [
        f'#include "cuda/{header}.cuh"',
        *_headers(graph),
        "",
        "namespace fusedgrad::cuda {",
        "namespace {",
        "",
        *_functor(graph, used),
        "",
        *named,
        "}  // namespace",
        "",
        *(f"{macro}({name}, Fused<{computed}>, {operands})" for name, operands in kernels.items()),
        *combine,
        "",
        "}  // namespace fusedgrad::cuda",
    ]
    return _text(lines)


def source_of(graph: Graph, backend: str, name: str) -> str:
    """The code for float32 tensors; `name` is what was asked, for the error.

    Raises:
        FuseValueError: `backend` is neither cpu nor cuda.
    """
    if backend == "cpu":
        return cpu_source(graph, graph.inputs, wide=False)
    if backend == "cuda":
        types = ["float"] * (len(graph.outputs) + len(graph.inputs))
        return cuda_source(graph, graph.inputs, types, "float")
    raise FuseValueError(f"{name}.source(): backend is {backend!r}, expected cpu or cuda")


def _is_long(graph: Graph) -> bool:
    """Whether a loop over the graph takes several vectors in turn (csrc/cpu/block.h)."""
    chains: dict[tuple[Expression, ...], int] = {}
    for e in in_order(graph.outputs):
        count = _CHAINS.get(OPERATIONS[e.operation].header, 1) if e.operation != "power" else 0
        chains[e.arguments] = max(count, chains.get(e.arguments, 0))
    return sum(chains.values()) > 1 and len(graph.outputs) <= _MOST_OUTPUTS_OF_LONG


def cpu_source(graph: Graph, used: Sequence[str], wide: bool) -> str:
    """C++ that exports the function `block` in double (`wide`) or float."""
    type_name = "double" if wide else "float"
    unused = "" if graph.parameters else "[[maybe_unused]] "
    is_long = _is_long(graph)
    apply = f"cpu::apply<{type_name}{f', cpu::kLongTile<{type_name}>' if is_long else ''}>"
    moderate: list[str] = []
    by_moderate: list[str] = []
    if _reduced(graph):
        moderate = ["", *_is_moderate(graph, used, type_name)]
        check = _made(graph, type_name, "IsModerate")
        made = _made(graph, type_name, f"Fused<{type_name}, math::ModerateArgument>")
        by_moderate = [
            f"  if (cpu::holds_for_all<{type_name}>({check}, inputs, n)) {{",
            f"    return {apply}({made}, outputs, inputs, n);",
            "  }",
        ]
    lines = [
        '#include "cpu/block.h"',
        *_headers(graph),
        "",
        "namespace fusedgrad {",
        "namespace {",
        "",
        *_functor(graph, used),
        *moderate,
        "",
        "}  // namespace",
        "}  // namespace fusedgrad",
        "",
        f'extern "C" {"FUSEDGRAD_SCHEDULED " if is_long else ""}'
        '__attribute__((visibility("default"))) void block(',
        f"    {unused}const double* parameters, {type_name}* const* outputs,",
        f"    const {type_name}* const* inputs, int64_t n) {{",
        "  using namespace fusedgrad;",
        *by_moderate,
        f"  {apply}({_made(graph, type_name)}, outputs, inputs, n);",
        "}",
    ]
    return _text(lines)
