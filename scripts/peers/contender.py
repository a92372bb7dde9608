"""One peer, one model, several structures: time per energy + forces + stress and the forces, as JSON lines on stdout.

    python contender.py PEER MODEL DTYPE THREADS REPS FILE.xyz ...

PEER: mace-torch, sevenn or symmetrix; on a GPU (PEERS_DEVICE=cuda) also mace-cueq, mace-oeq, sevenn-cueq, sevenn-oeq and sevenn-flash, with the kernels
of cuEquivariance, OpenEquivariance and FlashTP. Each timed call moves every atom by about 5e-3 A, as molecular dynamics does, and includes the neighbour
list. DTYPE float64 with REPS 0 gives the reference forces.
"""

from __future__ import annotations

import os
import sys

PEER, MODEL, DTYPE, THREADS, REPS = sys.argv[1:6]
DEVICE = os.environ.get("PEERS_DEVICE", "cpu")
# What a peer is called with the kernels of others, and the argument that asks for them.
KERNELS = {"cueq": "enable_cueq", "oeq": "enable_oeq", "flash": "enable_flash"}
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = THREADS

import json
import resource
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import numpy as np
from ase.io import read

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))


def accelerated() -> dict:
    kernels = PEER.partition("-")[2]
    return {KERNELS[kernels]: True} if kernels in KERNELS else {}


def mace_torch():
    import mace  # noqa: F401  (before e3nn: it relaxes torch.load)
    import torch
    from mace.calculators import MACECalculator

    torch.set_num_threads(int(THREADS))
    torch.set_default_dtype(getattr(torch, DTYPE))
    model = torch.load(MODEL, map_location="cpu", weights_only=False).to(getattr(torch, DTYPE)).eval()
    if not torch.is_tensor(model.r_max):
        model.r_max = torch.tensor(float(model.r_max))
    if not torch.is_tensor(model.atomic_numbers):
        model.atomic_numbers = torch.tensor([int(z) for z in model.atomic_numbers])
    if not hasattr(model, "heads"):
        model.heads = ["Default"]
    for p in model.parameters():
        p.requires_grad_(False)
    head = {"head": model.heads[0]} if len(model.heads) > 1 else {}
    return MACECalculator(models=[model.to(DEVICE)], device=DEVICE, default_dtype=DTYPE, **head, **accelerated())


def sevenn():
    import mace  # noqa: F401
    import torch

    torch.set_num_threads(int(THREADS))
    path, _, modal = MODEL.partition("@")
    if DTYPE == "float64":
        from sevennet_evaluate import SevenNetEvaluator

        return SevenNetEvaluator(path, modal or None)
    from sevenn.calculator import SevenNetCalculator

    calculator = SevenNetCalculator(path, device=DEVICE, modal=modal or None, **accelerated())
    for p in calculator.model.parameters():
        p.requires_grad_(False)
    return calculator


def symmetrix():
    from symmetrix import Symmetrix

    return Symmetrix(MODEL, dtype=DTYPE)


def main() -> None:
    started = time.perf_counter()
    calculator = {"mace": mace_torch, "sevenn": sevenn, "symmetrix": symmetrix}[PEER.partition("-")[0]]()
    load_seconds = time.perf_counter() - started
    for path in sys.argv[6:]:
        start = read(path)
        start.calc = None
        atoms = start.copy()
        rng = np.random.default_rng(5)
        if hasattr(calculator, "get_property"):  # an ASE calculator
            atoms.calc = calculator

            def evaluate():
                energy = atoms.get_potential_energy()
                atoms.get_stress()
                return energy, atoms.get_forces()

        else:

            def evaluate():
                result = calculator(atoms)
                return result["energy"], result["forces"]

        energy, forces = evaluate()
        wall, cpu = [], []
        for repetition in range(int(REPS) + 1 if int(REPS) else 0):
            atoms.positions = start.positions + rng.normal(0.0, 5e-3, start.positions.shape)
            t, c = time.perf_counter(), time.process_time()
            evaluate()
            if repetition:  # the first one still compiles
                if DEVICE != "cpu":
                    import torch

                    torch.cuda.synchronize()
                wall.append(time.perf_counter() - t)
                cpu.append(time.process_time() - c)
        record = {
            "system": Path(path).stem, "atoms": len(atoms), "energy": float(energy), "forces": np.asarray(forces).tolist(),
            "seconds": min(wall, default=None), "cpu_seconds": min(cpu, default=None), "load_seconds": load_seconds,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        print("RECORD " + json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
