//! Potentials as force fields for whatever moves atoms, one or several together.

use std::sync::Arc;

use tesseral_atoms::{Evaluation, ForceError, ForceField, Spread, Structure};

use crate::{Calculator, InferError, Potential};

/// A potential as a force field. The structure of [`ForceField::evaluate_into`] keeps its neighbour list and buffers between calls where the engine is the compiled one.
pub struct PotentialField {
    potential: Arc<Potential>,
    /// Å
    skin: f64,
    /// Made when a structure is first evaluated by itself: batches need none.
    calculator: Option<Calculator>,
}

impl PotentialField {
    /// A force field with a neighbour list that reaches `skin` (Å) beyond the cutoff.
    pub fn new(potential: Arc<Potential>, skin: f64) -> Self {
        Self { potential, skin, calculator: None }
    }

    /// The potential.
    pub fn potential(&self) -> &Potential {
        &self.potential
    }
}

impl ForceField for PotentialField {
    fn evaluate_into(&mut self, structure: &Structure, to: &mut Evaluation) -> Result<(), ForceError> {
        if self.calculator.is_none() {
            self.calculator = match self.potential.calculator(self.skin) {
                Ok(calculator) => Some(calculator),
                Err(InferError::NotStepped) => None,
                Err(error) => return Err(ForceError::new(error)),
            };
        }
        let evaluated = match &mut self.calculator {
            Some(calculator) => calculator.evaluate_into(structure, to),
            None => {
                let alone = self.potential.evaluate(std::slice::from_ref(structure)).pop();
                alone.unwrap_or(Err(InferError::NoAtoms)).map(|evaluation| *to = evaluation)
            }
        };
        evaluated.map_err(ForceError::new)
    }

    fn evaluate_many(&mut self, structures: &[Structure]) -> Vec<Result<Evaluation, ForceError>> {
        self.potential.evaluate(structures).into_iter().map(|result| result.map_err(ForceError::new)).collect()
    }
}

/// Several force fields as one: the mean of their energies, forces and stresses, and how far they disagree.
///
/// The mean of forces is the force of the mean energy, so that a committee conserves energy as its members do.
pub struct Committee<F> {
    members: Vec<F>,
    of_members: Vec<Evaluation>,
    spread: Spread,
    limit: f64,
}

impl<F: ForceField> Committee<F> {
    /// A committee of at least two.
    ///
    /// # Errors
    /// [`InferError::NoCommittee`] of fewer.
    pub fn new(members: Vec<F>) -> Result<Self, InferError> {
        if members.len() < 2 {
            return Err(InferError::NoCommittee { members: members.len() });
        }
        let of_members = vec![Evaluation::default(); members.len()];
        Ok(Self { members, of_members, spread: Spread::default(), limit: f64::INFINITY })
    }

    /// Makes structures an error ([`InferError::Disagreement`]) where the members disagree about a force by more than `limit`, eV/Å.
    #[must_use]
    pub fn stop_above(mut self, limit: f64) -> Self {
        self.limit = limit;
        self
    }

    fn within_limit(&self, spread: &Spread) -> Result<(), ForceError> {
        match spread.largest_force() {
            Some((atom, spread)) if spread > self.limit => {
                Err(ForceError::new(InferError::Disagreement { atom, spread, limit: self.limit }))
            }
            _ => Ok(()),
        }
    }

    /// Means and spreads of many structures.
    pub fn evaluate_with_spread(&mut self, structures: &[Structure]) -> Vec<Result<(Evaluation, Spread), ForceError>> {
        let mut results: Vec<_> = self.members.iter_mut().map(|member| member.evaluate_many(structures).into_iter()).collect();
        let summaries: Vec<_> = structures
            .iter()
            .map(|_| {
                let each: Vec<_> = results.iter_mut().filter_map(Iterator::next).collect();
                let each = each.into_iter().collect::<Result<Vec<_>, _>>()?;
                let (mut mean, mut spread) = Default::default();
                summarise(&each, &mut mean, &mut spread);
                self.within_limit(&spread)?;
                Ok((mean, spread))
            })
            .collect();
        let force = |spread: &Spread| spread.largest_force().map_or(0.0, |(_, spread)| spread);
        if let Some((_, most)) = summaries.iter().flatten().max_by(|a, b| force(&a.1).total_cmp(&force(&b.1))) {
            self.spread.clone_from(most);
        }
        summaries
    }
}

impl<F: ForceField> ForceField for Committee<F> {
    fn evaluate_into(&mut self, structure: &Structure, to: &mut Evaluation) -> Result<(), ForceError> {
        for (member, evaluation) in self.members.iter_mut().zip(&mut self.of_members) {
            member.evaluate_into(structure, evaluation)?;
        }
        summarise(&self.of_members, to, &mut self.spread);
        self.within_limit(&self.spread)
    }

    fn evaluate_many(&mut self, structures: &[Structure]) -> Vec<Result<Evaluation, ForceError>> {
        self.evaluate_with_spread(structures).into_iter().map(|result| result.map(|(mean, _)| mean)).collect()
    }

    fn spread(&self) -> Option<&Spread> {
        Some(&self.spread)
    }
}

/// Mean and standard deviation over members, of a sample.
fn summarise(members: &[Evaluation], mean: &mut Evaluation, spread: &mut Spread) {
    let (count, atoms) = (members.len() as f64, members[0].forces.len());
    // Means first, then deviations from them: no cancellation of large energies.
    mean.energy = members.iter().map(|m| m.energy).sum::<f64>() / count;
    mean.atomic_energies.clear();
    mean.atomic_energies.extend((0..atoms).map(|i| members.iter().map(|m| m.atomic_energies[i]).sum::<f64>() / count));
    mean.forces.clear();
    mean.forces.extend((0..atoms).map(|i| [0, 1, 2].map(|k| members.iter().map(|m| m.forces[i][k]).sum::<f64>() / count)));
    let stresses: Option<Vec<_>> = members.iter().map(|m| m.stress).collect();
    mean.stress = stresses.map(|all| [0, 1, 2].map(|k| [0, 1, 2].map(|l| all.iter().map(|s| s[k][l]).sum::<f64>() / count)));
    let deviation = |squares: f64| (squares / (count - 1.0)).sqrt();
    spread.energy = deviation(members.iter().map(|m| (m.energy - mean.energy).powi(2)).sum());
    spread.forces.clear();
    spread.forces.extend(
        mean.forces
            .iter()
            .enumerate()
            .map(|(i, f)| deviation(members.iter().map(|m| (0..3).map(|k| (m.forces[i][k] - f[k]).powi(2)).sum::<f64>()).sum())),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pulls every atom along x with a force of its own making.
    struct Constant(f64);

    impl ForceField for Constant {
        fn evaluate_into(&mut self, structure: &Structure, to: &mut Evaluation) -> Result<(), ForceError> {
            let n = structure.len();
            *to = Evaluation {
                energy: self.0,
                forces: vec![[self.0, 0.0, 1.0]; n],
                stress: None,
                atomic_energies: vec![self.0 / n as f64; n],
            };
            Ok(())
        }
    }

    fn structure_of_two() -> Structure {
        Structure::molecule(vec![1, 1], vec![[0.0; 3], [0.0, 0.0, 0.74]])
    }

    #[test]
    fn mean_and_spread() {
        let mut committee = Committee::new(vec![Constant(1.0), Constant(2.0), Constant(6.0)]).unwrap();
        let structure = structure_of_two();
        let mean = committee.evaluate(&structure).unwrap();
        assert_eq!((mean.energy, mean.forces[1], mean.atomic_energies[0]), (3.0, [3.0, 0.0, 1.0], 1.5));
        // Deviations −2, −1, 3: variance 14 / 2.
        let spread = committee.spread().unwrap();
        assert!((spread.energy - 7f64.sqrt()).abs() < 1e-15);
        assert!((spread.largest_force().unwrap().1 - 7f64.sqrt()).abs() < 1e-15);
        let many = committee.evaluate_with_spread(&[structure.clone(), structure]);
        assert_eq!(many[1].as_ref().unwrap().0, mean);
        let mut strict = Committee::new(vec![Constant(1.0), Constant(2.0)]).unwrap().stop_above(0.5);
        let error = strict.evaluate_many(&[structure_of_two()]).pop().unwrap().unwrap_err();
        assert!(error.to_string().contains("disagree by 0.707 eV/Å about the force on atom 1"), "{error}");
        assert!(matches!(Committee::new(vec![Constant(1.0)]), Err(InferError::NoCommittee { members: 1 })));
    }
}
