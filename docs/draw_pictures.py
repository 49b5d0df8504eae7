"""Draw the README's plot of accuracy against score: `python docs/draw_pictures.py`.

The figures are those of docs/results.md. The README's other picture is the top of the demo's report.html, as a
browser shows it at a width of 1,100 pixels.
"""

from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot

PICTURES = Path(__file__).parent / "pictures"
GATE = 80.0  # % of CIFAR-100's test images
PUBLISHED = [  # name, score, accuracy: the challenge's leaderboard of 2019
    ("RIAIR, the winner", 0.0044, 80.17),
    ("KAIST AI v1", 0.0054, 80.07),
    ("KAIST AI v2", 0.0056, 80.04),
    ("OSI AI", 0.0058, 80.04),
]
OURS = [  # what netpress makes of KAIST AI v1
    ("kaist-int, trained in integers", 0.00324, 80.10),
    ("int8, not trained", 0.00325, 79.84),
    ("fixed-9-12, not trained", 0.00378, 79.80),
]


def draw() -> None:
    """Write pictures/accuracy-score.png."""
    figure, axes = pyplot.subplots(figsize=(8, 3.6), dpi=120)
    axes.axhline(GATE, color="#999999", linewidth=1, linestyle="--")
    axes.annotate(
        "the gate, 80%", (0.00595, GATE), xytext=(0, -11), textcoords="offset points", ha="right", color="#777"
    )
    for label, points, color in (("challenge of 2019", PUBLISHED, "#8a8f98"), ("netpress", OURS, "#c2410c")):
        axes.scatter([score for _, score, _ in points], [accuracy for *_, accuracy in points], color=color, label=label)
        for name, score, accuracy in points:
            lower = name == "KAIST AI v2"  # beside others: its name goes below
            axes.annotate(
                name, (score, accuracy), xytext=(6, -12 if lower else 5), textcoords="offset points", fontsize=9
            )
    axes.set(
        xlabel="official score (smaller is better)", ylabel="CIFAR-100, %", xlim=(0.003, 0.0064), ylim=(79.7, 80.3)
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.tight_layout()
    figure.savefig(PICTURES / "accuracy-score.png")


if __name__ == "__main__":
    draw()
