"""csrc/cuda with a mistake in it, which the checks must notice."""

from dataclasses import dataclass
from pathlib import Path


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
