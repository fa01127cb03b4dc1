"""Parallel tempering of a known density: a walker for each temperature, on one service.

    python examples/sampling/sampling.py [DESTINATION] [--replicas 4] [--engine local]

A single walker at temperature 1 stays for ages on the hill where it starts. Hot walkers cross the
valleys; now and then neighbours exchange their temperatures, so each is the cold one at times.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np

import encamp

mpl.use("Agg")
from matplotlib import pyplot as plt

WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[-3.0, -3.0], [3.0, 0.0], [-1.0, 4.0]])
WIDTHS = np.array([0.7, 0.9, 0.6])
HOTTEST = 12.0
SHOWN = 80
"""Number of rounds for which the picture shows the temperature of each walker."""


def density(points):
    """The density that is sampled: three different hills."""
    away = ((points[..., None, :] - MEANS) ** 2).sum(-1) / WIDTHS**2
    return (WEIGHTS / (2 * np.pi * WIDTHS**2) * np.exp(-away / 2)).sum(-1)


def energy(point):
    """The energy that decides whether a Metropolis step is accepted."""
    return -np.log(density(point) + 1e-300)


def hill_of(points):
    """The number of the hill that each point belongs to: the one that is most likely."""
    away = ((points[..., None, :] - MEANS) ** 2).sum(-1) / WIDTHS**2
    return (away / 2 + 2 * np.log(WIDTHS) - np.log(WEIGHTS)).argmin(-1)


class Walker:
    """A walker, one for each server: keeps its position and random generator between calls."""

    def start(self, seed, place):
        self.random = np.random.default_rng(seed)
        self.place = np.array(place, float)
        self.energy = energy(self.place)

    def walk(self, steps, temperature):
        """Metropolis steps: the positions, the fraction accepted, and the energy at the end."""
        trace = np.empty((steps, 2))
        taken = 0
        moves = self.random.normal(0, 0.9 * temperature**0.5, (steps, 2))
        chances = np.log(self.random.random(steps))
        for step in range(steps):
            place = self.place + moves[step]
            new = energy(place)
            if chances[step] < (self.energy - new) / temperature:
                self.place, self.energy = place, new
                taken += 1
            trace[step] = self.place
        return trace, taken / steps, self.energy


@dataclass
class Run:
    """The result: positions at temperature 1, and the walker at each temperature in each round."""

    temperatures: np.ndarray
    cold: np.ndarray
    ranks: np.ndarray
    """The walker at each temperature, by round and temperature."""
    taken: np.ndarray
    """The fraction of steps accepted, by temperature."""
    exchanged: np.ndarray
    """The fraction of exchanges accepted, by pair of neighbours."""

    @property
    def weights(self):
        """The fraction of the time that was spent on each hill."""
        return np.bincount(hill_of(self.cold), minlength=len(WEIGHTS)) / len(self.cold)


def temper(group, rounds=300, steps=40, seed=1):
    """Parallel tempering by the members of a group, which all start on the same hill."""
    count = len(group)
    temperatures = HOTTEST ** (np.arange(count) / max(1, count - 1))
    random = np.random.default_rng(seed)
    seeds = np.random.SeedSequence(seed).spawn(count)
    encamp.gather(group.scatter("start", [(one, MEANS[0]) for one in seeds]))
    walker_at = np.arange(count)  # the walker that has each temperature
    cold, ranks, taken = [], [], np.zeros(count)
    tried, exchanged = np.zeros(max(1, count - 1)), np.zeros(max(1, count - 1))
    for number in range(rounds):
        own = np.empty(count)
        own[walker_at] = temperatures
        found = encamp.gather(group.scatter("walk", [(steps, one) for one in own]))
        ranks.append(walker_at.copy())
        cold.append(found[walker_at[0]][0])
        taken += [found[walker][1] for walker in walker_at]
        energies = [found[walker][2] for walker in walker_at]
        for low in range(number % 2, count - 1, 2):
            betas = 1 / temperatures[low] - 1 / temperatures[low + 1]
            tried[low] += 1
            if np.log(random.random()) < betas * (energies[low] - energies[low + 1]):
                walker_at[[low, low + 1]] = walker_at[[low + 1, low]]
                exchanged[low] += 1
    rates = exchanged / np.maximum(tried, 1)
    return Run(temperatures, np.concatenate(cold), np.array(ranks), taken / rounds, rates)


def picture(run, path):
    """Draw acceptance, chains, and the sampled density beside the true one."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 8.5), layout="constrained")
    names = [f"{one:.1f}" for one in run.temperatures]
    bars, chains, found, true = axes.flat
    middles = np.arange(len(names))
    bars.bar(middles, run.taken, 0.5, label="steps that were taken", color="tab:blue")
    if len(names) > 1:
        bars.bar(middles[:-1] + 0.5, run.exchanged, 0.3, label="exchanges", color="tab:orange")
    bars.set(xticks=middles, xticklabels=names, xlabel="temperature", ylim=(0, 1))
    bars.set_title("Acceptance")
    bars.legend()
    for walker in range(len(names)):
        level = (run.ranks[:SHOWN] == walker).argmax(1)
        apart = 0.1 * (walker - len(names) / 2 + 0.5)
        chains.step(np.arange(len(level)), level + apart, lw=1.3, label=f"walker {walker}")
    chains.set(
        ylim=(-0.5, len(names) + 0.2),
        yticks=middles,
        yticklabels=names,
        xlabel="round",
        ylabel="temperature",
    )
    chains.set_title("Chains: which temperature each walker had, at the beginning")
    chains.legend(loc="upper right", ncols=4, fontsize=7)
    edges = np.linspace(-6, 6.5, 71)
    counts, _, _ = np.histogram2d(*run.cold.T, bins=(edges, edges), density=True)
    centres = (edges[1:] + edges[:-1]) / 2
    grid = np.stack(np.meshgrid(centres, centres, indexing="ij"), -1)
    exact = density(grid)
    for axis, values, title in (
        (found, counts, "Density found at temperature 1"),
        (true, exact, "True density"),
    ):
        axis.pcolormesh(edges, edges, values.T, vmin=0, vmax=exact.max(), cmap="magma_r")
        axis.set(title=title, aspect="equal")
    for hill, (mean, weight) in enumerate(zip(MEANS, WEIGHTS, strict=True)):
        found.annotate(f"{run.weights[hill]:.2f}", mean + 0.9)
        true.annotate(f"{weight:.2f}", mean + 0.9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main():
    """Run it, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("destination", nargs="?", default=str(Path(__file__).parent / "results"))
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1500)
    parser.add_argument("--engine", default="local")
    given = parser.parse_args()
    destination = Path(given.destination)
    destination.mkdir(parents=True, exist_ok=True)
    with encamp.Cluster(given.engine, slots=given.replicas) as cluster:
        service = cluster.publish(Walker)
        with service.group() as group:
            run = temper(group, given.rounds)
        print(service.statistics())
    for hill, weight in enumerate(WEIGHTS):
        print(f"hill {hill}: {run.weights[hill]:.3f} of the time, {weight:.3f} expected")
    picture(run, destination / "sampling.png")
    print("picture:", destination / "sampling.png")


if __name__ == "__main__":
    main()
