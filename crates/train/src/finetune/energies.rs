//! Energies of atoms, fitted to the data that a model is fine-tuned on.
//!
//! Another code or functional has other zeros of energy. What is left between the energies of the data and those of the model is explained by least squares
//! with shifts of atomic energies, for each head by itself. Elements that the model has just been given come first: from an isolated atom where the data
//! have one, else from the frames that they are in. Then, where that is asked for, all elements are shifted together. Of all solutions the smallest is
//! taken, so that elements that the data do not tell apart share their shift, and what only a new element can explain is left to it.

use std::collections::{BTreeMap, BTreeSet};

use nalgebra::{DMatrix, DVector};
use rayon::prelude::*;
use tesseral_atoms::Structure;
use tesseral_potentials::{Architecture, Artifact, Model, NamedTensor, Numbers};

use super::elements::Added;
use crate::data::{Dataset, FrameSource, UntilStopped};
use crate::error::TrainError;
use crate::step::Sample;
use crate::stop::Stop;

/// Singular values below this, relative to the largest, are those of combinations of elements that the data do not tell apart.
const RANK: f64 = 1e-8;
/// Frames that atomic energies are estimated from, at most.
const MOST_FRAMES: usize = 200;
/// Frames of each new element among them, at least, where there are as many.
const OF_NEW_ELEMENT: usize = 50;

/// The tensor that holds energies of atoms, `[heads, elements]`, and its number of heads.
pub(super) fn energies_of_atoms(architecture: &Architecture) -> (&'static str, usize) {
    match architecture {
        Architecture::Mace(c) => ("atomic_energies", c.heads.len()),
        Architecture::Nequip(c) => ("shift", c.modalities.len().max(1)),
    }
}

/// What is left of the energy of a frame.
#[derive(Debug, Clone)]
struct Rest {
    head: u32,
    /// Atoms of each element.
    composition: BTreeMap<u8, f64>,
    /// eV.
    energy: f64,
}

/// Shifts of atomic energies by atomic number, eV.
type Shifts = BTreeMap<u8, f64>;

/// The model with energies of atoms as the data have them: of `added` elements, and of all if `all` is set.
///
/// # Errors
/// If the data cannot be evaluated by it, or it is asked to stop.
pub(super) fn fitted(artifact: &Artifact, added: &Added, all: bool, data: &Dataset, stop: Stop<'_>) -> Result<Artifact, TrainError> {
    let mut header = artifact.header().clone();
    let new = added.numbers();
    let every: &[u8] = if all { artifact.header().elements() } else { &[] };
    if every.is_empty() && new.is_empty() {
        return Ok(artifact.clone());
    }
    // Shifts are of the order of eV, atomic energies are added in f64: single precision is enough, and users wait for it.
    let model = Model::load(artifact, candle_core::DType::F32, &candle_core::Device::Cpu)?;
    let train = UntilStopped { source: &*data.train, stop };
    let rests = rests(&model, &train, &chosen(&train, &new, all)?)?;
    let isolated = isolated(&model, data, &new)?;
    let (tensor, heads) = energies_of_atoms(&header.architecture);
    let elements = artifact.header().elements();
    let mut energies = artifact.f64(tensor)?;
    for head in 0..heads as u32 {
        let of_head: Vec<Rest> = rests.iter().filter(|rest| rest.head == head).cloned().collect();
        let found = shifts(of_head, isolated.get(&head).cloned().unwrap_or_default(), &new, every)?;
        for (column, z) in elements.iter().enumerate() {
            energies[head as usize * elements.len() + column] += found.get(z).copied().unwrap_or(0.0);
        }
    }
    let shape = vec![heads, elements.len()];
    if all {
        header.provenance.notes.push("energies of atoms shifted to the training data by least squares".into());
    }
    Ok(artifact.with_tensors(header, vec![NamedTensor { name: tensor.into(), shape, numbers: Numbers::F64(energies) }])?)
}

/// At most `most` of `indices`, evenly spread.
fn spread(indices: &[usize], most: usize) -> impl Iterator<Item = usize> {
    let count = indices.len().min(most);
    (0..count).map(move |k| indices[k * indices.len() / count])
}

/// Which frames are looked at: some of all, if `all` is set, and some with each new element, which may be rare.
fn chosen(train: &dyn FrameSource, new: &[u8], all: bool) -> Result<Vec<usize>, TrainError> {
    let mut chosen = BTreeSet::new();
    if all {
        let every: Vec<usize> = (0..train.len()).collect();
        chosen.extend(spread(&every, MOST_FRAMES));
    }
    if !new.is_empty() {
        let mut with: BTreeMap<u8, Vec<usize>> = BTreeMap::new();
        for index in 0..train.len() {
            let frame = train.frame(index)?;
            let has = |z: &&u8| frame.energy.is_some() && frame.structure.numbers.contains(z);
            new.iter().filter(has).for_each(|z| with.entry(*z).or_default().push(index));
        }
        with.values().for_each(|indices| chosen.extend(spread(indices, OF_NEW_ELEMENT)));
    }
    Ok(chosen.into_iter().collect())
}

/// What is left of the energies of some frames.
fn rests(model: &Model, train: &dyn FrameSource, chosen: &[usize]) -> Result<Vec<Rest>, TrainError> {
    let rest = |index: &usize| -> Result<Option<Rest>, TrainError> {
        let frame = train.frame(*index)?;
        let Some(energy) = frame.energy else { return Ok(None) };
        let sample = Sample::new(model.header(), frame)?;
        let batch = model.batch(&[&sample.prepared], &[&sample.frame.structure], sample.head)?;
        let mut composition = BTreeMap::new();
        for &z in &sample.frame.structure.numbers {
            *composition.entry(z).or_insert(0.0) += 1.0;
        }
        Ok(Some(Rest { head: sample.head, composition, energy: energy - model.evaluate(&batch)?[0].energy }))
    };
    let rests: Vec<Option<Rest>> = chosen.par_iter().map(rest).collect::<Result<_, _>>()?;
    Ok(rests.into_iter().flatten().collect())
}

/// What the energies of isolated atoms of new elements are above those of the model, for the heads that the data have.
fn isolated(model: &Model, data: &Dataset, new: &[u8]) -> Result<BTreeMap<u32, Shifts>, TrainError> {
    let mut shifts: BTreeMap<u32, Shifts> = BTreeMap::new();
    if new.is_empty() || data.isolated.is_empty() {
        return Ok(shifts);
    }
    for index in 0..data.train.len() {
        let summary = data.train.summary(index)?;
        let head = model.head(summary.head.as_deref()).map_err(|source| TrainError::Frame { origin: summary.origin.clone(), source })?;
        if shifts.contains_key(&head) {
            continue;
        }
        let energies = data.isolated.energies(summary.head.as_deref());
        let of_head = shifts.entry(head).or_default();
        for (&z, energy) in energies.iter().filter(|(z, _)| new.contains(z)) {
            let atom = Structure::molecule(vec![z], vec![[0.0; 3]]);
            let batch = model.batch(&[&model.prepare(&atom)?], &[&atom], head)?;
            of_head.insert(z, energy - model.evaluate(&batch)?[0].energy);
        }
    }
    Ok(shifts)
}

/// Shifts of one head: those of isolated atoms, which are given; of the other `new` elements; and of all but the former among `every`.
fn shifts(mut rests: Vec<Rest>, isolated: Shifts, new: &[u8], every: &[u8]) -> Result<Shifts, TrainError> {
    let without = |elements: &[u8]| elements.iter().copied().filter(|z| !isolated.contains_key(z)).collect::<Vec<u8>>();
    let stages = [without(new), without(every)];
    let mut shifts = isolated;
    lower(&mut rests, &shifts);
    for elements in &stages {
        let found = least_squares(&rests, elements)?;
        lower(&mut rests, &found);
        found.into_iter().for_each(|(z, shift)| *shifts.entry(z).or_insert(0.0) += shift);
    }
    Ok(shifts)
}

/// Takes from what is left what shifts explain.
fn lower(rests: &mut [Rest], shifts: &Shifts) {
    for rest in rests {
        rest.energy -= rest.composition.iter().map(|(z, count)| count * shifts.get(z).copied().unwrap_or(0.0)).sum::<f64>();
    }
}

/// Shifts of some elements that explain best what is left of the frames that have any of them, per atom, as the loss sees them. None without such frames.
fn least_squares(rests: &[Rest], elements: &[u8]) -> Result<Shifts, TrainError> {
    let rows: Vec<&Rest> = rests.iter().filter(|rest| elements.iter().any(|z| rest.composition.contains_key(z))).collect();
    if rows.is_empty() {
        return Ok(Shifts::new());
    }
    let atoms = |rest: &Rest| rest.composition.values().sum::<f64>();
    let count = |row: usize, column: usize| rows[row].composition.get(&elements[column]).copied().unwrap_or(0.0);
    let counts = DMatrix::from_fn(rows.len(), elements.len(), |row, column| count(row, column) / atoms(rows[row]));
    let rest = DVector::from_iterator(rows.len(), rows.iter().map(|row| row.energy / atoms(row)));
    let svd = counts.svd(true, true);
    let smallest = RANK * svd.singular_values.max();
    let found = svd.solve(&rest, smallest).map_err(|reason| TrainError::Unsupported { what: format!("energies of atoms: {reason}") })?;
    Ok(elements.iter().copied().zip(found.iter().copied()).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{FinetuneConfig, NewElements};
    use crate::data::{Frame, IsolatedAtom, IsolatedAtoms, KeyReport, Memory, Origin};
    use crate::finetune::elements;
    use crate::testing::{tiny_artifact, tiny_sevennet, unlabelled};

    fn rest(composition: &[(u8, f64)], energy: f64) -> Rest {
        Rest { head: 0, composition: composition.iter().copied().collect(), energy }
    }

    #[test]
    fn new_elements_explain_first() {
        // Water and hydrogen: nothing but oxygen, which is new, can explain the former; and the latter is not right either.
        let rests = vec![rest(&[(1, 2.0), (8, 1.0)], -10.0), rest(&[(1, 4.0), (8, 2.0)], -20.0)];
        let of = |rests: &[Rest], isolated: &[(u8, f64)], new: &[u8], every: &[u8]| {
            shifts(rests.to_vec(), isolated.iter().copied().collect(), new, every).unwrap()
        };
        let close = |found: &Shifts, expected: &[(u8, f64)]| {
            assert!(expected.iter().all(|(z, x)| (found.get(z).copied().unwrap_or(0.0) - x).abs() < 1e-9), "{found:?} {expected:?}");
        };
        close(&of(&rests, &[], &[8], &[]), &[(1, 0.0), (8, -10.0)]);
        close(&of(&rests, &[], &[8], &[1, 8]), &[(1, 0.0), (8, -10.0)]);
        // Without a new element they share it: the smallest of all solutions.
        close(&of(&rests, &[], &[], &[1, 8]), &[(1, -4.0), (8, -2.0)]);
        // An isolated atom is believed; the rest is for the others.
        close(&of(&rests, &[(8, -9.0)], &[8], &[]), &[(1, 0.0), (8, -9.0)]);
        close(&of(&rests, &[(8, -9.0)], &[8], &[1, 8]), &[(1, -0.5), (8, -9.0)]);
        // Where the data tell all apart, the order does not matter.
        let mut both = rests;
        both.push(rest(&[(1, 2.0)], -1.0));
        close(&of(&both, &[], &[8], &[1, 8]), &[(1, -0.5), (8, -9.0)]);
        close(&of(&both, &[], &[8], &[]), &[(1, 0.0), (8, -10.0)]);
        assert!(of(&[], &[], &[8], &[1, 8]).is_empty());
    }

    fn frame(k: usize, numbers: &[u8]) -> Frame {
        let place = |k: usize| [[0.0, 0.0, 0.1], [0.9, 0.1, 0.0], [-0.3, 0.9, 0.2]][k];
        Frame {
            energy: Some(-30.0 - 0.01 * k as f64),
            ..unlabelled(Structure::molecule(numbers.to_vec(), (0..numbers.len()).map(place).collect()), k)
        }
    }

    /// A rare new element is found among many frames, and its energy fits them; old energies stay unless they are asked for.
    #[test]
    fn energies_of_new_elements_fit_the_data() {
        for old in [tiny_artifact(&[1, 8]), tiny_sevennet(&[1, 8])] {
            let frames = (0..700).map(|k| frame(k, if k % 233 == 5 { &[7, 1, 1][..] } else { &[8, 1] })).collect::<Vec<_>>();
            let source: Arc<dyn FrameSource> = Arc::new(Memory::from(frames));
            let with_isolated = |atoms: &[IsolatedAtom]| Dataset {
                train: source.clone(),
                valid: Arc::new(Memory::default()),
                test: Arc::new(Memory::default()),
                isolated: IsolatedAtoms::new(atoms).unwrap(),
                keys: KeyReport::default(),
            };
            let data = with_isolated(&[]);
            let config = FinetuneConfig { new_elements: NewElements::Mean, ..FinetuneConfig::default() };
            let added = Added::new(old.header(), &config, &*data.train).unwrap();
            let extended = elements::extended(&old, &added).unwrap();
            let (tensor, _) = energies_of_atoms(&old.header().architecture);
            let energies = |artifact: &Artifact| {
                let energies = artifact.f64(tensor).unwrap();
                artifact.header().elements().iter().copied().zip(energies).collect::<BTreeMap<u8, f64>>()
            };
            let start = energies(&old);
            let found = fitted(&extended, &added, false, &data, Stop::never()).unwrap();
            let model = Model::load(&found, candle_core::DType::F64, &candle_core::Device::Cpu).unwrap();
            let left: Vec<f64> = rests(&model, &*data.train, &[5, 238, 471]).unwrap().iter().map(|rest| rest.energy).collect();
            // The three energies differ a little; those of the old element were not fitted.
            assert!(left.iter().all(|x| x.abs() < 3.0) && left.iter().sum::<f64>().abs() < 1e-3, "{left:?}");
            assert_eq!((energies(&found)[&1], energies(&found)[&8]), (start[&1], start[&8]));
            let every = fitted(&extended, &added, true, &data, Stop::never()).unwrap();
            assert!(energies(&every)[&8] != start[&8]);
            // From an isolated atom.
            let origin = Origin { file: "atom".into(), frame: 0 };
            let data = with_isolated(&[IsolatedAtom { number: 7, energy: -54.0, head: None, origin }]);
            for all in [false, true] {
                let found = fitted(&extended, &added, all, &data, Stop::never()).unwrap();
                let model = Model::load(&found, candle_core::DType::F64, &candle_core::Device::Cpu).unwrap();
                let atom = Structure::molecule(vec![7], vec![[0.0; 3]]);
                let batch = model.batch(&[&model.prepare(&atom).unwrap()], &[&atom], 0).unwrap();
                assert!((model.evaluate(&batch).unwrap()[0].energy + 54.0).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn nothing_to_do_is_nothing_done() {
        let old = tiny_artifact(&[1, 8]);
        let data = Dataset {
            train: Arc::new(Memory::from(vec![frame(0, &[8, 1])])),
            valid: Arc::new(Memory::default()),
            test: Arc::new(Memory::default()),
            isolated: IsolatedAtoms::default(),
            keys: KeyReport::default(),
        };
        let same = fitted(&old, &Added::default(), false, &data, Stop::never()).unwrap();
        assert_eq!(same.f64("atomic_energies").unwrap(), old.f64("atomic_energies").unwrap());
        assert!(
            fitted(&old, &Added::default(), true, &data, Stop::never()).unwrap().header().provenance.notes.len()
                > old.header().provenance.notes.len()
        );
    }
}
