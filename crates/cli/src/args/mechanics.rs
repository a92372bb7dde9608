//! Arguments of `elastic`, `eos`, `neb` and `modes`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

use super::{FieldArgs, StructureArgs};

/// Where results go, and what becomes of those of an earlier run.
#[derive(Debug, Clone, Args)]
pub(crate) struct KeepArgs {
    /// Folder for results and report.html; what is finished is kept there for --resume
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) output: Option<PathBuf>,
    /// Replace what is in the folder
    #[arg(long, requires = "output", conflicts_with = "resume")]
    pub(crate) overwrite: bool,
    /// Go on with the run in the folder: what is finished is not computed again
    #[arg(long, requires = "output")]
    pub(crate) resume: bool,
    /// Say what would be computed and written, and how long it takes, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) const ELASTIC_HELP: &str = "\
The crystal is strained along the axes that its symmetry leaves independent, by each of --strains in both directions; atoms are relaxed at every strain. The stress at the \
start should be small: relax the cell first, or with --relax. Stiffness is d²E/dη²/V; under pressure, what relates strain to stress is printed beside it.

Voigt order is xx, yy, zz, yz, zx, xy, in the axes of the structure; independent constants are in standard axes.

Example: tesseral elastic quartz.cif --relax -o quartz-elastic";

#[derive(Debug, Args)]
pub(crate) struct ElasticArgs {
    #[command(flatten)]
    pub(crate) structure: StructureArgs,
    #[command(flatten)]
    pub(crate) field: FieldArgs,
    /// Amplitudes of the strains (of doubled shears)
    #[arg(long, value_name = "ε", value_delimiter = ',', default_values_t = [0.005, 0.01])]
    pub(crate) strains: Vec<f64>,
    /// Leave atoms where the strain takes them
    #[arg(long)]
    pub(crate) clamped: bool,
    /// Relax cell and atoms first
    #[arg(long)]
    pub(crate) relax: bool,
    /// Largest force that counts as none where atoms are relaxed, eV/Å
    #[arg(long, alias = "fmax", value_name = "eV/Å", default_value_t = 0.001)]
    pub(crate) max_force: f64,
    /// Symmetry is what holds within this distance, Å
    #[arg(long, alias = "symprec", value_name = "Å", default_value_t = 0.001)]
    pub(crate) symmetry_tolerance: f64,
    /// Compute all 21 constants, whatever the symmetry
    #[arg(long)]
    pub(crate) no_symmetry: bool,
    #[command(flatten)]
    pub(crate) keep: KeepArgs,
}

pub(crate) const EOS_HELP: &str = "\
The cell is scaled alike in all directions; with --relax-shape it then changes its shape at that volume, as crystals that are not cubic do under pressure. Energies are fitted by the Birch–Murnaghan, Vinet and Murnaghan equations; the pressures that they give are compared with those of the \
potential.

Example: tesseral eos silicon.vasp --range 0.9 1.1 --points 11 -o silicon-eos";

#[derive(Debug, Args)]
pub(crate) struct EosArgs {
    #[command(flatten)]
    pub(crate) structure: StructureArgs,
    #[command(flatten)]
    pub(crate) field: FieldArgs,
    /// Smallest and largest volume, over that of the structure
    #[arg(long, num_args = 2, value_names = ["LOW", "HIGH"], default_values_t = [0.92, 1.08])]
    pub(crate) range: Vec<f64>,
    /// Number of volumes
    #[arg(long, value_name = "N", default_value = "9")]
    pub(crate) points: NonZeroUsize,
    /// Relax atoms at every volume; without, they keep their fractional coordinates
    #[arg(long)]
    pub(crate) relax: bool,
    /// Relax atoms and the shape of the cell at every volume
    #[arg(long)]
    pub(crate) relax_shape: bool,
    /// Largest shear stress that counts as none with --relax-shape, GPa
    #[arg(long, value_name = "GPa", default_value_t = 0.01)]
    pub(crate) max_stress: f64,
    /// Largest force that counts as none where atoms are relaxed, eV/Å
    #[arg(long, alias = "fmax", value_name = "eV/Å", default_value_t = 0.001)]
    pub(crate) max_force: f64,
    #[command(flatten)]
    pub(crate) keep: KeepArgs,
}

pub(crate) const NEB_HELP: &str = "\
Two structures with the same atoms in the same order, in the same cell, relaxed; or one file with all images of a path to begin with. Images begin on a path that keeps atoms apart \
(IDPP); the highest climbs to the saddle point. Ctrl-C saves the band and ends; --resume goes on from there, bit for bit.

Example: tesseral neb before.extxyz after.extxyz --images 7 -o barrier";

/// What moves the band.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum BandMethod {
    /// L-BFGS of the whole band: fewer steps
    #[default]
    Lbfgs,
    /// Steered dynamics: robust
    Fire,
}

#[derive(Debug, Args)]
pub(crate) struct NebArgs {
    /// The two ends (the last structure of each file), or one file with all images
    #[arg(required = true, num_args = 1..=2, value_name = "FILES", value_hint = ValueHint::FilePath)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) field: FieldArgs,
    /// Images between the ends [default: 7, or as many as the file has]
    #[arg(long, value_name = "N")]
    pub(crate) images: Option<NonZeroUsize>,
    /// Largest force on an atom of the band at convergence, eV/Å
    #[arg(long, alias = "fmax", value_name = "eV/Å", default_value_t = 0.05)]
    pub(crate) max_force: f64,
    /// Steps at most
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub(crate) steps: u64,
    /// Spring constant between images, eV/Å²
    #[arg(long, value_name = "eV/Å²", default_value_t = 1.0)]
    pub(crate) spring: f64,
    /// The highest image does not climb
    #[arg(long)]
    pub(crate) no_climb: bool,
    /// It climbs once forces are below this, eV/Å
    #[arg(long, value_name = "eV/Å", default_value_t = 0.5)]
    pub(crate) climb_below: f64,
    /// What moves the band
    #[arg(long, value_enum, default_value_t)]
    pub(crate) method: BandMethod,
    /// Begin on straight lines
    #[arg(long)]
    pub(crate) linear: bool,
    /// Relax the ends first, at the fixed cell
    #[arg(long)]
    pub(crate) relax_ends: bool,
    /// Atoms that do not move: indices from 0, ranges and elements, such as 0-15,20,Cu
    #[arg(long, value_name = "ATOMS")]
    pub(crate) fix: Option<String>,
    #[command(flatten)]
    pub(crate) keep: KeepArgs,
}

pub(crate) const MODES_HELP: &str = "\
Every atom is displaced both ways along each axis. The molecule should be relaxed: before, or with --relax. With -o, modes.molden and one animation a mode (extended XYZ) are written for viewers. Small \
forces are differenced: --dtype f64 gives the last digits.

Example: tesseral modes water.xyz --relax --symmetry-number 2 --dtype f64";

#[derive(Debug, Args)]
pub(crate) struct ModesArgs {
    #[command(flatten)]
    pub(crate) structure: StructureArgs,
    #[command(flatten)]
    pub(crate) field: FieldArgs,
    /// Displacement of atoms, Å
    #[arg(long, value_name = "Å", default_value_t = 0.01)]
    pub(crate) displacement: f64,
    /// Relax atoms first
    #[arg(long)]
    pub(crate) relax: bool,
    /// Largest force that counts as none where atoms are relaxed, eV/Å
    #[arg(long, alias = "fmax", value_name = "eV/Å", default_value_t = 0.001)]
    pub(crate) max_force: f64,
    /// Atoms that do not move: indices from 0, ranges and elements, such as 0-15,20,Cu
    #[arg(long, value_name = "ATOMS")]
    pub(crate) fix: Option<String>,
    /// Temperature of the ideal gas, K
    #[arg(long, value_name = "K", default_value_t = 298.15)]
    pub(crate) temperature: f64,
    /// Pressure of the ideal gas, bar
    #[arg(long, value_name = "bar", default_value_t = 1.0)]
    pub(crate) pressure: f64,
    /// Rotations that leave the molecule as it is: 1 for HCl, 2 for water, 12 for methane
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) symmetry_number: u32,
    /// Spin multiplicity of the electrons
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) multiplicity: u32,
    #[command(flatten)]
    pub(crate) keep: KeepArgs,
}
