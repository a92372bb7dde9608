//! Numbers that a model takes from its data: atomic energies, scale and shift, the average number of neighbours.

use std::collections::BTreeMap;
use std::sync::Arc;

use nalgebra::{DMatrix, DVector};
use rayon::prelude::*;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tesseral_atoms::elements;
use tesseral_atoms::neighbors::{NeighborError, neighbor_list};

use crate::data::{DataError, Frame, FrameSource, IsolatedAtoms, Origin};

/// How the statistics are taken.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StatisticsConfig {
    /// Atomic energies, eV: `"auto"` (isolated atoms if the data have one of every element, least squares if they have none), `"isolated"`,
    /// `"least-squares"`, or a table of all elements (`{ H = -13.6, O = -2042.0 }`). Default `auto`.
    pub e0s: E0s,
    /// What the interaction energy of an atom is scaled with. Default `rms-forces`.
    pub scaling: Scaling,
}

/// Where atomic energies come from.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum E0s {
    /// Isolated atoms if the data have any, least squares otherwise.
    #[default]
    Auto,
    /// From isolated atoms: every element needs one.
    Isolated,
    /// The energies that explain the total energies best by composition alone, as MACE's `average`.
    LeastSquares,
    /// Given, eV by chemical symbol.
    Table(BTreeMap<String, f64>),
}

impl Serialize for E0s {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => "auto".serialize(serializer),
            Self::Isolated => "isolated".serialize(serializer),
            Self::LeastSquares => "least-squares".serialize(serializer),
            Self::Table(table) => table.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for E0s {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordOrTable;
        impl<'de> Visitor<'de> for WordOrTable {
            type Value = E0s;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"auto\", \"isolated\", \"least-squares\", or a table of energies by chemical symbol")
            }
            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<E0s, E> {
                match word {
                    "auto" => Ok(E0s::Auto),
                    "isolated" => Ok(E0s::Isolated),
                    "least-squares" => Ok(E0s::LeastSquares),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(word), &self)),
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<E0s, A::Error> {
                let table = BTreeMap::<String, f64>::deserialize(MapAccessDeserializer::new(map))?;
                for (symbol, energy) in &table {
                    if elements::atomic_number(symbol).is_none_or(|number| number == 0) {
                        return Err(A::Error::custom(format!("`{symbol}` is not a chemical symbol")));
                    }
                    if !energy.is_finite() {
                        return Err(A::Error::custom(format!("the energy of {symbol} is {energy}")));
                    }
                }
                Ok(E0s::Table(table))
            }
        }
        deserializer.deserialize_any(WordOrTable)
    }
}

/// What the interaction energy of an atom is scaled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scaling {
    /// The root mean square of force components, eV/Å, as MACE's `rms_forces_scaling`.
    #[default]
    RmsForces,
    /// The standard deviation over frames of the interaction energy per atom, eV, as MACE's `std_scaling`.
    StdEnergies,
    /// 1.
    None,
}

/// Where the atomic energies of [`Statistics`] came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum E0Source {
    /// The configuration.
    Given,
    /// Isolated atoms.
    Isolated,
    /// Least squares.
    LeastSquares,
}

/// Statistics of the frames to train on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Energy of an isolated atom by atomic number, eV.
    pub e0s: BTreeMap<u8, f64>,
    /// Where they came from.
    pub e0_source: E0Source,
    /// Mean over frames of the interaction energy per atom, (E − Σ E0) / N, eV: the shift. 0 without energies.
    pub mean: f64,
    /// Standard deviation of the same, eV, as of a sample (n − 1); `None` below two energies.
    pub std_energies: Option<f64>,
    /// Root mean square of all force components that count, eV/Å; `None` without forces.
    pub rms_forces: Option<f64>,
    /// What the interaction energy of an atom is scaled with, as the configuration asks.
    pub scale: f64,
    /// Mean number of neighbours within the cutoff, over all atoms.
    pub avg_num_neighbors: f64,
    /// Cutoff of the neighbours, Å.
    pub cutoff: f64,
    /// Smallest distance between two atoms, Å; `None` if it is beyond the cutoff in every frame.
    pub min_distance: Option<f64>,
    /// Frames counted.
    pub frames: usize,
    /// Atoms counted.
    pub atoms: usize,
    /// Atoms of each element, by atomic number.
    pub elements: BTreeMap<u8, usize>,
}

/// Why statistics cannot be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatisticsError {
    /// A frame cannot be had.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Neighbours of a frame cannot be listed.
    #[error("{origin}: {cause}")]
    Neighbors {
        /// The frame.
        origin: Origin,
        /// Why not.
        #[source]
        cause: NeighborError,
    },
    /// Elements without an atomic energy.
    #[error("there is no atomic energy of {} {source_words}", symbols(missing).join(", "))]
    MissingE0 {
        /// Their atomic numbers.
        missing: Vec<u8>,
        /// "in the table e0s", "among the isolated atoms".
        source_words: &'static str,
    },
    /// There are no energies to take atomic energies from.
    #[error("atomic energies cannot be had by least squares: no frame{} has an energy", of_head(head.as_deref()))]
    NoEnergies {
        /// The head asked for.
        head: Option<Arc<str>>,
    },
    /// There are no frames to take statistics of.
    #[error("there are no frames{} to take statistics of", of_head(head.as_deref()))]
    NoFrames {
        /// The head asked for.
        head: Option<Arc<str>>,
    },
    /// What energies are to be scaled with is not there, or is 0.
    #[error("energies cannot be scaled with {what}: {reason}")]
    NoScale {
        /// "the root mean square of forces", ….
        what: &'static str,
        /// Why not.
        reason: &'static str,
    },
}

impl StatisticsError {
    /// A next step for the person who reads the error.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Data(error) => return error.hint(),
            Self::Neighbors { .. } => "check the units of the cell and the positions: both are in Å".to_owned(),
            Self::MissingE0 { .. } => "add them, or set e0s = \"least-squares\"".to_owned(),
            Self::NoEnergies { .. } => "give the table e0s, or add isolated atoms".to_owned(),
            Self::NoFrames { .. } => "check the heads of the files".to_owned(),
            Self::NoScale { .. } => "set scaling = \"none\", or another one".to_owned(),
        })
    }
}

fn of_head(head: Option<&str>) -> String {
    head.map_or(String::new(), |head| format!(" of the head `{head}`"))
}

fn symbols(numbers: &[u8]) -> Vec<&'static str> {
    numbers.iter().map(|&number| elements::symbol(number).unwrap_or("?")).collect()
}

/// How many atoms of each element, ascending by atomic number.
pub(crate) fn composition(numbers: &[u8]) -> Vec<(u8, u32)> {
    let mut counts = [0u32; 256];
    for &number in numbers {
        counts[usize::from(number)] += 1;
    }
    (0..=u8::MAX).map(|number| (number, counts[usize::from(number)])).filter(|(_, count)| *count > 0).collect()
}

/// What one frame adds.
struct Part {
    composition: Vec<(u8, u32)>,
    energy: Option<f64>,
    /// Sum of squares and number of force components.
    forces: (f64, usize),
    edges: usize,
    nearest: f64,
}

impl Statistics {
    /// Takes the statistics of the frames of a head, or of all frames without one. Isolated atoms are no frames.
    ///
    /// Mean and root mean square are those of MACE's `compute_mean_rms_energy_forces` (each frame counts once in the mean, each component once in
    /// the root mean square), except that forces which a mask excludes do not count. `cutoff` in Å. The result is the same for any number of threads.
    ///
    /// # Errors
    /// [`StatisticsError`].
    pub fn new(
        frames: &dyn FrameSource,
        isolated: &IsolatedAtoms,
        head: Option<&str>,
        cutoff: f64,
        config: &StatisticsConfig,
    ) -> Result<Self, StatisticsError> {
        let parts: Vec<Option<Part>> = (0..frames.len())
            .into_par_iter()
            .map(|index| {
                let frame = frames.frame(index)?;
                if head.is_some() && frame.head.as_deref() != head {
                    return Ok(None);
                }
                part(&frame, cutoff).map(Some)
            })
            .collect::<Result<_, StatisticsError>>()?;
        let parts: Vec<Part> = parts.into_iter().flatten().collect();
        if parts.is_empty() {
            return Err(StatisticsError::NoFrames { head: head.map(Arc::from) });
        }
        let mut elements = BTreeMap::new();
        for (number, count) in parts.iter().flat_map(|part| &part.composition) {
            *elements.entry(*number).or_insert(0) += *count as usize;
        }
        let atoms: usize = elements.values().sum();
        let labelled = || parts.iter().filter_map(|part| Some((part.composition.as_slice(), part.energy?)));
        let (e0s, e0_source) = e0s(&elements, labelled(), isolated, head, config)?;
        let interaction: Vec<f64> = labelled().map(|(composition, energy)| interaction_energy(composition, energy, &e0s)).collect();
        let mean = if interaction.is_empty() { 0.0 } else { interaction.iter().sum::<f64>() / interaction.len() as f64 };
        let squares: f64 = interaction.iter().map(|e| (e - mean).powi(2)).sum();
        let std_energies = (interaction.len() > 1).then(|| (squares / (interaction.len() - 1) as f64).sqrt());
        let (sum, components) = parts.iter().fold((0.0, 0), |(sum, n), part| (sum + part.forces.0, n + part.forces.1));
        let rms_forces = (components > 0).then(|| (sum / components as f64).sqrt());
        let edges: usize = parts.iter().map(|part| part.edges).sum();
        let nearest = parts.iter().fold(f64::INFINITY, |nearest, part| nearest.min(part.nearest));
        Ok(Self {
            e0s,
            e0_source,
            mean,
            std_energies,
            rms_forces,
            scale: scale(config.scaling, rms_forces, std_energies)?,
            avg_num_neighbors: edges as f64 / atoms as f64,
            cutoff,
            min_distance: nearest.is_finite().then_some(nearest),
            frames: parts.len(),
            atoms,
            elements,
        })
    }
}

fn part(frame: &Frame, cutoff: f64) -> Result<Part, StatisticsError> {
    let structure = &frame.structure;
    let list = neighbor_list(&structure.cell.vectors, structure.pbc, &structure.positions, cutoff)
        .map_err(|cause| StatisticsError::Neighbors { origin: frame.origin.clone(), cause })?;
    let nearest = list.vectors.iter().map(|v| v.iter().map(|x| x * x).sum::<f64>()).fold(f64::INFINITY, f64::min).sqrt();
    let counts = |atom: usize| frame.force_mask.as_ref().is_none_or(|mask| mask[atom]);
    let mut forces = (0.0, 0);
    for (atom, force) in frame.forces.iter().flatten().enumerate() {
        if counts(atom) {
            forces.0 += force.iter().map(|x| x * x).sum::<f64>();
            forces.1 += 3;
        }
    }
    Ok(Part { composition: composition(&structure.numbers), energy: frame.energy, forces, edges: list.len(), nearest })
}

/// (E − Σ E0) / N, eV; elements without an atomic energy count as 0.
pub(crate) fn interaction_energy(composition: &[(u8, u32)], energy: f64, e0s: &BTreeMap<u8, f64>) -> f64 {
    let atoms: u32 = composition.iter().map(|(_, count)| count).sum();
    let free: f64 = composition.iter().map(|(number, count)| f64::from(*count) * e0s.get(number).copied().unwrap_or(0.0)).sum();
    (energy - free) / f64::from(atoms.max(1))
}

fn e0s<'p>(
    elements: &BTreeMap<u8, usize>,
    labelled: impl Iterator<Item = (&'p [(u8, u32)], f64)>,
    isolated: &IsolatedAtoms,
    head: Option<&str>,
    config: &StatisticsConfig,
) -> Result<(BTreeMap<u8, f64>, E0Source), StatisticsError> {
    let of_isolated = || isolated.energies(head);
    let (energies, source, source_words) = match &config.e0s {
        E0s::Table(table) => {
            let by_number = |(symbol, energy): (&String, &f64)| Some((elements::atomic_number(symbol)?, *energy));
            (table.iter().filter_map(by_number).collect(), E0Source::Given, "in the table e0s")
        }
        E0s::Auto if of_isolated().is_empty() => return fitted(labelled, head),
        E0s::LeastSquares => return fitted(labelled, head),
        E0s::Isolated | E0s::Auto => (of_isolated(), E0Source::Isolated, "among the isolated atoms"),
    };
    let missing: Vec<u8> = elements.keys().filter(|number| !energies.contains_key(number)).copied().collect();
    if missing.is_empty() { Ok((energies, source)) } else { Err(StatisticsError::MissingE0 { missing, source_words }) }
}

fn fitted<'p>(
    labelled: impl Iterator<Item = (&'p [(u8, u32)], f64)>,
    head: Option<&str>,
) -> Result<(BTreeMap<u8, f64>, E0Source), StatisticsError> {
    let energies = least_squares_e0s(labelled);
    if energies.is_empty() {
        return Err(StatisticsError::NoEnergies { head: head.map(Arc::from) });
    }
    Ok((energies, E0Source::LeastSquares))
}

fn scale(scaling: Scaling, rms_forces: Option<f64>, std_energies: Option<f64>) -> Result<f64, StatisticsError> {
    let (what, value, missing) = match scaling {
        Scaling::None => return Ok(1.0),
        Scaling::RmsForces => ("the root mean square of forces", rms_forces, "there are no forces"),
        Scaling::StdEnergies => ("the standard deviation of energies", std_energies, "there are fewer than two energies"),
    };
    match value {
        None => Err(StatisticsError::NoScale { what, reason: missing }),
        Some(0.0) => Err(StatisticsError::NoScale { what, reason: "it is 0" }),
        Some(value) => Ok(value),
    }
}

/// Atomic energies e that minimise Σ over frames of (E − Σ_Z n_Z e_Z)², of least norm where they are not unique: numpy's `lstsq`, which MACE uses for
/// `E0s="average"`. Empty without frames.
///
/// Frames of one composition become one row, weighted with the root of their number, which has the same solution.
pub(crate) fn least_squares_e0s<'p>(frames: impl IntoIterator<Item = (&'p [(u8, u32)], f64)>) -> BTreeMap<u8, f64> {
    let mut rows: BTreeMap<&[(u8, u32)], (f64, f64)> = BTreeMap::new();
    for (composition, energy) in frames {
        let (sum, n) = rows.entry(composition).or_default();
        *sum += energy;
        *n += 1.0;
    }
    let numbers: Vec<u8> =
        rows.keys().flat_map(|row| row.iter().map(|(number, _)| *number)).collect::<std::collections::BTreeSet<u8>>().into_iter().collect();
    let columns = numbers.len();
    // Blocks of rows are reduced to triangles, so that the matrix never has more rows than this.
    let mut matrix = DMatrix::<f64>::zeros(0, columns);
    let mut target = DVector::<f64>::zeros(0);
    let rows: Vec<_> = rows.into_iter().collect();
    let block = 4096.max(4 * columns);
    for chunk in rows.chunks(block) {
        let first = matrix.nrows();
        matrix = matrix.resize_vertically(first + chunk.len(), 0.0);
        target = target.resize_vertically(first + chunk.len(), 0.0);
        for (row, (composition, (sum, n))) in chunk.iter().enumerate() {
            for (number, count) in *composition {
                let column = numbers.binary_search(number).expect("every number was collected above");
                matrix[(first + row, column)] = n.sqrt() * f64::from(*count);
            }
            target[first + row] = sum / n.sqrt();
        }
        if matrix.nrows() > columns {
            let qr = matrix.qr();
            qr.q_tr_mul(&mut target);
            matrix = qr.r();
            target = target.rows(0, columns).into_owned();
        }
    }
    if columns == 0 {
        return BTreeMap::new();
    }
    let svd = matrix.svd(true, true);
    // numpy's rcond, with the number of rows after the reduction.
    let tolerance = f64::EPSILON * columns.max(rows.len().min(block)) as f64 * svd.singular_values.max();
    let solution = svd.solve(&target, tolerance).expect("both sides of the decomposition were computed");
    numbers.into_iter().zip(solution.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use tesseral_atoms::{Cell, Structure};
    use tesseral_testkit::Random;

    use super::*;
    use crate::data::{IsolatedAtom, Memory, Weights};

    fn frame(structure: Structure, energy: Option<f64>, forces: Option<Vec<[f64; 3]>>) -> Frame {
        let origin = Origin { file: "a.xyz".into(), frame: 0 };
        Frame { structure, energy, forces, force_mask: None, stress: None, weights: Weights::default(), group: None, head: None, origin }
    }

    fn molecule(numbers: &[u8], energy: f64) -> Frame {
        let positions = (0..numbers.len()).map(|i| [1.5 * i as f64, 0.0, 0.0]).collect();
        frame(Structure::molecule(numbers.to_vec(), positions), Some(energy), Some(vec![[1.0, 2.0, 2.0]; numbers.len()]))
    }

    fn take(frames: Vec<Frame>, isolated: &[IsolatedAtom], config: &StatisticsConfig) -> Result<Statistics, StatisticsError> {
        Statistics::new(&Memory::from(frames), &IsolatedAtoms::new(isolated).unwrap(), None, 2.0, config)
    }

    fn isolated(number: u8, energy: f64) -> IsolatedAtom {
        IsolatedAtom { number, energy, head: None, origin: Origin { file: "iso".into(), frame: 0 } }
    }

    #[test]
    fn numbers_by_hand() {
        let frames = vec![molecule(&[1, 1, 8], -10.0), molecule(&[8, 8], -4.0)];
        let atoms = [isolated(1, -1.0), isolated(8, -1.5)];
        let statistics = take(frames.clone(), &atoms, &StatisticsConfig::default()).unwrap();
        // (−10 + 3.5)/3 and (−4 + 3)/2.
        let (a, b): (f64, f64) = (-6.5 / 3.0, -0.5);
        assert_eq!(statistics.e0_source, E0Source::Isolated);
        assert!((statistics.mean - (a + b) / 2.0).abs() < 1e-15);
        assert!((statistics.std_energies.unwrap() - (a - b).abs() / 2f64.sqrt()).abs() < 1e-15);
        assert!((statistics.rms_forces.unwrap() - 3f64.sqrt()).abs() < 1e-15);
        assert_eq!(statistics.scale, statistics.rms_forces.unwrap());
        // A chain of three has four edges, a pair two.
        assert!((statistics.avg_num_neighbors - 6.0 / 5.0).abs() < 1e-15);
        assert!((statistics.min_distance.unwrap() - 1.5).abs() < 1e-15);
        assert_eq!((statistics.frames, statistics.atoms), (2, 5));
        assert_eq!(statistics.elements, [(1, 2), (8, 3)].into());

        let mut masked = frames.clone();
        masked[0].force_mask = Some(vec![false, true, false]);
        masked[0].forces.as_mut().unwrap()[1] = [0.0; 3];
        masked[1].forces = None;
        assert!(matches!(take(masked, &atoms, &StatisticsConfig::default()), Err(StatisticsError::NoScale { reason: "it is 0", .. })));
        let std = StatisticsConfig { scaling: Scaling::StdEnergies, ..StatisticsConfig::default() };
        assert_eq!(take(frames.clone(), &atoms, &std).unwrap().scale, statistics.std_energies.unwrap());
        assert!(matches!(take(frames[..1].to_vec(), &atoms, &std), Err(StatisticsError::NoScale { .. })));
        let error = take(frames.clone(), &atoms[..1], &StatisticsConfig::default()).unwrap_err();
        assert_eq!(error.to_string(), "there is no atomic energy of O among the isolated atoms");
        let table =
            StatisticsConfig { e0s: E0s::Table([("H".to_owned(), -1.0), ("O".to_owned(), -1.5)].into()), ..StatisticsConfig::default() };
        let given = take(frames, &[], &table).unwrap();
        assert_eq!((given.e0_source, given.mean), (E0Source::Given, statistics.mean));
    }

    #[test]
    fn images_are_neighbours_and_heads_are_apart() {
        let copper = Structure::crystal(Cell::cubic(1.9), vec![29], vec![[0.0; 3]]);
        let mut frames = vec![frame(copper, Some(-3.0), None), molecule(&[1, 1], -5.0)];
        frames[1].head = Some("b".into());
        let frames = Memory::from(frames);
        let config = StatisticsConfig { scaling: Scaling::None, ..StatisticsConfig::default() };
        let none = IsolatedAtoms::default();
        let all = Statistics::new(&frames, &none, None, 2.0, &config).unwrap();
        assert_eq!((all.frames, all.avg_num_neighbors, all.scale), (2, 8.0 / 3.0, 1.0));
        assert_eq!(all.min_distance, Some(1.5));
        let b = Statistics::new(&frames, &none, Some("b"), 2.0, &config).unwrap();
        assert_eq!((b.frames, b.e0_source), (1, E0Source::LeastSquares));
        assert!((b.e0s[&1] + 2.5).abs() < 1e-14 && b.mean.abs() < 1e-14 && b.e0s.len() == 1);
        assert!(matches!(Statistics::new(&frames, &none, Some("c"), 2.0, &config), Err(StatisticsError::NoFrames { .. })));
        let unlabelled = Memory::from(vec![frame(Structure::molecule(vec![1], vec![[0.0; 3]]), None, None)]);
        assert!(matches!(Statistics::new(&unlabelled, &none, None, 2.0, &config), Err(StatisticsError::NoEnergies { .. })));
    }

    #[test]
    fn least_squares_of_full_rank_find_the_energies() {
        let mut random = Random::new(5);
        let truth = [(1u8, -13.6), (6, -1029.0), (8, -2042.0), (29, -4.0)];
        // More rows than a block, so that triangles are reduced again.
        let rows: Vec<(Vec<(u8, u32)>, f64)> = (0..9000)
            .map(|i| {
                let mut energy = 0.0;
                let mut row = Vec::new();
                for (k, (number, e)) in truth.iter().enumerate() {
                    let count = (i / 7u32.pow(k as u32)) % 7 + u32::from(k == 3) * 7 * (i / 2401);
                    if count > 0 {
                        row.push((*number, count));
                        energy += f64::from(count) * e;
                    }
                }
                (row, energy + 1e-6 * random.number())
            })
            .filter(|(row, _)| !row.is_empty())
            .collect();
        let found = least_squares_e0s(rows.iter().map(|(row, energy)| (row.as_slice(), *energy)));
        for (number, energy) in truth {
            assert!((found[&number] - energy).abs() < 1e-6, "{number}: {}", found[&number]);
        }
    }

    #[test]
    fn least_squares_agree_with_the_normal_equations_and_have_least_norm() {
        // Weighted by multiplicity: two frames of H2O with differing energies, one of O2.
        let water = [(1u8, 2u32), (8, 1)];
        let oxygen = [(8u8, 2u32)];
        let found = least_squares_e0s([(&water[..], -14.0), (&water[..], -15.0), (&oxygen[..], -9.0)]);
        // Two unknowns, two compositions: both means are met exactly.
        assert!((found[&8] + 4.5).abs() < 1e-13 && (found[&1] + 5.0).abs() < 1e-13, "{found:?}");
        // One composition: the solution of least norm is along the counts, e = E n / n².
        let found = least_squares_e0s([(&water[..], -14.5)]);
        assert!((found[&1] + 14.5 * 2.0 / 5.0).abs() < 1e-13 && (found[&8] + 14.5 / 5.0).abs() < 1e-13, "{found:?}");
        assert!(least_squares_e0s([]).is_empty());
        // Inconsistent: H2O, O2 and H2O2 against the normal equations (5 2 …) by hand: AᵀA = [[8, 6], [6, 9]], Aᵀb.
        let peroxide = [(1u8, 2u32), (8, 2)];
        let found = least_squares_e0s([(&water[..], -14.0), (&oxygen[..], -9.0), (&peroxide[..], -18.0)]);
        let (h, o) = (2.0 * -14.0 + 2.0 * -18.0, -14.0 - 2.0 * 9.0 - 2.0 * 18.0);
        let determinant = 8.0 * 9.0 - 6.0 * 6.0;
        assert!((found[&1] - (9.0 * h - 6.0 * o) / determinant).abs() < 1e-12, "{found:?}");
        assert!((found[&8] - (8.0 * o - 6.0 * h) / determinant).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn configurations_in_toml() {
        let read = |text: &str| toml::from_str::<StatisticsConfig>(text);
        assert_eq!(read("").unwrap(), StatisticsConfig::default());
        assert_eq!(
            read("e0s = \"least-squares\"\nscaling = \"std-energies\"").unwrap(),
            StatisticsConfig { e0s: E0s::LeastSquares, scaling: Scaling::StdEnergies }
        );
        let table = read("[e0s]\nH = -13.6\nO = -2042").unwrap_or_else(|_| read("[e0s]\nH = -13.6\nO = -2042.0").unwrap());
        assert_eq!(table.e0s, E0s::Table([("H".to_owned(), -13.6), ("O".to_owned(), -2042.0)].into()));
        assert_eq!(read(&toml::to_string(&table).unwrap()).unwrap(), table);
        for (text, says) in [("e0s = \"average\"", "average"), ("[e0s]\nQq = 1.0", "Qq"), ("[e0s]\nH = inf", "H"), ("scale = 1", "scale")] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
