//! Arguments of `tesseral md`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};
use tesseral_simulate::guards::Wish;

use super::FieldArgs;

pub(crate) const MD_HELP: &str = "\
Files: trajectory.* (extended XYZ with momenta, forces, energy and stress, exact; or AMBER NetCDF for MDAnalysis, mdtraj, OVITO and VMD), thermo.jsonl (one \
object a line), events.jsonl (what guards did), final.extxyz, rdf.csv, msd.csv, vacf.csv, vdos.csv, report.html, restart.json.

Ctrl-C ends after the step; --resume goes on from the last saved state (--restart-every), to the bit: the same files come out as of a run that was not interrupted, also \
after a kill -9. --resume takes all settings of the run from the folder; --steps or --time make it longer, --guard changes guards.

Guards (--guard NAME=ACTION[:LIMIT], ACTION warn, stop, rollback or off): contact (part of the sum of covalent radii, or Å as in 0.8A), force (eV/Å), drift (of the conserved \
energy, eV/atom/ps), temperature (times the highest that is aimed at), spread (of a committee, eV/Å), failure. Usual are contact=stop:0.5, force=stop:100, \
temperature=stop:10, failure=stop, and for NVE drift=warn:0.001. A rollback goes back to the last saved state and on with half the time step, for --calm-steps.

Example: tesseral md si.vasp -o si-300K --ensemble bussi -T 300 --time 10";

/// What is kept constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EnsembleArg {
    /// Constant energy: velocity Verlet
    #[value(alias = "verlet")]
    Nve,
    /// Constant temperature: Langevin (BAOAB)
    Langevin,
    /// Constant temperature: Nosé–Hoover chains
    #[value(aliases = ["nhc", "nose-hoover-chain", "nvt-nose-hoover"])]
    NoseHoover,
    /// Constant temperature: stochastic velocity rescaling of Bussi, Donadio and Parrinello
    #[value(aliases = ["csvr", "v-rescale", "nvt"])]
    Bussi,
    /// Constant temperature and pressure: stochastic cell rescaling of Bernetti and Bussi
    #[value(aliases = ["c-rescale", "npt"])]
    NptScr,
    /// Constant temperature and pressure: Martyna–Tobias–Klein
    #[value(aliases = ["mtk", "npt-nose-hoover"])]
    NptMtk,
}

/// How frames are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TrajectoryArg {
    /// Extended XYZ
    Extxyz,
    /// Extended XYZ, compressed with gzip
    #[value(alias = "extxyz.gz")]
    ExtxyzGz,
    /// AMBER NetCDF, single precision
    #[value(aliases = ["nc", "amber"])]
    Netcdf,
}

/// A quantity that may change linearly over a run: "300" or "300:600".
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RampArg {
    pub(crate) from: f64,
    pub(crate) to: f64,
}

fn ramp(text: &str) -> Result<RampArg, String> {
    let number = |text: &str| {
        text.trim()
            .parse::<f64>()
            .ok()
            .filter(|x| x.is_finite())
            .ok_or_else(|| format!("`{text}` is no number: 300 or 300:600 are possible"))
    };
    let (from, to) = text.split_once(':').unwrap_or((text, text));
    Ok(RampArg { from: number(from)?, to: number(to)? })
}

fn mass(text: &str) -> Result<(String, f64), String> {
    let (symbol, mass) = text.split_once('=').ok_or("ELEMENT=MASS is needed, such as H=2.014")?;
    Ok((symbol.to_owned(), mass.parse().map_err(|_| format!("`{mass}` is no number"))?))
}

#[derive(Debug, Args)]
pub(crate) struct MdArgs {
    /// Structure to begin with; `-` is standard input
    #[arg(value_name = "STRUCTURE", value_hint = ValueHint::FilePath, required_unless_present = "resume", conflicts_with = "resume")]
    pub(crate) structure: Option<PathBuf>,
    /// Which structure of the file, from 0; negative: from the end
    #[arg(long, value_name = "N", default_value = "-1", allow_negative_numbers = true)]
    pub(crate) index: isize,
    /// Folder of the run
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath, required_unless_present = "dry_run")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) field: FieldArgs,
    /// What is kept constant
    #[arg(short, long, value_enum, default_value = "bussi", conflicts_with = "resume")]
    pub(crate) ensemble: EnsembleArg,
    /// Temperature, K, or from where to where it is changed over the run; for NVE that of the initial velocities
    #[arg(short = 'T', long, value_name = "K[:K]", value_parser = ramp, default_value = "300", conflicts_with = "resume")]
    pub(crate) temperature: RampArg,
    /// Pressure, GPa, or from where to where it is changed [default: 0]
    #[arg(short = 'P', long, value_name = "GPa[:GPa]", value_parser = ramp, allow_hyphen_values = true, conflicts_with = "resume")]
    pub(crate) pressure: Option<RampArg>,
    /// Let shape and volume change at constant pressure, rather than the volume alone
    #[arg(long, conflicts_with = "resume")]
    pub(crate) anisotropic: bool,
    /// Steps
    #[arg(short = 'n', long, value_name = "N", required_unless_present_any = ["time", "resume"], conflicts_with = "time")]
    pub(crate) steps: Option<u64>,
    /// Time to simulate, ps, instead of steps
    #[arg(long, value_name = "PS")]
    pub(crate) time: Option<f64>,
    /// Time step, fs [default: by the lightest atom, 0.5 for hydrogen to 2]
    #[arg(long, value_name = "FS", conflicts_with = "resume")]
    pub(crate) time_step: Option<f64>,
    /// Seed of initial velocities and of all random numbers; replica k has k more
    #[arg(long, value_name = "N", default_value = "0", conflicts_with = "resume")]
    pub(crate) seed: u64,
    /// Independent runs from the same structure, evaluated together
    #[arg(long, value_name = "N", default_value = "1", conflicts_with = "resume")]
    pub(crate) replicas: NonZeroUsize,
    /// Begin with the velocities of the structure (its momenta or velocities) rather than draw them
    #[arg(long, conflicts_with = "resume")]
    pub(crate) keep_velocities: bool,
    /// Atoms that do not move: indices from 0, ranges and elements, such as 0-15,20,Cu
    #[arg(long, value_name = "ATOMS", conflicts_with = "resume")]
    pub(crate) fix: Option<String>,
    /// Let the centre of mass move
    #[arg(long, conflicts_with = "resume")]
    pub(crate) free_centre_of_mass: bool,
    /// Begin without rotation (molecules)
    #[arg(long, conflicts_with = "resume")]
    pub(crate) remove_rotation: bool,
    /// Mass of an element, u, such as H=2.014
    #[arg(long, value_name = "ELEMENT=U", value_parser = mass, conflicts_with = "resume")]
    pub(crate) mass: Vec<(String, f64)>,
    /// Friction of Langevin dynamics, 1/ps
    #[arg(long, value_name = "1/PS", default_value = "10", conflicts_with = "resume")]
    pub(crate) friction: f64,
    /// Time of the thermostat, fs
    #[arg(long, value_name = "FS", default_value = "100", conflicts_with = "resume")]
    pub(crate) thermostat_time: f64,
    /// Thermostats in a Nosé–Hoover chain
    #[arg(long, value_name = "N", default_value = "3", conflicts_with = "resume")]
    pub(crate) chain: usize,
    /// Time of the barostat, fs
    #[arg(long, value_name = "FS", default_value = "1000", conflicts_with = "resume")]
    pub(crate) barostat_time: f64,
    /// Estimate of the compressibility for stochastic cell rescaling, 1/GPa (0.01 for a hard crystal, 0.5 for water): it sets how fast the cell follows
    #[arg(long, value_name = "1/GPa", default_value = "0.02", conflicts_with = "resume")]
    pub(crate) compressibility: f64,
    /// Steps between frames of the trajectory [default: a thousandth of the run, at least 10]
    #[arg(long, value_name = "N", conflicts_with = "resume")]
    pub(crate) save_every: Option<u64>,
    /// Steps between lines of the log [default: a thousandth of the run, at least 10]
    #[arg(long, value_name = "N", conflicts_with = "resume")]
    pub(crate) log_every: Option<u64>,
    /// Steps between saved states
    #[arg(long, value_name = "N", default_value = "100", conflicts_with = "resume")]
    pub(crate) restart_every: u64,
    /// Format of the trajectory
    #[arg(long, value_enum, default_value = "extxyz", conflicts_with = "resume")]
    pub(crate) trajectory: TrajectoryArg,
    /// Distances up to which radial distributions are counted, Å; half the smallest height of the cell at most
    #[arg(long, value_name = "Å", default_value = "10", conflicts_with = "resume")]
    pub(crate) rdf_max: f64,
    /// No radial distributions, displacements and spectra
    #[arg(long, conflicts_with = "resume")]
    pub(crate) no_analysis: bool,
    /// What to watch, what to do about it, and where (see below)
    #[arg(long, value_name = "NAME=ACTION[:LIMIT]")]
    pub(crate) guard: Vec<Wish>,
    /// How often a guard may go back to a saved state
    #[arg(long, value_name = "N", default_value = "5", conflicts_with = "resume")]
    pub(crate) rollbacks: u32,
    /// Good steps after which a halved time step is doubled again; 0 is never
    #[arg(long, value_name = "N", default_value = "1000", conflicts_with = "resume")]
    pub(crate) calm_steps: u64,
    /// How far beyond the cutoff neighbours are listed, Å
    #[arg(long, value_name = "Å", default_value = "0.5")]
    pub(crate) skin: f64,
    /// Go on with the run in the folder
    #[arg(long, conflicts_with_all = ["overwrite", "dry_run"])]
    pub(crate) resume: bool,
    /// Replace a run that is in the folder
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Say what the run would take: atoms, memory, time, files; write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON object a line of the log, and one for the run, instead of the table
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ramps_and_masses() {
        assert_eq!(ramp("300"), Ok(RampArg { from: 300.0, to: 300.0 }));
        assert_eq!(ramp("-1:2.5"), Ok(RampArg { from: -1.0, to: 2.5 }));
        assert!(["", "x", "1:2:3", "nan", "300K"].iter().all(|t| ramp(t).is_err()));
        assert_eq!(mass("H=2.014"), Ok(("H".to_owned(), 2.014)));
        assert!(mass("H").is_err() && mass("H=x").is_err());
    }
}
