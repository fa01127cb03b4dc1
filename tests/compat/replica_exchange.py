"""A client of the ISD grid: replica exchange over its collectives, as such clients are written."""

import math
import random

from encamp.compat.isd import AbstractGrid


class Replica:
    """Samples exp(-x^2 / 2 T) by Metropolis steps."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.temperature = 1.0
        self.x = 0.0

    def set_state(self, x, temperature, seed):
        self.x, self.temperature = x, temperature
        self.random.seed(seed)

    def energy(self):
        return self.x**2 / 2

    def sample(self, steps):
        seen = []
        for _ in range(steps):
            new = self.x + self.random.gauss(0, 1)
            change = (new**2 - self.x**2) / 2 / self.temperature
            if change <= 0 or self.random.random() < math.exp(-change):
                self.x = new
            seen.append(self.x)
        return seen


class ReplicaExchange:
    """Exchanges the states of neighbours now and then."""

    def __init__(self, grid: AbstractGrid, temperatures, seed=0):
        self.grid, self.temperatures = grid, temperatures
        self.random = random.Random(seed)
        self.service_id = grid.publish(Replica(seed))
        self.states = [0.0] * len(temperatures)
        self.tried = self.exchanged = 0

    def round(self, steps):
        grid, service_id = self.grid, self.service_id
        starts = [
            (self.states[rank], self.temperatures[rank], self.random.random())
            for rank in range(len(self.states))
        ]
        grid.gather(grid.scatter(service_id, "set_state", starts))
        seen = grid.gather(grid.broadcast(service_id, "sample", steps))
        energies = grid.gather(grid.broadcast(service_id, "energy"))
        self.states = [one[-1] for one in seen]
        for low in range(self.tried % 2, len(self.temperatures) - 1, 2):
            betas = 1 / self.temperatures[low], 1 / self.temperatures[low + 1]
            change = (betas[0] - betas[1]) * (energies[low] - energies[low + 1])
            if change >= 0 or self.random.random() < math.exp(change):
                self.states[low : low + 2] = reversed(self.states[low : low + 2])
                self.exchanged += 1
        self.tried += 1
        return seen[0]
