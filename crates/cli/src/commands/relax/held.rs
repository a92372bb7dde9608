//! Which atoms are held: by the file, by the command line.

use anyhow::Result;
use tesseral_atoms::Structure;
use tesseral_atoms::info::Column;

use crate::errors::Hinted;

/// Which Cartesian coordinates of each atom may move; empty where all may.
pub(super) fn movable(structure: &Structure, fixed: &[usize], free: bool) -> Result<Vec<[bool; 3]>> {
    let mut movable = if free { None } else { of_file(structure)? };
    for &atom in fixed {
        movable.get_or_insert_with(|| vec![[true; 3]; structure.len()])[atom] = [false; 3];
    }
    Ok(movable.filter(|m| m.iter().any(|m| *m != [true; 3])).unwrap_or_default())
}

/// What the file says.
fn of_file(structure: &Structure) -> Result<Option<Vec<[bool; 3]>>> {
    if let Some(array) = structure.arrays.get("move_mask")
        && let Column::Bool(flags) = array.values()
    {
        return Ok(match array.width() {
            1 => Some(flags.iter().map(|&f| [f; 3]).collect()),
            3 => Some(flags.chunks_exact(3).map(|f| [f[0], f[1], f[2]]).collect()),
            _ => None,
        });
    }
    let Some(array) = structure.arrays.get("selective_dynamics").filter(|a| a.width() == 3) else { return Ok(None) };
    let Column::Bool(flags) = array.values() else { return Ok(None) };
    let flags: Vec<[bool; 3]> = flags.chunks_exact(3).map(|f| [f[0], f[1], f[2]]).collect();
    // POSCAR's flags are about lattice vectors, ours about x, y and z.
    let partly = flags.iter().position(|f| *f != [true; 3] && *f != [false; 3]);
    let v = structure.cell.vectors;
    let aligned = (0..3).all(|k| (0..3).all(|l| k == l || v[k][l] == 0.0));
    match partly {
        Some(atom) if !aligned => {
            Err(Hinted::new(format!("selective dynamics holds atom {atom} along some lattice vectors, which are not along x, y and z"))
                .hint("hold it altogether or not at all, or let everything move (--free)")
                .into())
        }
        _ => Ok(Some(flags)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tesseral_atoms::{Array, Cell};

    #[test]
    fn lists_and_files() {
        let mut structure = Structure::crystal(Cell::cubic(4.0), vec![14; 3], vec![[0.0; 3], [1.5; 3], [3.0; 3]]);
        assert!(movable(&structure, &[], false).unwrap().is_empty());
        assert_eq!(movable(&structure, &[1, 2], false).unwrap(), [[true; 3], [false; 3], [false; 3]]);
        structure.arrays.insert("move_mask".into(), Array::new(1, Column::Bool(vec![true, false, true])).unwrap());
        assert_eq!(movable(&structure, &[0], false).unwrap(), [[false; 3], [false; 3], [true; 3]]);
        assert!(movable(&structure, &[], true).unwrap().is_empty());
        structure.arrays.clear();
        let flags = vec![true, true, true, false, false, false, true, false, true];
        structure.arrays.insert("selective_dynamics".into(), Array::new(3, Column::Bool(flags)).unwrap());
        assert_eq!(movable(&structure, &[], false).unwrap()[2], [true, false, true]);
        structure.cell.vectors[0][1] = 0.5;
        assert!(movable(&structure, &[], false).unwrap_err().to_string().contains("atom 2"));
    }
}
