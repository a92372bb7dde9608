//! Files written by ASE 3.29 and by people, and real data sets.

use std::path::{Path, PathBuf};

use tesseral_atoms::info::Column;
use tesseral_atoms::io::{self, Format};
use tesseral_atoms::{InfoValue, LabelKeys, Structure};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn all(path: impl AsRef<Path>) -> Vec<Structure> {
    let path = path.as_ref();
    io::read(path).and_then(Iterator::collect).unwrap_or_else(|error| panic!("{error}"))
}

/// `tests/data/ase_info.extxyz` is `ase.io.write` of frames with one metadata value of every kind that ASE writes.
#[test]
fn every_kind_of_value_that_ase_writes() {
    let frames = all(data("ase_info.extxyz"));
    assert_eq!(frames.len(), 5);
    let salt = &frames[0];
    let info = |key: &str| &salt.info[key];
    assert_eq!(info("name").as_str(), Some("two words"));
    assert_eq!(info("empty_dict"), &InfoValue::Json(serde_json::json!({})));
    assert_eq!(info("nested"), &InfoValue::Json(serde_json::json!({"a": [1, 2.5, "x"], "b": null, "c": {"d": true}})));
    assert_eq!(info("vec"), &InfoValue::RealVector(vec![1.5, -2e-9, 3e20]));
    assert_eq!(info("ints"), &InfoValue::IntVector(vec![1, 2, 3]));
    assert_eq!(info("bools"), &InfoValue::BoolVector(vec![true, false, true]));
    assert_eq!(info("mat").to_reals().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert!(matches!(info("imat"), InfoValue::IntMatrix(m) if m.rows() == 2 && m.data() == [0, 1, 2, 3]));
    assert_eq!(info("none"), &InfoValue::Bool(true));
    assert_eq!(info("quote").as_str(), Some("say \"hi\""));
    assert_eq!(info("apostrophe").as_str(), Some("it's"));
    assert_eq!(info("brackets").as_str(), Some("[x] {y}"));
    assert_eq!(info("eq").as_str(), Some("a=b"));
    assert_eq!(info("uniword").as_str(), Some("Å"));
    assert_eq!(info("key with space").as_str(), Some("v"));
    assert!(info("nan").as_f64().unwrap().is_nan());
    assert_eq!(info("inf").as_f64(), Some(f64::INFINITY));
    assert_eq!(info("virial").to_reals().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    assert_eq!(info("strange_list"), &InfoValue::Json(serde_json::json!([1, "a", null])));
    assert!(matches!(salt.arrays["isfixed"].values(), Column::Bool(v) if v[..] == [true, false]));
    assert_eq!(salt.arrays["mat9"].width(), 9);

    let keys = LabelKeys::default();
    let energy = salt.reference_energy(&keys).unwrap().unwrap();
    assert_eq!((energy.key, energy.value), ("energy", -27.123456789012344));
    let forces = salt.reference_forces(&keys).unwrap().unwrap();
    assert_eq!((forces.key, forces.value[1][1]), ("REF_forces", -0.62327446));
    let stress = salt.reference_stress(&keys).unwrap().unwrap();
    assert_eq!((stress.key, stress.value), ("stress", [0.01, 0.02, 0.03, 0.004, 0.005, 0.006]));

    assert_eq!(frames[1].formula(), "C2H6O");
    assert_eq!(frames[1].total_charge(), Some(("charge", -1.0)));
    assert!(!frames[1].is_periodic());
    assert_eq!(frames[2].pbc, [true, true, false]);
    assert_eq!(frames[2].arrays["move_mask"].width(), 3);
    assert_eq!(frames[3].numbers, [0, 0]);
    assert!(frames[4].cell.is_left_handed());
    for frame in &frames {
        frame.validate().unwrap();
    }
    // A crystal without a lattice vector along its open direction.
    assert_eq!(frames[2].cell.vectors[2], [0.0; 3]);
}

#[test]
fn plain_xyz_and_cell_vectors_as_pseudo_atoms() {
    let ethanol = &all(data("ase_plain.xyz"))[0];
    assert_eq!((ethanol.formula().as_str(), ethanol.is_periodic()), ("C2H6O", false));
    let frames = all(data("ase_vec_cell.xyz"));
    assert!((frames[0].cell.volume() - 3.61f64.powi(3)).abs() < 1e-9);
    assert_eq!((frames[0].pbc, frames[1].pbc), ([true; 3], [true, true, false]));
}

#[test]
fn quartz_from_a_cif() {
    let quartz = &all(data("quartz.cif"))[0];
    assert_eq!(quartz.formula(), "O6Si3");
    assert!((quartz.cell.volume() - 113.131).abs() < 1e-3);
    quartz.validate().unwrap();
    // Each silicon is in a tetrahedron of oxygen: 1.605 and 1.614 Å (Levien et al. 1980).
    let list = tesseral_atoms::neighbors::neighbor_list(&quartz.cell.vectors, quartz.pbc, &quartz.positions, 2.0).unwrap();
    for atom in (0..9).filter(|&atom| quartz.numbers[atom] == 14) {
        let mut bonds: Vec<f64> = list.edges_of(atom).map(|e| list.vectors[e].iter().map(|x| x * x).sum::<f64>().sqrt()).collect();
        bonds.sort_by(f64::total_cmp);
        assert_eq!(bonds.len(), 4);
        for (bond, published) in bonds.into_iter().zip([1.605, 1.605, 1.614, 1.614]) {
            assert!((bond - published).abs() < 2e-3, "{bond}");
        }
    }
}

#[test]
fn contcar_with_selective_dynamics() {
    let salt = &all(data("CONTCAR_selective"))[0];
    assert_eq!(salt.formula(), "Cl4Na4");
    let Column::Bool(flags) = salt.arrays["selective_dynamics"].values() else { panic!() };
    assert_eq!(flags[..9], [false, false, false, false, false, false, false, true, false]);
    salt.validate().unwrap();
}

#[test]
fn formats_are_known_by_name_and_by_content() {
    for (name, format) in [
        ("a/b.extxyz", Some(Format::ExtendedXyz)),
        ("B.XYZ.gz", Some(Format::ExtendedXyz)),
        ("POSCAR", Some(Format::Poscar)),
        ("POSCAR-unitcell.gz", Some(Format::Poscar)),
        ("x/CONTCAR.3", Some(Format::Poscar)),
        ("si.vasp", Some(Format::Poscar)),
        ("1.cif", Some(Format::Cif)),
        ("notes.txt", None),
        ("", None),
    ] {
        assert_eq!(Format::from_name(name), format, "{name}");
    }
    for (name, frames) in [("ase_info.extxyz", 5), ("quartz.cif", 1), ("CONTCAR_selective", 1)] {
        let bytes = std::fs::read(data(name)).unwrap();
        assert_eq!(io::read_stream(&bytes[..], "stdin").unwrap().count(), frames, "{name}");
    }
    let error = io::read_stream(&b"hello\nworld\n"[..], "notes.txt").unwrap_err();
    assert_eq!(error.to_string(), "notes.txt: the format of this file is not recognised");
    assert!(error.hint().unwrap().contains("extxyz"));
    let error = io::read_stream(&b""[..], "stdin").unwrap_err();
    assert_eq!(error.to_string(), "stdin: the file is empty");
    let error = io::read(data("absent.xyz")).unwrap_err();
    assert!(error.to_string().contains("absent.xyz") && error.ended, "{error}");
    assert!(io::read(data("")).is_err());
    for (name, expected) in [("empty.xyz", "frame 0: the file is empty"), ("empty.cif", "is empty"), ("POSCAR", "is empty")] {
        let all: Vec<_> = io::read_stream(&b""[..], name).unwrap().collect();
        assert_eq!(all.len(), 1);
        assert!(all[0].as_ref().unwrap_err().to_string().contains(expected));
    }
}

#[test]
fn files_are_written_whole_and_compressed_on_request() {
    let frames = all(data("ase_info.extxyz"));
    let folder = tempfile::tempdir().unwrap();
    for name in ["out.extxyz", "out.extxyz.gz"] {
        let path = folder.path().join(name);
        io::write_extxyz_file(&path, &frames).unwrap();
        assert_eq!(format!("{:?}", all(&path)), format!("{frames:?}"));
    }
    let compressed = std::fs::read(folder.path().join("out.extxyz.gz")).unwrap();
    assert_eq!(compressed[..2], [0x1f, 0x8b]);
    // A frame that cannot be written leaves the old file as it was.
    let bad = Structure { numbers: vec![1], ..Structure::default() };
    let path = folder.path().join("out.extxyz");
    let before = std::fs::read(&path).unwrap();
    assert!(io::write_extxyz_file(&path, [&frames[0], &bad]).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

/// The public data sets beside the repository: every frame is read, is valid, and reads back the same after writing.
#[test]
fn real_data_sets() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if !root.is_dir() {
        eprintln!("skipped because {} is absent", root.display());
        return;
    }
    let keys = LabelKeys::default();
    for (name, frames, stress) in [
        ("hfo2_sevennet/all.extxyz", 10, true),
        ("mattersim_bench/random-TP.xyz", 693, true),
        ("monbtaw/train.extxyz.gz", 5282, true),
        ("3bpa/train_300K.xyz", 500, false),
        ("phonon_ref/TiO2-anatase/POSCAR-unitcell", 1, false),
    ] {
        let structures = all(root.join(name));
        assert_eq!(structures.len(), frames, "{name}");
        for (index, structure) in structures.iter().enumerate() {
            structure.validate().unwrap_or_else(|error| panic!("{name} {index}: {error}"));
            assert_eq!(structure.reference_stress(&keys).unwrap().is_some(), stress, "{name} {index}");
            assert_eq!(structure.reference_energy(&keys).unwrap().is_some(), !name.contains("POSCAR"), "{name} {index}");
        }
        let mut written = Vec::new();
        for structure in &structures {
            io::write_extxyz(&mut written, structure).unwrap();
        }
        let again: Vec<Structure> = io::read_from(&written[..], Format::ExtendedXyz).collect::<Result<_, _>>().unwrap();
        assert!(again == structures, "{name}");
    }
}
