//! The order in which the products of a contraction are computed, and where they are used.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Term;

/// A node of the tree with children: they are its product times one more component each.
#[derive(Debug, Clone)]
pub(super) struct Parent {
    pub(super) node: usize,
    pub(super) children: Range<usize>,
}

/// All products that occur, as a tree: the components first, then pairs, triples, …, each degree in lexicographic order, so that parents
/// come before their children and the children of a parent are neighbours.
#[derive(Debug, Clone)]
pub struct ProductTree {
    pub(super) nodes: usize,
    /// The last component of each node.
    pub(super) factor: Vec<u32>,
    /// Ascending.
    pub(super) parents: Vec<Parent>,
    /// Nodes from here on have no children.
    pub(super) leaves: usize,
    /// (term, node) of each output component.
    outputs: Vec<Vec<(u32, u32)>>,
}

impl ProductTree {
    pub(super) fn new(dim: usize, outputs: usize, monomials: &[Vec<u16>], terms: &[Term]) -> Self {
        // Degree first, then lexicographic; every prefix of a monomial is a node.
        let mut index: BTreeMap<(usize, &[u16]), usize> = BTreeMap::new();
        let components: Vec<[u16; 1]> = (0..dim).map(|a| [a as u16]).collect();
        for a in &components {
            index.insert((1, a), 0);
        }
        for monomial in monomials {
            for degree in 1..=monomial.len() {
                index.insert((degree, &monomial[..degree]), 0);
            }
        }
        for (position, node) in index.values_mut().enumerate() {
            *node = position;
        }
        let nodes = index.len();
        let factor = index.keys().map(|(_, m)| m.last().map_or(0, |&a| u32::from(a))).collect();
        let mut children: BTreeMap<usize, Range<usize>> = BTreeMap::new();
        for (&(degree, monomial), &node) in index.iter().filter(|((degree, _), _)| *degree > 1) {
            let parent = index[&(degree - 1, &monomial[..degree - 1])];
            children.entry(parent).or_insert(node..node).end = node + 1;
        }
        let leaves = children.keys().next_back().map_or(0, |last| last + 1);
        let mut of_output = vec![Vec::new(); outputs];
        for (t, term) in terms.iter().enumerate() {
            let monomial = &monomials[term.monomial];
            let node = index[&(monomial.len(), monomial.as_slice())];
            of_output[term.output].push((t as u32, node as u32));
        }
        Self {
            nodes,
            factor,
            parents: children.into_iter().map(|(node, children)| Parent { node, children }).collect(),
            leaves,
            outputs: of_output,
        }
    }

    #[inline(always)]
    pub(super) fn outputs(&self) -> &[Vec<(u32, u32)>] {
        &self.outputs
    }
}
