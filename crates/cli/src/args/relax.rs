//! Arguments of `tesseral relax`.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

use super::FieldArgs;

pub(crate) const RELAX_HELP: &str = "\
Every structure of the files is relaxed, many at a time. Atoms that the file holds stay where they are: `move_mask` of extended XYZ (ASE's constraints), selective \
dynamics of POSCAR. Where the cell moves, what is held are fractional coordinates. OUT.extxyz is written at the end; until then the state is beside it, and what was \
interrupted goes on with --resume, to the bit. The exit code is 1 if something did not converge.

Units: eV, Å, GPa.

Example: tesseral relax POSCAR --cell full --symmetry -o relaxed.extxyz";

#[derive(Debug, Args)]
pub(crate) struct RelaxArgs {
    /// Structure files; `-` is standard input
    #[arg(required = true, value_name = "FILES", value_hint = ValueHint::FilePath)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) field: FieldArgs,
    /// Write the relaxed structures, with energies, forces and stresses, as extended XYZ
    #[arg(short, long, value_name = "OUT.extxyz", default_value = "relaxed.extxyz", value_hint = ValueHint::FilePath)]
    pub(crate) output: PathBuf,
    /// Converged when no force is larger, eV/Å
    #[arg(long, alias = "fmax", value_name = "eV/Å", default_value_t = 0.01)]
    pub(crate) max_force: f64,
    /// Where the cell moves: converged when no component of the stress, less that of the pressure, is larger, GPa
    #[arg(long, value_name = "GPa", default_value_t = 0.1)]
    pub(crate) max_stress: f64,
    /// Steps after which a structure is given up
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub(crate) steps: u64,
    /// Minimiser
    #[arg(long, value_enum, default_value_t)]
    pub(crate) method: MethodArg,
    /// How far an atom may move in one step, Å
    #[arg(long, value_name = "Å", default_value_t = 0.2)]
    pub(crate) max_step: f64,
    /// How the cell may change
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    pub(crate) cell: CellArg,
    /// Strains of the cell that are allowed, of xx, yy, zz, yz, zx, xy: --strain xx,yy,xy keeps the height of a slab [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) strain: Vec<String>,
    /// Pressure on the cell, GPa
    #[arg(long, value_name = "GPa", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) pressure: f64,
    /// Keep the space group that is found within a tolerance, Å
    #[arg(long, value_name = "Å", num_args = 0..=1, default_missing_value = "0.01")]
    pub(crate) symmetry: Option<f64>,
    /// Atoms that are held, in every structure: indices from 0, ranges and elements, such as 0-15,20,Cu
    #[arg(long, value_name = "ATOMS")]
    pub(crate) fix: Option<String>,
    /// Let atoms move that the file holds
    #[arg(long)]
    pub(crate) free: bool,
    /// Write every step: a file (*.extxyz) for one structure, or a folder
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) trajectory: Option<PathBuf>,
    /// Write a report for people, one HTML file
    #[arg(long, value_name = "REPORT.html", value_hint = ValueHint::FilePath)]
    pub(crate) report: Option<PathBuf>,
    /// Print one JSON object per structure, with positions, cell, forces and stress, instead of the table
    #[arg(long)]
    pub(crate) json: bool,
    /// Go on with what was interrupted
    #[arg(long, conflicts_with_all = ["overwrite", "dry_run"])]
    pub(crate) resume: bool,
    /// Replace the output of an earlier run, finished or not
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Say what it would take, atoms, memory and time, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Minimiser.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum MethodArg {
    /// L-BFGS; in periodic structures preconditioned where the cell is fixed or there are more than 100 atoms
    #[default]
    Auto,
    /// L-BFGS
    Lbfgs,
    /// L-BFGS with springs between neighbours as preconditioner
    PreconLbfgs,
    /// FIRE 2.0 (Guénolé 2020)
    Fire,
    /// FIRE as first published (Bitzek 2006)
    #[value(name = "fire-2006")]
    Fire2006,
}

/// How the cell may change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum CellArg {
    /// Not at all
    #[default]
    Fixed,
    /// Freely
    Full,
    /// Volume alone, shape kept
    Isotropic,
    /// Shape alone, volume kept
    FixedVolume,
}
