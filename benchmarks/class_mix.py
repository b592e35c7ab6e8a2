"""Total variation or chi-square for the mix of classes? Both under the same shuffles, on even and on skewed mixes.

    python -m benchmarks.class_mix [--draws 600]

Power at 5% with 200 window and 300 reference rows, printed as the table of `docs/drift.md`.
"""

import argparse

import numpy as np
from numpy.typing import NDArray

from pipelines.commands.shared import show

ROWS, REFERENCE, SHUFFLES, LEVEL = 200, 300, 199, 0.05
Mix = NDArray[np.float64]


def mixes() -> dict[str, Mix]:
    """Of a reference."""
    return {"10 even": _zipf(10, 0), "10 skewed": _zipf(10, 1), "17 skewed": _zipf(17, 1.2)}


def changed(mix: Mix) -> dict[str, Mix]:
    """What becomes of it."""
    fewer, more, rare = mix.copy(), mix.copy(), mix.copy()
    fewer[0] -= 0.08
    more[-1] += 0.04
    rare[-3:] *= 2
    some = mix * np.exp(0.35 * np.random.default_rng(0).normal(size=len(mix)))
    made = {"none": mix, "commonest -8 points": fewer, "rarest +4 points": more, "three rarest doubled": rare}
    return {name: one / one.sum() for name, one in {**made, "flatter": mix**0.75, "all by a third": some}.items()}


def _zipf(classes: int, skew: float) -> Mix:
    found = 1 / np.arange(1, classes + 1) ** skew
    return found / found.sum()


def power(before: Mix, after: Mix, draws: int, random: np.random.Generator) -> tuple[float, float]:
    """How often total variation, and chi-square, are called a change."""
    hits = np.zeros(2)
    for _ in range(draws):
        window, total = random.multinomial(ROWS, after), random.multinomial(REFERENCE, before)
        total = total + window
        shuffled = random.multivariate_hypergeometric(total, ROWS, size=SHUFFLES, method="marginals")
        counts = np.vstack([window, shuffled])
        variation = 0.5 * np.abs(counts / ROWS - (total - counts) / REFERENCE).sum(axis=1)
        expected = np.maximum(total * ROWS / total.sum(), 1e-9)
        squares = ((counts - expected) ** 2 / expected).sum(axis=1)
        for i, found in enumerate((variation, squares)):
            hits[i] += (1 + (found[1:] >= found[0] - 1e-9).sum()) / (SHUFFLES + 1) <= LEVEL
    return hits[0] / draws, hits[1] / draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=600)
    draws, random = parser.parse_args().draws, np.random.default_rng(0)
    lines = []
    for name, before in mixes().items():
        for change, after in changed(before).items():
            found = power(before, after, draws, random)
            variation, squares = (f"{share:.0%}" for share in found)
            lines.append({"classes": name, "change": change, "variation": variation, "chi-square": squares})
    show(lines, False)


if __name__ == "__main__":
    main()
