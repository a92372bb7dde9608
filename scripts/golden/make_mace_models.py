"""Tiny random MACE models, one per architectural variant, saved exactly as mace-torch saves them: `torch.save(model)`.

    python make_mace_models.py OUT_DIR [NAME ...]

Each variant combines several options; VARIANTS says which. Weights are rounded to multiples of 1/256, which keeps every
digit of the arithmetic busy and lets gzip shrink the files. The readouts are scaled so that many-body forces on the
structures of `structures.py` have a root mean square of 1 eV/A. `reduced_cg` and `cueq_layout` need cuequivariance.

`slim/NAME.model` is the same pickle with the TorchScript blobs (`__codegen__`) that e3nn attaches to its modules replaced by
empty bytes: mace-torch cannot load it, a reader that takes weights only cannot tell the difference, and it is ten times smaller.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import numpy as np
import torch

import mace  # noqa: F401  (before e3nn: it relaxes torch.load)
from e3nn import o3
from e3nn.util.codegen import CodeGenMixin
from mace import modules
from mace.modules.wrapper_ops import CUET_AVAILABLE

from mace_evaluate import Evaluator
from structures import structures

RR = "RealAgnosticResidualInteractionBlock"
RA = "RealAgnosticInteractionBlock"
DI = "RealAgnosticDensityInteractionBlock"
DR = "RealAgnosticDensityResidualInteractionBlock"
NL = "RealAgnosticResidualNonLinearInteractionBlock"
AT = "RealAgnosticAttResidualInteractionBlock"
OXIDE = ["O", "Si", "Fe"]
ORGANIC = ["H", "C", "O"]
SALT = ["Na", "Cl", "Ti", "Te", "Ba"]
CHARGE_SPIN = {
    "total_spin": {"type": "categorical", "per": "graph", "num_classes": 11, "offset": 0, "emb_dim": 3},
    "total_charge": {"type": "categorical", "per": "graph", "num_classes": 21, "offset": 10, "emb_dim": 5},
}
CONTINUOUS_CHARGE = {"total_charge": {"type": "continuous", "per": "graph", "in_dim": 1, "emb_dim": 4}}

# Per variant: elements and options that differ from DEFAULTS. Hidden irreps, block classes and so on are MACE's own names.
DEFAULTS = dict(
    cls="ScaleShiftMACE", elements=OXIDE, first=RR, later=RR, layers=2, hidden="4x0e+4x1o", max_ell=2, correlation=2, r_max=4.0, num_bessel=5, p=5,
    mlp="4x0e", gate="silu", radial_MLP=[8, 6], radial="bessel", transform="None", zbl=False, heads=["Default"], avg=6.0, dtype="float64", options={},
)
VARIANTS = {
    # The published families, small.
    "residual_lmax3_nu3": dict(max_ell=3, correlation=3, radial_MLP=[64, 64, 64], hidden="4x0e+4x1o", options=dict(use_reduced_cg=False)),
    "residual_float32": dict(dtype="float32", correlation=3, hidden="8x0e+8x1o+8x2e", radial_MLP=[64, 64, 64], mlp="16x0e", p=6),
    "plain_residual_agnesi_zbl": dict(first=RA, correlation=3, hidden="4x0e+4x1o+4x2e", transform="Agnesi", zbl=True, elements=SALT, r_max=6.0),
    "density_two_heads_agnesi_zbl": dict(first=DI, later=DR, max_ell=3, correlation=2, transform="Agnesi", zbl=True, heads=["pbe", "r2scan"], p=6),
    "nonlinear_charge_spin": dict(first=NL, later=NL, layers=3, elements=ORGANIC, hidden="6x0e+6x1o+6x2e", r_max=4.5,
        options=dict(edge_irreps="4x0e+4x1o+4x2e", apply_cutoff=False, embedding_specs=CHARGE_SPIN, use_embedding_readout=True)),
    "nonlinear_three_heads_agnostic": dict(first=NL, later=NL, transform="Agnesi", zbl=True, heads=["omat", "r2scan", "spice"], correlation=3,
        options=dict(edge_irreps="4x0e+4x1o", use_edge_irreps_first=True, apply_cutoff=False, use_agnostic_product=True)),
    # The other options.
    "one_layer_gaussian": dict(first=RA, layers=1, hidden="6x0e+6x1o", radial="gaussian", num_bessel=7, max_ell=1, correlation=1, elements=ORGANIC),
    "one_layer_nu4": dict(layers=1, hidden="5x0e", max_ell=2, correlation=4, p=8),
    "three_layers_odd_scalars_chebyshev": dict(first=RA, layers=3, hidden="3x0e+3x0o+3x1o+3x1e", radial="chebyshev", num_bessel=4, transform="Agnesi", elements=ORGANIC),
    "soft_so3_tanh": dict(transform="Soft", hidden="4x0e+4x1e", gate="tanh", correlation=3, options=dict(use_so3=True), elements=ORGANIC),
    "plain_both_last_readout_no_gate": dict(first=RA, later=RA, gate=None, options=dict(use_last_readout_only=True, keep_last_layer_irreps=True)),
    "density_both_no_cutoff_abs": dict(first=DI, later=DI, gate="abs", max_ell=1, options=dict(apply_cutoff=False)),
    "density_residual_both_edge_irreps": dict(first=DR, later=DR, layers=3, hidden="5x0e+5x1o", correlation=[1, 3, 2],
        options=dict(edge_irreps="3x0e+3x1o", use_edge_irreps_first=True)),
    "bias_readout_two_heads": dict(heads=["a", "b"], readout="NonLinearBiasReadoutBlock", mlp="3x0e", options=dict(edge_irreps="3x0e+3x1o")),
    "attention_residual": dict(first=AT, later=AT, hidden="3x0e+3x1o", max_ell=1),
    "continuous_charge": dict(first=RA, elements=ORGANIC, hidden="5x0e", options=dict(embedding_specs=CONTINUOUS_CHARGE)),
    "plain_class_two_heads_zbl": dict(cls="MACE", heads=["x", "y"], zbl=True, hidden="4x0e"),
    "keep_last_layer": dict(hidden="4x0e+4x1o+4x2e", options=dict(keep_last_layer_irreps=True), mlp="6x0e"),
    "reduced_cg": dict(max_ell=3, correlation=3, options=dict(use_reduced_cg=True)),
    "cueq_layout": dict(correlation=3, options=dict(use_reduced_cg=True)),
}
NEEDS_CUEQUIVARIANCE = {"reduced_cg", "cueq_layout"}
GATES = {"silu": torch.nn.functional.silu, "tanh": torch.tanh, "abs": torch.abs, None: None}


def build(name: str, seed: int) -> torch.nn.Module:
    """A random model of the variant, in float64."""
    from ase.data import atomic_numbers

    v = {**DEFAULTS, **VARIANTS[name]}
    options = dict(v["options"])
    options.setdefault("use_reduced_cg", False)
    if "edge_irreps" in options:
        options["edge_irreps"] = o3.Irreps(options["edge_irreps"])
    if "readout" in v:
        options["readout_cls"] = getattr(modules, v["readout"])
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    numbers = sorted(atomic_numbers[e] for e in v["elements"])
    heads = v["heads"]
    e0 = np.round(rng.normal(-2.0, 1.5, (len(heads), len(numbers))), 3)
    kwargs = dict(
        r_max=v["r_max"], num_bessel=v["num_bessel"], num_polynomial_cutoff=v["p"], max_ell=v["max_ell"],
        interaction_cls=modules.interaction_classes[v["later"]], interaction_cls_first=modules.interaction_classes[v["first"]],
        num_interactions=v["layers"], num_elements=len(numbers), hidden_irreps=o3.Irreps(v["hidden"]), MLP_irreps=o3.Irreps(v["mlp"]),
        atomic_energies=e0 if len(heads) > 1 else e0[0], avg_num_neighbors=v["avg"], atomic_numbers=numbers, correlation=v["correlation"],
        gate=GATES[v["gate"]], pair_repulsion=v["zbl"], distance_transform=v["transform"], radial_MLP=v["radial_MLP"], radial_type=v["radial"],
        heads=list(heads), **options,
    )
    if v["cls"] == "ScaleShiftMACE":
        several = len(heads) > 1
        kwargs["atomic_inter_scale"] = [0.75 + 0.25 * i for i in range(len(heads))] if several else 0.75
        kwargs["atomic_inter_shift"] = [0.125 * (i + 1) for i in range(len(heads))] if several else 0.125
    model = getattr(modules, v["cls"])(**kwargs)
    randomise(model)
    return model.eval()


def randomise(model: torch.nn.Module) -> None:
    """Gives every parameter a visible random value on a grid of 1/256, whatever its initialisation was."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not p.requires_grad:
                continue  # the zero weights of products that do not exist
            if name.endswith("alpha"):
                p.fill_(4.0)
            elif name.endswith("beta"):
                p.fill_(0.75)
            elif "density_fn" in name and name.endswith("weight") and p.dim() == 2:
                p.normal_(0.0, 0.5)
            elif ".net." in name or "joint_embedding" in name:  # torch.nn layers: no normalisation of their own
                if p.dim() == 2:
                    p.normal_(0.0, 1.0 if "embedders" in name else p.shape[1] ** -0.5)
                elif name.endswith("weight"):
                    p.copy_(1.0 + 0.25 * torch.randn_like(p))
                else:
                    p.normal_(0.0, 0.25)
            elif "contractions" in name:
                p.normal_(0.0, p.shape[1] ** -0.5)
            elif name.endswith("bias"):
                p.normal_(0.0, 0.5)
            else:
                p.normal_(0.0, 1.0)
            if p.numel() > 30_000:  # the 256 x 256 layers of the attention block: sparse, with the same variance
                p.mul_((torch.rand_like(p) < 0.005) * 0.005**-0.5)
                p.copy_(torch.round(p))
            p.copy_(torch.round(p * 256.0) / 256.0)


def scale_messages(model: torch.nn.Module, elements: list[str]) -> None:
    """Scales the last linear map of each interaction so that the largest message has RMS 1.5: every correlation order counts, none explodes."""
    for interaction, product in zip(model.interactions, model.products):
        rms = []
        hook = product.register_forward_hook(lambda module, args, kwargs, out: rms.append(kwargs["node_feats"].detach().pow(2).mean(dim=(1, 2)).max().sqrt()), with_kwargs=True)
        evaluate = Evaluator(model)
        for atoms in structures(elements):
            evaluate(atoms)
        hook.remove()
        factor = 2.0 ** np.round(np.log2(1.5 / float(max(rms))))
        with torch.no_grad():
            (interaction.linear_2 if hasattr(interaction, "linear_2") else interaction.linear).weight.mul_(factor)


def scale_readouts(model: torch.nn.Module, elements: list[str]) -> float:
    """Scales the last linear map of each readout (a linear change of the many-body energy) to a force RMS of 1 eV/A."""
    if hasattr(model, "pair_repulsion_fn"):
        pair, model.pair_repulsion_fn = model.pair_repulsion_fn, torch.jit.script(_NoRepulsion())
    forces = np.concatenate([Evaluator(model)(a)["forces"].ravel() for a in structures(elements)])
    factor = 1.0 / np.sqrt(np.mean(forces**2))
    factor = 2.0 ** np.round(np.log2(factor))
    if hasattr(model, "pair_repulsion_fn"):
        model.pair_repulsion_fn = pair
    with torch.no_grad():
        for readout in model.readouts:
            last = readout.linear_2 if hasattr(readout, "linear_2") else readout.linear
            last.weight.mul_(factor)
    return float(factor)


class _NoRepulsion(torch.nn.Module):
    def forward(self, x: torch.Tensor, node_attrs: torch.Tensor, edge_index: torch.Tensor, atomic_numbers: torch.Tensor) -> torch.Tensor:
        return torch.zeros(node_attrs.shape[0], dtype=x.dtype)


def dead_parameters(model: torch.nn.Module, elements: list[str]) -> list[str]:
    """Names of parameters without influence on the energy of `bulk_8`: a test with such a model proves nothing about them."""
    atoms = structures(elements)[0]
    atoms.info["total_charge"] = 1
    dead = []
    evaluate = Evaluator(model)
    for head in model.heads:
        for p in model.parameters():
            p.grad = None
        out = evaluate.raw(atoms, head)
        out["energy"].sum().backward()
        names = {n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or p.grad.abs().max() < 1e-6)}
        dead = names if head == model.heads[0] else dead & names
    return sorted(dead)


def save_slim(model: torch.nn.Module, path: Path) -> None:
    """torch.save without the TorchScript blobs of e3nn's generated code."""
    original = CodeGenMixin.__getstate__

    def stripped(self):
        state = original(self)
        return {k: ({n: b"" for n in v} if k == "__codegen__" else v) for k, v in state.items()}

    CodeGenMixin.__getstate__ = stripped
    try:
        torch.save(model, path)
    finally:
        CodeGenMixin.__getstate__ = original


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    (args.out / "slim").mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(VARIANTS):
        if args.names and name not in args.names:
            continue
        if name in NEEDS_CUEQUIVARIANCE and not CUET_AVAILABLE:
            print(f"{name}: skipped, cuequivariance is not installed")
            continue
        variant = {**DEFAULTS, **VARIANTS[name]}
        model = build(name, seed=100 + index)
        scale_messages(model, variant["elements"])
        factor = scale_readouts(model, variant["elements"])
        dead = dead_parameters(model, variant["elements"])
        if name == "cueq_layout":
            from mace.cli.convert_e3nn_cueq import run

            path = args.out / f"{name}.e3nn.model"
            torch.save(model, path)
            model = run(str(path), device="cpu", return_model=True)
            path.unlink()
        if variant["dtype"] == "float32":
            model = model.float()
        path = args.out / f"{name}.model"
        torch.save(model, path)
        slim = args.out / "slim" / path.name
        save_slim(model, slim)
        count = sum(p.numel() for p in model.parameters())
        print(f"{path}: {path.stat().st_size} B (slim {slim.stat().st_size} B), {count} parameters, readouts x {factor:g}, without influence: {dead or 'none'}")


if __name__ == "__main__":
    main()
