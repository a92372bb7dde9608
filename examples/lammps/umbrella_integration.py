#!/usr/bin/env python3
"""Free energy along a torsion from the windows of in.umbrella, by umbrella integration.

    python umbrella_integration.py umbrella.*.colvars.traj

Each window is taken as a normal distribution, of mean m and variance s² (Kästner and Thiel, J. Chem. Phys. 123, 144104, 2005): in a window
with the restraint k/2 ((x - c)/w)² the mean force is dA/dx = kT (x - m)/s² - k (x - c)/w². Windows count by their density at x. Prints x (degrees)
and A (eV, least value zero). Needs numpy.
"""

import argparse
import re
from pathlib import Path

import numpy as np

BOLTZMANN = 8.617343e-5  # eV/K, as LAMMPS with units metal


def wrapped(x):
    return (np.asarray(x) + 180.0) % 360.0 - 180.0


def window(path: Path) -> tuple[np.ndarray, float, float, float]:
    """Samples of a window (degrees, around its centre), its centre, force constant (eV) and width (degrees)."""
    settings = path.with_name(path.name.removesuffix(".colvars.traj") + ".colvars").read_text()
    centre, constant, width = (float(re.search(rf"{key}\s+(\S+)", settings).group(1)) for key in ("centers", "forceConstant", "width"))
    samples = np.loadtxt(path, usecols=1, ndmin=1)
    return centre + wrapped(samples - centre), centre, constant, width


def free_energy(windows, temperature: float, points: int = 361) -> tuple[np.ndarray, np.ndarray]:
    """The profile on a grid from the first to the last centre, or all around if the windows go around."""
    kt = BOLTZMANN * temperature
    centres = sorted(w[1] for w in windows)
    around = len(centres) > 2 and 360.0 - (centres[-1] - centres[0]) < 1.5 * max(np.diff(centres))
    x = np.linspace(centres[0], centres[0] + 360.0 if around else centres[-1], points)
    force, weight = np.zeros(points), np.zeros(points)
    for samples, centre, constant, width in windows:
        mean, variance = np.mean(samples), np.var(samples, ddof=1)
        distance = wrapped(x - mean) if around else x - mean
        density = len(samples) * np.exp(-(distance**2) / (2 * variance)) / np.sqrt(variance)
        force += density * (kt * distance / variance - constant * (distance + mean - centre) / width**2)
        weight += density
    force /= weight
    steps = (force[1:] + force[:-1]) / 2 * np.diff(x)
    profile = np.concatenate([[0.0], np.cumsum(steps)])
    if around:  # what is left after a full turn is the error of sampling
        print(f"# closes to {profile[-1]:.4f} eV, spread evenly")
        profile -= profile[-1] * np.linspace(0, 1, points)
    return x, profile - profile.min()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("windows", nargs="+", type=Path, help="trajectories of COLVARS, beside the settings that in.umbrella wrote")
    parser.add_argument("--temperature", type=float, default=300.0, help="K")
    given = parser.parse_args()
    for x, a in zip(*free_energy([window(path) for path in given.windows], given.temperature)):
        print(f"{x:9.3f} {a:.6f}")


if __name__ == "__main__":
    main()
