"""float64 reference results of mace-torch for every model in a folder.

    python make_references.py MODEL_DIR [NAME ...]

Writes MODEL_DIR/ref_NAME.extxyz beside each NAME.model: one frame per structure and head with energy (eV), forces (eV/A),
node_energy (eV), n_edges, and the 3 x 3 stress (eV/A^3, tensile positive) where the structure is periodic in three directions.
Models saved in float32 are converted to float64 first: what a float64 evaluation of the stored weights gives.
Each result is checked: the unwrapped copy has the energy of the original, node energies add up, and forces (and the stress)
equal finite differences of the energy.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import numpy as np
import torch

import mace  # noqa: F401
from ase.data import chemical_symbols

from mace_evaluate import Evaluator
from structures import structures, write_frames

CHARGES_AND_SPINS = [(0, 1), (-1, 2), (2, 3), (1, 2), (-3, 4)]


def finite_difference_error(evaluate, atoms, head, result, h=1e-4) -> float:
    """Largest deviation of two force components and of one strain derivative from five-point differences."""
    weights = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
    error = 0.0
    for atom, axis in ((0, 0), (len(atoms) - 1, 2)):
        slope = 0.0
        for k, w in weights.items():
            moved = atoms.copy()
            moved.positions[atom, axis] += k * h
            slope += w * evaluate(moved, head)["energy"] / h
        error = max(error, abs(slope + result["forces"][atom, axis]))
    if "stress" in result:
        slope = 0.0
        for k, w in weights.items():
            strain = np.eye(3)
            strain[0, 1] += 0.5 * k * h
            strain[1, 0] += 0.5 * k * h
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ strain, scale_atoms=False)
            moved.positions = atoms.positions @ strain
            slope += w * evaluate(moved, head)["energy"] / h
        error = max(error, abs(slope / atoms.get_volume() - result["stress"][0, 1]))
    return error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    for path in sorted(args.models.glob("*.model")):
        name = path.stem
        if args.names and name not in args.names:
            continue
        model = torch.load(path, map_location="cpu", weights_only=False).double().eval()
        for p in model.parameters():
            p.requires_grad_(False)
        evaluate = Evaluator(model)
        elements = [chemical_symbols[int(z)] for z in model.atomic_numbers]
        specs = getattr(model, "embedding_specs", None) or {}
        frames, worst, energies = [], 0.0, {}
        for head in model.heads:
            for index, atoms in enumerate(structures(elements)):
                info = {"name": atoms.info["name"]}
                if len(model.heads) > 1:
                    info["head"] = head
                if specs:
                    charge, spin = CHARGES_AND_SPINS[0 if "bulk_8" in info["name"] else index % len(CHARGES_AND_SPINS)]
                    info |= {k: v for k, v in (("total_charge", charge), ("total_spin", spin)) if k in specs}
                    atoms.info |= {k: v for k, v in info.items() if k != "name"}
                result = evaluate(atoms, head)
                assert abs(result["node_energy"].sum() - result["energy"]) < 1e-9 or hasattr(model, "embedding_readout")
                worst = max(worst, finite_difference_error(evaluate, atoms, head, result))
                energies[head, info["name"]] = result["energy"]
                info |= {k: result[k] for k in ("energy", "n_edges", "stress") if k in result}
                frames.append((atoms, info, result))
            gap = energies[head, "bulk_8_rattled_strained"] - energies[head, "bulk_8_atoms_far_outside_cell"]
            assert abs(gap) < 1e-9, f"{name}: unwrapped atoms change the energy by {gap}"
        target = path.with_name(f"ref_{name}.extxyz")
        write_frames(target, frames)
        forces = np.concatenate([r["forces"].ravel() for _, _, r in frames])
        print(f"{target}: {len(frames)} frames, {target.stat().st_size} B, max|F| {np.abs(forces).max():.3g} eV/A, finite differences within {worst:.1e}")


if __name__ == "__main__":
    main()
