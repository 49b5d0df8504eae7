"""Draw the plots of README and docs/results.md: `python docs/draw_pictures.py`.

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
    ("flagship-small", 0.00220, 79.14),
    ("flagship", 0.00240, 80.02),
    ("6 bits everywhere", 0.00266, 78.52),
    ("kaist-int", 0.00320, 80.05),
    ("int8, not trained", 0.00325, 79.84),
    ("fixed-9-12, not trained", 0.00378, 79.80),
]
PLACES = {  # of names beside others: their distance in points, and on which side of it they end
    "KAIST AI v1": ((10, 10), "center"),
    "KAIST AI v2": ((0, -14), "center"),
    "int8, not trained": ((-2, -14), "center"),
    "fixed-9-12, not trained": ((6, -2), "left"),
}
WHOLE = (46_650, 19.59, 73.8)  # parameters, million multiply-adds, accuracy: the DenseNet before it is made smaller
SMALLER = {  # at a half and at a quarter: parameters, million multiply-adds, accuracy, its deviation over three seeds
    "weighted": ((23_204, 9.53, 69.97, 0.34), (11_628, 4.92, 60.75, 0.56)),
    "tucker": ((23_204, 9.53, 69.87, 0.70), (11_628, 4.92, 60.89, 0.71)),
    "eigenbasis": ((23_204, 9.53, 68.36, 0.33), (11_628, 4.92, 55.59, 0.55)),
    "channels, magnitude": ((23_213, 8.80, 67.73, 0.70), (11_550, 4.30, 59.45, 1.39)),
    "channels, Taylor": ((23_215, 9.00, 66.19, 0.43), (11_603, 4.83, 50.76, 3.88)),
}
COLOURS = ("#c2410c", "#f59e0b", "#a16207", "#1d4ed8", "#60a5fa")


def draw_scores() -> None:
    """Write pictures/accuracy-score.png."""
    figure, axes = pyplot.subplots(figsize=(8, 3.6), dpi=120)
    axes.axhline(GATE, color="#999999", linewidth=1, linestyle="--")
    axes.annotate(
        "the gate, 80%", (0.0051, GATE), xytext=(0, -11), textcoords="offset points", ha="right", color="#777"
    )
    for label, points, color in (("challenge of 2019", PUBLISHED, "#8a8f98"), ("netpress", OURS, "#c2410c")):
        axes.scatter([score for _, score, _ in points], [accuracy for *_, accuracy in points], color=color, label=label)
        for name, score, accuracy in points:
            place, side = PLACES.get(name, ((6, 5), "left"))
            axes.annotate(name, (score, accuracy), xytext=place, textcoords="offset points", ha=side, fontsize=9)
    axes.set(
        xlabel="official score (smaller is better)", ylabel="CIFAR-100, %", xlim=(0.002, 0.0064), ylim=(78.3, 80.5)
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.tight_layout()
    figure.savefig(PICTURES / "accuracy-score.png")


def draw_factors() -> None:
    """Write pictures/factors-channels.png: accuracy against parameters, and against operations."""
    figure, both = pyplot.subplots(1, 2, figsize=(9, 3.6), dpi=120, sharey=True)
    for place, (axes, label) in enumerate(zip(both, ("parameters", "million multiply-adds"), strict=True)):
        axes.plot(WHOLE[place], WHOLE[2], "o", color="#8a8f98", label="whole")
        for (name, points), colour in zip(SMALLER.items(), COLOURS, strict=True):
            sizes, accuracies = [point[place] for point in points], [point[2] for point in points]
            axes.errorbar(
                sizes, accuracies, [point[3] for point in points], color=colour, marker="o", capsize=3, label=name
            )
        axes.set(xlabel=f"{label} (fewer is better)")
        axes.spines[["top", "right"]].set_visible(False)
    both[0].set(ylabel="CIFAR-10, validation images, %")
    both[1].legend(loc="lower right", frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(PICTURES / "factors-channels.png")


if __name__ == "__main__":
    draw_scores()
    draw_factors()
