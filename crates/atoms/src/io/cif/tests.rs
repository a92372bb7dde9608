use super::*;
use crate::io::{Format, ReadError, read_from};

fn frames(text: &str) -> Vec<Result<Structure, ReadError>> {
    read_from(text.as_bytes(), Format::Cif).collect()
}

fn one(text: &str) -> Result<Structure, ReadError> {
    let mut frames = frames(text);
    assert_eq!(frames.len(), 1);
    frames.remove(0)
}

fn cubic(group: &str, sites: &str) -> String {
    format!(
        "data_x\n_cell_length_a 5.64(1)\n_cell_length_b 5.64\n_cell_length_c 5.64\n_cell_angle_alpha 90\n\
         _cell_angle_beta 90.\n_cell_angle_gamma 90(0)\n{group}\nloop_\n_atom_site_label\n_atom_site_fract_x\n\
         _atom_site_fract_y\n_atom_site_fract_z\n{sites}\n"
    )
}

const SALT: &str = "Na1 0 0 0\nCl1 0.5 0.5 0.5(2)";

#[test]
fn rock_salt_from_number_symbol_and_hall() {
    for group in [
        "_symmetry_Int_Tables_number 225",
        "_space_group_IT_number 225",
        "_symmetry_space_group_name_H-M 'F m -3 m'",
        "_space_group_name_H-M_alt 'Fm-3m'",
        "_symmetry_space_group_name_H-M 'F m 3 m'",
        "_space_group_name_Hall '-F 4 2 3'",
        "_space_group.IT_number 225",
    ] {
        let structure = one(&cubic(group, SALT)).unwrap();
        assert_eq!(structure.formula(), "Cl4Na4", "{group}");
        assert_eq!(structure.cell, Cell::cubic(5.64));
        assert!(structure.validate().is_ok());
    }
}

#[test]
fn no_symmetry_is_the_identity() {
    assert_eq!(one(&cubic("", SALT)).unwrap().len(), 2);
    assert_eq!(one(&cubic("_symmetry_space_group_name_H-M ?", SALT)).unwrap().len(), 2);
    // The identity is added to a list that forgot it.
    let text = cubic("_symmetry_equiv_pos_as_xyz '-x,-y,-z'", "C 0.1 0.2 0.3");
    assert_eq!(one(&text).unwrap().len(), 2);
}

#[test]
fn what_cannot_be_decided_is_an_error() {
    let message = |group: &str| one(&cubic(group, SALT)).unwrap_err().to_string();
    assert!(message("_symmetry_Int_Tables_number 227").contains("has two choices of the origin"));
    assert!(message("_symmetry_space_group_name_H-M 'F d -3 m'").contains("has two choices of the origin"));
    assert!(message("_symmetry_space_group_name_H-M 'P 6/m m m'").contains("does not fit the lengths and angles"));
    assert!(message("_symmetry_space_group_name_H-M 'P q'").contains("no space group is known as"));
    assert!(message("_symmetry_Int_Tables_number 999").contains("no space group is known as"));
    assert!(message("_symmetry_equiv_pos_as_xyz 'x,y'").contains("\"x,y\" is not a symmetry operation"));
    for (setting, atoms) in [("F d -3 m :1", 8), ("F d -3 m :2", 16), ("F d -3 m S", 8), ("F d -3 m Z", 16)] {
        let text = cubic(&format!("_symmetry_space_group_name_H-M '{setting}'"), "C 0 0 0");
        assert_eq!(one(&text).unwrap().len(), atoms, "{setting}");
    }
}

#[test]
fn elements_of_symbols_and_labels() {
    for (symbol, expected) in [("Fe3+", 26), ("O2-", 8), ("FE", 26), ("D", 1), ("Si", 14), ("CA", 20), ("H1+", 1)] {
        assert_eq!(type_element(symbol), Some(expected), "{symbol}");
    }
    for (label, expected) in [("Fe1", 26), ("O2A", 8), ("OW1", 8), ("CA1", 6), ("si1", 14), ("D1", 1), ("H", 1), ("c", 6)] {
        assert_eq!(label_element(label), Some(expected), "{label}");
    }
    for wrong in ["", "1", "Wat1", "X", "?", "é1", "Q1"] {
        assert_eq!(label_element(wrong), None, "{wrong}");
    }
}

#[test]
fn disorder_is_refused_and_dummies_are_dropped() {
    let with =
        |sites: &str| cubic("", sites).replace("_atom_site_fract_z", "_atom_site_fract_z\n_atom_site_occupancy\n_atom_site_calc_flag");
    assert_eq!(one(&with("Fe1 0 0 0 1.000(3) d\nX1 0 0 0.5 1 dum\nO1 .5 0 0 . ?")).unwrap().numbers, [26, 8]);
    let error = one(&with("Fe1 0 0 0 0.25 d")).unwrap_err();
    assert_eq!(error.to_string(), "input:16: frame 0: site Fe1 has occupancy 0.25: disordered structures cannot be evaluated");
}

#[test]
fn blocks_are_frames_and_bad_ones_do_not_stop_the_rest() {
    let publication = "data_global\n_journal_name 'Acta'\n_text\n;\ndata_not_a_block\n;\n";
    let bad = cubic("", "Na1 0 zero 0");
    let text = format!("# comment\n\n{publication}{}{bad}{}", cubic("", SALT), cubic("", "H 0 0 0"));
    let frames = frames(&text);
    assert_eq!(frames.len(), 3);
    assert_eq!(frames[0].as_ref().unwrap().len(), 2);
    let error = frames[1].as_ref().unwrap_err();
    assert_eq!((error.frame, error.ended), (Some(1), false));
    assert!(error.to_string().contains("coordinate of site Na1): \"zero\" is not a number"), "{error}");
    assert_eq!(frames[2].as_ref().unwrap().numbers, [1]);
    let error = one(publication).unwrap_err();
    assert!(error.to_string().contains("a structure (_cell_length_a and _atom_site_fract_x) is missing"), "{error}");
}

#[test]
fn cells_that_cannot_be() {
    let error = one(&cubic("", SALT).replace("gamma 90(0)", "gamma 200")).unwrap_err();
    assert!(error.to_string().contains("every angle must lie between 0° and 180°"), "{error}");
    let error = one(&cubic("", SALT).replace("_cell_length_b 5.64\n", "")).unwrap_err();
    assert!(error.to_string().contains("_cell_length_b is missing"), "{error}");
    let error = one(&cubic("", "Na1 0 ? 0")).unwrap_err();
    assert!(error.to_string().contains("\"?\" is not a number"), "{error}");
}

#[test]
fn special_positions_given_to_few_digits_merge() {
    // Corundum-like threefold axis: 0.3333, 0.6667 have three images within 0.002 Å.
    let text = "data_x\n_cell_length_a 4.76\n_cell_length_b 4.76\n_cell_length_c 12.99\n_cell_angle_alpha 90\n\
        _cell_angle_beta 90\n_cell_angle_gamma 120\n_symmetry_space_group_name_H-M 'R -3 c'\nloop_\n_atom_site_type_symbol\n\
        _atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\nAl3+ 0.3333 0.6667 0.0188\nO2- 0.3063 0 0.25\n";
    let structure = one(text).unwrap();
    assert_eq!(structure.formula(), "Al12O18");
    assert!(structure.validate().is_ok());
}

#[test]
fn monoclinic_symbols_find_their_axis() {
    // Images of a general position tell the settings apart.
    let images = |symbol: &str, angles: [f64; 3]| {
        let [alpha, beta, gamma] = angles;
        let text = format!(
            "data_x\n_cell_length_a 5\n_cell_length_b 6\n_cell_length_c 7\n_cell_angle_alpha {alpha}\n_cell_angle_beta {beta}\n\
             _cell_angle_gamma {gamma}\n_space_group_name_H-M_alt '{symbol}'\nloop_\n_atom_site_label\n_atom_site_fract_x\n\
             _atom_site_fract_y\n_atom_site_fract_z\nC1 0.1 0.2 0.3\n"
        );
        let structure = one(&text).unwrap();
        let cell = structure.cell;
        let digits = |r: &[f64; 3]| cell.fractional(*r).unwrap().map(|s| (s * 10.0).round() as i32 % 10);
        let mut images: Vec<[i32; 3]> = structure.positions.iter().map(digits).collect();
        images.sort_unstable();
        images
    };
    let beta = [90.0, 100.0, 90.0];
    assert_eq!(images("P 21/c", beta), [[1, 2, 3], [1, 3, 8], [9, 7, 2], [9, 8, 7]]);
    assert_eq!(images("P 1 21/n 1", beta), [[1, 2, 3], [4, 7, 2], [6, 3, 8], [9, 8, 7]]);
    assert_eq!(images("P2_1/n", beta), images("P 1 21/n 1", beta));
    // The same letter with another unique axis.
    let gamma = [90.0, 90.0, 100.0];
    assert_eq!(images("P 21/b", gamma), [[1, 2, 3], [1, 7, 2], [9, 3, 8], [9, 8, 7]]);
}
