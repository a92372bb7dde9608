//! From arguments to settings.

use anyhow::Result;
use tesseral_atoms::{Structure, units};
use tesseral_simulate::analysis::{self, RadialSettings};
use tesseral_simulate::dynamics::{self, Ensemble, Ramp, Velocities, suggested_time_step};
use tesseral_simulate::guards::Guards;
use tesseral_simulate::md;
use tesseral_simulate::trajectory::Format;

use crate::args::{EnsembleArg, MdArgs, RampArg, TrajectoryArg};
use crate::commands::running;
use crate::errors::Hinted;

/// What a run begins with.
pub(super) struct Input {
    pub(super) structure: Structure,
    pub(super) dynamics: dynamics::Settings,
    pub(super) settings: md::Settings,
}

fn usage(message: impl Into<String>) -> anyhow::Error {
    Hinted::new(message).usage().into()
}

/// The number of steps that is asked for.
pub(super) fn steps(steps: Option<u64>, time: Option<f64>, time_step: f64) -> Result<Option<u64>> {
    match (steps, time) {
        (Some(steps), _) => Ok(Some(steps)),
        (None, Some(time)) if time.is_finite() && time > 0.0 => Ok(Some((time * 1000.0 / time_step).round() as u64)),
        (None, Some(time)) => Err(usage(format!("--time {time}: a positive number of ps is needed"))),
        (None, None) => Ok(None),
    }
}

pub(super) fn read(args: &MdArgs) -> Result<Input> {
    let Some(path) = &args.structure else { return Err(usage("a structure is needed")) };
    let structure = running::structure_of(path, args.index)?;
    let barostat = matches!(args.ensemble, EnsembleArg::NptScr | EnsembleArg::NptMtk);
    if !barostat && (args.pressure.is_some() || args.anisotropic) {
        let what = if args.anisotropic { "--anisotropic" } else { "--pressure" };
        return Err(Hinted::new(format!("{what} is about constant pressure")).hint("choose --ensemble npt-scr or npt-mtk").usage().into());
    }
    let ramp = |arg: RampArg, unit: f64| Ramp { from: arg.from * unit, to: arg.to * unit };
    let mut dynamics = dynamics::Settings {
        ensemble: ensemble(args),
        temperature: ramp(args.temperature, 1.0),
        pressure: args.pressure.map_or(Ramp::constant(0.0), |pressure| ramp(pressure, units::GPA)),
        seed: args.seed,
        fixed: running::fixed_atoms(args.fix.as_deref(), &structure)?,
        fix_centre_of_mass: !args.free_centre_of_mass,
        remove_rotation: args.remove_rotation,
        masses: args.mass.iter().cloned().collect(),
        velocities: if args.keep_velocities { Velocities::Given } else { Velocities::Drawn },
        ..dynamics::Settings::default()
    };
    dynamics.time_step = match args.time_step {
        Some(time_step) => time_step,
        None => suggested_time_step(&dynamics.masses_of(&structure)?).unwrap_or(1.0),
    };
    if !(dynamics.time_step.is_finite() && dynamics.time_step > 0.0) {
        return Err(usage(format!("--time-step {}: a positive number of fs is needed", dynamics.time_step)));
    }
    let steps = steps(args.steps, args.time, dynamics.time_step)?.unwrap_or(0);
    dynamics.steps = steps;
    let mut guards = Guards::usual(args.ensemble == EnsembleArg::Nve);
    args.guard.iter().for_each(|wish| guards.set(*wish));
    let usual = md::Settings::for_run(steps, guards);
    let settings = md::Settings {
        save_every: args.save_every.unwrap_or(usual.save_every),
        log_every: args.log_every.unwrap_or(usual.log_every),
        restart_every: args.restart_every,
        format: match args.trajectory {
            TrajectoryArg::Extxyz => Format::ExtendedXyz,
            TrajectoryArg::ExtxyzGz => Format::ExtendedXyzGz,
            TrajectoryArg::Netcdf => Format::NetCdf,
        },
        analysis: if args.no_analysis { analysis::Settings::default() } else { analysed(args, &structure, steps, dynamics.time_step)? },
        most_rollbacks: args.rollbacks,
        calm_steps: args.calm_steps,
        ..usual
    };
    Ok(Input { structure, dynamics, settings })
}

fn analysed(args: &MdArgs, structure: &Structure, steps: u64, time_step: f64) -> Result<analysis::Settings> {
    if !(args.rdf_max.is_finite() && args.rdf_max > 0.0) {
        return Err(usage(format!("--rdf-max {}: a positive length in Å is needed", args.rdf_max)));
    }
    let usual = analysis::Settings::for_run(structure, steps, time_step);
    let every = usual.radial.map(|radial| radial.every);
    let radial =
        RadialSettings::for_structure(structure, args.rdf_max).zip(every).map(|(radial, every)| RadialSettings { every, ..radial });
    Ok(analysis::Settings { radial, ..usual })
}

fn ensemble(args: &MdArgs) -> Ensemble {
    let (time, barostat_time, anisotropic) = (args.thermostat_time, args.barostat_time, args.anisotropic);
    match args.ensemble {
        EnsembleArg::Nve => Ensemble::Nve,
        EnsembleArg::Langevin => Ensemble::Langevin { friction: args.friction / 1000.0 },
        EnsembleArg::NoseHoover => Ensemble::NoseHoover { time, chain: args.chain },
        EnsembleArg::Bussi => Ensemble::Bussi { time },
        EnsembleArg::NptScr => {
            Ensemble::StochasticCell { time, barostat_time, compressibility: args.compressibility / units::GPA, anisotropic }
        }
        EnsembleArg::NptMtk => Ensemble::Mtk { time, barostat_time, anisotropic },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_steps() {
        assert_eq!(steps(None, Some(1.0), 0.5).ok(), Some(Some(2000)));
        assert_eq!(steps(Some(3), None, 0.5).ok(), Some(Some(3)));
        assert!(steps(None, Some(-1.0), 0.5).is_err());
    }
}
