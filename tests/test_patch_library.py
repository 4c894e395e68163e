"""All of PyTorch's own functions in Python that call what patched() patches run on fusedgrad.

They are found by a search over PyTorch's sources, so that none of another version is forgotten.
"""

# mypy: disable-error-code="no-untyped-call"

import ast
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributions as D
from torch.distributions import transforms
from torch.distributions.kl import kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode

import fusedgrad

NAMES = {"sigmoid", "tanh", "pow", "square", "expit", "float_power"}
NAMES |= {f"{name}_" for name in NAMES}
NAMES |= {"binary_cross_entropy", "binary_cross_entropy_with_logits"}
# What takes a user's tensors; the rest of PyTorch compiles, trains or tests.
SOURCES = ("functional.py", "nn/functional.py", "nn/modules", "distributions", "signal", "masked")


def calls(node: ast.AST) -> bool:
    """Whether a node of a syntax tree may be a call of what is patched."""
    if isinstance(node, ast.Call):
        function = node.func
        name = getattr(function, "attr", getattr(function, "id", None))
        return name in NAMES
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Pow) and not isinstance(node.left, ast.Constant)
    return isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Pow)


def found(node: ast.AST, path: str) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        named = isinstance(child, ast.FunctionDef | ast.ClassDef)
        name = f"{path}.{child.name}" if isinstance(child, ast.FunctionDef | ast.ClassDef) else path
        if not named and calls(child):
            yield name
        yield from found(child, name)


def functions_that_call() -> set[str]:
    root = pathlib.Path(torch.__file__).parent
    names: set[str] = set()
    for source in SOURCES:
        path = root / source
        for file in [path] if path.suffix else sorted(path.rglob("*.py")):
            module = ".".join(file.relative_to(root).with_suffix("").parts)
            names.update(found(ast.parse(file.read_text()), module))
    return names


P = torch.tensor([0.3, 0.6], requires_grad=True)
Q = torch.tensor([0.7, 0.2], requires_grad=True)
MATRIX = torch.eye(2).requires_grad_()
IMAGE = torch.rand(1, 2, 4, 4, requires_grad=True)
NORMAL = D.Normal(P, Q)
BERNOULLI = D.ContinuousBernoulli(P)
GAUSSIAN = D.MultivariateNormal(P, MATRIX)


def low_rank() -> D.LowRankMultivariateNormal:
    return D.LowRankMultivariateNormal(P, MATRIX, Q)


def divergence(p: D.Distribution, q: D.Distribution) -> Callable[[], Tensor]:
    return lambda: kl_divergence(p, q)


PROGRAMS: dict[str, Callable[[], Any]] = {
    "distributions.bernoulli.Bernoulli.entropy": lambda: D.Bernoulli(P).entropy(),
    "distributions.bernoulli.Bernoulli.log_prob": lambda: D.Bernoulli(P).log_prob(torch.ones(2)),
    "distributions.beta.Beta.variance": lambda: D.Beta(P, Q).variance,
    "distributions.cauchy.Cauchy.log_prob": lambda: D.Cauchy(P, Q).log_prob(P),
    **{
        f"distributions.continuous_bernoulli.ContinuousBernoulli.{name}": program
        for name, program in {
            "_cont_bern_log_norm": lambda: BERNOULLI._cont_bern_log_norm(),
            "_log_normalizer": lambda: BERNOULLI._log_normalizer(Q),
            "cdf": lambda: BERNOULLI.cdf(Q),
            "log_prob": lambda: BERNOULLI.log_prob(Q),
            "mean": lambda: BERNOULLI.mean,
            "variance": lambda: BERNOULLI.variance,
        }.items()
    },
    "distributions.dirichlet.Dirichlet.variance": lambda: D.Dirichlet(P).variance,
    "distributions.exponential.Exponential.variance": lambda: D.Exponential(P).variance,
    "distributions.fishersnedecor.FisherSnedecor.variance": lambda: (
        D.FisherSnedecor(P, Q + 5).variance
    ),
    "distributions.gamma.Gamma.variance": lambda: D.Gamma(P, Q).variance,
    "distributions.generalized_pareto.GeneralizedPareto.variance": lambda: (
        D.GeneralizedPareto(P, Q, P / 4).variance
    ),
    "distributions.geometric.Geometric.entropy": lambda: D.Geometric(P).entropy(),
    "distributions.gumbel.Gumbel.variance": lambda: D.Gumbel(P, Q).variance,
    "distributions.half_normal.HalfNormal.variance": lambda: D.HalfNormal(P).variance,
    "distributions.inverse_gamma.InverseGamma.variance": lambda: D.InverseGamma(P + 3, Q).variance,
    "distributions.kl._batch_trace_XXT": divergence(GAUSSIAN, GAUSSIAN),
    "distributions.kl._kl_beta_normal": divergence(D.Beta(P, Q), NORMAL),
    "distributions.kl._kl_cauchy_cauchy": divergence(D.Cauchy(P, Q), D.Cauchy(Q, P)),
    "distributions.kl._kl_continuous_bernoulli_normal": divergence(BERNOULLI, NORMAL),
    "distributions.kl._kl_exponential_normal": divergence(D.Exponential(P), NORMAL),
    "distributions.kl._kl_gamma_gumbel": divergence(D.Gamma(P, Q), D.Gumbel(P, Q)),
    "distributions.kl._kl_gamma_normal": divergence(D.Gamma(P, Q), NORMAL),
    "distributions.kl._kl_gumbel_normal": divergence(D.Gumbel(P, Q), NORMAL),
    "distributions.kl._kl_laplace_normal": divergence(D.Laplace(P, Q), NORMAL),
    "distributions.kl._kl_normal_gumbel": divergence(NORMAL, D.Gumbel(P, Q)),
    "distributions.kl._kl_normal_laplace": divergence(NORMAL, D.Laplace(P, Q)),
    "distributions.kl._kl_normal_normal": divergence(NORMAL, D.Normal(Q, P)),
    "distributions.kl._kl_pareto_normal": divergence(D.Pareto(P, Q + 3), NORMAL),
    "distributions.kl._kl_uniform_normal": divergence(D.Uniform(P, P + 1), NORMAL),
    "distributions.kl._kl_uniform_pareto": divergence(D.Uniform(P + 1, P + 2), D.Pareto(P, Q + 3)),
    "distributions.kumaraswamy.Kumaraswamy.variance": lambda: D.Kumaraswamy(P, Q).variance,
    "distributions.laplace.Laplace.variance": lambda: D.Laplace(P, Q).variance,
    "distributions.lkj_cholesky.LKJCholesky.sample": lambda: D.LKJCholesky(3, 0.5).sample(),
    "distributions.log_normal.LogNormal.mean": lambda: D.LogNormal(P, Q).mean,
    "distributions.log_normal.LogNormal.mode": lambda: D.LogNormal(P, Q).mode,
    "distributions.log_normal.LogNormal.variance": lambda: D.LogNormal(P, Q).variance,
    "distributions.lowrank_multivariate_normal.LowRankMultivariateNormal.variance": lambda: (
        low_rank().variance
    ),
    "distributions.lowrank_multivariate_normal._batch_lowrank_mahalanobis": lambda: (
        low_rank().log_prob(Q)
    ),
    "distributions.mixture_same_family.MixtureSameFamily.variance": lambda: (
        D.MixtureSameFamily(D.Categorical(P), NORMAL).variance
    ),
    "distributions.multivariate_normal.MultivariateNormal.variance": lambda: GAUSSIAN.variance,
    "distributions.multivariate_normal._batch_mahalanobis": lambda: GAUSSIAN.log_prob(Q),
    "distributions.negative_binomial.NegativeBinomial.variance": lambda: (
        D.NegativeBinomial(P, Q).variance
    ),
    "distributions.normal.Normal._log_normalizer": lambda: NORMAL._log_normalizer(P, -Q),
    "distributions.normal.Normal._natural_params": lambda: NORMAL._natural_params,
    "distributions.normal.Normal.log_prob": lambda: NORMAL.log_prob(P),
    "distributions.normal.Normal.variance": lambda: NORMAL.variance,
    "distributions.pareto.Pareto.variance": lambda: D.Pareto(P, Q + 3).variance,
    "distributions.studentT.StudentT.log_prob": lambda: D.StudentT(P, Q).log_prob(P),
    "distributions.studentT.StudentT.variance": lambda: D.StudentT(P + 3, Q).variance,
    "distributions.transforms.CorrCholeskyTransform._call": lambda: (
        transforms.CorrCholeskyTransform()(torch.rand(3, requires_grad=True))
    ),
    "distributions.transforms.PowerTransform._call": lambda: transforms.PowerTransform(Q)(P),
    "distributions.transforms.PowerTransform._inverse": lambda: transforms.PowerTransform(Q).inv(P),
    "distributions.transforms.TanhTransform._call": lambda: transforms.TanhTransform()(P),
    "distributions.transforms._clipped_sigmoid": lambda: transforms.SigmoidTransform()(P),
    "distributions.uniform.Uniform.variance": lambda: D.Uniform(P, P + 1).variance,
    "distributions.utils.logits_to_probs": lambda: D.Bernoulli(logits=P).probs,
    "distributions.von_mises.VonMises._proposal_r": lambda: D.VonMises(P, Q)._proposal_r,
    "distributions.weibull.Weibull.mode": lambda: D.Weibull(P, Q + 2).mode,
    "distributions.weibull.Weibull.variance": lambda: D.Weibull(P, Q).variance,
    "distributions.wishart.Wishart.variance": lambda: D.Wishart(P[0] + 3, MATRIX).variance,
    "nn.functional.binary_cross_entropy": lambda: F.binary_cross_entropy(P, Q),
    "nn.functional.binary_cross_entropy_with_logits": lambda: F.binary_cross_entropy_with_logits(
        P, Q
    ),
    "nn.functional.gaussian_nll_loss": lambda: F.gaussian_nll_loss(P, Q, torch.ones(2)),
    "nn.functional.local_response_norm": lambda: F.local_response_norm(IMAGE, 2),
    "nn.functional.lp_pool1d": lambda: F.lp_pool1d(IMAGE[0], 3.0, 2),
    "nn.functional.lp_pool2d": lambda: F.lp_pool2d(IMAGE, 3.0, 2),
    "nn.functional.lp_pool3d": lambda: F.lp_pool3d(IMAGE, 3.0, 2),
    "nn.functional.mse_loss": lambda: F.mse_loss(P, Q, weight=torch.ones(2)),  # type: ignore[call-arg]
    "nn.functional.sigmoid": lambda: F.sigmoid(P),
    "nn.functional.tanh": lambda: F.tanh(P),
    "nn.functional.tanhshrink": lambda: F.tanhshrink(P),
    "nn.modules._functions.CrossMapLRN2d.backward": lambda: torch.autograd.grad(
        nn.CrossMapLRN2d(2)(IMAGE).sum(), IMAGE
    ),
    "nn.modules._functions.CrossMapLRN2d.forward": lambda: nn.CrossMapLRN2d(2)(IMAGE),
    "nn.modules.activation.Sigmoid.forward": lambda: nn.Sigmoid()(P),
    "nn.modules.activation.Tanh.forward": lambda: nn.Tanh()(P),
    "nn.modules.loss.BCELoss.forward": lambda: nn.BCELoss()(P, Q),
    "nn.modules.loss.BCEWithLogitsLoss.forward": lambda: nn.BCEWithLogitsLoss()(P, Q),
    "signal.windows.windows.gaussian": lambda: torch.signal.windows.gaussian(5),
    "signal.windows.windows.kaiser": lambda: torch.signal.windows.kaiser(5),
}
# Powers of Python's numbers and of sizes
OF_NUMBERS = {
    "distributions.transforms.CorrCholeskyTransform.forward_shape",
    "distributions.utils.vec_to_tril_matrix",
    "nn.modules.adaptive.AdaptiveLogSoftmaxWithLoss.__init__",
    "signal.windows.windows.general_cosine",
}


def test_every_function_of_pytorch_that_calls_ours_is_checked() -> None:
    assert functions_that_call() - OF_NUMBERS == set(PROGRAMS)


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(func._schema.name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_function_of_pytorch_runs_on_fusedgrad(program: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    with Operators() as outside:
        expected = program()
    torch.manual_seed(0)
    with fusedgrad.patched(), Operators() as inside:
        result = program()
    names = {f"aten::{name}" for name in NAMES}
    assert outside.seen & names
    assert not inside.seen & names
    assert any(name.startswith("fusedgrad::") for name in inside.seen)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
