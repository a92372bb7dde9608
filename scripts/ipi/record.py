"""Runs an i-PI simulation step by step, and writes what i-PI has in memory, to the last bit, as JSON. For tests of `tesseral ipi`.

    record.py INPUT.xml STEPS OUT.json [STRAIN]

For each step and system: cell (lattice vectors as rows), and of each bead positions, energy, forces and virial; everything in atomic units.
With STRAIN, for each of the six strains that leave i-PI's cell upper triangular: the energies of the first bead of the first system at the last step, at plus and minus STRAIN.
"""

import json
import sys

import numpy as np
from ipi.scripting import InteractiveSimulation
from ipi.utils.depend import dstrip


def state(system):
    return {
        "cell": dstrip(system.cell.h).T.tolist(),
        "positions": dstrip(system.beads.q).tolist(),
        "energies": dstrip(system.forces.pots).tolist(),
        "forces": dstrip(system.forces.f).tolist(),
        "virials": dstrip(system.forces.virs).tolist(),
    }


def strained(system, size):
    cell, positions = dstrip(system.cell.h).copy(), dstrip(system.beads.q).copy()
    energies = {}
    for i, j in [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]:
        pair = []
        for sign in (1, -1):
            deformation = np.eye(3)
            deformation[i, j] += sign * size
            system.cell.h = deformation @ cell
            system.beads.q = (positions.reshape(-1, 3) @ deformation.T).reshape(positions.shape)
            pair.append(float(dstrip(system.forces.pots)[0]))
        energies[f"{i}{j}"] = pair
    return energies


def main():
    simulation = InteractiveSimulation(open(sys.argv[1]))
    record = {"steps": []}
    for _ in range(int(sys.argv[2])):
        simulation.run(1)
        record["steps"].append([state(system) for system in simulation.syslist])
    if len(sys.argv) > 4:
        record["strained"] = strained(simulation.syslist[0], float(sys.argv[4]))
    with open(sys.argv[3], "w") as file:
        json.dump(record, file)
    # Says EXIT to the clients and closes the socket.
    for forcefield in simulation.fflist.values():
        forcefield.stop()


main()
