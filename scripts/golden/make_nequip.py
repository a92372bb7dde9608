"""Tiny NequIP >= 0.7 models through NequIP's own route, with float64 references.

    PYTHONPATH=NEQUIP_NEW python make_nequip.py OUT_DIR

For each variant `nequip-train` runs one epoch on two small structures with random labels and `nequip-package` packs the
result. Writes NAME.ckpt (the Lightning checkpoint), NAME.nequip.zip (the package) and ref_NAME.extxyz.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from structures import force_error, report, structures

TYPES = ["H", "C", "O"]
METAL = ["Si", "O", "Fe"]
COMMON = dict(r_max=4.0, num_bessels=5, radial_mlp_width=6, model_dtype="float64", seed=1)
VARIANTS = {
    "parity_zbl_per_type": (TYPES, dict(
        num_layers=3, l_max=2, parity=True, num_features=3, radial_mlp_depth=2, polynomial_cutoff_p=6, bessel_trainable=True,
        avg_num_neighbors={"H": 4.0, "C": 9.0, "O": 6.0}, per_type_energy_scales={"H": 6.0, "C": 12.0, "O": 9.0},
        per_type_energy_shifts={"H": -1.0, "C": -6.5, "O": -3.25},
        pair_potential={"_target_": "nequip.nn.pair_potential.ZBL", "units": "metal", "chemical_species": TYPES})),
    "no_parity_edge_cutoffs": (METAL, dict(
        num_layers=2, l_max=3, parity=False, num_features=[5, 4, 3, 2], type_embed_num_features=6, radial_mlp_depth=1, polynomial_cutoff_p=8,
        readout_mlp_hidden_layers_depth=1, readout_mlp_hidden_layers_width=7, avg_num_neighbors=11.0, per_type_energy_scales=24.0,
        per_type_energy_shifts={"Si": -4.0, "O": -2.5, "Fe": -7.75},
        per_edge_type_cutoff={"Si": 3.5, "O": {"Si": 3.0, "O": 2.75, "Fe": 3.75}, "Fe": 4.0})),
    "preset_s": (TYPES, dict(preset="S", num_features=[6, 4], type_embed_num_features=4, radial_mlp_width=6, avg_num_neighbors=8.0,
        per_type_energy_scales=40.0, per_type_energy_shifts=-2.0, readout_mlp_hidden_layers_depth=2, readout_mlp_nonlinearity=None)),
}


def configuration(name: str, frames: Path) -> dict:
    types, model = VARIANTS[name]
    r_max = COMMON["r_max"]
    target = "nequip.model.PresetNequIPGNNModel" if "preset" in model else "nequip.model.NequIPGNNModel"
    coefficients = {"total_energy": 1.0, "forces": 1.0}
    loader = {"_target_": "torch.utils.data.DataLoader", "batch_size": 1}
    return {
        "run": ["train"],
        "data": {
            "_target_": "nequip.data.datamodule.ASEDataModule", "seed": 1, "train_file_path": str(frames), "val_file_path": str(frames),
            "transforms": [
                {"_target_": "nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper", "model_type_names": types, "chemical_species_to_atom_type_map": {t: t for t in types}},
                {"_target_": "nequip.data.transforms.NeighborListTransform", "r_max": r_max},
            ],
            "train_dataloader": loader, "val_dataloader": loader,
        },
        "trainer": {
            "_target_": "lightning.Trainer", "accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_progress_bar": False,
            "callbacks": [{"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": str(frames.parent), "filename": "last", "monitor": None}],
        },
        "training_module": {
            "_target_": "nequip.train.EMALightningModule", "ema_decay": 0.99,
            "loss": {"_target_": "nequip.train.EnergyForceLoss", "per_atom_energy": True, "coeffs": coefficients},
            "val_metrics": {"_target_": "nequip.train.EnergyForceMetrics", "coeffs": {"total_energy_mae": 1.0, "forces_mae": 1.0}},
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.01},
            "model": {"_target_": target, "type_names": types, **COMMON, **model},
        },
    }


def training_frames(path: Path, types: list[str]) -> None:
    rng = np.random.default_rng(3)
    frames = []
    for atoms in structures(types)[:2]:
        labelled = Atoms(atoms.symbols, positions=atoms.positions, cell=atoms.cell, pbc=True)
        labelled.calc = SinglePointCalculator(labelled, energy=-4.0 * len(atoms), forces=rng.normal(0.0, 1.0, (len(atoms), 3)))
        frames.append(labelled)
    write(path, frames, format="extxyz")


class NequipEvaluator:
    """The eager model of a package, called as NequIP's ASE calculator calls it."""

    def __init__(self, package: Path, types: list[str], r_max: float):
        from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
        from nequip.model.saved_models import load_saved_model
        from nequip.utils.global_state import set_global_state

        set_global_state()
        self.model = load_saved_model(str(package)).eval()
        self.transforms = [
            ChemicalSpeciesToAtomTypeMapper(model_type_names=types, chemical_species_to_atom_type_map={t: t for t in types}),
            NeighborListTransform(r_max=r_max),
        ]

    def __call__(self, atoms: Atoms) -> dict:
        """energy [eV], forces [n, 3] eV/A, node_energy [n] eV, n_edges within r_max, and stress [3, 3] eV/A^3 if periodic in 3-D."""
        from nequip.data import AtomicDataDict, from_ase

        bare = Atoms(atoms.symbols, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        data = from_ase(bare)
        for transform in self.transforms:
            data = transform(data)
        out = self.model(AtomicDataDict.to_(data, torch.device("cpu")))
        result = {
            "energy": float(out[AtomicDataDict.TOTAL_ENERGY_KEY].detach().reshape(-1)[0]),
            "forces": out[AtomicDataDict.FORCE_KEY].detach().numpy(),
            "node_energy": out[AtomicDataDict.PER_ATOM_ENERGY_KEY].detach().numpy().ravel(),
            "n_edges": int(data[AtomicDataDict.EDGE_INDEX_KEY].shape[1]),
        }
        if atoms.pbc.all():
            result["stress"] = out[AtomicDataDict.STRESS_KEY].detach().numpy().reshape(3, 3)
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for name, (types, _) in VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            frames = Path(folder) / "train.xyz"
            training_frames(frames, types)
            (Path(folder) / "config.yaml").write_text(yaml.safe_dump(configuration(name, frames)))
            quiet = dict(cwd=folder, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONWARNINGS": "ignore"})
            subprocess.run([sys.executable, "-m", "nequip.scripts.train", "-cp", folder, "-cn", "config"], **quiet)
            checkpoint = out / f"{name}.ckpt"
            checkpoint.write_bytes((Path(folder) / "last.ckpt").read_bytes())
            package = out / f"{name}.nequip.zip"
            package.unlink(missing_ok=True)
            subprocess.run([sys.executable, "-m", "nequip.scripts.package", "build", "last.ckpt", str(package)], **quiet)
        evaluate = NequipEvaluator(package, types, COMMON["r_max"])
        results, worst = [], 0.0
        for atoms in structures(types):
            result = evaluate(atoms)
            worst = max(worst, force_error(evaluate, atoms, result))
            info = {"name": atoms.info["name"]} | {k: result[k] for k in ("energy", "n_edges", "stress") if k in result}
            results.append((atoms, info, result))
        print(f"{checkpoint}: {checkpoint.stat().st_size} B, {package.name}: {package.stat().st_size} B")
        report(out / f"ref_{name}.extxyz", results, f", finite differences within {worst:.1e}")


if __name__ == "__main__":
    main()
