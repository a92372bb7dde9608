//! Energy, forces and stress with the built-in model in f32: one step of molecular dynamics or relaxation.

#![allow(missing_docs, reason = "criterion_group! makes functions")]
#![allow(clippy::unwrap_used, reason = "a benchmark may fail loudly")]

use criterion::{Criterion, criterion_group, criterion_main};
use tesseral_benches::{per, rock_salt, silicon};
use tesseral_infer::{Options, Potential};
use tesseral_potentials::Artifact;

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn step(c: &mut Criterion) {
    tesseral_ops::runtime::prepare_evaluation();
    let artifact = Artifact::from_static(tesseral_models::default_artifact(), "built-in model").unwrap();
    let potential = Potential::new(&artifact, &Options::default()).unwrap();
    let mut group = c.benchmark_group("step");
    group.sample_size(10);
    for (name, structure) in [("Si 64", silicon(2)), ("Si 216", silicon(3)), ("NaCl 64", rock_salt(2)), ("NaCl 512", rock_salt(4))] {
        let evaluate = || potential.evaluate(std::slice::from_ref(&structure)).remove(0).unwrap();
        per(&mut group, &format!("{}, {name} (per atom)", tesseral_models::DEFAULT_MODEL), structure.len(), evaluate);
    }
}

criterion_group!(benches, step);
criterion_main!(benches);
