"""A result as a notebook shows it: pictures, numbers and quality checks in one piece of HTML."""

from collections.abc import Sequence

from jaxtyping import Float
from jinja2 import Environment
from matplotlib.figure import Figure
from torch import Tensor

from orbitrec.evaluation.fsc import FSC
from orbitrec.report.figures import draw_planes, draw_views
from orbitrec.report.fsc_curves import plot_curves, resolution_text
from orbitrec.report.page_facts import duration_text
from orbitrec.report.page_pictures import png_data
from orbitrec.report.style import TEXT
from orbitrec.report.summary import HalfSetKind, Summary

_LAYOUT = """\
<div style="max-width: 900px; padding: 12px 16px; border: 1px solid #dde2e8; border-radius: 8px; background: #ffffff;
 color: #1d2733; font: 14px/1.5 system-ui, sans-serif;">
<div style="font-size: 17px; font-weight: 600;">{{ title }}</div>
<div style="color: #5b6875; margin-bottom: 8px;">{{ facts }}</div>
<img src="{{ picture }}" style="width: 100%; max-width: none; display: block;"
 alt="Slices and projections of the map, Fourier shell correlation, viewing directions">
<div style="margin-top: 10px; padding: 6px 12px; border-left: 5px solid {{ '#d55e00' if checks else '#009e73' }};">
{%- if checks %}
<div style="font-weight: 600;">Quality checks: read this first</div>
<ul style="margin: 2px 0 0; padding-left: 20px;">
{%- for check in checks %}
<li>{% for part in check.split("`") %}{% if loop.index is even %}<code>{{ part }}</code>
{%- else %}{{ part }}{% endif %}{% endfor %}</li>
{%- endfor %}
</ul>
{%- else %}
<span style="font-weight: 600;">Quality checks passed.</span>
 They cannot tell whether the particle is the one you wanted.
{%- endif %}
</div>
</div>
"""


def notebook_html(
    volume: Float[Tensor, "n n n"],
    voxel_size_A: float,
    fsc: FSC,
    rotations: Float[Tensor, "N 3 3"],
    checks: Sequence[str],
    summary: Summary,
) -> str:
    """HTML that shows a result in a notebook; it holds its picture and needs nothing from elsewhere.

    Args:
        volume: the map, (z, y, x).
        voxel_size_A: edge of a voxel in Å.
        fsc: correlation of the half-maps within the mask, corrected for it.
        rotations: each particle's rotation; it is seen along the third column.
        checks: what the quality checks found, a sentence each.
        summary: the facts of the run.

    Returns:
        A ``<div>`` for ``_repr_html_``.
    """
    halves = summary.half_maps
    title = f"half-maps ({halves.kind}): FSC 0.143 at {resolution_text(halves.fsc0143_A)}"
    picture = _picture(volume, voxel_size_A, fsc, rotations, title)
    return Environment(autoescape=True).from_string(_LAYOUT).render(
        title=f"{summary.particles:,} particles of {summary.input}", facts=_facts(summary), picture=picture,
        checks=checks,
    )  # fmt: skip


def _facts(summary: Summary) -> str:
    halves, truth = summary.half_maps, summary.truth
    bound = "" if halves.kind is HalfSetKind.INDEPENDENT else " (an upper bound)"
    facts = [f"half-maps agree to {resolution_text(halves.fsc0143_A)}{bound}"]
    if truth is not None:
        facts.append(f"FSC 0.5 with the truth at {resolution_text(truth.fsc05_A)}")
    facts += [
        f"poses searched to {resolution_text(summary.search_resolution_A)}",
        f"box {summary.box_px} px of {summary.pixel_size_A:.4g} Å",
        f"symmetry {summary.symmetry}",
        duration_text(summary.total_seconds),
    ]
    return " · ".join(facts)


def _picture(
    volume: Float[Tensor, "n n n"], voxel_size_A: float, fsc: FSC, rotations: Float[Tensor, "N 3 3"], title: str
) -> str:
    figure = Figure(figsize=(11.5, 5.0), dpi=130, layout="constrained", facecolor="white")
    left, right = figure.subfigures(1, 2, width_ratios=(1.45, 1), squeeze=False).flat
    draw_planes(left, volume, voxel_size_A)
    upper, lower = right.subfigures(2, 1, height_ratios=(1.1, 1), squeeze=False).flat
    axes = upper.subplots()
    plot_curves(axes, {"half-maps": (fsc, 0.143)}, voxel_size_A)
    axes.get_legend().remove()  # the title says it, and is never in the way of the curve
    axes.set_title(title, size=TEXT)
    draw_views(lower, rotations)
    return png_data(figure)
