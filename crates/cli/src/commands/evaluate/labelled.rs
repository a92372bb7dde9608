//! The structure that is written: the input with the results under ASE's names.

use tesseral_atoms::{Array, Evaluation, Spread, Structure};
use tesseral_infer::metrics::voigt;

/// Names that ASE takes for results of a calculator. What the input has under them belongs to an earlier calculation: left
/// where it is, it would be taken for a result of this one.
const RESULT_INFO: [&str; 4] = ["energy", "free_energy", "stress", "virial"];
const RESULT_ARRAYS: [&str; 3] = ["forces", "energies", "stresses"];

/// The input with `energy`, `forces`, `stress` (where there is one) and, if asked for, `energies` of this evaluation. Results
/// that the input carried are kept with `REF_` before their names. Of a committee, `energy_spread` and `forces_spread` too.
pub(crate) fn with_results(structure: &Structure, evaluation: &Evaluation, spread: Option<&Spread>, per_atom: bool) -> Structure {
    let mut labelled = structure.clone();
    for name in RESULT_INFO {
        if let Some(place) = labelled.info.get_index_of(name) {
            let kept = free_name(name, |candidate| labelled.info.contains_key(candidate));
            if let Some((_, value)) = labelled.info.shift_remove_index(place) {
                labelled.info.shift_insert(place, kept, value);
            }
        }
    }
    for name in RESULT_ARRAYS {
        if let Some(place) = labelled.arrays.get_index_of(name) {
            let kept = free_name(name, |candidate| labelled.arrays.contains_key(candidate));
            if let Some((_, value)) = labelled.arrays.shift_remove_index(place) {
                labelled.arrays.shift_insert(place, kept, value);
            }
        }
    }
    labelled.set_energy(evaluation.energy);
    labelled.set_forces(&evaluation.forces);
    if let Some(stress) = evaluation.stress {
        labelled.set_stress(voigt(stress));
    }
    if per_atom {
        labelled.arrays.insert("energies".to_owned(), Array::scalars(evaluation.atomic_energies.clone()));
    }
    if let Some(spread) = spread {
        labelled.info.insert("energy_spread".to_owned(), spread.energy.into());
        labelled.arrays.insert("forces_spread".to_owned(), Array::scalars(spread.forces.clone()));
    }
    labelled
}

/// `REF_energy`, or `REF_energy_2`, … if the input has that too.
fn free_name(name: &str, taken: impl Fn(&str) -> bool) -> String {
    let first = format!("REF_{name}");
    if !taken(&first) {
        return first;
    }
    (2u64..).map(|n| format!("{first}_{n}")).find(|candidate| !taken(candidate)).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tesseral_atoms::{Cell, InfoValue};

    #[test]
    fn earlier_results_are_kept_under_other_names() {
        let mut structure = Structure::crystal(Cell::cubic(3.0), vec![14], vec![[0.0; 3]]);
        structure.info.insert("energy".into(), (-1.0).into());
        structure.info.insert("REF_energy".into(), (-2.0).into());
        structure.info.insert("free_energy".into(), (-1.5).into());
        structure.info.insert("name".into(), "silicon".into());
        structure.set_forces(&[[0.1, 0.2, 0.3]]);
        structure.arrays.insert("magmoms".into(), Array::scalars(vec![1.0]));
        let evaluation = Evaluation { energy: -5.0, forces: vec![[0.0; 3]], stress: Some([[0.5; 3]; 3]), atomic_energies: vec![-5.0] };
        let labelled = with_results(&structure, &evaluation, None, true);
        let keys: Vec<&str> = labelled.info.keys().map(String::as_str).collect();
        assert_eq!(keys, ["REF_energy_2", "REF_energy", "REF_free_energy", "name", "energy", "stress"]);
        assert_eq!(labelled.info["REF_energy_2"], InfoValue::Real(-1.0));
        assert_eq!(labelled.info["REF_energy"], InfoValue::Real(-2.0));
        assert_eq!(labelled.info["energy"], InfoValue::Real(-5.0));
        let arrays: Vec<&str> = labelled.arrays.keys().map(String::as_str).collect();
        assert_eq!(arrays, ["REF_forces", "magmoms", "forces", "energies"]);
        assert_eq!(labelled.arrays["REF_forces"].to_vectors().unwrap(), [[0.1, 0.2, 0.3]]);
        let plain = with_results(&structure, &evaluation, None, false);
        assert!(!plain.arrays.contains_key("energies"));
    }

    #[test]
    fn without_a_stress_the_old_one_is_not_taken_for_new() {
        let mut structure = Structure::molecule(vec![1], vec![[0.0; 3]]);
        structure.set_stress([1.0; 6]);
        let evaluation = Evaluation { energy: 0.0, forces: vec![[0.0; 3]], stress: None, atomic_energies: vec![0.0] };
        let labelled = with_results(&structure, &evaluation, None, false);
        assert!(labelled.info.contains_key("REF_stress") && !labelled.info.contains_key("stress"));
    }
}
