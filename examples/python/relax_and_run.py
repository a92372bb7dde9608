"""Relaxation and molecular dynamics in Rust, on ASE's Atoms.

    python examples/python/relax_and_run.py
"""

from ase.build import add_adsorbate, fcc111
from ase.constraints import FixAtoms

from tesseral import Potential, md, relax

potential = Potential()

slab = fcc111("Cu", (2, 2, 3), vacuum=8.0)
add_adsorbate(slab, "O", 1.2, "fcc")
slab.set_constraint(FixAtoms([atom.index for atom in slab if atom.tag == 3]))

relaxed = relax(slab, potential, max_force=0.02)
print(f"{relaxed.info['relax_end']} after {relaxed.info['relax_steps']} steps: {relaxed.get_potential_energy():.4f} eV")

run = md(relaxed, potential, steps=40, temperature=300, ensemble="langevin", save_every=10, log_every=10, folder="copper")
print(f"{len(run)} frames; temperatures {run.thermo['temperature'].round(0).tolist()} K")
# Longer, from the saved state: to the bit as if it had never ended.
run = md(None, potential, steps=60, folder="copper", resume=True)
print(f"{run.steps:g} steps; the last structure has {run.final.get_temperature():.0f} K; a report is in {run.folder.name}/report.html")
