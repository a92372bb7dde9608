//! Molecular dynamics: the equations of motion and how they are integrated.
//!
//! [`Dynamics`] moves atoms; it writes no files and knows no clock. A step is split where forces are needed: [`Dynamics::advance`] does all up to the positions, and the cell, at
//! which they are needed next, [`Dynamics::complete`] the rest, so that a driver can evaluate many replicas at once. [`Dynamics::step`] does both with one force field.
//!
//! # Splittings
//! With B: v ← v + F/m dt/2, A: r ← r + v dt (half of it where written ½A), one step is
//!
//! | ensemble | before the forces | after |
//! |---|---|---|
//! | constant energy | B A | B |
//! | Langevin | B ½A O ½A | B |
//! | Nosé–Hoover | chain, B A | B, chain |
//! | Bussi | B A | B, rescaling of velocities |
//! | stochastic cell | B, strain of the cell, A | B, rescaling of velocities |
//! | Martyna–Tobias–Klein | chains, cell, B A (with strain) | B, cell, chains |
//!
//! where O is friction and noise over a whole step and chains and cell act for half a step. Velocity Verlet (Swope, Andersen, Berens and Wilson, J. Chem. Phys. 76, 637 (1982)) is
//! the core of all. The strain of stochastic cell rescaling sees the internal pressure of the velocities half a step late, which is the pair of kinetic and virial part for which
//! the virial theorem holds exactly in discrete time.
//!
//! # Centre of mass
//! Where it is held, the mean acceleration is taken out of B and the mean noise out of O: the dynamics are those of 3N − 3 coordinates, also where forces do not quite sum to
//! zero (single precision) or are external.

mod barostat;
mod chain;
mod random;
mod saved;
mod settings;
mod state;
mod velocities;

#[cfg(test)]
mod tests;

use tesseral_atoms::units::{BOLTZMANN, FEMTOSECOND, GPA};
use tesseral_atoms::{Evaluation, ForceField, Structure};

use crate::error::SimulateError;
use crate::matrix::{Matrix, contraction, exponential, plus, row_times, scaled, trace};
use barostat::{Extended, Rescaling};
use chain::Chain;
use random::Random;
pub use saved::Saved;
pub use settings::{Ensemble, Ramp, Settings, Velocities, suggested_time_step};
pub use state::{State, Thermo};
use velocities::Freedom;

/// A run of molecular dynamics.
#[derive(Debug, Clone)]
pub struct Dynamics {
    settings: Settings,
    state: State,
    freedom: Freedom,
    random: Random,
    /// The thermostats of Nosé and Hoover on the atoms.
    chain: Option<Chain>,
    /// The moving cell of Martyna, Tobias and Klein.
    extended: Option<Extended>,
    /// Energy that thermostats, barostats and ramps gave, eV, as far as no variable of theirs holds it.
    work: f64,
    /// The step and the time (fs) at which the present time step came into force.
    since: (u64, f64),
    /// The time step of the beginning, fs.
    first_time_step: f64,
    /// The strain of this step, until the stress after it is known.
    pending: Option<Matrix>,
    /// Between [`Self::advance`] and [`Self::complete`].
    halfway: bool,
    /// Room for [`Self::step`].
    scratch: Evaluation,
}

/// Motion that came with a structure is old once atoms move.
fn remove_motion(structure: &mut Structure) {
    structure.arrays.shift_remove("momenta");
    structure.arrays.shift_remove("velocities");
}

impl Dynamics {
    /// Checks everything, evaluates the structure once and takes or draws velocities.
    ///
    /// # Errors
    /// If settings and structure make no sense together (nothing has been evaluated then), if the force field fails, or gives no stress to a barostat.
    pub fn new(structure: Structure, settings: Settings, field: &mut dyn ForceField) -> Result<Self, SimulateError> {
        settings.check(&structure)?;
        let evaluation = field.evaluate(&structure).map_err(SimulateError::force("step 0"))?;
        Self::with_evaluation(structure, settings, evaluation)
    }

    /// As [`Self::new`], with the energy, forces and stress of the structure known.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_evaluation(mut structure: Structure, settings: Settings, evaluation: Evaluation) -> Result<Self, SimulateError> {
        settings.check(&structure)?;
        check_evaluation(&evaluation, &structure, &settings)?;
        let masses = settings.masses_of(&structure)?;
        let freedom = Freedom::new(&settings, &structure, &masses)?;
        let mut random = Random::new(settings.seed);
        let velocities = match settings.velocities {
            Velocities::Drawn => velocities::drawn(&settings, &structure, &masses, &freedom, &mut random),
            Velocities::Given => {
                let mut given = velocities::given(&structure, &masses)?;
                velocities::clean(&settings, &structure, &masses, &freedom, &mut given);
                given
            }
        };
        remove_motion(&mut structure);
        let kt = BOLTZMANN * settings.temperature.from;
        let (mut chain, mut extended) = (None, None);
        match settings.ensemble {
            Ensemble::NoseHoover { time, chain: length } => chain = Some(Chain::new(length, freedom.degrees, kt, time * FEMTOSECOND)),
            Ensemble::Mtk { time, barostat_time, anisotropic } => {
                chain = Some(Chain::new(3, freedom.degrees, kt, time * FEMTOSECOND));
                extended = Some(Extended::new(freedom.degrees, kt, barostat_time * FEMTOSECOND, anisotropic));
            }
            Ensemble::Nve | Ensemble::Langevin { .. } | Ensemble::Bussi { .. } | Ensemble::StochasticCell { .. } => {}
        }
        let state = State { step: 0, time: 0.0, structure, velocities, masses, evaluation };
        let (pending, scratch) = (None, Evaluation::default());
        let (first_time_step, since) = (settings.time_step, (0, 0.0));
        Ok(Self { settings, state, freedom, random, chain, extended, work: 0.0, since, first_time_step, pending, halfway: false, scratch })
    }

    /// Atoms, velocities, forces.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The settings; the time step is the one in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The number of degrees of freedom N_f that carry kinetic energy: three for each atom that is not fixed, less three where the centre of mass is held, less those of a
    /// rotation that is removed (and that nothing brings back).
    pub fn degrees_of_freedom(&self) -> f64 {
        self.freedom.degrees
    }

    /// The part of the run's time that has passed at a step from the present one on. The run takes its number of steps of the time step it began with: where it was halved since,
    /// twice as many.
    fn part(&self, step: u64) -> f64 {
        let time = self.since.1 + (step - self.since.0) as f64 * self.settings.time_step;
        time / (self.settings.steps as f64 * self.first_time_step)
    }

    /// Temperature of the bath at the present step, K.
    pub fn target_temperature(&self) -> f64 {
        self.settings.temperature.at(self.part(self.state.step))
    }

    /// Pressure of the barostat at the present step, eV/Å³.
    pub fn target_pressure(&self) -> f64 {
        self.settings.pressure.at(self.part(self.state.step))
    }

    /// Another time step from here on, fs.
    ///
    /// # Errors
    /// If it is not positive.
    pub fn set_time_step(&mut self, fs: f64) -> Result<(), SimulateError> {
        if !(fs.is_finite() && fs > 0.0) {
            return Err(SimulateError::input(format!("the time step is {fs}, but must be positive"), "give it in fs"));
        }
        self.since = (self.state.step, self.state.time);
        self.settings.time_step = fs;
        Ok(())
    }

    /// The first part of a step: afterwards forces are needed at the positions of [`Self::state`].
    ///
    /// # Errors
    /// If a barostat is out of control, or a step is half done already.
    pub fn advance(&mut self) -> Result<(), SimulateError> {
        if self.halfway {
            return Err(SimulateError::input("a step is half done", "complete it with an evaluation first"));
        }
        let dt = self.settings.time_step * FEMTOSECOND;
        let next = self.state.step + 1;
        let kt = BOLTZMANN * self.settings.temperature.at(self.part(next));
        let pressure = self.settings.pressure.at(self.part(next));
        if self.settings.ensemble.has_barostat() {
            // The target moves: the energy of volume at constant pressure changes.
            self.work += self.state.structure.cell.volume() * (pressure - self.target_pressure());
        }
        match self.settings.ensemble {
            Ensemble::Nve | Ensemble::Bussi { .. } => {
                self.kick(0.5 * dt);
                self.drift(dt);
            }
            Ensemble::Langevin { friction } => {
                self.kick(0.5 * dt);
                self.drift(0.5 * dt);
                self.friction_and_noise(friction * self.settings.time_step, kt);
                self.drift(0.5 * dt);
            }
            Ensemble::NoseHoover { .. } => {
                self.thermostat(kt, 0.5 * dt);
                self.kick(0.5 * dt);
                self.drift(dt);
            }
            Ensemble::StochasticCell { barostat_time, compressibility, anisotropic, .. } => {
                self.kick(0.5 * dt);
                let rate = compressibility / barostat_time * self.settings.time_step;
                self.rescale_cell(&Rescaling { kt, pressure, rate, anisotropic })?;
                self.drift(dt);
            }
            Ensemble::Mtk { .. } => {
                self.thermostat(kt, 0.5 * dt);
                self.drive_cell(pressure, 0.5 * dt);
                self.strained_kick(0.5 * dt)?;
                self.strained_drift(dt)?;
            }
        }
        self.halfway = true;
        Ok(())
    }

    /// The second part of a step, with energy, forces and stress at the positions that [`Self::advance`] left. The evaluation is swapped with the former one, so that no memory
    /// is asked for.
    ///
    /// # Errors
    /// If the evaluation is not of this structure, or no step is half done.
    pub fn complete(&mut self, evaluation: &mut Evaluation) -> Result<(), SimulateError> {
        if !self.halfway {
            return Err(SimulateError::input("no step is half done", "advance first"));
        }
        check_evaluation(evaluation, &self.state.structure, &self.settings)?;
        std::mem::swap(&mut self.state.evaluation, evaluation);
        let dt = self.settings.time_step * FEMTOSECOND;
        let next = self.state.step + 1;
        let kt = BOLTZMANN * self.settings.temperature.at(self.part(next));
        let pressure = self.settings.pressure.at(self.part(next));
        match self.settings.ensemble {
            Ensemble::Nve | Ensemble::Langevin { .. } => self.kick(0.5 * dt),
            Ensemble::Bussi { time } => {
                self.kick(0.5 * dt);
                self.rescale_velocities(self.settings.time_step / time, kt);
            }
            Ensemble::NoseHoover { .. } => {
                self.kick(0.5 * dt);
                self.thermostat(kt, 0.5 * dt);
            }
            Ensemble::StochasticCell { time, .. } => {
                self.finish_rescaling();
                self.kick(0.5 * dt);
                self.rescale_velocities(self.settings.time_step / time, kt);
            }
            Ensemble::Mtk { .. } => {
                self.strained_kick(0.5 * dt)?;
                self.drive_cell(pressure, 0.5 * dt);
                self.thermostat(kt, 0.5 * dt);
            }
        }
        self.halfway = false;
        self.state.step = next;
        self.state.time = self.since.1 + (next - self.since.0) as f64 * self.settings.time_step;
        Ok(())
    }

    /// One step.
    ///
    /// # Errors
    /// As [`Self::advance`]; if the force field fails.
    pub fn step(&mut self, field: &mut dyn ForceField) -> Result<(), SimulateError> {
        self.advance()?;
        let mut evaluation = std::mem::take(&mut self.scratch);
        let during = |source| SimulateError::force(format!("step {}", self.state.step + 1))(source);
        field.evaluate_into(&self.state.structure, &mut evaluation).map_err(during)?;
        let done = self.complete(&mut evaluation);
        self.scratch = evaluation;
        done
    }

    /// The energy that the equations of motion conserve, eV; its drift tells how well they are integrated. Up to a constant:
    ///
    /// - constant energy: K + U;
    /// - Nosé–Hoover chains: with Σ ½ Q v_ξ² + ∫ k_B T (N_f dξ₁ + dξ₂ + …);
    /// - Martyna–Tobias–Klein: further with ½ W tr v_g² + P V and the chain on the cell;
    /// - Langevin and Bussi: K + U less the energy that noise, friction and rescaling gave (the effective energy of Bussi, Donadio and Parrinello, 2007);
    /// - stochastic cell rescaling: K + U + P V less what rescaling gave, the work of the stress on the cell being taken by the trapezoidal rule.
    ///
    /// What ramps of pressure give is taken out, and so is what ramps of temperature do to the bath.
    pub fn conserved(&self) -> f64 {
        let State { structure, evaluation, .. } = &self.state;
        let cell = if self.settings.ensemble.has_barostat() { self.target_pressure() * structure.cell.volume() } else { 0.0 };
        let bath =
            self.chain.as_ref().map_or(0.0, Chain::energy) + self.extended.as_ref().map_or(0.0, |e| e.kinetic_energy() + e.chain.energy());
        evaluation.energy + self.state.kinetic_energy() + cell + bath - self.work
    }

    /// Thermodynamics of the present step.
    pub fn thermo(&self) -> Thermo {
        let state = &self.state;
        let kinetic = state.kinetic_energy();
        let stress = state.stress();
        let ensemble = &self.settings.ensemble;
        Thermo {
            step: state.step,
            time: state.time,
            temperature: state.temperature(self.freedom.degrees),
            target_temperature: ensemble.has_thermostat().then(|| self.target_temperature()),
            potential: state.evaluation.energy,
            kinetic,
            total: kinetic + state.evaluation.energy,
            conserved: self.conserved(),
            pressure: stress.map(|s| -trace(&s) / 3.0 / GPA),
            target_pressure: ensemble.has_barostat().then(|| self.target_pressure() / GPA),
            stress: stress.map(|s| [s[0][0], s[1][1], s[2][2], s[1][2], s[2][0], s[0][1]].map(|x| x / GPA)),
            volume: (state.structure.pbc == [true; 3]).then(|| state.structure.cell.volume()),
            cell: state.structure.cell.vectors,
            density: state.density(),
        }
    }

    /// The acceleration of the centre of mass that is taken out, Å/(Å√(u/eV))².
    fn shared_acceleration(&self) -> [f64; 3] {
        if !self.freedom.hold_centre {
            return [0.0; 3];
        }
        let mut sum = [0.0; 3];
        for f in &self.state.evaluation.forces {
            for k in 0..3 {
                sum[k] += f[k];
            }
        }
        sum.map(|f| f / self.freedom.total_mass)
    }

    /// v ← v + F/m dt.
    fn kick(&mut self, dt: f64) {
        let shared = self.shared_acceleration();
        let State { velocities, evaluation, .. } = &mut self.state;
        for ((v, f), w) in velocities.iter_mut().zip(&evaluation.forces).zip(&self.freedom.inverse_masses) {
            for k in 0..3 {
                v[k] += dt * (f[k] * w - shared[k]);
            }
        }
    }

    /// r ← r + v dt.
    fn drift(&mut self, dt: f64) {
        for (r, v) in self.state.structure.positions.iter_mut().zip(&self.state.velocities) {
            for k in 0..3 {
                r[k] += dt * v[k];
            }
        }
    }

    /// v ← c v + √((1 − c²) k_B T / m) ξ with c = exp(−γ dt): the exact solution of friction and noise. The work is the change of kinetic energy.
    fn friction_and_noise(&mut self, exponent: f64, kt: f64) {
        let keep = (-exponent).exp();
        let noise = (kt * -(-2.0 * exponent).exp_m1()).sqrt();
        let (mut before, mut after, mut momentum) = (0.0, 0.0, [0.0; 3]);
        for ((v, m), w) in self.state.velocities.iter_mut().zip(&self.state.masses).zip(&self.freedom.inverse_masses) {
            if *w == 0.0 {
                continue;
            }
            let (random, width) = (self.random.normals(), noise * w.sqrt());
            for k in 0..3 {
                before += m * v[k] * v[k];
                v[k] = keep * v[k] + width * random[k];
                after += m * v[k] * v[k];
                momentum[k] += m * v[k];
            }
        }
        if self.freedom.hold_centre {
            let mean = momentum.map(|p| p / self.freedom.total_mass);
            self.state.velocities.iter_mut().for_each(|v| (0..3).for_each(|k| v[k] -= mean[k]));
            after -= (0..3).map(|k| momentum[k] * mean[k]).sum::<f64>();
        }
        self.work += 0.5 * (after - before);
    }

    /// Stochastic velocity rescaling over `exponent` = dt/τ (Bussi, Donadio and Parrinello 2007, eq. A7; sign of the factor: Bussi and Parrinello, Comput. Phys. Commun. 179, 26
    /// (2008)).
    fn rescale_velocities(&mut self, exponent: f64, kt: f64) {
        let kinetic = self.state.kinetic_energy();
        if kinetic <= 0.0 {
            return;
        }
        let degrees = self.freedom.degrees;
        let keep = (-exponent).exp();
        // (1 − c) K̄/(N_f K) with the mean K̄ = N_f k_B T/2.
        let share = -(-exponent).exp_m1() * 0.5 * kt / kinetic;
        let first = self.random.normal();
        let rest = self.random.sum_of_squares(degrees - 1.0);
        let squared = keep + share * (first * first + rest) + 2.0 * first * (keep * share).sqrt();
        let sign = if first + (keep / share).sqrt() < 0.0 { -1.0 } else { 1.0 };
        let factor = sign * squared.max(0.0).sqrt();
        self.scale_velocities(factor);
        self.work += kinetic * (squared.max(0.0) - 1.0);
    }

    /// v ← factor · v. What rounding left of a momentum that is held at zero is taken out: thermostats would let it grow at the expense of all other motion (Harvey, Tan and
    /// Cheatham, J. Comput. Chem. 19, 726 (1998)).
    fn scale_velocities(&mut self, factor: f64) {
        let mut momentum = [0.0; 3];
        if self.freedom.hold_centre {
            for (v, m) in self.state.velocities.iter().zip(&self.state.masses) {
                for k in 0..3 {
                    momentum[k] += m * v[k];
                }
            }
        }
        let mean = momentum.map(|p| p / self.freedom.total_mass);
        self.state.velocities.iter_mut().for_each(|v| (0..3).for_each(|k| v[k] = factor * (v[k] - mean[k])));
    }

    /// The chains of thermostats on atoms and cell.
    fn thermostat(&mut self, kt: f64, dt: f64) {
        if let Some(chain) = &mut self.chain {
            let factor = chain.propagate(self.state.kinetic_energy(), kt, dt);
            self.scale_velocities(factor);
        }
        if let Some(extended) = &mut self.extended {
            let factor = extended.chain.propagate(extended.kinetic_energy(), kt, dt);
            extended.rate = scaled(&extended.rate, factor);
        }
    }

    /// The force on the cell of the extended system.
    fn drive_cell(&mut self, pressure: f64, dt: f64) {
        if let (Some(extended), Some(stress)) = (&mut self.extended, self.state.potential_stress()) {
            let volume = self.state.structure.cell.volume();
            extended.kick(&self.state.kinetic_tensor(), &stress, volume, pressure, self.freedom.degrees, dt);
        }
    }

    /// dv/dt = F/m − (v_g + tr v_g / N_f) v, solved exactly for constant forces: v ← v e⁻ᴹ + dt F/m φ₁(−M), M = (v_g + tr v_g / N_f) dt.
    fn strained_kick(&mut self, dt: f64) -> Result<(), SimulateError> {
        let Some(extended) = &self.extended else { return Ok(()) };
        let friction = scaled(&extended.friction(self.freedom.degrees), -dt);
        barostat::check_strain(&friction, self.state.step + 1)?;
        let (decay, phi) = exponential(&friction);
        let shared = self.shared_acceleration();
        let push = scaled(&phi, dt);
        let State { velocities, evaluation, .. } = &mut self.state;
        for ((v, f), w) in velocities.iter_mut().zip(&evaluation.forces).zip(&self.freedom.inverse_masses) {
            let acceleration = [0, 1, 2].map(|k| f[k] * w - shared[k]);
            let (kept, gained) = (row_times(*v, &decay), row_times(acceleration, &push));
            *v = [0, 1, 2].map(|k| kept[k] + gained[k]);
        }
        Ok(())
    }

    /// dr/dt = v + v_g r and dh/dt = h v_g, solved exactly for constant velocities.
    fn strained_drift(&mut self, dt: f64) -> Result<(), SimulateError> {
        let Some(extended) = &self.extended else { return Ok(()) };
        let strain = scaled(&extended.rate, dt);
        barostat::check_strain(&strain, self.state.step + 1)?;
        let (grow, phi) = exponential(&strain);
        let travel = scaled(&phi, dt);
        let State { structure, velocities, .. } = &mut self.state;
        barostat::strain_positions(&mut structure.positions, &mut structure.cell, &grow);
        for (r, v) in structure.positions.iter_mut().zip(velocities) {
            let moved = row_times(*v, &travel);
            (0..3).for_each(|k| r[k] += moved[k]);
        }
        Ok(())
    }

    /// The strain of stochastic cell rescaling: positions and cell by e^ε, velocities by e^−ε, which keeps the volume of phase space.
    fn rescale_cell(&mut self, rescaling: &Rescaling) -> Result<(), SimulateError> {
        let Some(stress) = self.state.potential_stress() else { return Ok(()) };
        let volume = self.state.structure.cell.volume();
        let kinetic = self.state.kinetic_tensor();
        let internal = plus(&scaled(&kinetic, 1.0 / volume), -1.0, &stress);
        let strain = rescaling.strain(&internal, volume, &mut self.random);
        barostat::check_strain(&strain, self.state.step + 1)?;
        let (grow, _) = exponential(&strain);
        let (shrink, _) = exponential(&scaled(&strain, -1.0));
        let State { structure, velocities, .. } = &mut self.state;
        barostat::strain_positions(&mut structure.positions, &mut structure.cell, &grow);
        velocities.iter_mut().for_each(|v| *v = row_times(*v, &shrink));
        let gained = 0.5 * trace(&self.state.kinetic_tensor()) - 0.5 * trace(&kinetic);
        self.work +=
            gained + rescaling.pressure * (self.state.structure.cell.volume() - volume) + 0.5 * volume * contraction(&stress, &strain);
        self.pending = Some(strain);
        Ok(())
    }

    /// The other half of the work of the stress on the cell, with the stress after the step.
    fn finish_rescaling(&mut self) {
        if let (Some(strain), Some(stress)) = (self.pending.take(), self.state.potential_stress()) {
            self.work += 0.5 * self.state.structure.cell.volume() * contraction(&stress, &strain);
        }
    }
}

/// An evaluation has a force for each atom, and a stress where one is needed.
fn check_evaluation(evaluation: &Evaluation, structure: &Structure, settings: &Settings) -> Result<(), SimulateError> {
    if evaluation.forces.len() != structure.len() {
        let what = format!("there are {} forces for {} atoms", evaluation.forces.len(), structure.len());
        return Err(SimulateError::input(what, "evaluate the structure of this run"));
    }
    if settings.ensemble.has_barostat() && evaluation.stress.is_none() {
        return Err(SimulateError::input(
            "the force field gives no stress, which a barostat needs",
            "choose an ensemble of constant volume, or another model",
        ));
    }
    Ok(())
}
