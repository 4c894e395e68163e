"""`python -m demo`: the notebooks' derivatives, two trainings, and demo.png."""

from pathlib import Path

from demo import notebooks, picture, training

PICTURE = Path(__file__).resolve().parent.parent / "demo.png"


def main() -> None:
    notebooks.show()
    print()
    training.train_logistic_regression()
    # A saturated start is where the derivatives differ; the ordinary one is the control.
    training.show_gated_network(saturation=8.0)
    training.show_gated_network(saturation=0.0)
    picture.draw(PICTURE)
    print(f"picture: {PICTURE}")


if __name__ == "__main__":
    main()
