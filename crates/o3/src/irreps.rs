//! Irreducible representations of O(3) and direct sums of them, in the notation of e3nn: `128x0e+64x1o`.

use std::fmt;
use std::ops::{Mul, Range, RangeInclusive};
use std::str::FromStr;

/// How a quantity changes under inversion `r -> -r`. Odd sorts before even.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Parity {
    /// Changes sign; written `o`.
    Odd,
    /// Keeps its sign; written `e`.
    Even,
}

impl Parity {
    /// The parity `(-1)^l` of the spherical harmonics of degree `l`.
    #[must_use]
    pub const fn natural(l: usize) -> Self {
        if l.is_multiple_of(2) { Self::Even } else { Self::Odd }
    }

    /// `+1.0` for even, `-1.0` for odd.
    #[must_use]
    pub const fn sign(self) -> f64 {
        match self {
            Self::Even => 1.0,
            Self::Odd => -1.0,
        }
    }
}

impl Mul for Parity {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        if self == other { Self::Even } else { Self::Odd }
    }
}

impl fmt::Display for Parity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Odd => "o",
            Self::Even => "e",
        })
    }
}

/// One irreducible representation of O(3): degree `l` and parity. Ordered `0o < 0e < 1o < 1e < …`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Irrep {
    /// Degree; the representation has `2l + 1` components.
    pub l: usize,
    /// Behaviour under inversion.
    pub parity: Parity,
}

impl Irrep {
    /// The largest degree accepted in text and in [`Irreps`].
    pub const MAX_L: usize = 64;

    /// The irrep of degree `l` with the given parity.
    #[must_use]
    pub const fn new(l: usize, parity: Parity) -> Self {
        Self { l, parity }
    }

    /// The even irrep of degree `l`.
    #[must_use]
    pub const fn even(l: usize) -> Self {
        Self::new(l, Parity::Even)
    }

    /// The odd irrep of degree `l`.
    #[must_use]
    pub const fn odd(l: usize) -> Self {
        Self::new(l, Parity::Odd)
    }

    /// The irrep of the spherical harmonics of degree `l`, parity `(-1)^l`.
    #[must_use]
    pub const fn natural(l: usize) -> Self {
        Self::new(l, Parity::natural(l))
    }

    /// Number of components, `2l + 1`.
    #[must_use]
    pub const fn dim(self) -> usize {
        2 * self.l + 1
    }

    /// Whether this is `0e`, a quantity that no rotation or reflection changes.
    #[must_use]
    pub fn is_scalar(self) -> bool {
        self == Self::even(0)
    }
}

impl fmt::Display for Irrep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.l, self.parity)
    }
}

impl FromStr for Irrep {
    type Err = IrrepsError;

    /// Parses `1o`; surrounding white space is ignored.
    ///
    /// # Errors
    /// [`IrrepsError::BadTerm`] for anything else, [`IrrepsError::DegreeTooLarge`] above [`Irrep::MAX_L`].
    fn from_str(text: &str) -> Result<Self, IrrepsError> {
        let term = text.trim();
        let bad = |reason| IrrepsError::BadTerm { term: term.to_owned(), reason };
        let (degree, parity) = if let Some(degree) = term.strip_suffix('e') {
            (degree, Parity::Even)
        } else if let Some(degree) = term.strip_suffix('o') {
            (degree, Parity::Odd)
        } else {
            return Err(bad("it must end in a parity, `e` or `o`"));
        };
        let l = parse_digits(degree).ok_or_else(|| bad("the degree must be a whole number"))?;
        check_degree(l)?;
        Ok(Self { l, parity })
    }
}

impl Mul for Irrep {
    type Output = IrrepProduct;

    /// The irreps in the tensor product: `|l1 - l2| ..= l1 + l2` in increasing order, parities multiplied.
    fn mul(self, other: Self) -> IrrepProduct {
        IrrepProduct { degrees: self.l.abs_diff(other.l)..=self.l + other.l, parity: self.parity * other.parity }
    }
}

/// Iterator over the irreps in a product of two, see [`Irrep`]'s `Mul`.
#[derive(Clone, Debug)]
pub struct IrrepProduct {
    degrees: RangeInclusive<usize>,
    parity: Parity,
}

impl Iterator for IrrepProduct {
    type Item = Irrep;

    fn next(&mut self) -> Option<Irrep> {
        let l = self.degrees.next()?;
        Some(Irrep::new(l, self.parity))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.degrees.size_hint()
    }
}

/// `mul` copies (channels) of one irrep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MulIrrep {
    /// Multiplicity: the number of channels.
    pub mul: usize,
    /// The irrep that each channel transforms as.
    pub irrep: Irrep,
}

impl MulIrrep {
    /// `mul` channels of `irrep`.
    #[must_use]
    pub const fn new(mul: usize, irrep: Irrep) -> Self {
        Self { mul, irrep }
    }

    /// Number of values, `mul * (2l + 1)`.
    #[must_use]
    pub const fn dim(self) -> usize {
        self.mul * self.irrep.dim()
    }
}

impl fmt::Display for MulIrrep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.mul, self.irrep)
    }
}

impl FromStr for MulIrrep {
    type Err = IrrepsError;

    /// Parses `64x1o`, or `1o` for a multiplicity of one.
    ///
    /// # Errors
    /// As [`Irrep`], and [`IrrepsError::BadTerm`] for a malformed multiplicity.
    fn from_str(text: &str) -> Result<Self, IrrepsError> {
        let term = text.trim();
        let bad = |reason| IrrepsError::BadTerm { term: term.to_owned(), reason };
        let Some((mul, irrep)) = term.split_once('x') else {
            return Ok(Self::new(1, term.parse()?));
        };
        let mul = parse_digits(mul.trim()).ok_or_else(|| bad("the multiplicity must be a whole number that fits in memory"))?;
        // The whole term is reported, not only the part behind the `x`.
        let irrep = irrep.parse().map_err(|error| match error {
            IrrepsError::BadTerm { reason, .. } => bad(reason),
            other => other,
        })?;
        Ok(Self { mul, irrep })
    }
}

/// One block of an [`Irreps`] and where it lies in the feature vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Position of the block in the list.
    pub index: usize,
    /// Number of values before this block.
    pub offset: usize,
    /// Multiplicity: the number of channels.
    pub mul: usize,
    /// The irrep of every channel.
    pub irrep: Irrep,
}

impl Block {
    /// Number of values, `mul * (2l + 1)`.
    #[must_use]
    pub const fn dim(self) -> usize {
        self.mul * self.irrep.dim()
    }

    /// The values of this block in the feature vector.
    #[must_use]
    pub const fn range(self) -> Range<usize> {
        self.offset..self.offset + self.dim()
    }
}

/// Which parity the harmonics of an edge are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HarmonicParity {
    /// `(-1)^l`: `0e+1o+2e+…`, the true behaviour under inversion.
    Natural,
    /// All even: `0e+1e+2e+…`, for models equivariant under rotations alone.
    Even,
}

/// A direct sum of irreps with multiplicities, such as `128x0e+64x1o`: the type of a feature vector.
///
/// Blocks keep the order they were given in. The total dimension is at most [`Irreps::MAX_DIM`], so
/// that sums of dimensions never overflow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Irreps(Vec<MulIrrep>);

/// A sorted [`Irreps`] and where each block came from, made by [`Irreps::sort`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortedIrreps {
    /// The sorted blocks.
    pub irreps: Irreps,
    /// `permutation[old] = new`: where each block of the unsorted list went.
    pub permutation: Vec<usize>,
    /// `inverse[new] = old`: where each block of the sorted list came from.
    pub inverse: Vec<usize>,
}

impl Irreps {
    /// The largest total dimension, the largest that a 32-bit signed index reaches.
    pub const MAX_DIM: usize = i32::MAX as usize;

    /// Checks the blocks and keeps them in order.
    ///
    /// # Errors
    /// [`IrrepsError::DegreeTooLarge`] and [`IrrepsError::DimensionTooLarge`].
    pub fn new(blocks: Vec<MulIrrep>) -> Result<Self, IrrepsError> {
        let mut dim = 0usize;
        for block in &blocks {
            check_degree(block.irrep.l)?;
            dim = block
                .mul
                .checked_mul(block.irrep.dim())
                .and_then(|size| size.checked_add(dim))
                .filter(|&size| size <= Self::MAX_DIM)
                .ok_or_else(|| IrrepsError::DimensionTooLarge { term: block.to_string(), max: Self::MAX_DIM })?;
        }
        Ok(Self(blocks))
    }

    /// `0e+1o+…` (or all even) up to and including `l_max`, one channel each: the type of the
    /// harmonics of an edge.
    ///
    /// # Errors
    /// [`IrrepsError::DegreeTooLarge`] above [`Irrep::MAX_L`].
    pub fn spherical_harmonics(l_max: usize, parity: HarmonicParity) -> Result<Self, IrrepsError> {
        check_degree(l_max)?;
        let block = |l| match parity {
            HarmonicParity::Natural => MulIrrep::new(1, Irrep::natural(l)),
            HarmonicParity::Even => MulIrrep::new(1, Irrep::even(l)),
        };
        Self::new((0..=l_max).map(block).collect())
    }

    /// The blocks in order.
    #[must_use]
    pub fn blocks(&self) -> &[MulIrrep] {
        &self.0
    }

    /// Iterates over the blocks in order.
    pub fn iter(&self) -> std::slice::Iter<'_, MulIrrep> {
        self.0.iter()
    }

    /// Iterates over the blocks with their index and offset in the feature vector.
    pub fn blocks_with_offsets(&self) -> impl Iterator<Item = Block> + '_ {
        self.0.iter().enumerate().scan(0, |offset, (index, &MulIrrep { mul, irrep })| {
            let block = Block { index, offset: *offset, mul, irrep };
            *offset += block.dim();
            Some(block)
        })
    }

    /// Number of blocks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no blocks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of values in a feature vector of this type.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.0.iter().map(|block| block.dim()).sum()
    }

    /// Number of irreps counted with multiplicity: the sum of all `mul`.
    #[must_use]
    pub fn num_irreps(&self) -> usize {
        self.0.iter().map(|block| block.mul).sum()
    }

    /// The largest degree, `None` if there are no blocks.
    #[must_use]
    pub fn l_max(&self) -> Option<usize> {
        self.0.iter().map(|block| block.irrep.l).max()
    }

    /// Total multiplicity of `irrep` over all blocks.
    #[must_use]
    pub fn count(&self, irrep: Irrep) -> usize {
        self.0.iter().filter(|block| block.irrep == irrep).map(|block| block.mul).sum()
    }

    /// Whether some block with at least one channel has this irrep.
    #[must_use]
    pub fn contains(&self, irrep: Irrep) -> bool {
        self.count(irrep) > 0
    }

    /// The blocks for which `keep` is true, in order.
    #[must_use]
    pub fn filter(&self, mut keep: impl FnMut(&MulIrrep) -> bool) -> Self {
        Self(self.0.iter().filter(|block| keep(block)).copied().collect())
    }

    /// Blocks of `self` followed by those of `other`, nothing merged.
    ///
    /// # Errors
    /// [`IrrepsError::DimensionTooLarge`].
    pub fn concat(&self, other: &Self) -> Result<Self, IrrepsError> {
        Self::new(self.0.iter().chain(&other.0).copied().collect())
    }

    /// Stable sort of the blocks by irrep: equal irreps keep their order and stay separate blocks.
    #[must_use]
    pub fn sort(&self) -> SortedIrreps {
        let mut inverse: Vec<usize> = (0..self.0.len()).collect();
        inverse.sort_by_key(|&old| self.0[old].irrep);
        let mut permutation = vec![0; inverse.len()];
        for (new, &old) in inverse.iter().enumerate() {
            permutation[old] = new;
        }
        SortedIrreps { irreps: Self(inverse.iter().map(|&old| self.0[old]).collect()), permutation, inverse }
    }

    /// Merges **adjacent** blocks of the same irrep and drops blocks without channels.
    #[must_use]
    pub fn simplify(&self) -> Self {
        let mut merged: Vec<MulIrrep> = Vec::with_capacity(self.0.len());
        for &block in self.0.iter().filter(|block| block.mul > 0) {
            match merged.last_mut() {
                Some(last) if last.irrep == block.irrep => last.mul += block.mul,
                _ => merged.push(block),
            }
        }
        Self(merged)
    }

    /// Sorts, then merges: at most one block per irrep.
    #[must_use]
    pub fn regroup(&self) -> Self {
        self.sort().irreps.simplify()
    }
}

impl<'a> IntoIterator for &'a Irreps {
    type Item = &'a MulIrrep;
    type IntoIter = std::slice::Iter<'a, MulIrrep>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl TryFrom<Vec<MulIrrep>> for Irreps {
    type Error = IrrepsError;

    fn try_from(blocks: Vec<MulIrrep>) -> Result<Self, IrrepsError> {
        Self::new(blocks)
    }
}

impl From<Irrep> for Irreps {
    /// One channel of `irrep`.
    fn from(irrep: Irrep) -> Self {
        Self(vec![MulIrrep::new(1, irrep)])
    }
}

impl fmt::Display for Irreps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, block) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("+")?;
            }
            write!(f, "{block}")?;
        }
        Ok(())
    }
}

impl FromStr for Irreps {
    type Err = IrrepsError;

    /// Parses `128x0e + 64x1o`. White space is free, `0e` means `1x0e`, empty text is the empty sum.
    ///
    /// # Errors
    /// An [`IrrepsError`] with the offending term.
    fn from_str(text: &str) -> Result<Self, IrrepsError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        Self::new(text.split('+').map(str::parse).collect::<Result<_, _>>()?)
    }
}

/// What can be wrong with irreps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IrrepsError {
    /// A term that is not of the form `64x1o` or `1o`.
    #[error("cannot read `{term}` as irreps: {reason} (expected something like `128x0e+64x1o`)")]
    BadTerm {
        /// The offending piece of text.
        term: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A degree above [`Irrep::MAX_L`].
    #[error("the irrep degree l = {l} is above the largest supported degree {max}")]
    DegreeTooLarge {
        /// The degree asked for.
        l: usize,
        /// The largest supported degree.
        max: usize,
    },
    /// A sum of dimensions above [`Irreps::MAX_DIM`].
    #[error("the irreps reach a total dimension above {max} at `{term}`")]
    DimensionTooLarge {
        /// The block at which the limit was passed.
        term: String,
        /// The largest supported dimension.
        max: usize,
    },
}

fn check_degree(l: usize) -> Result<(), IrrepsError> {
    if l > Irrep::MAX_L {
        return Err(IrrepsError::DegreeTooLarge { l, max: Irrep::MAX_L });
    }
    Ok(())
}

/// ASCII digits only: `str::parse` alone would accept a leading `+`.
fn parse_digits(text: &str) -> Option<usize> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn irreps(text: &str) -> Irreps {
        text.parse().unwrap()
    }

    #[test]
    fn parses_what_e3nn_writes() {
        let parsed = irreps(" 128x0e +64 x 1o+ 2e ");
        assert_eq!(parsed.to_string(), "128x0e+64x1o+1x2e");
        assert_eq!(parsed.dim(), 128 + 64 * 3 + 5);
        assert_eq!(parsed.num_irreps(), 193);
        assert_eq!(parsed.l_max(), Some(2));
        assert_eq!(parsed.count(Irrep::odd(1)), 64);
        assert!(!parsed.contains(Irrep::even(1)));
        assert!(irreps("  ").is_empty());
        assert_eq!(irreps("").to_string(), "");
        assert_eq!(irreps("").l_max(), None);
    }

    #[test]
    fn offsets_follow_the_blocks() {
        let blocks: Vec<Block> = irreps("4x0e+0x3o+2x1o").blocks_with_offsets().collect();
        assert_eq!(blocks.iter().map(|b| b.range()).collect::<Vec<_>>(), [0..4, 4..4, 4..10]);
        assert_eq!(blocks[2].index, 2);
    }

    #[test]
    fn names_the_offending_piece() {
        for (text, piece) in [
            ("128x0e+64x1q", "64x1q"),
            ("128x0e+", ""),
            ("+0e", ""),
            ("x0e", "x0e"),
            ("3xe", "3xe"),
            ("-1x0e", "-1x0e"),
            ("2x3x0e", "2x3x0e"),
            ("1.5x0e", "1.5x0e"),
            ("99999999999999999999999x0e", "99999999999999999999999x0e"),
            ("0e, 1o", "0e, 1o"),
            ("2xé", "2xé"),
        ] {
            match text.parse::<Irreps>() {
                Err(IrrepsError::BadTerm { term, .. }) => assert_eq!(term, piece, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn bounds_degrees_and_dimensions() {
        assert_eq!("65e".parse::<Irrep>(), Err(IrrepsError::DegreeTooLarge { l: 65, max: 64 }));
        let error = "1x0e+1000000000x1o".parse::<Irreps>().unwrap_err();
        assert!(matches!(error, IrrepsError::DimensionTooLarge { ref term, .. } if term == "1000000000x1o"));
        assert!(format!("{}x0e", Irreps::MAX_DIM).parse::<Irreps>().is_ok());
        assert!(format!("{}x1e", usize::MAX).parse::<Irreps>().is_err());
        assert!(Irreps::spherical_harmonics(65, HarmonicParity::Even).is_err());
    }

    #[test]
    fn orders_odd_before_even() {
        let sorted = irreps("1x1e+2x0e+3x1o+4x0o+5x0e").sort();
        assert_eq!(sorted.irreps.to_string(), "4x0o+2x0e+5x0e+3x1o+1x1e");
        assert_eq!(sorted.inverse, [3, 1, 4, 2, 0]);
        assert_eq!(sorted.permutation, [4, 1, 3, 0, 2]);
    }

    #[test]
    fn simplify_merges_only_neighbours() {
        let list = irreps("1x0e+2x0e+3x1o+0x1e+4x1o+5x0e");
        assert_eq!(list.simplify().to_string(), "3x0e+7x1o+5x0e");
        assert_eq!(list.regroup().to_string(), "8x0e+7x1o");
    }

    #[test]
    fn products_multiply_parities() {
        let product: Vec<String> = (Irrep::odd(1) * Irrep::even(2)).map(|i| i.to_string()).collect();
        assert_eq!(product, ["1o", "2o", "3o"]);
        assert_eq!((Irrep::odd(1) * Irrep::odd(1)).next(), Some(Irrep::even(0)));
    }

    #[test]
    fn harmonics_have_either_parity() {
        let natural = Irreps::spherical_harmonics(3, HarmonicParity::Natural).unwrap();
        let even = Irreps::spherical_harmonics(2, HarmonicParity::Even).unwrap();
        assert_eq!(natural, irreps("0e+1o+2e+3o"));
        assert_eq!(even, irreps("0e+1e+2e"));
    }

    proptest! {
        #[test]
        fn text_round_trip(blocks in prop::collection::vec((0usize..300, 0usize..12, any::<bool>()), 0..8)) {
            let blocks = blocks
                .into_iter()
                .map(|(mul, l, even)| {
                    MulIrrep::new(mul, if even { Irrep::even(l) } else { Irrep::odd(l) })
                })
                .collect();
            let list = Irreps::new(blocks).unwrap();
            prop_assert_eq!(&list.to_string().parse::<Irreps>().unwrap(), &list);
            // Sorting and merging move channels about but never lose one.
            let regrouped = list.regroup();
            prop_assert_eq!(regrouped.dim(), list.dim());
            for block in &list {
                prop_assert_eq!(regrouped.count(block.irrep), list.count(block.irrep));
            }
            prop_assert!(regrouped.blocks().windows(2).all(|pair| pair[0].irrep < pair[1].irrep));
        }

        #[test]
        fn any_text_parses_or_is_refused(text in "[0-9xeo+ é-]{0,24}") {
            if let Ok(list) = text.parse::<Irreps>() {
                prop_assert!(list.dim() <= Irreps::MAX_DIM);
                prop_assert_eq!(&list.to_string().parse::<Irreps>().unwrap(), &list);
            }
        }
    }
}
