//! What a run is asked to do, and whether a structure can do it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tesseral_atoms::{Structure, elements};

use crate::error::SimulateError;

/// Settings of a run of molecular dynamics.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(default)]
pub struct Settings {
    /// Time step, fs.
    pub time_step: f64,
    /// What is kept constant, and how.
    pub ensemble: Ensemble,
    /// Temperature of the bath, K; at its start, that of the velocities drawn. Without a thermostat it is only that.
    pub temperature: Ramp,
    /// Pressure of the barostat, eV/Å³ (`units::GPA` is one GPa). Of no meaning without one.
    pub pressure: Ramp,
    /// Seed of velocities and of everything stochastic.
    pub seed: u64,
    /// Atoms that never move.
    pub fixed: Vec<usize>,
    /// The centre of mass starts and stays at rest: its three degrees of freedom are taken out of the dynamics. Without effect where atoms are fixed.
    pub fix_centre_of_mass: bool,
    /// The structure starts without rotation about its centre of mass: for molecules in empty space only.
    pub remove_rotation: bool,
    /// Number of steps of the whole run, over which temperature and pressure go from their start to their end; they stay there afterwards.
    pub steps: u64,
    /// Masses of elements that differ from the table's, u, by symbol: an isotope, or heavier hydrogen for longer time steps (which changes dynamics, not averages over
    /// configurations).
    pub masses: BTreeMap<String, f64>,
    /// Where the first velocities come from.
    pub velocities: Velocities,
}

impl Default for Settings {
    /// Constant energy, 300 K, 1 fs, no steps.
    fn default() -> Self {
        Self {
            time_step: 1.0,
            ensemble: Ensemble::Nve,
            temperature: Ramp::constant(300.0),
            pressure: Ramp::constant(0.0),
            seed: 0,
            fixed: Vec::new(),
            fix_centre_of_mass: true,
            remove_rotation: false,
            steps: 0,
            masses: BTreeMap::new(),
            velocities: Velocities::Drawn,
        }
    }
}

/// A quantity that changes linearly over a run.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
pub struct Ramp {
    /// At step 0.
    pub from: f64,
    /// At the last step and later.
    pub to: f64,
}

impl Ramp {
    /// Always the same.
    pub const fn constant(value: f64) -> Self {
        Self { from: value, to: value }
    }

    /// The value when a part of the time of the run has passed, 0 at its beginning and 1 at its end.
    pub fn at(&self, part: f64) -> f64 {
        if self.from == self.to {
            self.from
        } else if part < 1.0 {
            self.from + (self.to - self.from) * part
        } else {
            self.to
        }
    }
}

/// Where the velocities at the start come from.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Velocities {
    /// Drawn from the Maxwell–Boltzmann distribution by seed, and scaled to the exact temperature.
    Drawn,
    /// Those of the structure: its column `momenta` (u·√(eV/u), ASE's) or `velocities` (√(eV/u)). Momentum and rotation are removed as for drawn ones, the rest is kept.
    Given,
}

/// What is kept constant. Times are in fs.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Debug)]
pub enum Ensemble {
    /// Constant energy: velocity Verlet.
    Nve,
    /// Constant temperature by friction and noise on each atom: the splitting BAOAB of Leimkuhler and Matthews (Appl. Math. Res. Express 2013, 34).
    Langevin {
        /// Friction, 1/fs.
        friction: f64,
    },
    /// Constant temperature by a chain of Nosé–Hoover thermostats (Martyna, Klein and Tuckerman, J. Chem. Phys. 97, 2635 (1992)); deterministic.
    NoseHoover {
        /// The time scale τ of the masses of the chain, Q = N_f k_B T τ².
        time: f64,
        /// Number of thermostats in the chain: 1 is the plain Nosé–Hoover thermostat, 3 a good number.
        chain: usize,
    },
    /// Constant temperature by stochastic velocity rescaling (Bussi, Donadio and Parrinello, J. Chem. Phys. 126, 014101 (2007)).
    Bussi {
        /// Relaxation time of the kinetic energy.
        time: f64,
    },
    /// Constant temperature and pressure by stochastic cell rescaling (isotropic: Bernetti and Bussi, J. Chem. Phys. 153, 114107 (2020); anisotropic: Del Tatto, Raiteri,
    /// Bernetti and Bussi, Appl. Sci. 12, 1139 (2022)) with stochastic velocity rescaling.
    StochasticCell {
        /// Relaxation time of the kinetic energy.
        time: f64,
        /// Relaxation time of the pressure.
        barostat_time: f64,
        /// Estimate of the isothermal compressibility, Å³/eV (1/GPa divided by `units::GPA`). It sets the time scale with `barostat_time` (only their ratio matters), not averages.
        compressibility: f64,
        /// All of the cell may change, rather than its volume alone.
        anisotropic: bool,
    },
    /// Constant temperature and pressure by an extended system (Martyna, Tuckerman, Tobias and Klein, Mol. Phys. 87, 1117 (1996)), with Nosé–Hoover chains of three on the
    /// atoms and on the cell; deterministic.
    Mtk {
        /// The time scale of the chain on the atoms.
        time: f64,
        /// The time scale of the cell and of the chain on it.
        barostat_time: f64,
        /// All of the cell may change, rather than its volume alone.
        anisotropic: bool,
    },
}

impl Ensemble {
    /// True if something holds the temperature.
    pub fn has_thermostat(&self) -> bool {
        !matches!(self, Self::Nve)
    }

    /// True if something holds the pressure: the cell changes and stresses are needed.
    pub fn has_barostat(&self) -> bool {
        matches!(self, Self::StochasticCell { .. } | Self::Mtk { .. })
    }

    /// True if random numbers are drawn at each step.
    pub fn is_stochastic(&self) -> bool {
        matches!(self, Self::Langevin { .. } | Self::Bussi { .. } | Self::StochasticCell { .. })
    }
}

/// The time step, fs, that suits the lightest of some masses (u): 0.5 fs for hydrogen, in proportion to the root of the mass (the period of a bond of given stiffness),
/// at most 2 fs. `None` if no mass is positive.
pub fn suggested_time_step(masses: &[f64]) -> Option<f64> {
    let lightest = masses.iter().copied().filter(|&m| m > 0.0).min_by(f64::total_cmp)?;
    Some((0.5 * (lightest / 1.008).sqrt()).min(2.0))
}

fn positive(name: &str, value: f64, hint: &str) -> Result<(), SimulateError> {
    if value.is_finite() && value > 0.0 {
        Ok(())
    } else {
        Err(SimulateError::input(format!("{name} is {value}, but must be positive"), hint))
    }
}

impl Settings {
    /// Masses of the atoms of a structure, u.
    ///
    /// # Errors
    /// If a mass is unknown or not positive, or is given for something that is no element.
    pub fn masses_of(&self, structure: &Structure) -> Result<Vec<f64>, SimulateError> {
        let mut table: Vec<Option<f64>> = (0..=u8::MAX).map(|z| elements::mass(z).filter(|&m| m > 0.0)).collect();
        for (symbol, &mass) in &self.masses {
            let Some(number) = elements::atomic_number(symbol) else {
                return Err(SimulateError::input(
                    format!("{symbol:?} is given a mass, but is no element"),
                    "masses go by chemical symbols, as in H or Si",
                ));
            };
            positive(&format!("the mass of {symbol}"), mass, "give it in u (hydrogen has 1.008)")?;
            table[usize::from(number)] = Some(mass);
        }
        let mass = |(atom, &number): (usize, &u8)| {
            table[usize::from(number)].ok_or_else(|| {
                let symbol = elements::symbol(number).unwrap_or("?");
                SimulateError::input(
                    format!("atom {atom} ({symbol}) has no mass"),
                    format!("name its element in the structure, or give a mass for {symbol}"),
                )
            })
        };
        structure.numbers.iter().enumerate().map(mass).collect()
    }

    /// Finds everything that is wrong with a run before anything is evaluated or written.
    ///
    /// # Errors
    /// [`SimulateError::Input`] with a hint.
    pub fn check(&self, structure: &Structure) -> Result<(), SimulateError> {
        structure.validate()?;
        let atoms = structure.len();
        if atoms == 0 {
            return Err(SimulateError::input("there are no atoms", "give a structure with atoms"));
        }
        self.check_numbers()?;
        let masses = self.masses_of(structure)?;
        debug_assert_eq!(masses.len(), atoms);
        let mut is_fixed = vec![false; atoms];
        for &atom in &self.fixed {
            let Some(slot) = is_fixed.get_mut(atom) else {
                return Err(SimulateError::input(
                    format!("atom {atom} is to be fixed, but there are {atoms} atoms"),
                    format!("atoms are counted from 0 to {}", atoms - 1),
                ));
            };
            *slot = true;
        }
        let free = is_fixed.iter().filter(|fixed| !**fixed).count();
        if free == 0 {
            return Err(SimulateError::input("all atoms are fixed", "leave some atoms free to move"));
        }
        if free == 1 && atoms == 1 && self.fix_centre_of_mass {
            return Err(SimulateError::input("the only atom is held by the centre of mass", "let the centre of mass move"));
        }
        if self.remove_rotation && structure.is_periodic() {
            return Err(SimulateError::input("the structure is periodic and cannot rotate", "remove rotation from molecules only"));
        }
        if self.ensemble.has_barostat() {
            if structure.pbc != [true; 3] {
                return Err(SimulateError::input(
                    "constant pressure needs a structure that is periodic in all three directions",
                    "give it a cell and periodic boundaries, or choose an ensemble of constant volume",
                ));
            }
            if free < atoms {
                return Err(SimulateError::input(
                    "atoms cannot be fixed while the cell changes",
                    "release them, or choose an ensemble of constant volume",
                ));
            }
        }
        if self.velocities == Velocities::Given {
            super::velocities::given(structure, &masses)?;
        }
        Ok(())
    }

    /// What needs no structure.
    fn check_numbers(&self) -> Result<(), SimulateError> {
        positive("the time step", self.time_step, "give it in fs: 1 suits most materials, 0.5 those with hydrogen")?;
        let times: &[(&str, f64)] = match &self.ensemble {
            Ensemble::Nve => &[],
            Ensemble::Langevin { friction } => &[("the friction", *friction)],
            Ensemble::NoseHoover { time, chain } => {
                if *chain == 0 {
                    return Err(SimulateError::input("a chain of no thermostats", "give at least 1; 3 is a good number"));
                }
                &[("the time of the thermostat", *time)]
            }
            Ensemble::Bussi { time } => &[("the time of the thermostat", *time)],
            Ensemble::StochasticCell { time, barostat_time, compressibility, .. } => &[
                ("the time of the thermostat", *time),
                ("the time of the barostat", *barostat_time),
                ("the compressibility", *compressibility),
            ],
            Ensemble::Mtk { time, barostat_time, .. } => {
                &[("the time of the thermostat", *time), ("the time of the barostat", *barostat_time)]
            }
        };
        for (name, value) in times {
            positive(name, *value, "typical are a friction of 0.01/fs, thermostats of 100 fs and barostats of 1000 fs")?;
        }
        for temperature in [self.temperature.from, self.temperature.to] {
            if self.ensemble.has_thermostat() {
                positive("the temperature", temperature, "give it in K; to keep atoms where they are, relax the structure instead")?;
            } else if !(temperature.is_finite() && temperature >= 0.0) {
                return Err(SimulateError::input(format!("the temperature is {temperature}"), "give it in K, not below zero"));
            }
        }
        for pressure in [self.pressure.from, self.pressure.to] {
            if !pressure.is_finite() {
                return Err(SimulateError::input(format!("the pressure is {pressure}"), "give a finite number"));
            }
        }
        Ok(())
    }
}
