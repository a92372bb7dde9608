//! The command line, as clap reads it.

mod ipi;
mod md;
mod mechanics;
mod phonons;
mod relax;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use tesseral_infer::DeviceChoice;

pub(crate) use ipi::*;
pub(crate) use md::*;
pub(crate) use mechanics::*;
pub(crate) use phonons::*;
pub(crate) use relax::*;

/// Energies, forces and stresses from equivariant interatomic potentials
#[derive(Debug, Parser)]
#[command(name = "tesseral", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Without -m, commands use the built-in SevenNet-0 (89 elements).\n\nExample: tesseral evaluate structure.cif")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// Say more: -v what is done, -vv details, -vvv everything
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
    /// Say less: neither warnings nor progress
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// When to use colour
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", global = true)]
    pub(crate) color: Color,
    /// Threads to compute with [default: one per core]
    #[arg(long, value_name = "N", env = "TESSERAL_THREADS", hide_env_values = true, global = true)]
    pub(crate) threads: Option<NonZeroUsize>,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Color {
    /// Makes everything printed from now on follow this choice.
    pub(crate) fn apply(self) {
        match self {
            Self::Auto => anstream::ColorChoice::Auto,
            Self::Always => anstream::ColorChoice::AlwaysAnsi,
            Self::Never => anstream::ColorChoice::Never,
        }
        .write_global();
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Compute energies, forces and stresses of structures
    #[command(after_help = EVALUATE_HELP)]
    Evaluate(EvaluateArgs),
    /// Check a potential: derivatives, symmetries, smoothness, precision
    Verify(VerifyArgs),
    /// Time a potential on this machine, beside what the machine can do
    #[command(after_help = BENCH_HELP)]
    Bench(BenchArgs),
    /// Relax structures: atoms, and the cell where asked for
    #[command(after_help = RELAX_HELP)]
    Relax(RelaxArgs),
    /// Run molecular dynamics: NVE, NVT, NPT, with guards, analysis and exact restarts
    #[command(after_help = MD_HELP)]
    Md(Box<MdArgs>),
    /// Compute phonons of a crystal: bands, densities of states, thermal properties
    #[command(after_help = PHONONS_HELP)]
    Phonons(PhononsArgs),
    /// Elastic constants of a crystal, its moduli and stability
    #[command(after_help = ELASTIC_HELP)]
    Elastic(ElasticArgs),
    /// Equation of state of a crystal: energies by volume, bulk modulus
    #[command(after_help = EOS_HELP)]
    Eos(EosArgs),
    /// Path of least energy between two structures, and its barrier (nudged elastic band)
    #[command(after_help = NEB_HELP)]
    Neb(NebArgs),
    /// Normal modes of a molecule, zero-point energy, thermodynamics of its gas
    #[command(after_help = MODES_HELP)]
    Modes(ModesArgs),
    /// Compute forces for i-PI (or ASE) over a socket: path integrals, replica exchange, whatever it moves atoms by
    #[command(after_help = IPI_HELP)]
    Ipi(IpiArgs),
    /// Train a potential on reference calculations, as a configuration says
    #[command(after_help = TRAIN_HELP)]
    Train(TrainArgs),
    /// Go on training a pretrained potential with data of your own
    #[command(after_help = FINETUNE_HELP)]
    Finetune(FinetuneArgs),
    /// Check reference calculations before training: keys, units, signs, duplicates, outliers, elements
    Doctor(DoctorArgs),
    /// Describe a model: architecture, elements, cutoff, heads, licence, provenance
    Info(InfoArgs),
    /// Convert a MACE, SevenNet or NequIP checkpoint to an artifact, without Python and without running any of its code
    Import(ImportArgs),
    /// List known pretrained models
    Models(ModelsArgs),
    /// Download, verify and import known pretrained models (the only command that uses the network)
    Fetch(FetchArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, or write the pages of all commands into a folder
    Man {
        /// Folder to write tesseral.1, tesseral-evaluate.1, … to
        #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        output: Option<PathBuf>,
    },
}

const EVALUATE_HELP: &str = "\
Reads extended XYZ, plain XYZ, POSCAR/CONTCAR and CIF, compressed with gzip or not. Prints one row per structure. With labels in \
the input (energy, forces, stress or virial, also as REF_… or dft_…), the errors against them follow.

Extended XYZ written with -o carries the results under ASE's names (energy, forces, stress); results of an earlier calculation in \
the input are kept as REF_energy, REF_forces, REF_stress, ….

Several models (-m A -m B) are a committee: the table, --json and -o then have its means, and the standard deviations of energies and forces over its members.

Units: eV, Å; stress in eV/Å³, positive when tensile; pressure in GPa.";

#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// A name from `tesseral models`, an artifact, or a MACE, SevenNet or NequIP checkpoint [default: built-in SevenNet-0]
    #[arg(short, long, value_name = "NAME|PATH", env = "TESSERAL_MODEL", value_hint = ValueHint::FilePath)]
    pub(crate) model: Option<String>,
    /// Head of a MACE model or modality of a SevenNet model, needed where there are several
    #[arg(long, value_name = "HEAD")]
    pub(crate) head: Option<String>,
}

/// What computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineArg {
    /// Explicit passes lowered from the checkpoint: fast, little memory
    #[default]
    Compiled,
    /// The network as differentiable modules: slow, what the compiled engine is checked against
    Differentiable,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct DeviceArgs {
    /// Where to compute: cpu, cuda, cuda:N, cuda:N,M (many structures on several), auto (the first CUDA device, or else the CPU), or emulated (the CUDA
    /// kernels thread by thread on the CPU, to check them)
    #[arg(long, value_name = "DEVICE", default_value_t, env = "TESSERAL_DEVICE")]
    pub(crate) device: DeviceChoice,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct EngineArgs {
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// What computes
    #[arg(long, value_enum, default_value_t)]
    pub(crate) engine: EngineArg,
    /// Evaluate radial networks for every edge instead of reading tables of them
    #[arg(long)]
    pub(crate) exact_radial: bool,
    /// Memory that structures may take, such as 8GB or 500MB: near it, layers compute again what they would save [default: what the machine has free]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) memory: Option<usize>,
}

/// A size in bytes, with or without a decimal unit.
fn size(text: &str) -> Result<usize, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().trim_end_matches('b') {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "t" => 1e12,
        "ki" => 1024.0,
        "mi" => 1048576.0,
        "gi" => 1073741824.0,
        other => return Err(format!("`{other}` is no unit: kB, MB, GB, TB, KiB, MiB and GiB are")),
    };
    let bytes = number.parse::<f64>().map_err(|_| "a number with a unit, such as 8GB, is needed".to_owned())? * factor;
    if (1.0..1e18).contains(&bytes) { Ok(bytes as usize) } else { Err("a size of at least one byte is needed".to_owned()) }
}

/// The structure that a command is about.
#[derive(Debug, Args)]
pub(crate) struct StructureArgs {
    /// Structure file; `-` is standard input
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Which structure of the file, from 0; negative: from the end
    #[arg(long, value_name = "N", default_value = "-1", allow_negative_numbers = true)]
    pub(crate) index: isize,
}

impl StructureArgs {
    /// Reads it.
    pub(crate) fn read(&self) -> anyhow::Result<tesseral_atoms::Structure> {
        crate::commands::running::structure_of(&self.file, self.index)
    }
}

/// What gives forces to whatever moves atoms.
#[derive(Debug, Args)]
pub(crate) struct FieldArgs {
    /// A name from `tesseral models`, an artifact, or a MACE, SevenNet or NequIP checkpoint; several (-m A -m B) are a committee, whose mean counts and whose spread is
    /// reported [default: built-in SevenNet-0]
    #[arg(short, long = "model", value_name = "NAME|PATH", env = "TESSERAL_MODEL", value_hint = ValueHint::FilePath)]
    pub(crate) models: Vec<String>,
    /// Head of a MACE model or modality of a SevenNet model, needed where there are several
    #[arg(long, value_name = "HEAD")]
    pub(crate) head: Option<String>,
    /// Precision of the computation; geometry and energy sums are always f64
    #[arg(long, value_enum, default_value_t)]
    pub(crate) dtype: DtypeArg,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// End where the models of a committee disagree about a force by more than this (standard deviation, eV/Å)
    #[arg(long, value_name = "eV/Å")]
    pub(crate) stop_above: Option<f64>,
}

#[derive(Debug, Args)]
pub(crate) struct EvaluateArgs {
    /// Structure files; `-` is standard input
    #[arg(required = true, value_name = "FILES", value_hint = ValueHint::FilePath)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) field: FieldArgs,
    /// Write structures with their results as extended XYZ; `-` is standard output, instead of the table
    #[arg(short, long, value_name = "OUT.extxyz", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// Add the energy of every atom to --json and -o
    #[arg(long)]
    pub(crate) per_atom: bool,
    /// Print one JSON object per structure, with forces and stress, instead of the table
    #[arg(long)]
    pub(crate) json: bool,
    /// Skip structures that cannot be read or evaluated; the exit code is 1 all the same
    #[arg(long)]
    pub(crate) keep_going: bool,
    /// Key of the reference energy in the input
    #[arg(long, value_name = "KEY")]
    pub(crate) energy_key: Option<String>,
    /// Key of the reference forces in the input
    #[arg(long, value_name = "KEY")]
    pub(crate) forces_key: Option<String>,
    /// Key of the reference stress in the input
    #[arg(long, value_name = "KEY")]
    pub(crate) stress_key: Option<String>,
    /// Say what each structure would take, atoms, edges and memory, and evaluate nothing
    #[arg(long, conflicts_with_all = ["output", "repeat", "per_atom"])]
    pub(crate) plan: bool,
    /// Time each structure: evaluate it alone, once to warm up and N times more, and report the fastest
    #[arg(long, value_name = "N")]
    pub(crate) repeat: Option<NonZeroUsize>,
}

/// Precision of the computation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum DtypeArg {
    /// Single precision
    #[default]
    F32,
    /// Double precision
    F64,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Structures to check on [default: built-in ones, as far as the model knows their elements]
    #[arg(value_name = "FILES", value_hint = ValueHint::FilePath)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Print one JSON object per check
    #[arg(long)]
    pub(crate) json: bool,
}

const BENCH_HELP: &str = "\
Every step moves all atoms at random by about 0.005 Å and computes energy, forces and stress, as molecular dynamics does. The peak is that of fused \
multiply-adds, measured in the same minute; the share of it counts what no arrangement of the computation avoids.";

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Structure to time (the first of the file) [default: silicon, or rock salt of two elements that the model knows]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) structure: Option<PathBuf>,
    /// Repeat the structure to at least this many atoms [default: 512 without --structure]
    #[arg(long, value_name = "N")]
    pub(crate) atoms: Option<NonZeroUsize>,
    /// Steps that are timed
    #[arg(long, value_name = "N", default_value = "10")]
    pub(crate) steps: NonZeroUsize,
    /// How far beyond the cutoff neighbours are listed, Å
    #[arg(long, value_name = "Å", default_value = "0.5")]
    pub(crate) skin: f64,
    /// Precision of the computation
    #[arg(long, value_enum, default_value_t)]
    pub(crate) dtype: DtypeArg,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
    /// Evaluate radial networks for every edge instead of reading tables of them
    #[arg(long)]
    pub(crate) exact_radial: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

const TRAIN_HELP: &str = "\
The configuration is TOML; `tesseral train --init` prints one with every key, its default and unit. Keys can be given on the command line as well: \
`tesseral train train.toml training.seed=7`. The data are checked first, as by `tesseral doctor`. Ctrl-C finishes the step, or leaves a validation, \
saves the state and ends; --resume goes on from there, bit for bit.";

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// The configuration
    #[arg(value_name = "CONFIG.toml", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// Settings over those of the configuration
    #[arg(value_name = "SECTION.KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Go on with the training in the configuration's folder
    #[arg(long)]
    pub(crate) resume: bool,
    /// Write a configuration with every key to CONFIG.toml, or print it
    #[arg(long, conflicts_with_all = ["resume", "set"])]
    pub(crate) init: bool,
}

const FINETUNE_HELP: &str = "\
Without a configuration, the preset `finetune` is used. The energies of single atoms are shifted to those of the data first.";

#[derive(Debug, Args)]
pub(crate) struct FinetuneArgs {
    /// The model to start from: a name from `tesseral models`, an artifact, or a checkpoint
    #[arg(value_name = "MODEL")]
    pub(crate) model: String,
    /// Files of reference calculations
    #[arg(value_name = "DATA", value_hint = ValueHint::FilePath)]
    pub(crate) data: Vec<PathBuf>,
    /// The configuration [default: the preset `finetune`]
    #[arg(short, long, value_name = "CONFIG.toml", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// A setting over those of the configuration
    #[arg(short, long, value_name = "SECTION.KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Folder of the run
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) output: Option<PathBuf>,
    /// Go on with the training in that folder
    #[arg(long)]
    pub(crate) resume: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Files of reference calculations
    #[arg(value_name = "DATA", value_hint = ValueHint::FilePath)]
    pub(crate) files: Vec<PathBuf>,
    /// A model whose elements the data should have
    #[arg(short, long, value_name = "NAME|PATH")]
    pub(crate) model: Option<String>,
    /// A configuration of a training, for its files, keys and splits
    #[arg(short, long, value_name = "CONFIG.toml", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    /// A setting over those of the configuration, such as data.keys.energy=my_energy
    #[arg(short, long, value_name = "SECTION.KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// A name from `tesseral models`, an artifact, or a checkpoint [default: built-in SevenNet-0]
    #[arg(value_name = "MODEL", value_hint = ValueHint::FilePath)]
    pub(crate) model: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// A MACE `.model`, a SevenNet `.pth` or a NequIP package
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// The artifact to write
    #[arg(short, long, value_name = "NAME.safetensors", value_hint = ValueHint::FilePath)]
    pub(crate) output: PathBuf,
    /// What to call the model [default: the name of the output file]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Licence of the weights, to be kept in the artifact
    #[arg(long)]
    pub(crate) licence: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ModelsArgs {
    /// Print one JSON object per model
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct FetchArgs {
    /// Names from `tesseral models`
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Download again what is installed already
    #[arg(long)]
    pub(crate) force: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes() {
        assert_eq!(["8GB", "1.5 MiB", "12", "3k"].map(|t| size(t).unwrap_or(0)), [8_000_000_000, 1_572_864, 12, 3000]);
        assert!(["", "GB", "8 parsecs", "-1", "0", "nan"].iter().all(|t| size(t).is_err()));
    }
}
