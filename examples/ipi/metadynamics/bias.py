"""Metadynamics along a torsion, as a force field of i-PI: Gaussian hills where the torsion has been.

Laio and Parrinello, PNAS 99, 12562 (2002). Every `stride` evaluations a hill of `height` (eV) and `width` (degrees) is put at the present torsion and appended to the file
`hills` (torsion in degrees, height in eV). A run that is started from its RESTART file reads them again.
The sum of the hills is an estimate of minus the free energy along the torsion. One bead only: an evaluation has to be a step.
"""

import os

import numpy as np
from ipi.pes.dummy import Dummy_driver
from ipi.utils.units import unit_to_internal

__DRIVER_NAME__ = "torsion_hills"
__DRIVER_CLASS__ = "TorsionHills"


def torsion(r):
    """The torsion of four positions [4, 3], radians in (-pi, pi], and its gradient [4, 3]; Blondel and Karplus, J. Comput. Chem. 17, 1132 (1996), eqs. 1, 27.

    Zero is cis; positive is clockwise, looking from the second atom to the third.
    """
    f, g, h = r[0] - r[1], r[1] - r[2], r[3] - r[2]
    a, b = np.cross(f, g), np.cross(h, g)
    length = np.linalg.norm(g)
    angle = np.arctan2(np.dot(np.cross(b, a), g) / length, np.dot(a, b))
    first, last = -length / np.dot(a, a) * a, length / np.dot(b, b) * b
    along = np.dot(f, g) / (np.dot(a, a) * length) * a - np.dot(h, g) / (np.dot(b, b) * length) * b
    return angle, np.array([first, -first + along, -last - along, last])


class TorsionHills(Dummy_driver):
    def __init__(self, i, j, k, l, height, width, stride, hills="hills.txt", *args, **kwargs):
        self.atoms = [int(i), int(j), int(k), int(l)]
        self.height, self.width = float(height), np.radians(float(width))
        self.stride, self.file = int(stride), hills
        self.evaluations = 0
        self.centres, self.heights = np.zeros(0), np.zeros(0)
        if os.path.exists(hills):
            read = np.loadtxt(hills, ndmin=2)
            self.centres, self.heights = np.radians(read[:, 0]), read[:, 1]
        super().__init__(*args, **kwargs)

    def compute_structure(self, cell, pos):
        angle, gradient = torsion(pos.reshape(-1, 3)[self.atoms])
        energy, slope = self.energy(angle)
        force = np.zeros_like(pos.reshape(-1, 3))
        np.subtract.at(force, self.atoms, slope * gradient)
        self.evaluations += 1
        if self.evaluations % self.stride == 0:
            # It acts from the next step on, so that energy and forces of this one belong together.
            self.centres, self.heights = np.append(self.centres, angle), np.append(self.heights, self.height)
            with open(self.file, "a") as file:
                file.write(f"{np.degrees(angle):.6f} {self.height:.6f}\n")
        return energy, force.reshape(pos.shape), np.zeros((3, 3)), ""

    def energy(self, angle):
        """The sum of all hills, hartree, and its slope, hartree/radian."""
        away = (angle - self.centres + np.pi) % (2 * np.pi) - np.pi
        each = self.heights * np.exp(-0.5 * (away / self.width) ** 2)
        unit = unit_to_internal("energy", "electronvolt", 1.0)
        return unit * each.sum(), unit * (-away / self.width**2 * each).sum()
