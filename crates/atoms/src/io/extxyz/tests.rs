use std::io::{BufReader, Cursor, Read, Write};

use proptest::prelude::*;

use crate::info::{Column, Matrix};
use crate::io::{Format, Problem, ReadError, WriteError, read_from, read_stream, write_extxyz};
use crate::{Array, Cell, InfoValue, Structure};

fn frames(text: impl AsRef<[u8]>) -> Vec<Result<Structure, ReadError>> {
    read_from(text.as_ref(), Format::ExtendedXyz).collect()
}

fn one(text: &str) -> Result<Structure, ReadError> {
    let mut frames = frames(text);
    assert_eq!(frames.len(), 1, "{frames:?}");
    frames.remove(0)
}

fn message(text: &str) -> String {
    one(text).unwrap_err().to_string()
}

fn written(structure: &Structure) -> String {
    let mut bytes = Vec::new();
    write_extxyz(&mut bytes, structure).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn lattice_properties_and_pbc() {
    let structure = one("2\nLattice=\"1 2 3 4 5 6 7 8 10\" Properties=species:S:1:pos:R:3:forces:R:3:tag:I:1:fixed:L:1:label:S:2 \
         energy=-1.5 pbc=\"T F T\" name=\"two words\"\n\
         si 0 0 0 0.1 0.2 0.3 7 T a b\r\n  14\t1.5D0 2 3e0 -1 -2 -3 -8 False c d\n")
    .unwrap();
    assert_eq!(structure.cell.vectors, [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 10.0]]);
    assert_eq!(structure.pbc, [true, false, true]);
    assert_eq!(structure.numbers, [14, 14]);
    assert_eq!(structure.positions, [[0.0; 3], [1.5, 2.0, 3.0]]);
    assert_eq!(structure.arrays["forces"].to_vectors().unwrap(), [[0.1, 0.2, 0.3], [-1.0, -2.0, -3.0]]);
    assert_eq!(structure.arrays["tag"].as_ints().unwrap(), [7, -8]);
    assert_eq!(structure.arrays["fixed"].values(), &Column::Bool(vec![true, false]));
    assert_eq!(structure.arrays["label"].values(), &Column::Text(["a", "b", "c", "d"].map(String::from).to_vec()));
    assert_eq!(structure.info.keys().collect::<Vec<_>>(), ["energy", "name"]);
}

#[test]
fn periodicity_in_all_its_spellings() {
    let pbc = |comment: &str| one(&format!("1\n{comment} a=1\nH 0 0 0\n")).unwrap().pbc;
    assert_eq!(pbc("Lattice=\"1 0 0 0 1 0 0 0 1\""), [true; 3]);
    assert_eq!(pbc("Lattice=\"1 0 0 0 1 0 0 0 1\" pbc=\"F F F\""), [false; 3]);
    assert_eq!(pbc("Lattice=[1,0,0,0,1,0,0,0,1] pbc=[T,T,F]"), [true, true, false]);
    assert_eq!(pbc("Lattice=[[1,0,0],[0,1,0],[0,0,1]] pbc={1 0 1}"), [true, false, true]);
    assert_eq!(pbc("Lattice='1 0 0 0 1 0 0 0 1' pbc=F"), [false; 3]);
    assert_eq!(pbc("lattice=\"1 0 0 0 1 0 0 0 1\" PBC=\"T F F\""), [true, false, false]);
    assert_eq!(pbc("lattice=fcc"), [false; 3]);
    assert_eq!(pbc("Lattice = \"1 0 0 0 1 0 0 0 1\""), [true; 3]);
}

#[test]
fn numbers_win_over_species() {
    let structure = one("1\nProperties=species:S:1:pos:R:3:Z:I:1\nX 0 0 0 26\n").unwrap();
    assert_eq!(structure.numbers, [26]);
    assert_eq!(one("1\nProperties=pos:R:3:numbers:I:1\n0 0 0 8\n").unwrap().numbers, [8]);
    assert_eq!(one("1\nProperties=species:S:1:positions:I:3\nX 0 0 1\n").unwrap().positions, [[0.0, 0.0, 1.0]]);
}

#[test]
fn plain_xyz_is_a_molecule() {
    let text = "3\nit's water, isn't it? E=-76.4 [a.u.\nO 0 0 0 extra 1 2\nh 0.76 0.59 0\n1 -0.76 0.59 0\n\n\n";
    let water = one(text).unwrap();
    assert_eq!(water.numbers, [8, 1, 1]);
    assert!(!water.is_periodic() && water.cell.is_zero() && water.arrays.is_empty());
    assert_eq!(water.info["comment"].as_str(), Some("it's water, isn't it? E=-76.4 [a.u."));
    assert!(one("1\n\nH 0 0 0").unwrap().info.is_empty());
    // As CP2K writes it.
    let step = one("1\n i =  7, time = 3.5, E = -17.25\nH 0 0 0\n").unwrap();
    assert_eq!(step.info["i"], InfoValue::Int(7));
    assert_eq!(step.info["E"], InfoValue::Real(-17.25));
    assert_eq!(one("0\nProperties=species:S:1:pos:R:3\n").unwrap().len(), 0);
}

#[test]
fn cell_vectors_after_the_atoms() {
    let text = "1\nslab\nH 0 0 0\nVEC1 3 0 0\nVEC2 0 4 0\n1\n\nHe 0 0 0\n";
    let frames: Vec<Structure> = frames(text).into_iter().collect::<Result<_, _>>().unwrap();
    assert_eq!(frames[0].cell.vectors, [[3.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0; 3]]);
    assert_eq!(frames[0].pbc, [true, true, false]);
    assert_eq!(frames[1].numbers, [2]);
    assert!(message("1\n\nH 0 0 0\nVEC2 3 0 0\n").contains("VEC1, VEC2, VEC3"));
}

#[test]
fn gzip_with_several_members() {
    let mut bytes = Vec::new();
    for n in 0..3 {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        write!(encoder, "1\nn={n}\nH 0 0 {n}\n").unwrap();
        bytes.extend(encoder.finish().unwrap());
    }
    // The name does not matter, nor does the missing extension: the first bytes say it.
    let all: Vec<_> = read_stream(&bytes[..], "anything").unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    assert_eq!(all.len(), 3);
    assert_eq!(all[2].positions[0][2], 2.0);
    bytes.truncate(bytes.len() - 4);
    let all: Vec<_> = read_stream(&bytes[..], "cut.xyz.gz").unwrap().collect();
    // The damage comes after the last atom: every frame is there, and then the error.
    assert_eq!(all.len(), 4);
    assert!(all[..3].iter().all(Result::is_ok));
    let error = all.last().unwrap().as_ref().unwrap_err();
    assert!(matches!(*error.problem, Problem::Io(_)) && error.ended, "{error}");
}

#[test]
fn damage_is_named() {
    let header = "Lattice=\"1 0 0 0 1 0 0 0 1\" Properties=species:S:1:pos:R:3:forces:R:3";
    for (text, expected) in [
        (String::new(), "input: frame 0: the file is empty"),
        ("\n\n".into(), "input: frame 0: the file is empty"),
        ("two\n".into(), "input:1: frame 0: expected the number of atoms, found \"two\"; nothing after this can be read"),
        ("-1\n".into(), "input:1: frame 0: expected the number of atoms, found \"-1\""),
        ("1".into(), "input:1: frame 0: the file ends where the comment line should be"),
        (format!("2\n{header}\nH 0 0 0 1 1 1"), "input:3: frame 0: the frame announces 2 atoms, but ends after 1"),
        (format!("1\n{header}\nH 0 0 0 1 1\n"), "input:3: frame 0: expected 7 columns (species:S:1:pos:R:3:forces:R:3), found 6"),
        (format!("1\n{header}\nH 0 0 0 1 1 1 1\n"), "input:3: frame 0: expected 7 columns (species:S:1:pos:R:3:forces:R:3), found 8"),
        ("1\n\nH 0 0\n".into(), "input:3: frame 0: expected 4 columns (species:S:1:pos:R:3), found 3"),
        (format!("1\n{header}\nH 0 0 0 1 1,5 1\n"), "input:3: frame 0: column 6 (forces): \"1,5\" is not a real number"),
        (format!("1\n{header}\nH 0 O 0 1 1 1\n"), "input:3: frame 0: column 3 (pos): \"O\" is not a real number"),
        (format!("1\n{header}\nHx 0 0 0 1 1 1\n"), "input:3: frame 0: column 1 (species): \"Hx\" is not a chemical element"),
        (format!("1\n{header}\n119 0 0 0 1 1 1\n"), "input:3: frame 0: column 1 (species): \"119\" is not a chemical element"),
        (format!("1\n{header} a=\"b\nH 0 0 0 1 1 1\n"), "input:2: frame 0: the \" opened at character 73 is never closed"),
        ("1\nLattice=\"1 0 0 0 1 0 0 0\"\nH 0 0 0\n".into(), "`Lattice` should be nine numbers, but is \"1 0 0 0 1 0 0 0\""),
        ("1\npbc=\"T T\"\nH 0 0 0\n".into(), "`pbc` should be three of T and F, but is \"T T\""),
        ("1\nstress=\"1 2 3\"\nH 0 0 0\n".into(), "`stress` should be 6 or 9 numbers, but is 3 integers"),
        ("1\nx=\"_JSON {\"\nH 0 0 0\n".into(), "`x` announces JSON, but its value is not valid JSON"),
        ("1\nProperties=species:S:1:pos:R\nH 0 0 0\n".into(), "should be name:type:columns again and again"),
        ("1\nProperties=species:S:1:pos:Q:3\nH 0 0 0\n".into(), "should have species:S:1, pos:R:3"),
        ("1\nProperties=species:S:1:pos:R:3:a:Q:3\nH 0 0 0\n".into(), "gives `a` the type \"Q\", which is not R, I, S or L"),
        ("1\nProperties=species:S:1:pos:R:3:a:R:0\nH 0 0 0\n".into(), "gives `a` \"0\" columns"),
        ("1\nProperties=species:S:1:pos:R:3:a:R:4000000000\nH 0 0 0\n".into(), "gives `a` \"4000000000\" columns"),
        ("1\nProperties=species:S:1:pos:R:3:a:R:9999\nH 0 0 0\n".into(), "has more than 10000 columns"),
        ("1\nProperties=species:S:1:pos:R:3:pos:R:3\nH 0 0 0\n".into(), "names `pos` twice"),
        ("1\nProperties=species:S:1\nH 0 0 0\n".into(), "should have positions once"),
        ("1\nProperties=pos:R:3\n0 0 0\n".into(), "should have species:S:1 or Z:I:1"),
        ("1\nProperties=species:S:1:pos:R:3:q:I:1\nH 0 0 0 1.5\n".into(), "column 5 (q): \"1.5\" is not an integer"),
        ("1\nProperties=species:S:1:pos:R:3:q:L:1\nH 0 0 0 1\n".into(), "column 5 (q): \"1\" is not T or F"),
    ] {
        let message = message(&text);
        assert!(message.contains(expected), "{text:?}: {message}");
    }
}

#[test]
fn a_huge_announcement_fails_fast() {
    let start = std::time::Instant::now();
    let found = message("10000000\nProperties=species:S:1:pos:R:3:a:R:9000\nH 0 0 0\n");
    assert!(found.contains("expected 9004 columns"), "{found}");
    assert!(message("10000000\n\nH 0 0 0\n").contains("announces 10000000 atoms, but ends after 1"));
    assert!(message("99999999999999999999\n\nH 0 0 0\n").contains("expected the number of atoms"));
    assert!(message("9999999999\n\nH 0 0 0\n").contains("9999999999 atoms are more than the limit of 100000000"));
    assert!(start.elapsed().as_millis() < 1000);
}

#[test]
fn a_bomb_of_one_line_is_bounded() {
    // 200 MB without a line end: skipped in pieces, never held.
    let bomb = Cursor::new(b"1\n").chain(std::io::repeat(b'x').take(200 << 20)).chain(Cursor::new(b"\nH 0 0 0\n1\n\nH 0 0 0\n"));
    let frames: Vec<_> = read_from(BufReader::new(bomb), Format::ExtendedXyz).collect();
    assert_eq!(frames.len(), 2);
    assert!(matches!(*frames[0].as_ref().unwrap_err().problem, Problem::LineTooLong { .. }));
    assert_eq!(frames[1].as_ref().unwrap().len(), 1);
}

#[test]
fn reading_goes_on_after_a_bad_frame() {
    let good = |n: usize| format!("2\nn={n} Properties=species:S:1:pos:R:3\nH 0 0 {n}\nO 1 0 0\n");
    let bad = [
        "2\nbad=1 Properties=species:S:1:pos:R:3\nH 0 0 x\nO 1 0 0\n",
        "2\nbad=1 Properties=species:S:1:pos:R:3\nH 0 0 0\nO 1 0 y\n",
        "2\nbad=\"1 Properties=species:S:1:pos:R:3\nH 0 0 0\nO 1 0 0\n",
        // Fewer atoms than announced.
        "3\nbad=1 Properties=species:S:1:pos:R:3\nH 0 0 0\nO 1 0 0\n",
        "9\nLattice=1\nH 0 0 0\nO 1 0 0\n",
        "two\nLattice=1\nH 0 0 0\nO 1 0 0\n",
        "2\nbad=1 Properties=species:S:1:pos:R:3\nH 0 0 0\n\n",
        "2\nbad=1 Properties=species:S:1:pos:R:3\nH 0 0 \u{fffd}\nO 1 0 0\n",
    ];
    for text in bad {
        let frames = frames(format!("{}{text}{}{}", good(0), good(2), good(3)));
        assert_eq!(frames.len(), 4, "{text:?} {frames:#?}");
        let error = frames[1].as_ref().unwrap_err();
        assert_eq!((error.frame, error.ended), (Some(1), false), "{error}");
        assert!(error.hint().is_some());
        for n in [0, 2, 3] {
            assert_eq!(frames[n].as_ref().unwrap().info["n"], InfoValue::Int(n as i64), "{text:?}");
        }
    }
    // More atoms than announced: the surplus is a frame of its own that cannot be read.
    let frames = frames(format!("1\nn=0\nH 0 0 0\nH 0 0 1\nH 0 0 2\n{}", good(2)));
    assert_eq!(frames.len(), 3);
    let error = frames[1].as_ref().unwrap_err();
    assert!(error.hint().unwrap().contains("the frame before may have more atoms"));
    assert!(frames[2].is_ok());
}

#[test]
fn what_cannot_be_written_is_an_error() {
    let atom = Structure::molecule(vec![1], vec![[0.0; 3]]);
    let fails = |change: &dyn Fn(&mut Structure)| {
        let mut structure = atom.clone();
        change(&mut structure);
        let mut bytes = Vec::new();
        let error = write_extxyz(&mut bytes, &structure).unwrap_err();
        assert!(!matches!(error, WriteError::Io(_)));
        assert!(bytes.is_empty(), "half a frame has been written");
        error.to_string()
    };
    let array = || Array::scalars(vec![1.0]);
    assert!(fails(&|s| s.numbers[0] = 119).contains("atom 0 has the atomic number 119"));
    assert!(fails(&|s| s.numbers.push(1)).contains("positions has 1 rows for 2 atoms"));
    assert!(fails(&|s| drop(s.arrays.insert("a".into(), Array::scalars(vec![])))).contains("a has 0 rows for 1 atoms"));
    assert!(fails(&|s| drop(s.arrays.insert("pos".into(), array()))).contains("this name is taken"));
    assert!(fails(&|s| drop(s.arrays.insert("a:b".into(), array()))).contains("white space or a colon"));
    assert!(fails(&|s| drop(s.info.insert("pbc".into(), 1i64.into()))).contains("this name is taken"));
    assert!(fails(&|s| drop(s.info.insert("lattice".into(), vec![0.0; 9].into()))).contains("this name is taken"));
    assert!(fails(&|s| drop(s.info.insert(String::new(), 1i64.into()))).contains("it is empty"));
    assert!(fails(&|s| drop(s.info.insert("a\nb".into(), 1i64.into()))).contains("control character"));
    assert!(fails(&|s| drop(s.info.insert("stress".into(), 1i64.into()))).contains("6 or 9 numbers"));
    let text = Array::new(1, Column::Text(vec!["a b".into()])).unwrap();
    assert!(fails(&|s| drop(s.arrays.insert("t".into(), text.clone()))).contains("has white space"));
}

#[test]
fn results_have_the_keys_and_shapes_of_ase() {
    let mut structure = Structure::crystal(Cell::cubic(2.0), vec![14], vec![[0.1, 1e-7, 3.0]]);
    structure.set_energy(-1.25);
    structure.set_forces(&[[0.0, -0.0, 1e300]]);
    structure.set_stress([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(
        written(&structure),
        "1\nLattice=\"2.0 0.0 0.0 0.0 2.0 0.0 0.0 0.0 2.0\" Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.25 \
         stress=\"1.0 6.0 5.0 6.0 2.0 4.0 5.0 4.0 3.0\" pbc=\"T T T\"\nSi 0.1 1e-7 3.0 0.0 -0.0 1e300\n"
    );
}

fn any_info() -> impl Strategy<Value = InfoValue> {
    let real = || prop::num::f64::ANY.prop_filter("NaN is not equal to itself", |x| !x.is_nan());
    let text = prop_oneof!["\\PC{0,12}", "[a-zA-Z0-9 \"'\\[\\]{}=\\\\,.T\n\t-]{0,12}", "_JSON .{0,5}", "[TF0-9., ]{0,6}"];
    let json = prop_oneof![
        Just(serde_json::json!({"a": [1, 2.5, "x\"y"], "b \\": null})),
        Just(serde_json::json!([[1, 2], [3]])),
        Just(serde_json::json!([[], []])),
        Just(serde_json::json!(["a", "b"])),
        Just(serde_json::Value::Null),
    ];
    prop_oneof![
        any::<bool>().prop_map(InfoValue::Bool),
        any::<i64>().prop_map(InfoValue::Int),
        real().prop_map(InfoValue::Real),
        text.prop_map(InfoValue::Text),
        prop::collection::vec(any::<bool>(), 1..4).prop_map(InfoValue::BoolVector),
        prop::collection::vec(any::<i64>(), 1..4).prop_map(InfoValue::IntVector),
        prop::collection::vec(real(), 0..12).prop_map(InfoValue::RealVector),
        prop::collection::vec(real(), 6).prop_map(|v| InfoValue::RealMatrix(Matrix::new(2, 3, v).unwrap())),
        prop::collection::vec(any::<i64>(), 3).prop_map(|v| InfoValue::IntMatrix(Matrix::new(3, 1, v).unwrap())),
        prop::collection::vec(any::<bool>(), 4).prop_map(|v| InfoValue::BoolMatrix(Matrix::new(2, 2, v).unwrap())),
        json.prop_map(InfoValue::Json),
    ]
}

prop_compose! {
    fn any_structure()(atoms in 0usize..4)(
        numbers in prop::collection::vec(0u8..=118, atoms),
        positions in prop::collection::vec(prop::array::uniform3(-1e9f64..1e9), atoms),
        cell in prop_oneof![Just([[0.0; 3]; 3]), prop::array::uniform3(prop::array::uniform3(-1e3f64..1e3))],
        pbc in any::<[bool; 3]>(),
        keys in prop::collection::vec("[a-zA-Z_][a-zA-Z0-9_ \"'=\\\\{}\\[\\]é-]{0,8}", 4),
        values in prop::collection::vec(any_info(), 4),
        reals in prop::collection::vec(-1e3f64..1e3, 3 * atoms),
        ints in prop::collection::vec(any::<i64>(), atoms),
        bools in prop::collection::vec(any::<bool>(), 2 * atoms),
        texts in prop::collection::vec("[a-z\"'{=]{1,5}", atoms),
    ) -> Structure {
        let mut structure = Structure { cell: Cell::new(cell), pbc, numbers, positions, ..Structure::default() };
        structure.info = keys.into_iter().zip(values).collect();
        for (name, width, column) in [
            ("forces", 3, Column::Real(reals)),
            ("tag", 1, Column::Int(ints)),
            ("mask", 2, Column::Bool(bools)),
            ("it's", 1, Column::Text(texts)),
        ] {
            structure.arrays.insert(name.into(), Array::new(width, column).unwrap());
        }
        structure
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_back_the_same(structures in prop::collection::vec(any_structure(), 1..3)) {
        let text: String = structures.iter().map(written).collect();
        let read: Vec<Structure> = frames(&text).into_iter().collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(read, structures, "{}", text);
    }

    #[test]
    fn anything_goes_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        frames(&bytes);
    }

    #[test]
    fn almost_a_frame_goes_without_a_panic(
        comment in "(Lattice=\"1 0 0 0 1 0 0 0 1\")? ?Properties=species:S:1:pos:R:3[:a-zRILS0-9]{0,8} [ -~]{0,40}",
        rows in "([HX1 .0-9eTF-]{1,20}\n){0,4}",
        count in 0usize..4,
    ) {
        for frame in frames(format!("{count}\n{comment}\n{rows}")).into_iter().flatten() {
            // What could be read can be written, and is then the same.
            let again = frames(written(&frame)).remove(0).unwrap();
            prop_assert_eq!(format!("{:?}", again), format!("{:?}", frame));
        }
    }
}
