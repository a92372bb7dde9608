//! Frames as columns of numbers: what a shard of the [cache](super::cache) holds.
//!
//! A shard of n frames with a atoms is a safetensors file with the tensors
//!
//! | name | type | shape | what |
//! |---|---|---|---|
//! | `offsets` | I64 | n + 1 | atoms of frame i are `offsets[i]..offsets[i + 1]` |
//! | `numbers` | U8 | a | atomic numbers |
//! | `positions` | F64 | a, 3 | Å |
//! | `cell` | F64 | n, 3, 3 | lattice vectors as rows, Å |
//! | `pbc` | U8 | n, 3 | 1 along periodic directions |
//! | `present` | U8 | n | sum of 1 energy, 2 forces, 4 force mask, 8 stress: which labels are there |
//! | `energy` | F64 | n | eV; 0 where it is not there, as in the other labels |
//! | `forces` | F64 | a, 3 | eV/Å |
//! | `force_mask` | U8 | a | 1 where the force counts |
//! | `stress` | F64 | n, 6 | eV/Å³, Voigt |
//! | `weights` | F64 | n, 3 | of energy, forces, stress |
//! | `words` | I64 | n, 4 | group, head and file as positions in the tables of the index (−1: none), number of the frame in its file |
//! | `info` | F64 | n, fields | values of the embedded fields of frames; NaN where there is none |
//! | `arrays` | F64 | fields, a | values of the embedded fields of atoms; NaN where there is none |
//! | `checksums` | U64 | n | first eight bytes (little endian) of the SHA-256 of everything above of one frame, in this order, as little-endian bytes |

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};
use tesseral_atoms::{Array, Cell, InfoValue, Structure};

use super::error::DataError;
use super::frame::{Frame, Origin, Weights};

const ENERGY: u8 = 1;
const FORCES: u8 = 2;
const FORCE_MASK: u8 = 4;
const STRESS: u8 = 8;

/// Words by number: groups, heads, files.
#[derive(Debug, Clone, Default)]
pub(super) struct Words(indexmap::IndexSet<Arc<str>>);

impl Words {
    pub(super) fn new(words: impl IntoIterator<Item = String>) -> Self {
        Self(words.into_iter().map(Arc::from).collect())
    }

    pub(super) fn to_strings(&self) -> Vec<String> {
        self.0.iter().map(|word| word.to_string()).collect()
    }

    fn number(&mut self, word: Option<&Arc<str>>) -> i64 {
        word.map_or(-1, |word| self.0.insert_full(word.clone()).0 as i64)
    }

    /// `None` for a number beyond the table.
    fn word(&self, number: i64) -> Option<Option<Arc<str>>> {
        match usize::try_from(number) {
            Ok(index) => self.0.get_index(index).cloned().map(Some),
            Err(_) => (number == -1).then_some(None),
        }
    }
}

/// What frames have in common: the tables of words and the names of embedded fields.
#[derive(Debug, Clone, Default)]
pub(super) struct Tables {
    pub(super) groups: Words,
    pub(super) heads: Words,
    pub(super) files: Words,
    pub(super) info: Vec<String>,
    pub(super) arrays: Vec<String>,
}

/// One frame as numbers.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    numbers: Vec<u8>,
    positions: Vec<f64>,
    cell: Vec<f64>,
    pbc: Vec<u8>,
    present: u8,
    energy: f64,
    forces: Vec<f64>,
    force_mask: Vec<u8>,
    stress: Vec<f64>,
    weights: Vec<f64>,
    words: Vec<i64>,
    info: Vec<f64>,
    arrays: Vec<f64>,
}

impl Row {
    fn new(frame: &Frame, tables: &mut Tables) -> Self {
        let Frame { structure, energy, forces, force_mask, stress, weights, group, head, origin } = frame;
        let atoms = structure.len();
        let present =
            [(energy.is_some(), ENERGY), (forces.is_some(), FORCES), (force_mask.is_some(), FORCE_MASK), (stress.is_some(), STRESS)];
        let info = tables.info.iter().map(|key| structure.info.get(key).and_then(InfoValue::as_f64).unwrap_or(f64::NAN));
        let arrays = tables.arrays.iter().flat_map(|key| match structure.arrays.get(key).and_then(Array::as_reals) {
            Some(values) => values.to_vec(),
            None => vec![f64::NAN; atoms],
        });
        let (info, arrays) = (info.collect(), arrays.collect());
        Self {
            numbers: structure.numbers.clone(),
            positions: structure.positions.concat(),
            cell: structure.cell.vectors.concat(),
            pbc: structure.pbc.map(u8::from).into(),
            present: present.into_iter().filter(|(there, _)| *there).map(|(_, bit)| bit).sum(),
            energy: energy.unwrap_or(0.0),
            forces: forces.as_ref().map_or_else(|| vec![0.0; 3 * atoms], |forces| forces.concat()),
            force_mask: force_mask.as_ref().map_or_else(|| vec![0; atoms], |mask| mask.iter().copied().map(u8::from).collect()),
            stress: stress.unwrap_or_default().into(),
            weights: vec![weights.energy, weights.forces, weights.stress],
            words: vec![
                tables.groups.number(group.as_ref()),
                tables.heads.number(head.as_ref()),
                tables.files.number(Some(&origin.file)),
                origin.frame as i64,
            ],
            info,
            arrays,
        }
    }

    fn checksum(&self) -> u64 {
        let mut bytes = Vec::with_capacity(64 * (self.numbers.len() + 8));
        let reals = |bytes: &mut Vec<u8>, values: &[f64]| bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        bytes.extend(&self.numbers);
        reals(&mut bytes, &self.positions);
        reals(&mut bytes, &self.cell);
        bytes.extend(&self.pbc);
        bytes.push(self.present);
        reals(&mut bytes, &[self.energy]);
        reals(&mut bytes, &self.forces);
        bytes.extend(&self.force_mask);
        reals(&mut bytes, &self.stress);
        reals(&mut bytes, &self.weights);
        bytes.extend(self.words.iter().flat_map(|x| x.to_le_bytes()));
        reals(&mut bytes, &self.info);
        reals(&mut bytes, &self.arrays);
        let [a, b, c, d, e, f, g, h, ..]: [u8; 32] = Sha256::digest(&bytes).into();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// `None` if a word is beyond its table.
    fn frame(self, tables: &Tables) -> Option<Frame> {
        let atoms = self.numbers.len();
        let vectors = |values: &[f64]| values.chunks_exact(3).map(|v| [v[0], v[1], v[2]]).collect::<Vec<_>>();
        let rows = vectors(&self.cell);
        let info = tables.info.iter().zip(&self.info).filter(|(_, x)| !x.is_nan());
        let arrays =
            tables.arrays.iter().zip(self.arrays.chunks_exact(atoms.max(1))).filter(|(_, values)| !values.iter().any(|x| x.is_nan()));
        let structure = Structure {
            cell: Cell::new([rows[0], rows[1], rows[2]]),
            pbc: [0, 1, 2].map(|k| self.pbc[k] == 1),
            info: info.map(|(key, x)| (key.clone(), InfoValue::Real(*x))).collect(),
            arrays: arrays.map(|(key, values)| (key.clone(), Array::scalars(values.to_vec()))).collect(),
            positions: vectors(&self.positions),
            numbers: self.numbers,
        };
        let has = |bit| self.present & bit != 0;
        Some(Frame {
            structure,
            energy: has(ENERGY).then_some(self.energy),
            forces: has(FORCES).then(|| vectors(&self.forces)),
            force_mask: has(FORCE_MASK).then(|| self.force_mask.iter().map(|&x| x == 1).collect()),
            stress: if has(STRESS) { Some(self.stress.try_into().ok()?) } else { None },
            weights: Weights { energy: self.weights[0], forces: self.weights[1], stress: self.weights[2] },
            group: tables.groups.word(self.words[0])?,
            head: tables.heads.word(self.words[1])?,
            origin: Origin { file: tables.files.word(self.words[2])??, frame: usize::try_from(self.words[3]).ok()? },
        })
    }
}

/// Columns that are being filled.
#[derive(Debug, Default)]
pub(super) struct ShardBuilder {
    offsets: Vec<i64>,
    rows: Vec<Row>,
    checksums: Vec<u64>,
    bytes: usize,
}

impl ShardBuilder {
    pub(super) fn push(&mut self, frame: &Frame, tables: &mut Tables) {
        let row = Row::new(frame, tables);
        let end = self.atoms() + row.numbers.len();
        if self.offsets.is_empty() {
            self.offsets.push(0);
        }
        self.offsets.push(end as i64);
        self.checksums.push(row.checksum());
        self.bytes += row.numbers.len() * (50 + 8 * tables.arrays.len()) + 200 + 8 * tables.info.len();
        self.rows.push(row);
    }

    /// Frames in it.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Atoms in it.
    pub(super) fn atoms(&self) -> usize {
        self.offsets.last().map_or(0, |&end| end as usize)
    }

    /// About how many bytes the file will have.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The contents of the file.
    pub(super) fn encode(&self, tables: &Tables) -> Result<Vec<u8>, safetensors::SafeTensorError> {
        struct Tensor {
            dtype: Dtype,
            shape: Vec<usize>,
            data: Vec<u8>,
        }
        impl safetensors::View for Tensor {
            fn dtype(&self) -> Dtype {
                self.dtype
            }
            fn shape(&self) -> &[usize] {
                &self.shape
            }
            fn data(&self) -> Cow<'_, [u8]> {
                Cow::Borrowed(&self.data)
            }
            fn data_len(&self) -> usize {
                self.data.len()
            }
        }
        let (n, a) = (self.len(), self.atoms());
        let reals = |column: fn(&Row) -> &[f64]| {
            self.rows.iter().flat_map(|row| column(row).iter().flat_map(|x| x.to_le_bytes())).collect::<Vec<u8>>()
        };
        let small = |column: fn(&Row) -> &[u8]| self.rows.iter().flat_map(|row| column(row).iter().copied()).collect::<Vec<u8>>();
        let words = self.rows.iter().flat_map(|row| row.words.iter().flat_map(|x| x.to_le_bytes())).collect();
        let arrays = (0..tables.arrays.len()).flat_map(|field| {
            self.rows.iter().flat_map(move |row| {
                let atoms = row.numbers.len();
                row.arrays[field * atoms..(field + 1) * atoms].iter().flat_map(|x| x.to_le_bytes())
            })
        });
        let tensors = [
            ("offsets", Dtype::I64, vec![n + 1], self.offsets.iter().flat_map(|x| x.to_le_bytes()).collect()),
            ("numbers", Dtype::U8, vec![a], small(|row| &row.numbers)),
            ("positions", Dtype::F64, vec![a, 3], reals(|row| &row.positions)),
            ("cell", Dtype::F64, vec![n, 3, 3], reals(|row| &row.cell)),
            ("pbc", Dtype::U8, vec![n, 3], small(|row| &row.pbc)),
            ("present", Dtype::U8, vec![n], self.rows.iter().map(|row| row.present).collect()),
            ("energy", Dtype::F64, vec![n], self.rows.iter().flat_map(|row| row.energy.to_le_bytes()).collect()),
            ("forces", Dtype::F64, vec![a, 3], reals(|row| &row.forces)),
            ("force_mask", Dtype::U8, vec![a], small(|row| &row.force_mask)),
            ("stress", Dtype::F64, vec![n, 6], reals(|row| &row.stress)),
            ("weights", Dtype::F64, vec![n, 3], reals(|row| &row.weights)),
            ("words", Dtype::I64, vec![n, 4], words),
            ("info", Dtype::F64, vec![n, tables.info.len()], reals(|row| &row.info)),
            ("arrays", Dtype::F64, vec![tables.arrays.len(), a], arrays.collect()),
            ("checksums", Dtype::U64, vec![n], self.checksums.iter().flat_map(|x| x.to_le_bytes()).collect()),
        ];
        safetensors::serialize(tensors.map(|(name, dtype, shape, data)| (name, Tensor { dtype, shape, data })), None)
    }
}

/// Where the columns of a shard lie in its bytes.
#[derive(Debug)]
pub(super) struct ShardLayout {
    frames: usize,
    atoms: usize,
    columns: [Range<usize>; 15],
}

/// Order of `columns`.
const NAMES: [&str; 15] = [
    "offsets",
    "numbers",
    "positions",
    "cell",
    "pbc",
    "present",
    "energy",
    "forces",
    "force_mask",
    "stress",
    "weights",
    "words",
    "info",
    "arrays",
    "checksums",
];
const OFFSETS: usize = 0;
const WORDS: usize = 11;

impl ShardLayout {
    /// Finds the columns and checks their types and shapes, and that the offsets ascend to the number of atoms.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(super) fn new(bytes: &[u8], frames: usize, atoms: usize, tables: &Tables) -> Result<Self, String> {
        let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
        let start = header + 8;
        if bytes.len() != start + metadata.data_len() {
            return Err(format!("it has {} bytes instead of {}", bytes.len(), start + metadata.data_len()));
        }
        let (n, a) = (frames, atoms);
        let shapes: [(Dtype, Vec<usize>); 15] = [
            (Dtype::I64, vec![n + 1]),
            (Dtype::U8, vec![a]),
            (Dtype::F64, vec![a, 3]),
            (Dtype::F64, vec![n, 3, 3]),
            (Dtype::U8, vec![n, 3]),
            (Dtype::U8, vec![n]),
            (Dtype::F64, vec![n]),
            (Dtype::F64, vec![a, 3]),
            (Dtype::U8, vec![a]),
            (Dtype::F64, vec![n, 6]),
            (Dtype::F64, vec![n, 3]),
            (Dtype::I64, vec![n, 4]),
            (Dtype::F64, vec![n, tables.info.len()]),
            (Dtype::F64, vec![tables.arrays.len(), a]),
            (Dtype::U64, vec![n]),
        ];
        let mut columns: [Range<usize>; 15] = Default::default();
        for ((column, name), (dtype, shape)) in columns.iter_mut().zip(NAMES).zip(shapes) {
            let info = metadata.info(name).ok_or_else(|| format!("the column `{name}` is missing"))?;
            if info.dtype != dtype || info.shape != shape {
                return Err(format!("the column `{name}` is {:?} {:?} instead of {dtype:?} {shape:?}", info.dtype, info.shape));
            }
            *column = start + info.data_offsets.0..start + info.data_offsets.1;
        }
        let layout = Self { frames, atoms, columns };
        let offsets = layout.ints(bytes, OFFSETS, 0..n + 1);
        if !offsets.is_sorted() || offsets.first() != Some(&0) || offsets.last() != Some(&(a as i64)) {
            return Err("the offsets of its frames are out of order".to_owned());
        }
        Ok(layout)
    }

    fn reals(&self, bytes: &[u8], column: usize, range: Range<usize>) -> Vec<f64> {
        let bytes = &bytes[self.columns[column].clone()][8 * range.start..8 * range.end];
        bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes"))).collect()
    }

    fn ints(&self, bytes: &[u8], column: usize, range: Range<usize>) -> Vec<i64> {
        let bytes = &bytes[self.columns[column].clone()][8 * range.start..8 * range.end];
        bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes"))).collect()
    }

    fn atoms_of(&self, bytes: &[u8], index: usize) -> Range<usize> {
        let ends = self.ints(bytes, OFFSETS, index..index + 2);
        ends[0] as usize..ends[1] as usize
    }

    fn row(&self, bytes: &[u8], index: usize, tables: &Tables) -> Row {
        let atoms = self.atoms_of(bytes, index);
        let small = |column: usize, range: Range<usize>| bytes[self.columns[column].clone()][range].to_vec();
        let real = |column: usize, width: usize, range: &Range<usize>| self.reals(bytes, column, width * range.start..width * range.end);
        let one = index..index + 1;
        let fields = 0..tables.arrays.len();
        Row {
            numbers: small(1, atoms.clone()),
            positions: real(2, 3, &atoms),
            cell: real(3, 9, &one),
            pbc: small(4, 3 * index..3 * index + 3),
            present: small(5, one.clone())[0],
            energy: real(6, 1, &one)[0],
            forces: real(7, 3, &atoms),
            force_mask: small(8, atoms.clone()),
            stress: real(9, 6, &one),
            weights: real(10, 3, &one),
            words: self.ints(bytes, WORDS, 4 * index..4 * index + 4),
            info: real(12, tables.info.len(), &one),
            arrays: fields
                .flat_map(|field| self.reals(bytes, 13, field * self.atoms + atoms.start..field * self.atoms + atoms.end))
                .collect(),
        }
    }

    /// One frame, checked.
    ///
    /// # Errors
    /// [`DataError::Corrupt`] if its checksum is another one.
    pub(super) fn frame(&self, bytes: &[u8], index: usize, tables: &Tables, path: &Path) -> Result<Frame, DataError> {
        let row = self.row(bytes, index, tables);
        let stored = self.ints(bytes, 14, index..index + 1)[0] as u64;
        let corrupt = |reason| DataError::Corrupt { path: path.to_owned(), reason };
        if row.checksum() != stored {
            return Err(corrupt(format!("the checksum of its frame {index} does not agree")));
        }
        row.frame(tables).ok_or_else(|| corrupt(format!("its frame {index} names a word that is not in the index")))
    }

    /// Number of atoms, group, head, file and number in the file of one frame; `None` if a word is beyond its table. Not checked otherwise.
    pub(super) fn summary(&self, bytes: &[u8], index: usize, tables: &Tables) -> Option<super::source::FrameSummary> {
        let words = self.ints(bytes, WORDS, 4 * index..4 * index + 4);
        Some(super::source::FrameSummary {
            atoms: self.atoms_of(bytes, index).len(),
            group: tables.groups.word(words[0])?,
            head: tables.heads.word(words[1])?,
            origin: Origin { file: tables.files.word(words[2])??, frame: usize::try_from(words[3]).ok()? },
        })
    }

    /// Frames in it.
    pub(super) fn frames(&self) -> usize {
        self.frames
    }

    /// Where a column lies.
    #[cfg(test)]
    pub(super) fn column(&self, name: &str) -> Option<Range<usize>> {
        NAMES.iter().position(|known| *known == name).map(|column| self.columns[column].clone())
    }
}
