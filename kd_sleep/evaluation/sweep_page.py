"""A sweep's heat map and table, as one page and for a terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kd_sleep.evaluation.report.document import TITLE
from kd_sleep.evaluation.report.wording import BETTER, data_line
from kd_sleep.pages import INK, drawing, figure_of, page, section


def sweep_table(results: Mapping[str, Any]) -> str:
    """A sweep's cells as plain text for a terminal.

    Args:
      results: of `training.members.train_sweep`.
    """
    lines = [data_line(**results["data"]), ""]
    lines.append(f"{'alpha':>8}{'T':>8}{'kappa on validation':>24}{'seeds':>8}")
    for (alpha, temperature), kappas in sorted(sweep_cells(results).items()):
        shown = "any" if alpha == 1.0 else f"{temperature:g}"
        lines.append(f"{alpha:>8g}{shown:>8}{_mean_and_spread(kappas, ' '):>24}{len(kappas):>8}")
    chosen = results["chosen"]
    lines.append(
        f"Chosen: alpha {chosen['alpha']:g}, T {chosen['temperature']:g}, seed {chosen['seed']},"
        f" kappa {chosen['validation_kappa']:.3f} at step {chosen['step']}."
    )
    return "\n".join(lines)


def write_sweep_page(path: Path, results: Mapping[str, Any]) -> None:
    """The heat map and the table of a sweep as one HTML file."""
    body = section(
        f"{len(results['members'])} students in one program",
        f"<p>{escape(data_line(**results['data']))}"
        f" Labels of {results['labelled_nights']} nights.</p>",
        figure_of(sweep_map(results), "Mean over seeds ± standard deviation."),
        f"<pre>{escape(sweep_table(results))}</pre>",
    )
    path.write_text(page(TITLE, body), encoding="utf-8")


@drawing
def sweep_map(results: Mapping[str, Any]) -> tuple[Figure, str]:
    """Validation kappa over (alpha, T): mean over seeds, and its spread, in every cell."""
    cells = sweep_cells(results)
    alphas = sorted({alpha for alpha, _ in cells})
    temperatures = sorted({temperature for _, temperature in cells})
    chosen = results["chosen"]
    means = {cell: float(np.mean(kappas)) for cell, kappas in cells.items()}
    low, high = min(means.values()), max(means.values())
    figure = Figure((1.2 + 0.9 * len(temperatures), 1.0 + 0.55 * len(alphas)), layout="constrained")
    axes = figure.subplots()
    for (alpha, temperature), kappas in cells.items():
        # At alpha = 1 the temperature has no effect: one cell for all.
        left, width = temperatures.index(temperature), 1
        if alpha == 1.0:
            left, width = 0, len(temperatures)
        row = alphas.index(alpha)
        share = (means[alpha, temperature] - low) / (high - low) if high > low else 0.0
        best = (alpha, temperature) == (chosen["alpha"], chosen["temperature"])
        cell = Rectangle(
            (left - 0.47, row - 0.46),
            width - 0.06,
            0.92,
            facecolor=to_rgba(BETTER, 0.1 + 0.6 * share),
            edgecolor=INK if best else "none",
        )
        axes.add_patch(cell)
        centre, text = left + (width - 1) / 2, _mean_and_spread(kappas, "\n")
        axes.text(centre, row, text, ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(temperatures)), [f"{value:g}" for value in temperatures])
    axes.set_yticks(range(len(alphas)), [f"{value:g}" for value in alphas])
    axes.set(xlim=(-0.5, len(temperatures) - 0.5), ylim=(len(alphas) - 0.5, -0.5))
    axes.set(xlabel="temperature T", ylabel="alpha", title="Kappa on validation")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    text = (
        f"Validation kappa over alpha and temperature, from {low:.3f} to {high:.3f}; the best cell"
        f" is alpha {chosen['alpha']:g}, T {chosen['temperature']:g}."
    )
    return figure, text


def _mean_and_spread(kappas: list[float], between: str) -> str:
    spread = f"{between}± {np.std(kappas, ddof=1):.3f}" if len(kappas) > 1 else ""
    return f"{np.mean(kappas):.3f}{spread}"


def sweep_cells(results: Mapping[str, Any]) -> dict[tuple[float, float], list[float]]:
    """Kappas of a sweep's seeds by (alpha, T)."""
    cells: dict[tuple[float, float], list[float]] = defaultdict(list)
    for member in results["members"]:
        cells[member["alpha"], member["temperature"]].append(member["validation_kappa"])
    return dict(cells)
