"""Copies the generated models and references into tests/golden, gzipping what gzip shrinks, and checks the size limits.

    python install_fixtures.py GENERATED_DIR TESTS_GOLDEN_DIR

GENERATED_DIR holds the folders mace/, sevennet/ and nequip/ written by the other scripts. A MACE model goes in as torch.save wrote it
where it is named in WHOLE (TorchScript blobs included), otherwise without the blobs (`slim/`, see make_mace_models.py).
"""

from __future__ import annotations

import argparse
import gzip
import shutil
from pathlib import Path

WHOLE = ["residual_float32", "nonlinear_three_heads_agnostic", "one_layer_gaussian"]
NEQUIP = {
    "parity_zbl_per_type": ["parity_zbl_per_type.ckpt"],
    "no_parity_edge_cutoffs": ["no_parity_edge_cutoffs.nequip.zip"],
    "preset_s": ["preset_s.ckpt"],
    "v06_no_parity_zbl": ["v06_no_parity_zbl.nequip.pth"],
    "v06_parity": ["v06_parity.best_model.pth", "v06_parity.config.yaml"],
    "v06_parity_e3nn05": ["v06_parity_e3nn05.best_model.pth", "v06_parity_e3nn05.config.yaml"],
}
LIMIT_FILE = 200 * 1024
LIMIT_TOTAL = 2 * 1024 * 1024


def install(source: Path, target: Path, compress: bool) -> None:
    if compress:
        target = target.with_name(target.name + ".gz")
        target.write_bytes(gzip.compress(source.read_bytes(), 9, mtime=0))
    else:
        shutil.copyfile(source, target)
    assert target.stat().st_size <= LIMIT_FILE, f"{target} has {target.stat().st_size} B"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generated", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    for family, pattern in (("mace", "{}.model"), ("sevennet", "{}.pth"), ("nequip", None)):
        source, folder = args.generated / family, args.target / family
        folder.mkdir(parents=True, exist_ok=True)
        names = {r.stem.removeprefix("ref_"): [pattern.format(r.stem.removeprefix("ref_"))] for r in sorted(source.glob("ref_*.extxyz"))} if pattern else NEQUIP
        for name, models in names.items():
            models = [m for m in models if (source / m).exists()]
            if not models:
                continue  # published checkpoints: references only, too large for the repository
            for model in models:
                slim = source / "slim" / model
                path = slim if slim.exists() and name not in WHOLE else source / model
                install(path, folder / model, compress=path.stat().st_size > 40 * 1024)
            install(source / f"ref_{name}.extxyz", folder / f"ref_{name}.extxyz", compress=False)
    files = sorted(p for p in args.target.rglob("*") if p.is_file())
    total = sum(p.stat().st_size for p in files)
    for p in files:
        print(f"{p.stat().st_size:8d} {p.relative_to(args.target)}")
    print(f"{total:8d} total, {len(files)} files")
    assert total <= LIMIT_TOTAL


if __name__ == "__main__":
    main()
