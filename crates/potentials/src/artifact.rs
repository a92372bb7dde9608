//! The one file format of our own: safetensors whose metadata carries the header.
//!
//! Metadata keys: `format` ("tesseral"), `format_version`, and JSON under `header`, `units`. Reading validates before anything is allocated: the
//! safetensors crate checks offsets and sizes against the file, and every tensor is checked against the configuration when a model is built.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::error::{PotentialError, Result};
use crate::header::{FORMAT_VERSION, Header};

const FORMAT: &str = "tesseral";
const UNITS: &str = r#"{"length":"angstrom","energy":"eV","force":"eV/angstrom","stress":"eV/angstrom^3"}"#;

/// Numbers of a tensor that is being written.
#[derive(Debug, Clone, PartialEq)]
pub enum Numbers {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 64-bit floats.
    F64(Vec<f64>),
    /// Integers (tables of indices).
    I64(Vec<i64>),
}

impl Numbers {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
            Self::I64(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A named tensor that is being written.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements, row-major.
    pub numbers: Numbers,
}

/// Where the bytes are.
#[derive(Clone)]
enum Bytes {
    Static(&'static [u8]),
    Owned(Arc<Vec<u8>>),
    Mapped(Arc<memmap2::Mmap>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Static(b) => b,
            Self::Owned(b) => b,
            Self::Mapped(b) => b,
        }
    }
}

#[derive(Debug, Clone)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    range: std::ops::Range<usize>,
}

/// A potential as it lies on disk: header and tensors.
#[derive(Clone)]
pub struct Artifact {
    header: Header,
    origin: String,
    bytes: Bytes,
    tensors: BTreeMap<String, Entry>,
}

impl std::fmt::Debug for Artifact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Artifact")
            .field("name", &self.header.name)
            .field("origin", &self.origin)
            .field("tensors", &self.tensors.len())
            .finish()
    }
}

impl Artifact {
    /// Opens a file by memory mapping.
    ///
    /// # Errors
    /// If it cannot be read or is not an artifact that this version understands.
    #[allow(unsafe_code, reason = "memory mapping")]
    pub fn open(path: &Path) -> Result<Self> {
        let io = |source| PotentialError::Io { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(io)?;
        let origin = path.display().to_string();
        if file.metadata().map_err(io)?.len() == 0 {
            return Err(PotentialError::NotSafetensors { origin, reason: "the file is empty".into() });
        }
        // SAFETY: the map is read-only and private; artifacts are replaced by renaming, never rewritten in place, by every writer of ours.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
        Self::parse(Bytes::Mapped(Arc::new(map)), origin)
    }

    /// An artifact compiled into the program.
    ///
    /// # Errors
    /// If the bytes are not an artifact that this version understands.
    pub fn from_static(bytes: &'static [u8], origin: &str) -> Result<Self> {
        Self::parse(Bytes::Static(bytes), origin.to_owned())
    }

    /// An artifact in memory.
    ///
    /// # Errors
    /// If the bytes are not an artifact that this version understands.
    pub fn from_bytes(bytes: Vec<u8>, origin: &str) -> Result<Self> {
        Self::parse(Bytes::Owned(Arc::new(bytes)), origin.to_owned())
    }

    /// A new artifact from a header and tensors, as importers and trainers make it.
    ///
    /// # Errors
    /// If a tensor's shape and length differ or two have one name.
    pub fn new(header: Header, tensors: Vec<NamedTensor>) -> Result<Self> {
        let origin = header.name.clone();
        let bytes = encode(&header, &tensors, &origin)?;
        Self::from_bytes(bytes, &origin)
    }

    fn parse(bytes: Bytes, origin: String) -> Result<Self> {
        let unreadable = |e: safetensors::SafeTensorError| PotentialError::NotSafetensors { origin: origin.clone(), reason: e.to_string() };
        let (n, metadata) = SafeTensors::read_metadata(&bytes).map_err(unreadable)?;
        // Checks that the offsets cover the buffer exactly.
        SafeTensors::deserialize(&bytes).map_err(unreadable)?;
        let missing = |key| PotentialError::NotAnArtifact { origin: origin.clone(), key };
        let info = metadata.metadata().as_ref().ok_or_else(|| missing("format"))?;
        if info.get("format").map(String::as_str) != Some(FORMAT) {
            return Err(missing("format"));
        }
        let version = info.get("format_version").ok_or_else(|| missing("format_version"))?;
        let found: u32 = version.parse().map_err(|e| PotentialError::Header {
            origin: origin.clone(),
            key: "format_version",
            reason: format!("`{version}`: {e}"),
        })?;
        if found > FORMAT_VERSION || found == 0 {
            return Err(PotentialError::Version { origin, found, supported: FORMAT_VERSION });
        }
        let header = info.get("header").ok_or_else(|| missing("header"))?;
        let header: Header = serde_json::from_str(header).map_err(|e| PotentialError::Header {
            origin: origin.clone(),
            key: "header",
            reason: e.to_string(),
        })?;
        header.validate(&origin, found)?;
        let start = n + 8;
        let tensors = metadata
            .tensors()
            .into_iter()
            .map(|(name, t)| {
                let range = start + t.data_offsets.0..start + t.data_offsets.1;
                (name, Entry { dtype: t.dtype, shape: t.shape.clone(), range })
            })
            .collect();
        Ok(Self { header, origin, bytes, tensors })
    }

    /// What it says about itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The file, or a description of where the bytes came from.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The same tensors under a changed name, licence or provenance.
    ///
    /// # Errors
    /// If the header cannot be written.
    pub fn with_header(&self, header: Header) -> Result<Self> {
        let views: Vec<(String, TensorView<'_>)> = self
            .tensors
            .iter()
            .map(|(name, e)| {
                Ok((name.clone(), TensorView::new(e.dtype, e.shape.clone(), &self.bytes[e.range.clone()]).map_err(|e| self.broken(&e))?))
            })
            .collect::<Result<_>>()?;
        let bytes = in_order(safetensors::serialize(views, Some(metadata(&header, &self.origin)?)).map_err(|e| self.broken(&e))?);
        Self::from_bytes(bytes, &header.name)
    }

    /// The same with another header and some tensors replaced by others of their shape.
    ///
    /// # Errors
    /// If one of them is not there or has another shape.
    pub fn with_tensors(&self, header: Header, replaced: Vec<NamedTensor>) -> Result<Self> {
        let mut replaced: BTreeMap<String, NamedTensor> = replaced.into_iter().map(|t| (t.name.clone(), t)).collect();
        for t in replaced.values() {
            let entry = self.entry(&t.name)?;
            if entry.shape != t.shape {
                return Err(PotentialError::Shape { name: t.name.clone(), found: t.shape.clone(), expected: entry.shape.clone() });
            }
        }
        let tensors =
            self.tensors.keys().map(|name| replaced.remove(name).map_or_else(|| self.tensor(name), Ok)).collect::<Result<Vec<_>>>()?;
        Self::new(header, tensors)
    }

    /// A tensor in the type in which it is kept, half precision as single.
    ///
    /// # Errors
    /// If it is missing, or holds NaN or infinity.
    pub fn tensor(&self, name: &str) -> Result<NamedTensor> {
        let entry = self.entry(name)?;
        let numbers = match entry.dtype {
            Dtype::I64 => Numbers::I64(self.i64(name)?),
            Dtype::F64 => Numbers::F64(self.f64(name)?),
            // Half precision fits into single.
            _ => Numbers::F32(self.f64(name)?.into_iter().map(|x| x as f32).collect()),
        };
        Ok(NamedTensor { name: name.to_owned(), shape: entry.shape.clone(), numbers })
    }

    fn broken(&self, e: &safetensors::SafeTensorError) -> PotentialError {
        PotentialError::NotSafetensors { origin: self.origin.clone(), reason: e.to_string() }
    }

    /// Writes the artifact: to a temporary file in the same folder, synced, then renamed.
    ///
    /// # Errors
    /// If the file cannot be written; nothing is left behind then.
    pub fn save(&self, path: &Path) -> Result<()> {
        let io = |source| PotentialError::Io { path: path.to_owned(), source };
        tesseral_atoms::io::write_atomically(path, |w| std::io::Write::write_all(w, &self.bytes)).map_err(io)
    }

    /// Names of the tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Shape of a tensor, if it is there.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|e| e.shape.as_slice())
    }

    /// Floating-point numbers in all tensors: what people call the number of parameters (tables included).
    pub fn num_parameters(&self) -> usize {
        let float = |e: &&Entry| matches!(e.dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64);
        self.tensors
            .iter()
            .filter(|(name, _)| !name.contains(".basis."))
            .map(|(_, e)| e)
            .filter(float)
            .map(|e| e.shape.iter().product::<usize>())
            .sum()
    }

    /// Bytes of the whole file.
    pub fn num_bytes(&self) -> usize {
        self.bytes.len()
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.tensors.get(name).ok_or_else(|| PotentialError::MissingTensor { name: name.to_owned() })
    }

    /// A tensor of floating-point weights as f64, row-major.
    ///
    /// # Errors
    /// If it is missing, has another type, or holds NaN or infinity.
    pub fn f64(&self, name: &str) -> Result<Vec<f64>> {
        let entry = self.entry(name)?;
        let data = &self.bytes[entry.range.clone()];
        let values: Vec<f64> = match entry.dtype {
            Dtype::F64 => data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes"))).collect(),
            Dtype::F32 => data.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().expect("four bytes")))).collect(),
            Dtype::F16 => data.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f64()).collect(),
            Dtype::BF16 => data.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f64()).collect(),
            other => return Err(PotentialError::Dtype { name: name.to_owned(), dtype: format!("{other:?}") }),
        };
        match values.iter().position(|v| !v.is_finite()) {
            Some(index) => Err(PotentialError::NotFinite { name: name.to_owned(), index, value: values[index] }),
            None => Ok(values),
        }
    }

    /// A table of integers.
    ///
    /// # Errors
    /// If it is missing or has another type.
    pub fn i64(&self, name: &str) -> Result<Vec<i64>> {
        let entry = self.entry(name)?;
        match entry.dtype {
            Dtype::I64 => Ok(self.bytes[entry.range.clone()]
                .chunks_exact(8)
                .map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes")))
                .collect()),
            other => Err(PotentialError::Dtype { name: name.to_owned(), dtype: format!("{other:?}") }),
        }
    }

    /// Whether a tensor is there.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

fn metadata(header: &Header, origin: &str) -> Result<HashMap<String, String>> {
    let json = serde_json::to_string(header).map_err(|e| PotentialError::Header {
        origin: origin.to_owned(),
        key: "header",
        reason: e.to_string(),
    })?;
    Ok(HashMap::from([
        ("format".to_owned(), FORMAT.to_owned()),
        ("format_version".to_owned(), FORMAT_VERSION.to_string()),
        ("header".to_owned(), json),
        ("units".to_owned(), UNITS.to_owned()),
    ]))
}

fn encode(header: &Header, tensors: &[NamedTensor], origin: &str) -> Result<Vec<u8>> {
    struct View<'a>(&'a NamedTensor);
    impl safetensors::View for View<'_> {
        fn dtype(&self) -> Dtype {
            match self.0.numbers {
                Numbers::F32(_) => Dtype::F32,
                Numbers::F64(_) => Dtype::F64,
                Numbers::I64(_) => Dtype::I64,
            }
        }
        fn shape(&self) -> &[usize] {
            &self.0.shape
        }
        fn data(&self) -> Cow<'_, [u8]> {
            Cow::Owned(match &self.0.numbers {
                Numbers::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
                Numbers::F64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
                Numbers::I64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            })
        }
        fn data_len(&self) -> usize {
            self.0.numbers.len() * if matches!(self.0.numbers, Numbers::F32(_)) { 4 } else { 8 }
        }
    }
    let mut seen = std::collections::HashSet::new();
    for t in tensors {
        if t.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) != Some(t.numbers.len()) {
            return Err(PotentialError::Shape { name: t.name.clone(), found: vec![t.numbers.len()], expected: t.shape.clone() });
        }
        if !seen.insert(t.name.as_str()) {
            return Err(PotentialError::NotSafetensors {
                origin: origin.to_owned(),
                reason: format!("two tensors are called `{}`", t.name),
            });
        }
    }
    let views = tensors.iter().map(|t| (t.name.clone(), View(t)));
    let unwritable = |e: safetensors::SafeTensorError| PotentialError::NotSafetensors { origin: origin.to_owned(), reason: e.to_string() };
    Ok(in_order(safetensors::serialize(views, Some(metadata(header, origin)?)).map_err(unwritable)?))
}

/// The same file with its metadata in the order of their keys. They come from a hash map, in an order that changes from run to run, and the same model should
/// be the same bytes.
fn in_order(mut bytes: Vec<u8>) -> Vec<u8> {
    let sorted = |header: &[u8]| -> Option<Vec<u8>> {
        let mut json: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(header).ok()?;
        let metadata = json.get_mut("__metadata__")?.as_object_mut()?;
        let ordered: BTreeMap<String, serde_json::Value> = std::mem::take(metadata).into_iter().collect();
        metadata.extend(ordered);
        let mut text = serde_json::to_vec(&json).ok()?;
        // The header is padded with blanks to a multiple of eight bytes.
        (text.len() <= header.len()).then(|| {
            text.resize(header.len(), b' ');
            text
        })
    };
    let Some((length, rest)) = bytes.split_first_chunk_mut::<8>() else { return bytes };
    let length = u64::from_le_bytes(*length) as usize;
    if let Some(header) = rest.get_mut(..length)
        && let Some(sorted) = sorted(header)
    {
        header.copy_from_slice(&sorted);
    }
    bytes
}
