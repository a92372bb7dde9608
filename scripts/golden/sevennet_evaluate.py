"""Energy, forces, stress and node energies of one structure from a SevenNet checkpoint, in float64.

SevenNet computes in float32. Here the float32 weights are converted to float64, and the 3j buffers, which the checkpoints hold
rounded to float32, are replaced by exact ones: the result is what exact arithmetic gives for the stored weights.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import numpy as np
import torch
from ase import Atoms
from matscipy.neighbours import neighbour_list

import mace  # noqa: F401  (before e3nn: it relaxes torch.load)
from e3nn.o3 import wigner_3j

import sevenn._keys as KEY
from sevenn.checkpoint import SevenNetCheckpoint
from sevenn.nn.node_embedding import OnehotEmbedding


def _widen(module, args, data):
    for key, value in data.items():
        if torch.is_tensor(value) and value.dtype == torch.float32:
            data[key] = value.double()
    return data


def to_float64(model: torch.nn.Module) -> torch.nn.Module:
    """The model in float64, with exact 3j tensors; fails if a stored one is not the rounded exact one."""
    model = model.double().eval()
    for module in model.modules():
        if isinstance(module, OnehotEmbedding):  # it makes float32 whatever the model is
            module.register_forward_hook(_widen)
    for name, buffer in model.named_buffers():
        found = re.search(r"_w3j_(\d+)_(\d+)_(\d+)$", name)
        if found:
            exact = wigner_3j(*map(int, found.groups()), dtype=torch.float64)
            assert torch.allclose(buffer, exact, atol=1e-6), f"{name} is not a 3j tensor of this e3nn"
            buffer.copy_(exact)
    for p in model.parameters():
        p.requires_grad_(False)
    return model


def neighbours(atoms: Atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """edge_index [2, n] (centre, neighbour) and the vectors centre -> neighbour [n, 3]; directions without periodicity get a large cell."""
    cell = atoms.cell.array.copy()
    size = 5.0 * cutoff * (np.abs(atoms.positions).max() + 1.0)
    for axis in range(3):
        if not atoms.pbc[axis]:
            cell[axis] = size * np.eye(3)[axis]
    i, j, vector = neighbour_list("ijD", pbc=atoms.pbc, cell=cell, positions=atoms.positions, cutoff=cutoff)
    return np.stack([i, j]).astype(np.int64), vector


class SevenNetEvaluator:
    """Wraps a model object, or a checkpoint file, for one modality (None if the model has none)."""

    def __init__(self, model: torch.nn.Module | Path | str, modal: str | None = None):
        if not isinstance(model, torch.nn.Module):
            model = SevenNetCheckpoint(str(model)).build_model()
        self.model = to_float64(model)
        self.modal = modal

    def __call__(self, atoms: Atoms) -> dict:
        """energy [eV], forces [n, 3] eV/A, node_energy [n] eV, n_edges, and stress [3, 3] eV/A^3 (tensile positive) if periodic in 3-D."""
        n = len(atoms)
        index, vector = neighbours(atoms, self.model.cutoff)
        numbers = torch.tensor(atoms.numbers, dtype=torch.int64)
        volume = atoms.cell.volume if atoms.pbc.all() else 0.0
        data = _Data({
            KEY.NODE_FEATURE: numbers, KEY.ATOMIC_NUMBERS: numbers, KEY.EDGE_IDX: torch.tensor(index), KEY.EDGE_VEC: torch.tensor(vector),
            KEY.CELL_VOLUME: torch.tensor([volume], dtype=torch.float64), KEY.NUM_ATOMS: torch.tensor([n]), KEY.BATCH: torch.zeros(n, dtype=torch.int64),
        })
        if self.modal is not None:
            data[KEY.DATA_MODALITY] = [self.modal]
        out = self.model(data)
        result = {
            "energy": float(out[KEY.PRED_TOTAL_ENERGY].detach()[0]),
            "forces": out[KEY.PRED_FORCE].detach().numpy(),
            "node_energy": out[KEY.ATOMIC_ENERGY].detach().numpy().ravel(),
            "n_edges": index.shape[1],
        }
        if atoms.pbc.all():  # SevenNet: compressive positive, xx yy zz xy yz zx
            xx, yy, zz, xy, yz, zx = -out[KEY.PRED_STRESS].detach().numpy().ravel()
            result["stress"] = np.array([[xx, xy, zx], [xy, yy, yz], [zx, yz, zz]])
        return result


class _Data(dict):
    """A dictionary whose `x` is also an attribute, which is all that SevenNet's modality lookup needs of a graph object."""

    @property
    def x(self) -> torch.Tensor:
        return self[KEY.NODE_FEATURE]
