//! The values that travel with a structure: per-frame metadata ([`InfoValue`]) and per-atom columns ([`Array`]).

use std::fmt;

/// A dense matrix of metadata in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix<T> {
    rows: usize,
    columns: usize,
    data: Vec<T>,
}

impl<T> Matrix<T> {
    /// A `rows × columns` matrix from row-major data; `None` if the number of values is not their product.
    pub fn new(rows: usize, columns: usize, data: Vec<T>) -> Option<Self> {
        (rows.checked_mul(columns) == Some(data.len())).then_some(Self { rows, columns, data })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// All values, row by row.
    pub fn data(&self) -> &[T] {
        &self.data
    }

    /// The rows, one slice each.
    pub fn iter_rows(&self) -> impl Iterator<Item = &[T]> {
        (0..self.rows).map(|i| &self.data[i * self.columns..(i + 1) * self.columns])
    }
}

impl From<[[f64; 3]; 3]> for Matrix<f64> {
    fn from(rows: [[f64; 3]; 3]) -> Self {
        Self { rows: 3, columns: 3, data: rows.concat() }
    }
}

/// A piece of metadata of one frame, as extended XYZ and ASE's `info` dictionary know them.
#[derive(Debug, Clone, PartialEq)]
pub enum InfoValue {
    /// A logical value.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A real number.
    Real(f64),
    /// A string.
    Text(String),
    /// A list of logical values.
    BoolVector(Vec<bool>),
    /// A list of integers.
    IntVector(Vec<i64>),
    /// A list of real numbers.
    RealVector(Vec<f64>),
    /// A matrix of logical values.
    BoolMatrix(Matrix<bool>),
    /// A matrix of integers.
    IntMatrix(Matrix<i64>),
    /// A matrix of real numbers; `stress` and `virial` with nine numbers are always this, 3 × 3.
    RealMatrix(Matrix<f64>),
    /// Anything else that JSON can hold.
    Json(serde_json::Value),
}

impl InfoValue {
    /// The value as a real number, if it is one number.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Int(x) => Some(*x as f64),
            Self::Real(x) => Some(*x),
            _ => None,
        }
    }

    /// The value as an integer, if it is one: a real number only when it has no fraction.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Int(x) => Some(*x),
            Self::Real(x) if x.fract() == 0.0 && x.abs() < 2f64.powi(53) => Some(*x as i64),
            _ => None,
        }
    }

    /// The value as text, if it is text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value as a logical value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(x) => Some(*x),
            _ => None,
        }
    }

    /// All numbers of a number, vector or matrix (row-major); `None` for anything that is not numeric.
    pub fn to_reals(&self) -> Option<Vec<f64>> {
        match self {
            Self::Int(x) => Some(vec![*x as f64]),
            Self::Real(x) => Some(vec![*x]),
            Self::IntVector(v) => Some(v.iter().map(|&x| x as f64).collect()),
            Self::RealVector(v) => Some(v.clone()),
            Self::IntMatrix(m) => Some(m.data.iter().map(|&x| x as f64).collect()),
            Self::RealMatrix(m) => Some(m.data.clone()),
            _ => None,
        }
    }

    /// What kind of value this is, for messages: "text", "3 integers", "a 3×3 matrix of real numbers".
    pub fn describe(&self) -> String {
        match self {
            Self::Bool(_) => "a logical value".to_owned(),
            Self::Int(_) => "an integer".to_owned(),
            Self::Real(_) => "a real number".to_owned(),
            Self::Text(_) => "text".to_owned(),
            Self::BoolVector(v) => format!("{} logical values", v.len()),
            Self::IntVector(v) => format!("{} integers", v.len()),
            Self::RealVector(v) => format!("{} real numbers", v.len()),
            Self::BoolMatrix(m) => format!("a {}×{} matrix of logical values", m.rows, m.columns),
            Self::IntMatrix(m) => format!("a {}×{} matrix of integers", m.rows, m.columns),
            Self::RealMatrix(m) => format!("a {}×{} matrix of real numbers", m.rows, m.columns),
            Self::Json(_) => "a JSON value".to_owned(),
        }
    }
}

macro_rules! info_from {
    ($($source:ty => $variant:ident),* $(,)?) => {$(
        impl From<$source> for InfoValue {
            fn from(value: $source) -> Self {
                Self::$variant(value.into())
            }
        }
    )*};
}

info_from! {
    bool => Bool, i64 => Int, f64 => Real, &str => Text, String => Text,
    Vec<bool> => BoolVector, Vec<i64> => IntVector, Vec<f64> => RealVector,
    [[f64; 3]; 3] => RealMatrix, serde_json::Value => Json,
}

/// The numbers of an [`Array`], row-major: all components of atom 0, then of atom 1, ….
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    /// Logical values (extended XYZ type `L`).
    Bool(Vec<bool>),
    /// Integers (type `I`).
    Int(Vec<i64>),
    /// Real numbers (type `R`).
    Real(Vec<f64>),
    /// Words without white space (type `S`).
    Text(Vec<String>),
}

impl Column {
    /// Number of values (atoms × width).
    pub fn len(&self) -> usize {
        match self {
            Self::Bool(v) => v.len(),
            Self::Int(v) => v.len(),
            Self::Real(v) => v.len(),
            Self::Text(v) => v.len(),
        }
    }

    /// True if there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A per-atom quantity with `width` values for each atom.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    width: usize,
    values: Column,
}

/// The number of values does not fill whole rows of the stated width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArrayShapeError {
    /// Values per atom asked for.
    pub width: usize,
    /// Number of values given.
    pub len: usize,
}

impl fmt::Display for ArrayShapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values do not divide into rows of {}", self.len, self.width)
    }
}

impl std::error::Error for ArrayShapeError {}

impl Array {
    /// An array with `width` values per atom from row-major values.
    ///
    /// # Errors
    /// [`ArrayShapeError`] if `width` is zero or does not divide the number of values.
    pub fn new(width: usize, values: Column) -> Result<Self, ArrayShapeError> {
        let len = values.len();
        if width == 0 || !len.is_multiple_of(width) {
            return Err(ArrayShapeError { width, len });
        }
        Ok(Self { width, values })
    }

    /// One real number per atom.
    pub fn scalars(values: Vec<f64>) -> Self {
        Self { width: 1, values: Column::Real(values) }
    }

    /// One Cartesian vector per atom.
    pub fn vectors(values: &[[f64; 3]]) -> Self {
        Self { width: 3, values: Column::Real(values.concat()) }
    }

    /// Values per atom, at least 1.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of atoms.
    pub fn atoms(&self) -> usize {
        self.values.len() / self.width
    }

    /// The values, row-major.
    pub fn values(&self) -> &Column {
        &self.values
    }

    /// The real values, row-major, if the column is real.
    pub fn as_reals(&self) -> Option<&[f64]> {
        match &self.values {
            Column::Real(v) => Some(v),
            _ => None,
        }
    }

    /// The integers, row-major, if the column is of integers.
    pub fn as_ints(&self) -> Option<&[i64]> {
        match &self.values {
            Column::Int(v) => Some(v),
            _ => None,
        }
    }

    /// One Cartesian vector per atom, if the column is numeric with three values per atom.
    pub fn to_vectors(&self) -> Option<Vec<[f64; 3]>> {
        if self.width != 3 {
            return None;
        }
        match &self.values {
            Column::Real(v) => Some(v.chunks_exact(3).map(|c| [c[0], c[1], c[2]]).collect()),
            Column::Int(v) => Some(v.chunks_exact(3).map(|c| [c[0] as f64, c[1] as f64, c[2] as f64]).collect()),
            _ => None,
        }
    }
}
