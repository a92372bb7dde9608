"""Writes paths.json: crystals of all Bravais lattices with what seekpath (2.2.2, the program of Hinuma et al.) says of their paths.

Usage: python make_paths.py paths.json   (pip install seekpath ase)
"""
import json
import sys
import warnings

import numpy as np
import seekpath
from ase.spacegroup import crystal

warnings.simplefilter("ignore")

# Space group, a, b, c, α, β, γ: so that every extended Bravais lattice occurs.
CELLS = [
    (1, 4.1, 5.3, 6.2, 81, 77, 88), (1, 4.1, 5.3, 6.2, 99, 103, 94), (2, 5.1, 4.3, 6.7, 100, 85, 93), (2, 5.0, 5.6, 6.1, 70, 75, 80),
    (4, 4.2, 5.1, 6.3, 90, 103, 90), (14, 6.2, 5.1, 4.4, 90, 98, 90), (5, 9.1, 4.2, 5.1, 90, 110, 90), (12, 5.1, 7.2, 6.1, 90, 100, 90),
    (15, 5.1, 5.3, 4.0, 90, 125, 90), (8, 8.5, 7.7, 4.0, 90, 118, 90),
    (19, 4.0, 5.0, 6.0, 90, 90, 90), (62, 6.1, 4.2, 5.3, 90, 90, 90),
    (38, 4.0, 5.0, 6.0, 90, 90, 90), (40, 4.0, 6.3, 5.1, 90, 90, 90), (63, 4.0, 6.0, 5.0, 90, 90, 90), (20, 7.0, 5.0, 5.5, 90, 90, 90),
    (69, 3.2, 8.0, 9.0, 90, 90, 90), (70, 9.0, 8.0, 3.2, 90, 90, 90), (42, 6.0, 7.0, 8.0, 90, 90, 90), (22, 6.0, 6.6, 7.0, 90, 90, 90),
    (71, 4.0, 5.0, 7.0, 90, 90, 90), (44, 7.0, 5.0, 4.0, 90, 90, 90), (72, 4.0, 7.0, 5.0, 90, 90, 90),
    (75, 4.0, 4.0, 6.0, 90, 90, 90), (123, 5.0, 5.0, 4.0, 90, 90, 90), (79, 6.0, 6.0, 4.0, 90, 90, 90), (139, 4.0, 4.0, 9.0, 90, 90, 90),
    (143, 4.0, 4.0, 6.0, 90, 90, 120), (194, 4.0, 4.0, 6.0, 90, 90, 120), (152, 4.9, 4.9, 5.4, 90, 90, 120),
    (166, 4.0, 4.0, 12.0, 90, 90, 120), (161, 8.0, 8.0, 5.0, 90, 90, 120), (160, 5.0, 5.0, 9.0, 90, 90, 120),
    (198, 5, 5, 5, 90, 90, 90), (221, 4, 4, 4, 90, 90, 90), (196, 6, 6, 6, 90, 90, 90), (225, 6, 6, 6, 90, 90, 90), (229, 5, 5, 5, 90, 90, 90),
    (199, 5, 5, 5, 90, 90, 90),
]

entries = []
for number, a, b, c, alpha, beta, gamma in CELLS:
    for turned in (False, True):
        atoms = crystal(["Na", "Cl"], [(0.12, 0.23, 0.34), (0.41, 0.07, 0.16)], spacegroup=number, cellpar=[a, b, c, alpha, beta, gamma], onduplicates="keep")
        cell, positions = atoms.cell[:], atoms.get_scaled_positions()
        if turned:
            # Other vectors of the same lattice, and another orientation.
            m = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 1]])
            positions = positions @ np.linalg.inv(m)
            q, _ = np.linalg.qr(np.array([[1.0, 2.0, 0.3], [0.2, -1.0, 1.0], [0.7, 0.1, 1.1]]))
            cell = m @ cell @ q.T * 1.0
        path = seekpath.get_path((cell, positions, atoms.numbers), symprec=1e-4)
        reciprocal = np.array(path["reciprocal_primitive_lattice"]) / (2 * np.pi)
        names = {"GAMMA": "Γ", "SIGMA": "Σ", "DELTA": "Δ", "LAMBDA": "Λ"}

        def label(text):
            head, *tail = text.split("_")
            return names.get(head, head) + "".join(chr(0x2080 + int(d)) for d in "".join(tail))

        entries.append({
            "space_group": path["spacegroup_number"],
            "kind": path["bravais_lattice_extended"],
            "cell": np.asarray(cell).tolist(),
            "numbers": atoms.numbers.tolist(),
            "positions": (positions @ cell).tolist(),
            "lines": [[label(x), label(y)] for x, y in path["path"] if "'" not in x + y],
            # |q| and the length of each line, 1/Å: these do not depend on the orientation.
            "lengths": [
                [float(np.linalg.norm(np.array(path["point_coords"][x]) @ reciprocal)), float(np.linalg.norm((np.array(path["point_coords"][x]) - path["point_coords"][y]) @ reciprocal))]
                for x, y in path["path"] if "'" not in x + y
            ],
        })
print(len(entries), sorted({e["kind"] for e in entries}), [(e["space_group"]) for e in entries])
json.dump(entries, open(sys.argv[1], "w"))
