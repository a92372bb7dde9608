//! What a step costs without forces.

use super::*;

/// Seconds that this thread had a processor: on a shared machine the clock says little.
fn on_cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a measurement for Linux");
    text.split_whitespace().next().unwrap().parse::<f64>().unwrap() * 1e-9
}

/// Prints microseconds a step and an atom; asserts nothing about time. `cargo test --release -p tesseral-simulate cost -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_step() {
    struct Nothing;
    impl ForceField for Nothing {
        fn evaluate_into(&mut self, structure: &Structure, to: &mut Evaluation) -> Result<(), ForceError> {
            to.forces.resize(structure.len(), [1e-3, 0.0, 0.0]);
            to.stress = Some([[1e-4; 3]; 3]);
            Ok(())
        }
    }
    for times in [6, 16] {
        let structure = fcc(times, 0.8);
        let atoms = structure.len();
        for (name, ensemble) in ensembles() {
            let mut dynamics = Dynamics::new(structure.clone(), reduced(ensemble, 1.0, 1e-4), &mut Nothing).unwrap();
            run(&mut dynamics, &mut Nothing, 10);
            let steps = 2_000_000 / atoms;
            let begin = on_cpu();
            run(&mut dynamics, &mut Nothing, steps);
            let step = (on_cpu() - begin) * 1e6 / steps as f64;
            eprintln!("{atoms} atoms, {name}: {step:.1} µs a step, {:.4} µs an atom", step / atoms as f64);
        }
    }
}
