"""Moment matching with pseudo-atoms: many starts, a growing band and growing numbers, and iterated local search.

Starts are clouds of a few pseudo-atoms, matched at a bandwidth at which a molecule is a lump. At each stage the band
grows and pseudo-atoms are split, and the half of the starts whose loss is lower stays. A descent ends in one of many
minima, wherever it begins, the true views included; so what is left is then **changed and matched again**, over and
over, and a change is kept if the loss is lower (iterated local search: Lourenço, Martin and Stützle 2003). Changes are
those that undo what goes wrong: views that fit the wrong volume, parts of the other handedness, pseudo-atoms where
nothing is.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from orbitrec.geometry.harmonics import harmonic_count, largest_degree
from orbitrec.runtime.threads import run_threaded
from orbitrec.thesis.volume_matching.pseudo_atoms import PseudoAtomMatching, PseudoAtomStage, Solution, Variables

Step = Callable[[str, Callable[[], Solution]], Solution]
"""Called with the name of a step and what computes it; returns the result, or what was kept of it.

Steps of a stage are called from several threads at once.
"""

Compute = Callable[[PseudoAtomStage, Solution, int], Solution]
"""What is done with a solution at a stage, given a seed."""

Change = Callable[[Variables, torch.Generator], Variables]


def match_pseudo_atoms(
    problem: PseudoAtomMatching, generator: torch.Generator, step: Step = lambda name, compute: compute()
) -> list[Solution]:
    """The best solutions found, at the full bandwidth, by increasing loss.

    Args:
        problem: what to match.
        generator: source of the starts and of the changes.
        step: called with the name of every start's stage and what computes it; it may keep the result.

    Returns:
        As many as are kept, the best first.
    """
    bandwidths = problem.bandwidths()
    stages = [PseudoAtomStage.of(problem, bandwidth) for bandwidth in bandwidths]
    found = {name: Solution(start(stages[0], generator), math.inf) for name in range(problem.settings.starts)}
    seeds = torch.randint(2**62, (len(stages), len(found)), generator=generator).tolist()

    def each(found: dict[int, Solution], what: str, number: int, compute: Compute) -> dict[int, Solution]:
        """The solutions after a step at a stage, each with its own random numbers."""
        jobs = [
            partial(step, f"stage {number} {what} {name}", partial(compute, stages[number], one, seeds[number][name]))
            for name, one in found.items()
        ]
        return dict(zip(found, run_threaded(jobs), strict=True))

    for number, bandwidth in enumerate(bandwidths):
        found = each(found, "start", number, _matched)
        names = sorted(found, key=lambda name: found[name].loss)
        found = {name: found[name] for name in names[: _left(problem, bandwidth, len(found))]}
        if _is_searched(problem, bandwidth):
            found = each(found, "search", number, searched)
    found = each(found, "last", len(stages) - 1, _matched_long)
    return sorted(found.values(), key=lambda solution: solution.loss)[: problem.settings.kept]


def step_count(problem: PseudoAtomMatching) -> int:
    """How many steps :func:`match_pseudo_atoms` takes."""
    total, left = 0, problem.settings.starts
    for bandwidth in problem.bandwidths():
        total, left = total + left, _left(problem, bandwidth, left)
        total += left * _is_searched(problem, bandwidth)
    return total + left


def _left(problem: PseudoAtomMatching, bandwidth: float, count: int) -> int:
    """How many of so many solutions stay after the stage of a bandwidth."""
    settings = problem.settings
    fewest = settings.finalists if bandwidth <= settings.searched[1] else settings.kept
    return min(count, max(fewest, count // 2))


def _is_searched(problem: PseudoAtomMatching, bandwidth: float) -> bool:
    smallest, largest = problem.settings.searched
    return smallest <= bandwidth <= largest


def _matched(stage: PseudoAtomStage, solution: Solution, seed: int) -> Solution:
    return stage.matched(split(stage, solution.variables, torch.Generator().manual_seed(seed)))


def _matched_long(stage: PseudoAtomStage, solution: Solution, seed: int) -> Solution:
    return stage.matched(solution.variables, stage.problem.settings.last_rounds)


def start(stage: PseudoAtomStage, generator: torch.Generator) -> Float[Tensor, "x"]:
    """A random cloud under nearly even views, its amplitude that of the data."""
    problem, settings = stage.problem, stage.problem.settings
    count = problem.pseudo_atoms(stage.bandwidth)
    parts = Variables(
        torch.randn(count, 3, generator=generator),
        torch.zeros(count),
        torch.zeros(1),
        torch.zeros(1),
        torch.zeros(settings.form_factor_terms),
        _nearly_even(settings.density_degree, generator),
        torch.zeros(len(problem.background)),
    )
    ratio = stage.target.moments.second_norm() / stage.moments(parts.joined()).second_norm()
    return replace(parts, amplitude=ratio.log()[None] / 2).joined()


def split(stage: PseudoAtomStage, variables: Float[Tensor, "x"], generator: torch.Generator) -> Float[Tensor, "y"]:
    """The same molecule with as many pseudo-atoms as the stage has: the heaviest are split, half to either side.

    Args:
        stage: whose number of pseudo-atoms is wanted.
        variables: of the molecule.
        generator: source of the directions in which they are split.

    Returns:
        The variables of the finer molecule.
    """
    parts = stage.problem.parts(variables)
    centers, missing = parts.centers, stage.problem.pseudo_atoms(stage.bandwidth) - len(parts.centers)
    if missing <= 0:
        return variables
    heaviest = parts.weights.argsort(descending=True)[:missing]  # the number never doubles
    distances = torch.cdist(centers, centers).fill_diagonal_(math.inf).amin(1)
    apart = _directions(len(heaviest), generator) * (distances.median() / 4)
    centers = centers.index_add(0, heaviest, apart)
    lighter = math.log(2) / stage.problem.settings.weight_scale
    weights = parts.weights.index_add(0, heaviest, torch.full((len(heaviest),), -lighter))
    weights = torch.cat([weights, weights[heaviest]])
    mean = weights.mean()  # to the amplitude, which is free: the prior asks for weights that are alike
    more = replace(
        parts,
        centers=torch.cat([centers, centers[heaviest] - 2 * apart]),
        weights=weights - mean,
        amplitude=parts.amplitude + stage.problem.settings.weight_scale * mean,
    )
    return more.joined()


def searched(stage: PseudoAtomStage, solution: Solution, seed: int) -> Solution:
    """The solution after a round of changes, each matched anew and kept if it is better.

    Args:
        stage: at which it is matched.
        solution: where to begin.
        seed: of the changes.

    Returns:
        The best that was found.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    for _ in range(stage.problem.settings.tries):
        change = CHANGES[int(torch.randint(len(CHANGES), (), generator=generator))]
        parts = change(stage.problem.parts(solution.variables), generator)
        tried = stage.matched(parts.joined())
        solution = min(solution, tried, key=lambda one: one.loss)
    return solution


def new_views(parts: Variables, generator: torch.Generator) -> Variables:
    """The same volume under other views."""
    degree = largest_degree(len(parts.views) + 1)
    return replace(parts, views=_nearly_even(degree, generator))


def shaken(parts: Variables, generator: torch.Generator) -> Variables:
    """All pseudo-atoms moved at random, by up to a third of the molecule's size."""
    size = 0.35 * _size(parts) * torch.rand((), generator=generator)
    return replace(parts, centers=parts.centers + size * torch.randn(parts.centers.shape, generator=generator))


def partly_mirrored(parts: Variables, generator: torch.Generator) -> Variables:
    """What lies on one side of a random plane mirrored in a plane through its own centre."""
    middle = parts.centers.mean(0)
    normals = _directions(2, generator)
    level = _size(parts) * (torch.rand((), generator=generator) - 0.5)
    side = (parts.centers - middle) @ normals[0] > level
    across = normals[1] - (normals[1] @ normals[0]) * normals[0]
    across = across / across.norm()
    own = parts.centers[side].mean(0)
    mirrored = parts.centers - 2 * ((parts.centers - own) @ across)[:, None] * across
    return replace(parts, centers=torch.where(side[:, None], mirrored, parts.centers))


def partly_strewn(parts: Variables, generator: torch.Generator) -> Variables:
    """A part of the pseudo-atoms put anywhere."""
    share = 0.1 + 0.4 * torch.rand((), generator=generator)
    taken = torch.rand(len(parts.centers), generator=generator) < share
    anywhere = torch.randn(parts.centers.shape, generator=generator) * (_size(parts) / math.sqrt(3))
    return replace(parts, centers=torch.where(taken[:, None], parts.centers.mean(0) + anywhere, parts.centers))


CHANGES: tuple[Change, ...] = (new_views, shaken, partly_mirrored, partly_strewn)
"""Of the seven kinds that were tried, those that the loss agreed with most often."""


def _size(parts: Variables) -> Float[Tensor, ""]:
    """Radius of gyration."""
    return (parts.centers - parts.centers.mean(0)).square().sum(1).mean().sqrt()


def _directions(count: int, generator: torch.Generator) -> Float[Tensor, "c 3"]:
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)


def _nearly_even(degree: int, generator: torch.Generator) -> Float[Tensor, "b"]:
    """Views whose log density has a little of the first two degrees."""
    views = torch.zeros(harmonic_count(degree) - 1)
    low = min(8, len(views))
    views[:low] = 0.3 * torch.randn(low, generator=generator)
    return views
