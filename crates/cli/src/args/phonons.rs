//! Arguments of `tesseral phonons`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::FieldArgs;

pub(crate) const PHONONS_HELP: &str = "\
Displaces as few atoms of a supercell as symmetry leaves, computes forces, and from them force constants. The crystal should be relaxed with the same model \
(`tesseral relax`); forces that are left at rest are taken off. --dtype f64 keeps the noise of single precision out of force constants.

The folder gets report.html, phonons.json, bands.json, dos.csv, thermal.csv, imaginary_modes.extxyz (where there are any), and FORCE_SETS and phonopy_params.yaml, \
which phonopy reads. Forces are kept in forces.jsonl as they are computed: Ctrl-C ends after the present ones, --resume computes the rest.

Units: THz (imaginary frequencies negative), eV, Å, K; thermal properties are those of one primitive cell. Wave vectors are fractional coordinates in the reciprocal \
lattice of the primitive cell.

Example: tesseral phonons nacl.cif -o nacl-phonons --min-length 12 --dtype f64";

#[derive(Debug, Args)]
pub(crate) struct PhononsArgs {
    /// A crystal: a structure file (`-` is standard input), or phonopy_disp.yaml with its supercell
    #[arg(value_name = "STRUCTURE", value_hint = ValueHint::FilePath)]
    pub(crate) structure: PathBuf,
    /// Which structure of the file, from 0; negative: from the end
    #[arg(long, value_name = "N", default_value = "-1", allow_negative_numbers = true)]
    pub(crate) index: isize,
    /// Folder of the results
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath, required_unless_present = "dry_run")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) field: FieldArgs,
    /// The supercell: multiples of the three cell vectors, or three vectors of three whole numbers in units of them
    #[arg(long, value_name = "N", num_args = 3..=9, allow_negative_numbers = true, conflicts_with = "min_length")]
    pub(crate) supercell: Option<Vec<i64>>,
    /// The supercell: multiples of the cell that make all its heights at least this long, Å [default: 12]
    #[arg(long, value_name = "Å")]
    pub(crate) min_length: Option<f64>,
    /// A smaller supercell than --min-length asks for where it would have more atoms than this
    #[arg(long, value_name = "N")]
    pub(crate) max_atoms: Option<usize>,
    /// How far atoms are displaced, Å
    #[arg(long, value_name = "Å", default_value = "0.01")]
    pub(crate) displacement: f64,
    /// Points of the mesh for densities of states and thermal properties, along each reciprocal vector
    #[arg(long, value_name = "N", num_args = 3, default_values = ["20", "20", "20"])]
    pub(crate) mesh: Vec<usize>,
    /// Put a point of the mesh on Γ where its size is even
    #[arg(long)]
    pub(crate) gamma_centred: bool,
    /// Path of the bands: names such as "G X U|K G L", or points with coordinates such as "G 0 0 0 X 1/2 0 1/2" [default: the one that Hinuma et al. recommend]
    #[arg(long, value_name = "POINTS")]
    pub(crate) path: Option<String>,
    /// Points on a line of the path of average length
    #[arg(long, value_name = "N", default_value = "51")]
    pub(crate) path_points: usize,
    /// Bins of the density of states
    #[arg(long, value_name = "N", default_value = "400")]
    pub(crate) dos_bins: usize,
    /// Temperatures, K: FIRST:LAST:STEP, or one
    #[arg(long, value_name = "K", default_value = "0:1000:10")]
    pub(crate) temperatures: String,
    /// Take forces from phonopy's FORCE_SETS or phonopy_params.yaml instead of a model
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) forces: Option<PathBuf>,
    /// How far apart atoms may be that symmetry says coincide, Å
    #[arg(long, alias = "symprec", value_name = "Å", default_value = "0.001")]
    pub(crate) symmetry_tolerance: f64,
    /// Write FORCE_CONSTANTS too, in phonopy's compact form
    #[arg(long)]
    pub(crate) force_constants: bool,
    /// Print one JSON object per line instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// Go on with the forces in the folder
    #[arg(long, conflicts_with = "overwrite")]
    pub(crate) resume: bool,
    /// Replace what is in the folder
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Say what would be computed and how long it would take, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}
