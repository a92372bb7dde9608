//! What a structure was listed with, and whether its list of neighbours still holds.

use tesseral_atoms::Structure;

/// A structure at the time its neighbours were listed.
pub(super) struct Listed {
    numbers: Vec<u8>,
    pbc: [bool; 3],
    pub(super) cell: [[f64; 3]; 3],
    /// In the user's order.
    positions: Vec<[f64; 3]>,
    skin: f64,
}

impl Listed {
    pub(super) fn new(structure: &Structure, skin: f64) -> Self {
        Self {
            numbers: structure.numbers.clone(),
            pbc: structure.pbc,
            cell: structure.cell.vectors,
            positions: structure.positions.clone(),
            skin,
        }
    }

    /// Whether it has the atoms of a structure, wherever they are.
    pub(super) fn is_of(&self, structure: &Structure) -> bool {
        self.numbers == structure.numbers
    }

    /// Whether the list still holds all pairs within the cutoff.
    pub(super) fn holds(&self, structure: &Structure, skin: f64) -> bool {
        if self.skin != skin || self.pbc != structure.pbc || self.cell != structure.cell.vectors || self.numbers != structure.numbers {
            return false;
        }
        let limit = 0.25 * skin * skin;
        self.positions.iter().zip(&structure.positions).all(|(a, b)| {
            let moved: f64 = (0..3).map(|x| (a[x] - b[x]) * (a[x] - b[x])).sum();
            // An unmoved atom is within any skin; NaN is within none.
            moved < limit || moved == 0.0
        })
    }
}
