//! What a step of molecular dynamics costs beside its forces, in every ensemble.

#![allow(missing_docs, reason = "criterion_group! makes functions")]
#![allow(clippy::unwrap_used, reason = "a benchmark may fail loudly")]

use criterion::{Criterion, criterion_group, criterion_main};
use tesseral_atoms::{Evaluation, ForceError, ForceField, Structure};
use tesseral_benches::{per, silicon};
use tesseral_simulate::dynamics::{Dynamics, Ensemble, Settings};

/// Forces and stress that cost nothing and move nothing much.
struct Nothing;

impl ForceField for Nothing {
    fn evaluate_into(&mut self, structure: &Structure, to: &mut Evaluation) -> Result<(), ForceError> {
        to.forces.resize(structure.len(), [1e-3, 0.0, 0.0]);
        to.stress = Some([[1e-6; 3]; 3]);
        Ok(())
    }
}

fn dynamics(c: &mut Criterion) {
    let structure = silicon(5);
    let mut group = c.benchmark_group("dynamics");
    let (time, barostat_time, compressibility) = (100.0, 1000.0, 1.0);
    for (name, ensemble) in [
        ("NVE", Ensemble::Nve),
        ("Langevin", Ensemble::Langevin { friction: 0.01 }),
        ("Nose-Hoover", Ensemble::NoseHoover { time, chain: 3 }),
        ("Bussi", Ensemble::Bussi { time }),
        ("stochastic cell", Ensemble::StochasticCell { time, barostat_time, compressibility, anisotropic: true }),
        ("Martyna-Tobias-Klein", Ensemble::Mtk { time, barostat_time, anisotropic: true }),
    ] {
        let mut run = Dynamics::new(structure.clone(), Settings { ensemble, ..Settings::default() }, &mut Nothing).unwrap();
        per(&mut group, &format!("{name}, {} atoms (per atom)", structure.len()), structure.len(), || run.step(&mut Nothing).unwrap());
    }
}

criterion_group!(benches, dynamics);
criterion_main!(benches);
