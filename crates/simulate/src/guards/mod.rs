//! Guards: what a run is watched for, so that a bad one ends rather than goes on for a week.

mod contact;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tesseral_atoms::{Spread, elements};

use crate::trajectory::Snapshot;
use contact::Contacts;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Two atoms too close to each other.
    Contact,
    /// A force too large.
    Force,
    /// The conserved quantity drifts.
    Drift,
    /// The temperature leaves all bounds.
    Temperature,
    /// The models of a committee disagree about a force.
    Spread,
    /// The force field fails, or gives what is not finite.
    Failure,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Contact, Self::Force, Self::Drift, Self::Temperature, Self::Spread, Self::Failure];

    /// "contact", ….
    pub fn name(self) -> &'static str {
        match self {
            Self::Contact => "contact",
            Self::Force => "force",
            Self::Drift => "drift",
            Self::Temperature => "temperature",
            Self::Spread => "spread",
            Self::Failure => "failure",
        }
    }

    /// The limit where none is given.
    fn usual_limit(self) -> Option<Limit> {
        Some(Limit::Value(match self {
            Self::Contact => return Some(Limit::OfRadii(0.5)),
            Self::Force => 100.0,
            Self::Drift => 0.001,
            Self::Temperature => 10.0,
            Self::Spread | Self::Failure => return None,
        }))
    }
}

/// What is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is said, and the run goes on.
    Warn,
    /// The run ends.
    Stop,
    /// The run goes back to the last saved state and on with half the time step.
    Rollback,
}

/// Where a guard acts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// A number, in the unit of what is watched: Å, eV/Å, eV/atom/ps, times the highest temperature that is aimed at (at least 300 K), eV/Å.
    Value(f64),
    /// A part of the sum of two covalent radii.
    OfRadii(f64),
}

/// One guard.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    /// What is watched.
    pub kind: Kind,
    /// What is done.
    pub action: Action,
    /// Where; `None` for a failure.
    pub limit: Option<Limit>,
}

/// A guard as people write it, `NAME=ACTION[:LIMIT]`; `NAME=off` is none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wish {
    kind: Kind,
    guard: Option<Guard>,
    /// The limit was given, and is not the usual one.
    has_limit: bool,
}

impl FromStr for Wish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Kind::ALL.map(Kind::name).join(", ");
        let (name, rest) =
            text.split_once('=').ok_or_else(|| "NAME=ACTION or NAME=ACTION:LIMIT is needed, such as force=stop:50".to_owned())?;
        let kind =
            Kind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| format!("`{name}` is no guard: {} are", names()))?;
        let (action, limit) = rest.split_once(':').map_or((rest, None), |(action, limit)| (action, Some(limit)));
        let action = match action {
            "off" if limit.is_none() => return Ok(Self { kind, guard: None, has_limit: false }),
            "warn" if kind == Kind::Failure => return Err("a failure cannot be passed over: stop or rollback".to_owned()),
            "warn" => Action::Warn,
            "stop" => Action::Stop,
            "rollback" => Action::Rollback,
            other => return Err(format!("`{other}` is no action: warn, stop, rollback and off are")),
        };
        let number = |text: &str| {
            text.parse::<f64>().ok().filter(|x| x.is_finite() && *x > 0.0).ok_or_else(|| format!("`{text}` is no positive number"))
        };
        let has_limit = limit.is_some();
        let limit = match (kind, limit) {
            (Kind::Failure, Some(_)) => return Err("a failure has no limit".to_owned()),
            (Kind::Failure, None) => None,
            (Kind::Spread, None) => return Err("a limit in eV/Å is needed: spread=stop:0.5".to_owned()),
            (_, None) => kind.usual_limit(),
            (Kind::Contact, Some(text)) => Some(match text.strip_suffix('Å').or_else(|| text.strip_suffix('A')) {
                Some(text) => Limit::Value(number(text)?),
                None => Limit::OfRadii(number(text)?),
            }),
            (_, Some(text)) => Some(Limit::Value(number(text)?)),
        };
        Ok(Self { kind, guard: Some(Guard { kind, action, limit }), has_limit })
    }
}

/// All guards of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Guards {
    list: Vec<Guard>,
}

impl Guards {
    /// What is watched where nothing is asked for: contacts, forces, temperature and failures end a run; a drift at constant energy is warned of.
    pub fn usual(constant_energy: bool) -> Self {
        let guard = |kind: Kind, action| Guard { kind, action, limit: kind.usual_limit() };
        let mut list = vec![guard(Kind::Contact, Action::Stop), guard(Kind::Force, Action::Stop)];
        if constant_energy {
            list.push(guard(Kind::Drift, Action::Warn));
        }
        list.extend([guard(Kind::Temperature, Action::Stop), guard(Kind::Failure, Action::Stop)]);
        Self { list }
    }

    /// With one guard more, or another in its place, or without. Where a guard is only to act otherwise, it keeps its limit.
    pub fn set(&mut self, wish: Wish) {
        let before = self.of(wish.kind).and_then(|guard| guard.limit).filter(|_| !wish.has_limit);
        self.list.retain(|guard| guard.kind != wish.kind);
        self.list.extend(wish.guard.map(|guard| Guard { limit: before.or(guard.limit), ..guard }));
        self.list.sort_by_key(|guard| guard.kind);
    }

    /// Every guard.
    pub fn list(&self) -> &[Guard] {
        &self.list
    }

    fn of(&self, kind: Kind) -> Option<&Guard> {
        self.list.iter().find(|guard| guard.kind == kind)
    }

    /// What is done about a failure of the force field.
    pub fn on_failure(&self) -> Action {
        self.of(Kind::Failure).map_or(Action::Stop, |guard| guard.action)
    }
}

/// A guard that acts, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Violation {
    /// What is watched.
    pub kind: Kind,
    /// What is to be done.
    pub action: Action,
    /// The step.
    pub step: u64,
    /// fs
    pub time: f64,
    /// The atom, or the two of a contact.
    pub atoms: Vec<usize>,
    /// What was found; `None` where it is no number.
    pub value: Option<f64>,
    /// Where the guard acts.
    pub limit: Option<f64>,
    /// In words, with atom and step.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Steps over which the conserved quantity is averaged before its drift is judged: it fluctuates much more than it drifts.
const DRIFT_STEPS: u64 = 100;

/// What guards remember of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    drift: Drift,
    /// Guards that have warned and not been content since.
    warned: Vec<Kind>,
}

/// Averages of the conserved quantity.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Drift {
    /// Middle (fs) and mean (eV) of the first average.
    first: Option<(f64, f64)>,
    /// Sums of times and energies (less that of the first step, to keep digits), and their number.
    sums: (f64, f64, u64),
    reference: Option<f64>,
    /// eV/fs, of the last average against the first.
    rate: Option<f64>,
}

impl Drift {
    fn add(&mut self, time: f64, conserved: f64) {
        let reference = *self.reference.get_or_insert(conserved);
        self.sums = (self.sums.0 + time, self.sums.1 + (conserved - reference), self.sums.2 + 1);
        if self.sums.2 == DRIFT_STEPS {
            let mean = (self.sums.0 / DRIFT_STEPS as f64, self.sums.1 / DRIFT_STEPS as f64);
            self.sums = (0.0, 0.0, 0);
            match self.first {
                None => self.first = Some(mean),
                Some(first) => self.rate = Some((mean.1 - first.1) / (mean.0 - first.0)),
            }
        }
    }
}

/// Watches one trajectory.
#[derive(Debug)]
pub struct Watch {
    guards: Guards,
    memory: Memory,
    /// K
    highest_target: f64,
    contacts: Option<Contacts>,
}

/// What guards look at besides the snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Energies<'a> {
    /// What the equations of motion conserve, eV.
    pub conserved: f64,
    /// Kinetic energy, eV.
    pub kinetic: f64,
    /// Of a committee.
    pub spread: Option<&'a Spread>,
}

impl Watch {
    /// Guards with what they remember. `highest_target` is the highest temperature (K) that is aimed at.
    pub fn new(guards: Guards, memory: Memory, highest_target: f64) -> Self {
        let contacts = guards.of(Kind::Contact).and_then(|guard| guard.limit).map(Contacts::new);
        Self { guards, memory, highest_target, contacts }
    }

    /// What has to be saved.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The guards.
    pub fn guards(&self) -> &Guards {
        &self.guards
    }

    /// The drift of the conserved quantity, eV/atom/ps: the mean of the last hundred steps against that of the first.
    pub fn drift(&self, atoms: usize) -> Option<f64> {
        self.memory.drift.rate.map(|rate| 1000.0 * rate / atoms as f64)
    }

    /// Looks at a step. What is wrong comes back, or `None`: of several guards one that goes back before one that stops before one that warns. A guard that warns does so once,
    /// until it has been content again.
    pub fn check(&mut self, at: &Snapshot<'_>, energies: &Energies<'_>) -> Option<Violation> {
        let mut found: Vec<Violation> = Vec::new();
        self.memory.drift.add(at.time, energies.conserved);
        if !(at.evaluation.energy.is_finite() && energies.kinetic.is_finite()) {
            let atom = at.evaluation.forces.iter().zip(at.velocities).position(|(f, v)| !f.iter().chain(v).all(|x| x.is_finite()));
            let what = atom.map_or_else(
                || "the energy is not finite".to_owned(),
                |atom| format!("force or velocity of {} is not finite", name(at, atom)),
            );
            let action = self.guards.on_failure();
            return Some(violation(Kind::Failure, action, at, atom.into_iter().collect(), None, None, &what));
        }
        for guard in &self.guards.list {
            let (kind, action) = (guard.kind, guard.action);
            let limit = match guard.limit {
                Some(Limit::Value(limit) | Limit::OfRadii(limit)) => limit,
                None => continue,
            };
            found.extend(match kind {
                Kind::Contact => self.contacts.as_mut().and_then(|contacts| contacts.closest(at.structure)).map(|close| {
                    let (i, j) = close.atoms;
                    let what =
                        format!("{} and {} are {:.3} Å apart (less than {:.3} Å)", name(at, i), name(at, j), close.distance, close.limit);
                    violation(kind, action, at, vec![i, j], Some(close.distance), Some(close.limit), &what)
                }),
                Kind::Force => {
                    let square = |f: &[f64; 3]| f.iter().map(|x| x * x).sum::<f64>();
                    let largest = at.evaluation.forces.iter().map(square).enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
                    largest.map(|(atom, f)| (atom, f.sqrt())).filter(|(_, f)| *f > limit || f.is_nan()).map(|(atom, f)| {
                        let what = format!("the force on {} is {f:.3} eV/Å (more than {limit})", name(at, atom));
                        violation(kind, action, at, vec![atom], Some(f), Some(limit), &what)
                    })
                }
                Kind::Drift => {
                    self.memory.drift.rate.map(|rate| 1000.0 * rate / at.structure.len() as f64).filter(|rate| rate.abs() > limit).map(
                        |rate| {
                            let what = format!("the conserved energy drifts by {rate:.3e} eV/atom/ps (more than {limit})");
                            violation(kind, action, at, Vec::new(), Some(rate), Some(limit), &what)
                        },
                    )
                }
                Kind::Temperature => {
                    let most = limit * self.highest_target.max(300.0);
                    (at.temperature > most).then(|| {
                        let fastest =
                            at.velocities.iter().zip(at.masses).map(|(v, m)| m * v.iter().map(|x| x * x).sum::<f64>()).enumerate();
                        let fastest = fastest.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(atom, _)| atom);
                        let who = fastest.map_or_else(String::new, |atom| format!("; {} moves most", name(at, atom)));
                        let what = format!("the temperature is {:.0} K (more than {most:.0} K){who}", at.temperature);
                        violation(kind, action, at, fastest.into_iter().collect(), Some(at.temperature), Some(most), &what)
                    })
                }
                Kind::Spread => {
                    energies.spread.and_then(Spread::largest_force).filter(|(_, spread)| *spread > limit).map(|(atom, spread)| {
                        let what =
                            format!("the models disagree by {spread:.3} eV/Å about the force on {} (more than {limit})", name(at, atom));
                        violation(kind, action, at, vec![atom], Some(spread), Some(limit), &what)
                    })
                }
                Kind::Failure => None,
            });
        }
        self.memory.warned.retain(|kind| found.iter().any(|v| v.kind == *kind));
        found.retain(|v| v.action != Action::Warn || !self.memory.warned.contains(&v.kind));
        let severity = |action: Action| match action {
            Action::Warn => 0,
            Action::Stop => 1,
            // What is asked for saves the run, if anything does.
            Action::Rollback => 2,
        };
        // The first of those that come first.
        let worst = found.into_iter().rev().max_by_key(|v| severity(v.action))?;
        if worst.action == Action::Warn {
            self.memory.warned.push(worst.kind);
        }
        Some(worst)
    }
}

/// "atom 5 (Si)".
fn name(at: &Snapshot<'_>, atom: usize) -> String {
    let symbol = at.structure.numbers.get(atom).and_then(|&z| elements::symbol(z)).unwrap_or("?");
    format!("atom {atom} ({symbol})")
}

fn violation(
    kind: Kind,
    action: Action,
    at: &Snapshot<'_>,
    atoms: Vec<usize>,
    value: Option<f64>,
    limit: Option<f64>,
    what: &str,
) -> Violation {
    let message = format!("step {} ({:.1} fs): {what}", at.step, at.time);
    Violation { kind, action, step: at.step, time: at.time, atoms, value, limit, message }
}

#[cfg(test)]
mod tests {
    use tesseral_atoms::{Cell, Evaluation, Structure};

    use super::*;

    fn at<'a>(structure: &'a Structure, evaluation: &'a Evaluation, temperature: f64) -> Snapshot<'a> {
        const STILL: [[f64; 3]; 2] = [[0.0; 3]; 2];
        Snapshot { step: 7, time: 3.5, structure, velocities: &STILL, masses: &[1.0; 2], evaluation, temperature }
    }

    fn quiet(conserved: f64) -> Energies<'static> {
        Energies { conserved, kinetic: 0.0, spread: None }
    }

    #[test]
    fn wishes() {
        let wish = |text: &str| text.parse::<Wish>();
        let guard = wish("force=rollback:50").unwrap().guard.unwrap();
        assert_eq!((guard.kind, guard.action, guard.limit), (Kind::Force, Action::Rollback, Some(Limit::Value(50.0))));
        assert_eq!(wish("contact=warn:0.8A").unwrap().guard.unwrap().limit, Some(Limit::Value(0.8)));
        assert_eq!(wish("contact=warn:0.8").unwrap().guard.unwrap().limit, Some(Limit::OfRadii(0.8)));
        assert_eq!(wish("contact=stop").unwrap().guard.unwrap().limit, Some(Limit::OfRadii(0.5)));
        assert_eq!(wish("drift=off").unwrap().guard, None);
        for (text, says) in [
            ("force", "NAME=ACTION"),
            ("charge=stop", "`charge` is no guard"),
            ("force=panic", "`panic` is no action"),
            ("force=stop:x", "`x` is no positive number"),
            ("force=stop:-1", "no positive number"),
            ("force=off:3", "`off` is no action"),
            ("failure=warn", "cannot be passed over"),
            ("spread=stop", "a limit in eV/Å"),
        ] {
            assert!(wish(text).unwrap_err().contains(says), "{text}: {:?}", wish(text));
        }
        let mut guards = Guards::usual(true);
        guards.set(wish("force=off").unwrap());
        guards.set(wish("drift=stop:1").unwrap());
        // The limit stays where only the action changes.
        guards.set(wish("drift=rollback").unwrap());
        assert_eq!(guards.of(Kind::Drift), Some(&Guard { kind: Kind::Drift, action: Action::Rollback, limit: Some(Limit::Value(1.0)) }));
        assert_eq!(
            guards.list().iter().map(|g| g.kind).collect::<Vec<_>>(),
            [Kind::Contact, Kind::Drift, Kind::Temperature, Kind::Failure]
        );
    }

    #[test]
    fn they_name_atoms_and_steps() {
        let cell = Cell::cubic(10.0);
        let mut structure = Structure::crystal(cell, vec![14, 8], vec![[0.0; 3], [5.0, 0.0, 0.0]]);
        let mut evaluation = Evaluation { forces: vec![[0.0; 3], [30.0, 40.0, 0.0]], ..Evaluation::default() };
        let watch = |text: &[&str]| {
            let mut guards = Guards::usual(true);
            text.iter().for_each(|text| guards.set(text.parse().unwrap()));
            Watch::new(guards, Memory::default(), 300.0)
        };
        assert_eq!(watch(&[]).check(&at(&structure, &evaluation, 300.0), &quiet(0.0)), None);
        let found = watch(&["force=stop:49"]).check(&at(&structure, &evaluation, 300.0), &quiet(0.0)).unwrap();
        assert_eq!(found.message, "step 7 (3.5 fs): the force on atom 1 (O) is 50.000 eV/Å (more than 49)");
        assert_eq!((found.atoms, found.value), (vec![1], Some(50.0)));
        let found = watch(&[]).check(&at(&structure, &evaluation, 3001.0), &quiet(0.0)).unwrap();
        assert!(found.message.contains("3001 K (more than 3000 K)"), "{found}");
        // Through the boundary: radii 1.11 and 0.66 Å.
        structure.positions[1] = [9.2, 10.0, -20.0];
        let mut guards = watch(&[]);
        let found = guards.check(&at(&structure, &evaluation, 300.0), &quiet(0.0)).unwrap();
        assert_eq!(found.message, "step 7 (3.5 fs): atom 0 (Si) and atom 1 (O) are 0.800 Å apart (less than 0.885 Å)");
        assert_eq!(watch(&["contact=stop:0.7A"]).check(&at(&structure, &evaluation, 300.0), &quiet(0.0)), None);
        // The list of pairs follows atoms that move.
        for x in [8.5, 7.0, 3.0, 1.5, 1.0] {
            structure.positions[1][0] = x;
            assert_eq!(guards.check(&at(&structure, &evaluation, 300.0), &quiet(0.0)), None, "{x}");
        }
        structure.positions[1][0] = 0.5;
        assert!(guards.check(&at(&structure, &evaluation, 300.0), &quiet(0.0)).is_some());
        structure.positions[1][0] = 5.0;
        let spread = Spread { energy: 0.0, forces: vec![0.6, 0.2] };
        let energies = Energies { spread: Some(&spread), ..quiet(0.0) };
        let found = watch(&["spread=warn:0.5"]).check(&at(&structure, &evaluation, 300.0), &energies).unwrap();
        assert!(found.message.contains("disagree by 0.600 eV/Å about the force on atom 0 (Si)"), "{found}");
        evaluation.forces[1][2] = f64::NAN;
        evaluation.energy = f64::NAN;
        let found = watch(&[]).check(&at(&structure, &evaluation, 300.0), &quiet(0.0)).unwrap();
        assert!(found.message.contains("atom 1 (O) is not finite") && found.action == Action::Stop, "{found}");
    }

    /// A drift of 2 eV/ps of two atoms, with a ripple of 0.1 eV on it.
    #[test]
    fn drift_of_averages() {
        let structure = Structure::molecule(vec![1, 1], vec![[0.0; 3], [3.0, 0.0, 0.0]]);
        let evaluation = Evaluation { forces: vec![[0.0; 3]; 2], ..Evaluation::default() };
        let mut watch = Watch::new(Guards::usual(true), Memory::default(), 300.0);
        let mut warnings = 0;
        for step in 1..=500 {
            let time = f64::from(step);
            let snapshot = Snapshot { step: step as u64, time, ..at(&structure, &evaluation, 300.0) };
            let found = watch.check(&snapshot, &quiet(-1e4 + 0.002 * time + 0.1 * (0.628 * time).sin()));
            assert!(step >= 200 || found.is_none());
            warnings += u32::from(found.is_some());
        }
        assert_eq!(warnings, 1, "said once");
        assert!((watch.drift(2).unwrap() - 1.0).abs() < 0.02, "{:?}", watch.drift(2));
    }
}
