"""Tiny random SevenNet models, one per option, saved as the dictionary SevenNet's trainer writes: checkpoint `.pth` files.

    PYTHONPATH=E3NN_NEW python make_sevennet_models.py OUT_DIR [NAME ...]

Weights are float32 multiples of 1/256. The scale is chosen so that the forces on the structures of `structures.py` have a root
mean square of about 1 eV/A.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import numpy as np
import torch
from ase.data import atomic_numbers

from sevennet_evaluate import SevenNetEvaluator
from structures import structures

import sevenn
import sevenn._const as const
from sevenn.model_build import build_E3_equivariant_model

SPECIES = ["Fe", "O", "Si"]
TWO_SPECIES = ["C", "H"]
DEFAULTS = dict(
    chemical_species=SPECIES, cutoff=4.0, channel=4, is_parity=False, lmax=2, num_convolution_layer=3, irreps_manual=False,
    weight_nn_hidden_neurons=[6, 5], radial_basis={"radial_basis_name": "bessel", "bessel_basis_num": 5},
    cutoff_function={"cutoff_function_name": "poly_cut", "poly_cut_p_value": 6}, self_connection_type="linear", conv_denominator=6.0,
    act_gate={"e": "silu", "o": "tanh"}, act_scalar={"e": "silu", "o": "tanh"},
)
ALL_MODAL = dict(use_modality=True, use_modal_node_embedding=True, use_modal_self_inter_intro=True, use_modal_self_inter_outro=True, use_modal_output_block=True)
VARIANTS = {
    "parity_nequip_connection": dict(is_parity=True, self_connection_type="nequip", num_convolution_layer=3),
    "xplor_bias_mixed_connections": dict(
        cutoff_function={"cutoff_function_name": "XPLOR", "cutoff_on": 3.0}, use_bias_in_linear=True, self_connection_type=["nequip", "linear", "linear"],
        irreps_manual=["6x0e", "6x0e+4x1e+2x2e", "4x0e+2x1e+3x2e", "6x0e"], conv_denominator=[5.0, 7.0, 4.0]),
    "parity_readout_fcn": dict(is_parity=True, readout_as_fcn=True, readout_fcn_hidden_neurons=[7, 4], readout_fcn_activation="silu",
        irreps_manual=["4x0e", "4x0e+3x0o+2x1o+2x1e+2x2e", "4x0e"], num_convolution_layer=2, act_gate={"e": "ssp", "o": "abs"},
        act_scalar={"e": "silu", "o": "abs"}, act_radial="ssp"),
    "lmax3_edge_node": dict(lmax=3, lmax_node=1, chemical_species=TWO_SPECIES, num_convolution_layer=2, cutoff_function={"cutoff_function_name": "poly_cut", "poly_cut_p_value": 4}),
    "raw_harmonics_scalar_scale": dict(_normalize_sph=False, num_convolution_layer=2, lmax_edge=1, chemical_species=TWO_SPECIES, scalar_rescale=True),
    "three_modals_everywhere": dict(**ALL_MODAL, modal_list=["pbe", "r2scan", "wb97"], use_modal_wise_shift=True, use_modal_wise_scale=True, num_convolution_layer=2, use_bias_in_linear=True),
    "two_modals_shift_only": dict(use_modality=True, use_modal_self_inter_outro=True, use_modal_output_block=True, modal_list=["a", "b"], use_modal_wise_shift=True,
        use_modal_wise_scale=False, num_convolution_layer=2, is_parity=True, lmax=1, self_connection_type="nequip"),
}


def configuration(name: str) -> dict:
    """The complete `config` entry of the checkpoint."""
    v = {**DEFAULTS, **VARIANTS[name]}
    scalar = v.pop("scalar_rescale", False)
    rng = np.random.default_rng(len(name))
    config = copy.deepcopy(const.DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG)
    config |= dict(readout_fcn_hidden_neurons=[30, 30], readout_fcn_activation="relu", train_shift_scale=False, use_modality=False)
    config |= v
    species = sorted(v["chemical_species"])  # SevenNet orders species by symbol
    config |= dict(
        version=sevenn.__version__, _model_type="E3_equivariant_model", chemical_species=species, _number_of_species=len(species),
        _type_map={atomic_numbers[s]: i for i, s in enumerate(species)}, _chemical_species_by_atomic_number=[atomic_numbers[s] for s in species],
    )
    rows = 1
    if config["use_modality"]:
        rows = len(v["modal_list"])
        config |= dict(_number_of_modalities=rows, _modal_map={m: i for i, m in enumerate(v["modal_list"])})
    shift = np.round(rng.normal(-3.0, 1.5, (rows, len(species))) * 64) / 64
    scale = np.round(rng.uniform(0.5, 1.5, (rows, len(species))) * 64) / 64
    if scalar:
        shift, scale = float(shift[0, 0]), float(scale[0, 0])
    else:
        shift = shift.tolist() if config.get("use_modal_wise_shift") else shift[0].tolist()
        scale = scale.tolist() if config.get("use_modal_wise_scale") else scale[0].tolist()
    return config | dict(shift=shift, scale=scale)


def rescale(values, factor: float):
    return values * factor if isinstance(values, float) else [rescale(v, factor) for v in values]


def build(name: str, seed: int) -> tuple[torch.nn.Module, dict, list[str]]:
    """The float32 model, its configuration, and the names of its modalities ([None] if none)."""
    config = configuration(name)
    torch.manual_seed(seed)
    model = build_E3_equivariant_model(copy.deepcopy(config))
    with torch.no_grad():
        for key, p in model.named_parameters():
            if not p.requires_grad or p.numel() == 0:
                continue
            if key.endswith("coeffs"):
                p.mul_(1.0 + 0.03 * torch.randn_like(p))  # trained Bessel frequencies leave n pi / r_c
            elif key.endswith("bias"):
                p.normal_(0.0, 0.5)
            else:
                p.normal_(0.0, 1.5)
            p.copy_(torch.round(p * 256.0) / 256.0)
    modals = list(config["_modal_map"]) if config["use_modality"] else [None]
    twin = build_E3_equivariant_model(copy.deepcopy(config))
    twin.load_state_dict(model.state_dict())
    evaluate = SevenNetEvaluator(twin, modals[0])
    forces = np.concatenate([evaluate(a)["forces"].ravel() for a in structures(config["chemical_species"])])
    factor = float(2.0 ** np.round(np.log2(1.0 / np.sqrt(np.mean(forces**2)))))
    config["scale"] = rescale(config["scale"], factor)
    with torch.no_grad():
        model.rescale_atomic_energy.scale.mul_(factor)
    return model, config, modals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(VARIANTS):
        if args.names and name not in args.names:
            continue
        model, config, modals = build(name, seed=500 + index)
        checkpoint = dict(model_state_dict=model.state_dict(), optimizer_state_dict={}, scheduler_state_dict=None, time="2026-01-01 00:00", hash="0" * 32, config=config, epoch=1)
        path = args.out / f"{name}.pth"
        torch.save(checkpoint, path)
        print(f"{path}: {path.stat().st_size} B, {sum(p.numel() for p in model.parameters())} parameters, modals {modals}")


if __name__ == "__main__":
    main()
