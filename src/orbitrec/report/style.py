"""Colours, type sizes and axis labels of all pictures."""

from matplotlib.axes import Axes

# Okabe and Ito's colours, which colour-blind readers can tell apart; they differ in lightness too.
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#9A9A9A"
PALETTE = (BLUE, ORANGE, "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
SMALL, TEXT = 9, 10  # points


def label_axes(axes: Axes, x: str, y: str) -> None:
    """Label both axes in small type and leave the frame open at the top and right.

    Args:
        axes: to label.
        x: label of the horizontal axis.
        y: label of the vertical axis.
    """
    axes.set_xlabel(x, size=SMALL)
    axes.set_ylabel(y, size=SMALL)
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
