//! Symmetric contraction: for each atom and channel, polynomials in the components of its features with element-dependent coefficients.
//!
//! P[i, M, k] = Σ_t c[z_i, t, k] · Π_{a ∈ monomial(t)} A[i, a, k] over the terms t of output component M, for features A `[N, D, K]` (channels
//! fastest) and coefficients `[Z, T, K]`, Z counting the elements present (the groups of [`Groups`]) and T the terms. MACE's product basis
//! (model definitions §2.6) in that form needs neither its dense tensors U nor its paths: c = U·W is taken once, by [`SymmetricBasis`],
//! and every ordering of the same components has become one monomial.
//!
//! Products are shared: a monomial is its prefix times one more component, so each costs one multiplication, and the adjoint runs over
//! the same tree backwards. Six maps are closed under differentiation (to second order), with g `[N, outputs, K]` and v like A:
//!
//! | map | value |
//! |---|---|
//! | evaluate(A, c) | P |
//! | adjoint(A, c, g) | ∇_A ⟨g, P⟩ |
//! | adjoint_coefficients(A, g) | ∂_c ⟨g, P⟩ |
//! | tangent(A, v, c) | (v·∇_A) P |
//! | adjoint_tangent(A, v, g, c) | ∇_A ⟨g, (v·∇_A) P⟩ |
//! | tangent_coefficients(A, v, g) | ∂_c ⟨g, (v·∇_A) P⟩ |

mod autograd;
mod basis;
pub mod cpu;
pub mod cuda;
mod product_tree;
pub mod reference;
pub mod sparse;

use std::sync::Arc;

use candle_core::{Result, Tensor};

pub use basis::SymmetricBasis;
pub use product_tree::ProductTree;

use crate::linear::Groups;

/// What is wrong with the description of a contraction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContractionError {
    /// A monomial without factors, with unsorted ones, or with a component that the features do not have.
    #[error("monomial {monomial} must be 1 or more components in ascending order, each below {dim}")]
    Monomial {
        /// Which one.
        monomial: usize,
        /// Components of the features.
        dim: usize,
    },
    /// A term that points to a monomial or output that does not exist.
    #[error("term {term} points to a monomial or an output component that does not exist")]
    Term {
        /// Which one.
        term: usize,
    },
    /// Bases of one contraction that are for features or outputs of different size.
    #[error("basis {basis} of output block {block} is for {found} components, others for {expected}")]
    Basis {
        /// Output block.
        block: usize,
        /// Which basis of the block.
        basis: usize,
        /// Its number of components.
        found: usize,
        /// Those of the others.
        expected: usize,
    },
}

/// One coefficient: which monomial it multiplies in which output component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// Output component M; the components of several output blocks follow one another.
    pub output: usize,
    /// Index of the monomial.
    pub monomial: usize,
}

/// Which polynomials: monomials, and the terms in which they occur.
#[derive(Debug, Clone)]
pub struct ContractionSpec {
    dim: usize,
    outputs: usize,
    monomials: Vec<Vec<u16>>,
    terms: Vec<Term>,
    tree: ProductTree,
}

impl ContractionSpec {
    /// Polynomials in `dim` components with `outputs` values. `monomials` are components in ascending order (repeated for powers); the
    /// order of `terms` is that of the coefficients.
    ///
    /// # Errors
    /// [`ContractionError`] if a monomial or term does not fit.
    pub fn new(dim: usize, outputs: usize, monomials: Vec<Vec<u16>>, terms: Vec<Term>) -> std::result::Result<Self, ContractionError> {
        let valid = |m: &Vec<u16>| m.is_sorted() && m.last().is_some_and(|&a| usize::from(a) < dim);
        if let Some(monomial) = monomials.iter().position(|m| !valid(m)) {
            return Err(ContractionError::Monomial { monomial, dim });
        }
        if let Some(term) = terms.iter().position(|t| t.output >= outputs || t.monomial >= monomials.len()) {
            return Err(ContractionError::Term { term });
        }
        let tree = ProductTree::new(dim, outputs, &monomials, &terms);
        Ok(Self { dim, outputs, monomials, terms, tree })
    }

    /// Components of the features, D.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Components of the result.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The monomials.
    pub fn monomials(&self) -> &[Vec<u16>] {
        &self.monomials
    }

    /// The terms, in the order of the coefficients.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// The order in which products are computed.
    pub(crate) fn tree(&self) -> &ProductTree {
        &self.tree
    }
}

/// The contraction of `features` `[N, D, K]` with `coefficients` `[Z, T, K]`: `[N, outputs, K]`; `elements` groups the atoms by their
/// row of coefficients. Differentiable twice in both tensors; `f32` or `f64`.
///
/// # Errors
/// If shapes or types do not fit.
pub fn symmetric_contraction(
    features: &Tensor,
    coefficients: &Tensor,
    spec: &Arc<ContractionSpec>,
    elements: &Arc<Groups>,
) -> Result<Tensor> {
    autograd::Contraction { spec: spec.clone(), elements: elements.clone() }.evaluate(features, coefficients)
}

#[cfg(test)]
mod tests;
