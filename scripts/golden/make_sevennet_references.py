"""float64 references of SevenNet checkpoints: of tiny ones from make_sevennet_models.py, or of the published ones in the package.

    PYTHONPATH=E3NN_NEW python make_sevennet_references.py tiny MODEL_DIR [NAME ...]
    PYTHONPATH=E3NN_NEW python make_sevennet_references.py published STRUCTURES.extxyz OUT_DIR [NAME[@MODAL] ...]

Writes ref_NAME.extxyz: one frame per structure and modality with energy (eV), forces (eV/A), node_energy (eV), n_edges and the
3 x 3 stress (eV/A^3, tensile positive) where periodic in three directions. The tiny models also have their forces compared with
finite differences. Published names are folders of sevenn/pretrained_potentials.
"""

from __future__ import annotations

import argparse
import glob
import os
from pathlib import Path

import torch
from ase.data import chemical_symbols
from ase.io import read

from sevennet_evaluate import SevenNetEvaluator
from structures import force_error, report, structures

import sevenn

PUBLISHED = ["SevenNet_0__11Jul2024", "SevenNet_0__22May2024", "SevenNet_l3i5", "SevenNet_MF_0@PBE", "SevenNet_MF_0@R2SCAN"]


def frame(evaluate, atoms, extra: dict) -> tuple:
    result = evaluate(atoms)
    assert abs(result["node_energy"].sum() - result["energy"]) < 1e-8
    info = {"name": atoms.info["name"]} | extra | {k: result[k] for k in ("energy", "n_edges", "stress") if k in result}
    return atoms, info, result


def tiny(folder: Path, names: list[str]) -> None:
    for path in sorted(folder.glob("*.pth")):
        if names and path.stem not in names:
            continue
        config = torch.load(path, weights_only=False)["config"]
        modals = list(config["_modal_map"]) if config["use_modality"] else [None]
        frames, worst = [], 0.0
        for modal in modals:
            evaluate = SevenNetEvaluator(path, modal)
            elements = [chemical_symbols[z] for z in config["_type_map"]]
            for atoms in structures(elements):
                frames.append(frame(evaluate, atoms, {"modal": modal} if modal else {}))
                worst = max(worst, force_error(evaluate, atoms, frames[-1][2]))
        report(path.with_name(f"ref_{path.stem}.extxyz"), frames, f", finite differences within {worst:.1e}")


def published(source: Path, out: Path, names: list[str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for entry in names or PUBLISHED:
        name, _, modal = entry.partition("@")
        (checkpoint,) = glob.glob(os.path.join(os.path.dirname(sevenn.__file__), "pretrained_potentials", name, "*.pth"))
        evaluate = SevenNetEvaluator(checkpoint, modal or None)
        frames = []
        for atoms in read(source, ":"):
            atoms.calc = None
            frames.append(frame(evaluate, atoms, {}))
        report(out / f"ref_sevennet_{name}{'_' + modal if modal else ''}.extxyz", frames, "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    a = commands.add_parser("tiny")
    a.add_argument("folder", type=Path)
    a.add_argument("names", nargs="*")
    b = commands.add_parser("published")
    b.add_argument("structures", type=Path)
    b.add_argument("out", type=Path)
    b.add_argument("names", nargs="*")
    args = parser.parse_args()
    if args.command == "tiny":
        tiny(args.folder, args.names)
    else:
        published(args.structures, args.out, args.names)


if __name__ == "__main__":
    main()
