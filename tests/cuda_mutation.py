"""csrc/cuda with a mistake in it, which the checks must notice."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

CSRC = Path(__file__).parents[1] / "csrc"


@dataclass(frozen=True)
class Mutation:
    """``old``, which stands once in a file of csrc/cuda, replaced by ``new``."""

    title: str
    file: str
    old: str
    new: str

    def apply(self, csrc: Path) -> None:
        """In a copy of csrc."""
        path = csrc / "cuda" / self.file
        text = path.read_text()
        assert text.count(self.old) == 1
        path.write_text(text.replace(self.old, self.new))


# What is compiled of a copy: of these sources these launchers.
LAUNCHERS = {
    "sigmoid": {"sigmoid_double_backward"},
    "logistic_loss": {"binary_cross_entropy_with_logits_sum", "binary_cross_entropy_weighted_sum"},
}
# What a file of a function of one tensor says in a macro, for one launcher
ONE_OF_UNARY = """namespace fusedgrad::cuda {{
cudaError_t {}(DType dtype, const Elements& elements, double order, cudaStream_t stream) {{
  return detail::double_backward<math::Sigmoid>(dtype, elements, order, stream);
}}
}}"""


def copied(folder: Path) -> Path:
    """csrc with few launchers, in float32 alone, so that it is compiled in seconds."""
    csrc = folder / "csrc"
    shutil.copytree(CSRC, csrc)
    for source, kept in LAUNCHERS.items():
        _keep(csrc, source, kept)
    elements = csrc / "cuda" / "elementwise.cuh"
    others = r"    case DType::(?!Float32)\w+:\n.*\n"
    text, removed = re.subn(others, "", elements.read_text())
    assert removed == 3
    elements.write_text(text)
    return csrc


def _keep(csrc: Path, source: str, kept: set[str]) -> None:
    path = csrc / "cuda" / f"{source}.cu"
    text = path.read_text()
    if "FUSEDGRAD_UNARY_LAUNCHERS" in text:
        (kept_one,) = kept
        text = re.sub(r"FUSEDGRAD_UNARY_LAUNCHERS\(.*\)", ONE_OF_UNARY.format(kept_one), text)
    text = re.sub(
        r"^FUSEDGRAD_\w+\((\w+),[^)]*\)\n",
        lambda found: found.group(0) if found.group(1) in kept else "",
        text,
        flags=re.M,
    )
    assert len(re.findall("|".join(kept), text)) == len(kept)
    path.write_text(text)
