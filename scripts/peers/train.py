"""Seconds per training step and peak memory of Tesseral beside mace_run_train: the same model, data, batch and precision, in one run.

    python train.py --data TRAIN.xyz [--frames 60] [--atoms 64] [--batch 5] [--channels 64] [--epochs 2] [--threads 2] [--rounds 2]
        [--dtype float32] [--out FOLDER]

DATA is extended XYZ with `energy` and `forces`. Both are started as whole programs, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from ase.io import read, write

ROOT = Path(__file__).resolve().parents[2]
RADIUS = 5.0


def frames(path: str, count: int, atoms: int | None, folder: Path) -> Path:
    """The first frames (of this many atoms), under the keys that mace_run_train reads by default."""
    chosen = [frame for frame in read(path, ":") if atoms is None or len(frame) == atoms][:count]
    if len(chosen) < 2:
        sys.exit(f"{path} has {len(chosen)} frames of {atoms} atoms")
    for frame in chosen:
        energy, forces = frame.get_potential_energy(), frame.get_forces()
        frame.calc = None
        frame.info = {"REF_energy": float(energy)}
        frame.arrays["REF_forces"] = forces
    target = folder / "train.xyz"
    write(target, chosen, format="extxyz")
    return target


def tesseral(data: Path, options, folder: Path) -> dict:
    run = folder / "tesseral"
    shutil.rmtree(run, ignore_errors=True)
    config = folder / "train.toml"
    config.write_text(
        f"""
[data]
train = ["{data}"]
valid_fraction = 0.1
[model]
family = "mace"
r_max = {RADIUS}
num_channels = {options.channels}
max_L = 1
max_ell = 3
correlation = 3
num_interactions = 2
[optimizer]
kind = "adam"
amsgrad = true
learning_rate = 0.01
[training]
max_epochs = {options.epochs}
batch = {{ frames = {options.batch} }}
precision = "{'f64' if options.dtype == 'float64' else 'f32'}"
[output]
directory = "{run}"
report = false
"""
    )
    command = [str(ROOT / "target/release/tesseral"), "--quiet", "--threads", str(options.threads), "train", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit("tesseral failed")
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [line["seconds"] for line in lines if line["kind"] == "step"][3:]
    return {"steps": len(steps), "median": statistics.median(steps), "fastest": min(steps), "peak_mib": usage.ru_maxrss / 1024}


def mace(data: Path, options, folder: Path) -> dict:
    arguments = {
        "name": "bench",
        "train_file": data,
        "valid_fraction": 0.1,
        "E0s": "average",
        "model": "MACE",
        "r_max": RADIUS,
        "num_channels": options.channels,
        "max_L": 1,
        "max_ell": 3,
        "correlation": 3,
        "num_interactions": 2,
        "batch_size": options.batch,
        "valid_batch_size": options.batch,
        "max_num_epochs": options.epochs,
        "optimizer": "adam",
        "lr": 0.01,
        "default_dtype": options.dtype,
        "device": "cpu",
        "seed": 1,
        "eval_interval": 1000,
        "work_dir": folder / "mace",
    }
    command = [sys.executable, str(Path(__file__).with_name("train_mace.py")), str(options.threads)]
    command += [f"--{key}={value}" for key, value in arguments.items()] + ["--amsgrad", "--ema"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"mace_run_train failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--atoms", type=int, help="take frames of this many atoms only")
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = frames(options.data, options.frames, options.atoms, folder)
        found: dict[str, list[dict]] = {"tesseral": [], "mace_run_train": []}
        for _ in range(options.rounds):
            found["tesseral"].append(tesseral(data, options, folder))
            found["mace_run_train"].append(mace(data, options, folder))
    rows = {}
    for name, rounds in found.items():
        rows[name] = {
            "median": min(r["median"] for r in rounds),
            "fastest": min(r["fastest"] for r in rounds),
            "peak_mib": max(r["peak_mib"] for r in rounds),
        }
    ours = rows["tesseral"]
    print(f"{options.channels}x0e+{options.channels}x1o, {options.batch} frames a step, {options.dtype}, {options.threads} threads")
    print(f"{'':<16} {'s/step':>8} {'ratio':>7} {'MiB':>7} {'ratio':>7}")
    for name, row in rows.items():
        print(f"{name:<16} {row['median']:8.4f} {row['median'] / ours['median']:7.1f} {row['peak_mib']:7.0f} {row['peak_mib'] / ours['peak_mib']:7.1f}")
    if options.out:
        Path(options.out).mkdir(parents=True, exist_ok=True)
        (Path(options.out) / "train.json").write_text(json.dumps({"options": vars(options), "rounds": found}, indent=1))


if __name__ == "__main__":
    main()
