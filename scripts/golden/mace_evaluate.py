"""Energy, forces, stress and node energies of one structure from a mace-torch model object, in float64."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms

from mace import data
from mace.data.utils import KeySpecification
from mace.tools import AtomicNumberTable, torch_geometric

def _chebyshev(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    """T_n(x) by recurrence. `torch.special.chebyshev_polynomial_t` has no derivative and detaches its result without a word, so
    that forces of mace-torch models with the Chebyshev basis are not the gradient of their energy. The energies agree."""
    columns = [torch.ones_like(x[:, 0]), x[:, 0]]  # every column of x is the same, column k of n is k + 1
    while len(columns) <= x.shape[1]:
        columns.append(2.0 * x[:, 0] * columns[-1] - columns[-2])
    return torch.stack(columns[1:], dim=1)


GRAPH_KEYS = ("total_charge", "total_spin")


class Evaluator:
    """Wraps a model. Attributes missing from old pickles are filled with the values they had then."""

    def __init__(self, model: torch.nn.Module):
        self.model = model
        torch.special.chebyshev_polynomial_t = _chebyshev
        for name, tensor_of in (("r_max", float), ("atomic_numbers", list)):
            value = getattr(model, name)
            if not torch.is_tensor(value):
                delattr(model, name)
                setattr(model, name, torch.tensor(tensor_of(value)))
        if not hasattr(model, "heads"):
            model.heads = ["Default"]
        self.table = AtomicNumberTable([int(z) for z in model.atomic_numbers])

    def batch(self, atoms: Atoms, head: str):
        """The model's input for one structure: cell and pbc as they are, neighbour list of mace-torch."""
        keys = KeySpecification(info_keys={k: k for k in GRAPH_KEYS if k in atoms.info}, arrays_keys={})
        config = data.config_from_atoms(atoms.copy(), key_specification=keys, head_name=head)
        graph = data.AtomicData.from_config(config, z_table=self.table, cutoff=float(self.model.r_max), heads=list(self.model.heads))
        return next(iter(torch_geometric.dataloader.DataLoader([graph], batch_size=1)))

    def raw(self, atoms: Atoms, head: str | None = None) -> dict:
        """The model's output dictionary."""
        head = head or self.model.heads[0]
        return self.model(self.batch(atoms, head).to_dict(), compute_stress=bool(atoms.pbc.all()), training=True)

    def __call__(self, atoms: Atoms, head: str | None = None) -> dict:
        """energy [eV], forces [n, 3] eV/A, node_energy [n] eV, n_edges, and stress [3, 3] eV/A^3 (tensile positive) if periodic in 3-D."""
        head = head or self.model.heads[0]
        batch = self.batch(atoms, head)
        out = self.model(batch.to_dict(), compute_stress=bool(atoms.pbc.all()))
        result = {
            "energy": float(out["energy"].detach()[0]),
            "forces": out["forces"].detach().numpy(),
            "node_energy": out["node_energy"].detach().numpy(),
            "n_edges": int(batch.edge_index.shape[1]),
        }
        if atoms.pbc.all():
            result["stress"] = out["stress"].detach().numpy().reshape(3, 3)
        return result
