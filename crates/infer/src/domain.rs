//! A part of a system that is spread over several processes: the atoms of one rank, and how it exchanges what they send.
//!
//! How it is computed, and what that costs, is told in `compiled::ranks`.

use std::sync::Arc;

use crate::InferError;
use crate::compiled::{Rank, Stage};

/// The species of atoms that the model has nothing to do with: they have neither energy nor neighbours, and are nobody's neighbours, whatever lists say.
pub const NO_SPECIES: u32 = u32::MAX;

/// The atoms of one rank.
#[derive(Clone, Copy)]
pub struct DomainAtoms<'a> {
    /// How many atoms are the rank's own; those after them are ghosts.
    pub owned: usize,
    /// Positions of all of them, Å.
    pub positions: &'a [[f64; 3]],
    /// Species of all of them, as the model counts its elements, or [`NO_SPECIES`]; looked at with a new list only.
    pub species: &'a [u32],
    /// What messages call the atoms, if not by their index here. Copies of one atom have the same.
    pub tags: Option<&'a [i64]>,
    /// Of each ghost the first atom here that it is a copy of, own or ghost, across a periodic boundary; itself if there is none before it. Copies share the
    /// features of that atom, so that they cost nothing in exchanges, and what would be forces on them is among its forces. If it is not told, no ghost is a copy.
    /// Looked at with a new list only.
    pub images: Option<&'a [u32]>,
    /// The neighbours of each own atom, if they are others than in the last call. Every neighbour within the cutoff has to be
    /// there for as long as the list is used; those beyond it are left out at each step.
    pub neighbors: Option<&'a dyn Neighbors>,
}

impl DomainAtoms<'_> {
    /// What messages call an atom.
    pub(crate) fn name(&self, atom: usize) -> usize {
        self.tags.and_then(|tags| usize::try_from(*tags.get(atom)?).ok()).unwrap_or(atom)
    }
}

/// A full list of the neighbours of a rank's own atoms: of two of them, each has the other.
pub trait Neighbors: Sync {
    /// Appends the neighbours of an atom to `to`: indices into own atoms and ghosts.
    fn append(&self, atom: usize, to: &mut Vec<u32>);
}

/// Neighbours one after another: those of atom `i` are `neighbors[offsets[i]..offsets[i + 1]]`.
#[derive(Debug, Clone, Copy)]
pub struct NeighborRows<'a> {
    /// Where those of each own atom begin, and the end of the last.
    pub offsets: &'a [usize],
    /// Indices into own atoms and ghosts.
    pub neighbors: &'a [u32],
}

impl Neighbors for NeighborRows<'_> {
    fn append(&self, atom: usize, to: &mut Vec<u32>) {
        to.extend_from_slice(&self.neighbors[self.offsets[atom]..self.offsets[atom + 1]]);
    }
}

/// Numbers of one precision.
#[derive(Debug)]
pub enum Numbers<'a> {
    /// Single precision.
    F32(&'a mut [f32]),
    /// Double precision.
    F64(&'a mut [f64]),
}

/// A row of numbers for each atom: own atoms, then ghosts, in the caller's order. Rows are aligned to 8 bytes and multiples of 8 bytes long.
///
/// Rows of ghosts that are copies of an atom here ([`DomainAtoms::images`]) hold nothing, and nobody reads them. Nor does anybody read those of ghosts that no own atom
/// has for a neighbour, neither the ghost nor a copy of it.
#[derive(Debug)]
pub struct ExchangeRows<'a> {
    /// Numbers of a row.
    pub width: usize,
    /// `[own atoms + ghosts, width]`
    pub numbers: Numbers<'a>,
}

/// What an exchange failed with.
pub type ExchangeError = Box<dyn std::error::Error + Send + Sync>;

/// Connects the ranks. Every rank calls the same methods in the same order, with rows of the same width, always from the thread that asked for the evaluation.
pub trait Exchange {
    /// Fills the rows of ghosts with those of their owners.
    ///
    /// # Errors
    /// If it cannot be done; there are no further exchanges then.
    fn forward(&mut self, rows: ExchangeRows<'_>) -> Result<(), ExchangeError>;

    /// Adds the rows of ghosts to those of their owners. What the rows of ghosts hold afterwards is of no concern.
    ///
    /// # Errors
    /// As [`Self::forward`].
    fn reverse(&mut self, rows: ExchangeRows<'_>) -> Result<(), ExchangeError>;
}

/// What a rank computes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DomainEvaluation {
    /// Energy of the own atoms, eV; all ranks' sum to the energy of the system.
    pub energy: f64,
    /// Energy of each own atom, eV.
    pub atomic_energies: Vec<f64>,
    /// What the energies of the own atoms of all ranks give for the own atoms and ghosts of this one, eV/Å: the force on an atom is the sum of what it and its ghosts, on
    /// whatever rank, have.
    pub forces: Vec<[f64; 3]>,
    /// −Σ v ⊗ dE/dv over the edges of own atoms, symmetric, eV; all ranks' sum to the virial of the system, which is −V · stress.
    pub virial: [[f64; 3]; 3],
    /// If asked for (by being there): each edge's part of the virial, one half at either end, eV, in the order xx, yy, zz, xy, xz, yz, for own atoms
    /// and ghosts, to be summed like forces. This is how LAMMPS divides the virial of a pair (Thompson, Plimpton and Mattson 2009,
    /// <https://doi.org/10.1063/1.3245303>, eq. 21). Not computed on devices. It is not that of the heat flux, which needs the derivatives of each atom's energy.
    pub atomic_virials: Option<Vec<[f64; 6]>>,
}

/// What is wrong with a rank's atoms or with their exchange.
#[derive(Debug, thiserror::Error)]
pub enum DomainError {
    /// Numbers of things that do not agree.
    #[error("{found} {what} for {atoms} own atoms and ghosts")]
    Count {
        /// Of what there are too many or too few.
        what: &'static str,
        /// How many.
        found: usize,
        /// Own atoms and ghosts.
        atoms: usize,
    },
    /// No list of neighbours is held for these atoms.
    #[error(
        "{owned} own atoms and {ghosts} ghosts come without a list of neighbours, {}",
        listed.map_or("and none is held".to_owned(), |[own, all]| format!("and the one that is held is of {own} and {}", all - own))
    )]
    NoList {
        /// Own atoms and all atoms of the list that is held.
        listed: Option<[usize; 2]>,
        /// Own atoms.
        owned: usize,
        /// Ghosts.
        ghosts: usize,
    },
    /// A species that the model does not have.
    #[error("atom {atom} is of species {species}, but the model has {known}, counted from 0")]
    Species {
        /// The atom.
        atom: usize,
        /// Its species.
        species: u32,
        /// How many the model has.
        known: usize,
    },
    /// A neighbour that is none.
    #[error(
        "the list of neighbours of atom {atom} names {neighbor}: there are {atoms} own atoms and ghosts, counted from 0, and none is a neighbour of itself"
    )]
    Neighbor {
        /// The atom.
        atom: usize,
        /// What it has for a neighbour.
        neighbor: usize,
        /// Own atoms and ghosts.
        atoms: usize,
    },
    /// A list that has pairs once.
    #[error("the list of neighbours is not full: of some pairs of own atoms only one has the other")]
    HalfList,
    /// What is told about a ghost's copies cannot be.
    #[error("ghost {ghost}, counted from 0 with own atoms first, cannot be a copy of atom {image}")]
    Image {
        /// The ghost, by its index.
        ghost: usize,
        /// The atom.
        image: usize,
    },
    /// A ghost of another rank where there is no other.
    #[error("the ghost {ghost} is no copy of an own atom, and there are no exchanges to ask others for it")]
    Stranger {
        /// The ghost.
        ghost: usize,
    },
    /// More neighbours than can be counted.
    #[error("{neighbors} neighbours are more than a rank can have")]
    TooMany {
        /// How many there are in all.
        neighbors: usize,
    },
    /// An exchange between ranks that failed.
    #[error("the {direction} exchange between ranks failed: {cause}")]
    Exchange {
        /// "forward" or "reverse".
        direction: &'static str,
        /// Why.
        #[source]
        cause: ExchangeError,
    },
    /// What needs to know the whole system.
    #[error("{what} cannot be computed by ranks that know a part of the system each")]
    NeedsAll {
        /// What it is.
        what: &'static str,
    },
    /// Threads that cannot be had.
    #[error("{threads} threads cannot be started: {reason}")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// Why.
        reason: String,
    },
}

impl DomainError {
    /// What can be done about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::HalfList => Some("ask for a full list; in LAMMPS, NeighConst::REQ_FULL"),
            Self::NoList { .. } => Some("give the list with the first atoms, and whenever their number or order changes"),
            Self::TooMany { .. } => Some("use more ranks, or check the cutoff and the units of the positions"),
            Self::Image { .. } => Some(
                "a ghost is a copy of an own atom or of an earlier ghost that is no copy itself, of the same species, or of none: itself",
            ),
            Self::Stranger { .. } => Some("say which atoms ghosts are copies of, or give functions that exchange rows"),
            Self::NeedsAll { .. } => Some("evaluate the system in one process"),
            Self::Exchange { .. } => Some("the message of the rank that failed first says why"),
            Self::Count { .. } | Self::Species { .. } | Self::Neighbor { .. } | Self::Threads { .. } => None,
        }
    }
}

/// The threads that compute the atoms of a rank. Clones share them.
#[derive(Clone)]
pub struct Threads(Arc<rayon::ThreadPool>);

impl std::fmt::Debug for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Threads").field(&self.count()).finish()
    }
}

impl Threads {
    /// So many threads.
    ///
    /// # Errors
    /// [`DomainError::Threads`] if they cannot be started.
    pub fn new(threads: usize) -> Result<Self, DomainError> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).thread_name(|k| format!("tesseral-{k}")).build();
        pool.map(|pool| Self(Arc::new(pool))).map_err(|error| DomainError::Threads { threads, reason: error.to_string() })
    }

    /// The part of one of `ranks` processes on this machine in the cores that this one may use, at least one thread.
    pub fn share(ranks: usize) -> usize {
        (std::thread::available_parallelism().map_or(1, usize::from) / ranks.max(1)).max(1)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.current_num_threads()
    }

    /// Runs something on them: what is parallel in it uses these threads and no others.
    pub fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.0.install(f)
    }
}

/// Evaluates the atoms of one rank step by step: see [`crate::Potential::domain`].
pub struct DomainCalculator {
    rank: AnyRank,
    threads: Threads,
}

pub(crate) enum AnyRank {
    Single(Box<Rank<f32>>),
    Double(Box<Rank<f64>>),
}

macro_rules! of_rank {
    ($self:expr, $rank:ident => $call:expr) => {
        match $self {
            AnyRank::Single($rank) => $call,
            AnyRank::Double($rank) => $call,
        }
    };
}

impl DomainCalculator {
    pub(crate) fn new(rank: AnyRank, threads: Threads) -> Self {
        Self { rank, threads }
    }

    /// Energy, forces and virial of a rank's part of the system, in the memory of an earlier result. A rank that is alone has no exchange; all its ghosts are copies
    /// of own atoms. All ranks have to call it for every step, those
    /// without atoms too: they meet in the exchanges. A rank that fails goes through the exchanges that are left nevertheless; what the others compute
    /// in that step is of no use, and they do not know.
    ///
    /// # Errors
    /// [`InferError::Domain`], and what else makes atoms impossible to evaluate; the next call needs a list of neighbours then.
    pub fn evaluate_into(
        &mut self,
        atoms: &DomainAtoms<'_>,
        exchange: Option<&mut dyn Exchange>,
        to: &mut DomainEvaluation,
    ) -> Result<(), InferError> {
        of_rank!(&mut self.rank, rank => rank.evaluate(atoms, exchange, &self.threads, to))
    }

    /// Neighbours in the list that is held.
    pub fn num_listed(&self) -> usize {
        of_rank!(&self.rank, rank => rank.num_listed())
    }

    /// Seconds spent in each stage since the last call, added up over threads; exchanges are in none.
    pub fn take_stages(&mut self) -> Vec<(Stage, f64)> {
        of_rank!(&mut self.rank, rank => rank.take_stages())
    }

    /// Bytes of everything that grows with the atoms.
    pub fn bytes(&self) -> usize {
        of_rank!(&self.rank, rank => rank.bytes())
    }
}
