//! A program in C, compiled against the header and the shared library: results are those of `Potential::evaluate`, and every wrong use is an error.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::mem::{offset_of, size_of};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use tesseral_atoms::{Structure, elements};
use tesseral_infer::{Dtype, Options, Potential};
use tesseral_lammps::{TesseralAtoms, TesseralExchange, TesseralOptions, TesseralResults};
use tesseral_tests::parts::cut;

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn succeeded(output: &Output, what: &str) {
    assert!(output.status.success(), "{what}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
}

/// The program, compiled once; the folder it lies in is removed with the test.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    &PROGRAM
        .get_or_init(|| {
            let folder_of_tests = std::env::current_exe().unwrap().parent().unwrap().to_owned();
            let library = folder_of_tests.join("libtesseral_lammps.so");
            assert!(library.exists(), "the shared library is built with its tests: {}", library.display());
            let target = tempfile::tempdir().unwrap();
            let path = target.path().join("abi");
            let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
            let compiled = Command::new(compiler)
                .args(["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O1", "-I"])
                .arg(folder().join("include"))
                .arg(folder().join("tests/abi.c"))
                .arg("-L")
                .arg(&folder_of_tests)
                .args(["-ltesseral_lammps", "-lm"])
                .arg(format!("-Wl,-rpath,{}", folder_of_tests.display()))
                .arg("-o")
                .arg(&path)
                .output()
                .unwrap();
            succeeded(&compiled, "cc");
            (target, path)
        })
        .1
}

fn run(mode: &str, input: &str) -> String {
    let mut child = Command::new(program()).arg(mode).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    succeeded(&output, mode);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn structs_are_those_of_the_header() {
    let expected = [
        format!(
            "options {} {} {} {} {} {} {}",
            size_of::<TesseralOptions>(),
            offset_of!(TesseralOptions, dtype),
            offset_of!(TesseralOptions, head),
            offset_of!(TesseralOptions, device),
            offset_of!(TesseralOptions, threads),
            offset_of!(TesseralOptions, ranks_here),
            offset_of!(TesseralOptions, exact_radial)
        ),
        format!(
            "atoms {} {} {} {} {} {} {} {} {} {} {}",
            size_of::<TesseralAtoms>(),
            offset_of!(TesseralAtoms, owned),
            offset_of!(TesseralAtoms, ghosts),
            offset_of!(TesseralAtoms, positions),
            offset_of!(TesseralAtoms, species),
            offset_of!(TesseralAtoms, tags),
            offset_of!(TesseralAtoms, images),
            offset_of!(TesseralAtoms, new_list),
            offset_of!(TesseralAtoms, counts),
            offset_of!(TesseralAtoms, neighbors),
            offset_of!(TesseralAtoms, neighbor_mask)
        ),
        format!(
            "exchange {} {} {}",
            size_of::<TesseralExchange>(),
            offset_of!(TesseralExchange, forward),
            offset_of!(TesseralExchange, reverse)
        ),
        format!(
            "results {} {} {} {} {} {}",
            size_of::<TesseralResults>(),
            offset_of!(TesseralResults, energy),
            offset_of!(TesseralResults, virial),
            offset_of!(TesseralResults, forces),
            offset_of!(TesseralResults, atomic_energies),
            offset_of!(TesseralResults, atomic_virials)
        ),
        format!(
            "codes {} {} {} {}",
            tesseral_lammps::error::OK,
            tesseral_lammps::error::ERROR,
            tesseral_lammps::error::DEFECT,
            tesseral_lammps::ABI
        ),
    ];
    assert_eq!(run("layout", "").lines().collect::<Vec<_>>(), expected);
}

/// What the program reads about a structure whose ghosts are images of its own atoms.
fn input(structure: &Structure, dtype: Dtype, reach: f64) -> String {
    let part = cut(structure, [1, 1, 1], reach).remove(0);
    let mut text = format!("{} {} {}\n", u32::from(dtype == Dtype::F64), part.owned, part.atoms.len() - part.owned);
    for (r, &atom) in part.positions(structure).iter().zip(&part.atoms) {
        writeln!(text, "{:?} {:?} {:?} {}", r[0], r[1], r[2], elements::symbol(structure.numbers[atom]).unwrap()).unwrap();
    }
    part.atoms[part.owned..].iter().for_each(|atom| writeln!(text, "{atom}").unwrap());
    for range in part.offsets.windows(2) {
        let list = &part.neighbors[range[0]..range[1]];
        writeln!(text, "{} {}", list.len(), list.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")).unwrap();
    }
    text
}

/// Rock salt as it is shipped, and rattled.
fn structures() -> [Structure; 2] {
    let shipped = tesseral_atoms::io::read(folder().join("../../examples/nacl.cif")).unwrap().next().unwrap().unwrap();
    let mut rattled = shipped.clone();
    let mut random = tesseral_testkit::Random::new(5);
    rattled.positions.iter_mut().flatten().for_each(|x| *x += 0.1 * random.number());
    rattled.cell.vectors[1][0] += 0.7;
    [shipped, rattled]
}

#[test]
fn results_are_those_of_evaluate() {
    let artifact = tesseral_loader::artifact(None).unwrap();
    for (dtype, tolerance) in [(Dtype::F32, 2e-5), (Dtype::F64, 1e-11)] {
        let potential = Potential::new(&artifact, &Options { dtype, ..Options::default() }).unwrap();
        for structure in structures() {
            let want = potential.evaluate(std::slice::from_ref(&structure)).remove(0).unwrap();
            let input = input(&structure, dtype, potential.header().cutoff() + 0.4);
            for output in [run("evaluate", &input), run("alone", &input)] {
                let lines: Vec<Vec<f64>> =
                    output.lines().map(|line| line.split_whitespace().map(|x| x.parse().unwrap()).collect()).collect();
                let close = |got: f64, want: f64, scale: f64| assert!((got - want).abs() < tolerance * scale, "{got} and {want}");
                close(lines[0][0], want.energy, want.energy.abs());
                let stress = want.stress.unwrap();
                for (k, (a, b)) in [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)].into_iter().enumerate() {
                    close(-lines[1][k] / structure.cell.volume(), stress[a][b], 0.1);
                    close(lines[2][k], lines[1][k], 10.0);
                }
                assert_eq!(lines.len() - 3, structure.len());
                for (i, line) in lines[3..].iter().enumerate() {
                    close(line[0], want.atomic_energies[i], 5.0);
                    (0..3).for_each(|x| close(line[1 + x], want.forces[i][x], 1.0));
                }
            }
        }
    }
}

#[test]
fn wrong_use_is_an_error() {
    let output = run("errors", "");
    let said = |what: &str| -> String {
        let begin = output.find(&format!("\n{what}: ")).unwrap_or_else(|| panic!("{what} in\n{output}")) + what.len() + 3;
        let mut lines = output[begin..].lines();
        let mut text = lines.next().unwrap().to_owned();
        lines.take_while(|line| line.starts_with("hint: ")).for_each(|line| text = format!("{text} {line}"));
        text
    };
    assert!(output.starts_with("before: |\n"), "{output}");
    for (what, expected) in [
        ("nowhere", "1: where the potential goes is NULL"),
        ("no such name", "1: no model is called `sevenet-0`, and there is no such file hint: did you mean `sevennet-0`"),
        ("no such file", "1: there is no model file ./nowhere.safetensors hint: "),
        ("no text", "1: the model is not UTF-8: "),
        (
            "options size",
            "1: tesseral_options has a size of 0, this library's has 40 hint: program and library belong to different versions",
        ),
        ("dtype", "1: dtype is 2: TESSERAL_F32 (0) and TESSERAL_F64 (1) are precisions"),
        ("head", "1: "),
        ("device", "1: `gpu` is no device: "),
        ("cuda", "1: "),
        ("open", "0: "),
        ("Cl", "0: "),
        ("Q", "1: `Q` is no element hint: "),
        ("Og", "1: SevenNet-0"),
        ("no symbol", "1: the symbol of an element is NULL"),
        ("no potential", "1: the potential is NULL"),
        ("no species", "1: where the species goes is NULL"),
        ("domain of nothing", "1: the potential is NULL"),
        ("domain to nowhere", "1: where the domain goes is NULL"),
        ("domain", "0: "),
        ("no domain", "1: the domain is NULL"),
        ("no atoms", "1: tesseral_atoms is NULL"),
        ("no results", "1: tesseral_results is NULL"),
        ("atoms size", "1: tesseral_atoms has a size of 8, this library's has 88 hint: "),
        ("owned", "1: owned is -1: it cannot be negative"),
        ("ghosts", "1: ghosts is -1: it cannot be negative"),
        ("positions", "1: positions is NULL"),
        ("kinds", "1: species is NULL"),
        ("counts", "1: counts is NULL"),
        ("lists", "1: neighbors is NULL"),
        ("no list yet", "1: 2 own atoms and 0 ghosts come without a list of neighbours, and none is held hint: "),
        ("results size", "1: tesseral_results has a size of 1, this library's has 88 hint: "),
        ("forces", "1: forces is NULL"),
        ("count", "1: a number of neighbours is -1: it cannot be negative"),
        ("half", "1: the list of neighbours is not full: of some pairs of own atoms only one has the other hint: ask for a full list"),
        ("neighbour", "1: the list of neighbours of atom 12 names 5: there are 2 own atoms and ghosts"),
        ("kind", "1: atom 12 is of species 1000, but the model has 89"),
        ("nan", "1: atom 12 has the position [0.0, 0.0, NaN] Å, which is not finite hint: "),
        ("spot", "1: atoms 11 and 12 are on the same spot (1.0e-4 Å apart) hint: "),
        ("no reverse", "1: the reverse exchange between ranks failed: its function is NULL"),
        ("image", "1: ghost 1, counted from 0 with own atoms first, cannot be a copy of atom 5 hint: "),
        ("alone", "1: the ghost 12 is no copy of an own atom, and there are no exchanges to ask others for it hint: "),
        ("gave up", "1: the forward exchange between ranks failed: the program gave up with the code 7 hint: "),
        ("good", "0: "),
        ("good alone", "0: "),
    ] {
        let text = said(what);
        assert!(text.starts_with(expected), "{what}: {text}");
    }
    assert!(said("Og").contains("does not know Og; it knows 89 elements from"), "{}", said("Og"));
    for line in [
        format!("version {} abi 2", env!("CARGO_PKG_VERSION")),
        "still 1".to_owned(),
        "cutoff 5 row 1920".to_owned(),
        "nothing '' 0 0".to_owned(),
        "species 1".to_owned(),
        "calls 3".to_owned(),
        "force 1 energy 1".to_owned(),
    ] {
        assert!(output.contains(&line), "{line} in\n{output}");
    }
}
