"""`python -m demo`: the notebooks' derivatives, fused functions, two trainings, two pictures."""

from pathlib import Path

from demo import fused, notebooks, picture, training
from examples import logistic_regression

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "demo.png"
GRAPH = ROOT / "demo_graph.png"


def main() -> None:
    notebooks.show()
    print()
    fused.show()
    print()
    logistic_regression.train()
    # A saturated start is where the derivatives differ; the ordinary one is the control.
    training.show_gated_network(saturation=8.0)
    training.show_gated_network(saturation=0.0)
    picture.draw(PICTURE)
    fused.draw(GRAPH)
    print(f"pictures: {PICTURE}, {GRAPH}")


if __name__ == "__main__":
    main()
