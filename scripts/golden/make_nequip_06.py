"""Tiny NequIP 0.6 models, deployed with nequip-deploy, with float64 references.

    PYTHONPATH=NEQUIP_06 python make_nequip_06.py OUT_DIR

The sign of some 3j tensors depends on the e3nn in the environment, which is 0.4.4 beside mace-torch (put E3NN_NEW on the path for
the new signs). Energies differ only where a product such as 1e x 2e -> 2e reaches a scalar: with parity, from four layers on. Writes NAME.nequip.pth (the deployed TorchScript file), NAME.config.yaml and NAME.best_model.pth (what a training
folder holds) and ref_NAME.extxyz.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import numpy as np
import torch
from ase import Atoms

import mace  # noqa: F401  (before e3nn: it relaxes torch.load)
import e3nn
from nequip.data import AtomicData, AtomicDataDict
from nequip.data.transforms import TypeMapper
from nequip.model import model_from_config
from nequip.scripts.deploy import load_deployed_model, main as deploy
from nequip.scripts.train import default_config
from nequip.utils import Config
from nequip.utils._global_options import _set_global_options

from structures import force_error, report, structures

COMMON = dict(default_dtype="float64", model_dtype="float64", r_max=4.0, invariant_layers=2, invariant_neurons=6, num_basis=5, BesselBasis_trainable=True,
    PolynomialCutoff_p=6, nonlinearity_type="gate", resnet=False, use_sc=True, nonlinearity_scalars={"e": "silu", "o": "tanh"},
    nonlinearity_gates={"e": "silu", "o": "tanh"}, per_species_rescale_trainable=False, _jit_fuser="fuser1")
VARIANTS = {
    "v06_parity": dict(chemical_symbols=["H", "C", "O"], num_layers=4, l_max=2, parity=True, num_features=3, avg_num_neighbors=7.5,
        per_species_rescale_scales=[12.0, 24.0, 20.0], per_species_rescale_shifts=[-1.0, -6.5, -3.25], global_rescale_scale=1.75),
    "v06_no_parity_zbl": dict(chemical_symbols=["O", "Si", "Fe"], num_layers=2, l_max=2, parity=False, num_features=5, avg_num_neighbors=12.0,
        per_species_rescale_scales=None, per_species_rescale_shifts=[-7.0, -2.0, -4.0], global_rescale_scale=2.5, ZBL_chemical_species=["O", "Si", "Fe"], units="metal",
        model_builders=["SimpleIrrepsConfig", "EnergyModel", "PerSpeciesRescale", "PairPotentialTerm", "StressForceOutput", "RescaleEnergyEtc"],
        pair_style="ZBL"),
}


class Nequip06Evaluator:
    """A deployed model."""

    def __init__(self, path: Path, symbols: list[str], r_max: float):
        self.model, _ = load_deployed_model(path, set_global_options=False)
        self.mapper = TypeMapper(chemical_symbols=symbols)
        self.r_max = r_max

    def __call__(self, atoms: Atoms) -> dict:
        """energy [eV], forces [n, 3] eV/A, node_energy [n] eV, n_edges, and stress [3, 3] eV/A^3 (tensile positive) if periodic in 3-D."""
        bare = Atoms(atoms.symbols, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        data = self.mapper(AtomicData.from_ase(bare, r_max=self.r_max))
        data = {k: v for k, v in AtomicData.to_AtomicDataDict(data).items()}
        edges = int(data[AtomicDataDict.EDGE_INDEX_KEY].shape[1])
        out = self.model(data)
        result = {
            "energy": float(out[AtomicDataDict.TOTAL_ENERGY_KEY].detach().reshape(-1)[0]),
            "forces": out[AtomicDataDict.FORCE_KEY].detach().numpy(),
            "node_energy": out[AtomicDataDict.PER_ATOM_ENERGY_KEY].detach().numpy().ravel(),
            "n_edges": edges,
        }
        if atoms.pbc.all():
            result["stress"] = out[AtomicDataDict.STRESS_KEY].detach().numpy().reshape(3, 3)
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for index, (name, variant) in enumerate(VARIANTS.items()):
        if tuple(map(int, e3nn.__version__.split(".")[:2])) >= (0, 5):
            name += "_e3nn05"
        config = Config.from_dict({**default_config, **COMMON, **variant})
        _set_global_options(config)
        torch.manual_seed(900 + index)
        model = model_from_config(config, initialize=True, dataset=None)
        with torch.no_grad():
            for key, p in model.named_parameters():
                if p.requires_grad and p.numel() and "weight" in key and "bessel" not in key:
                    p.normal_(0.0, 1.2)
                p.copy_(torch.round(p * 256.0) / 256.0)
        with tempfile.TemporaryDirectory() as folder:
            config.save(str(Path(folder) / "config.yaml"), "yaml")
            torch.save(model.state_dict(), Path(folder) / "best_model.pth")
            deployed = args.out / f"{name}.nequip.pth"
            deploy(["--verbose", "error", "build", "--train-dir", folder, str(deployed)])
            shutil.copyfile(Path(folder) / "config.yaml", args.out / f"{name}.config.yaml")
            shutil.copyfile(Path(folder) / "best_model.pth", args.out / f"{name}.best_model.pth")
        evaluate = Nequip06Evaluator(deployed, variant["chemical_symbols"], COMMON["r_max"])
        frames, worst = [], 0.0
        for atoms in structures(variant["chemical_symbols"]):
            if not atoms.pbc.all() and atoms.pbc.any() and not atoms.cell.rank == 3:
                continue  # this version insists on a complete cell,
            if atoms.info["name"] == "isolated_atom":
                continue  # and on at least one edge
            result = evaluate(atoms)
            worst = max(worst, force_error(evaluate, atoms, result))
            info = {"name": atoms.info["name"]} | {k: result[k] for k in ("energy", "n_edges", "stress") if k in result}
            frames.append((atoms, info, result))
        print(f"{deployed}: {deployed.stat().st_size} B, best_model.pth {(args.out / f'{name}.best_model.pth').stat().st_size} B, e3nn {e3nn.__version__}")
        report(args.out / f"ref_{name}.extxyz", frames, f", finite differences within {worst:.1e}")


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main()
