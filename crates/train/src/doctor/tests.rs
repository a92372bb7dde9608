//! The doctor on data with known faults: a solid of a Morse potential, and real data where they are there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tesseral_atoms::neighbors::neighbor_list;
use tesseral_atoms::units::{BOHR, GPA, HARTREE, KCAL_PER_MOL};
use tesseral_atoms::{Cell, Structure};
use tesseral_testkit::Random;

use super::*;
use crate::data::{DataConfig, Dataset, FileConfig, Frame, Memory, MissingLabels, Origin, Weights};
use crate::statistics::{Statistics, StatisticsConfig};

/// Energy, forces and stress of a Morse potential (copper), cut off smoothly at 6 Å.
fn label(structure: Structure, number: usize) -> Frame {
    let (depth, alpha, r0, cutoff) = (0.34, 1.36, 2.87, 6.0);
    let list = neighbor_list(&structure.cell.vectors, structure.pbc, &structure.positions, cutoff).unwrap();
    let mut energy = 0.0;
    let mut forces = vec![[0.0; 3]; structure.len()];
    let mut tensor = [[0.0; 3]; 3];
    for (v, &center) in list.vectors.iter().zip(&list.centers) {
        let r = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let x = (-alpha * (r - r0)).exp();
        let (morse, d_morse) = (depth * (x * x - 2.0 * x), -2.0 * alpha * depth * (x * x - x));
        let s = 1.0 - (r / cutoff).powi(2);
        let (switch, d_switch) = (s.powi(3), -6.0 * s * s * r / (cutoff * cutoff));
        let slope = d_morse * switch + morse * d_switch;
        energy += 0.5 * morse * switch;
        for i in 0..3 {
            forces[center as usize][i] += slope * v[i] / r;
            for j in 0..3 {
                tensor[i][j] += 0.5 * slope * v[i] * v[j] / r;
            }
        }
    }
    let t = tensor.map(|row| row.map(|x| x / structure.cell.volume()));
    let stress = (structure.pbc == [true; 3]).then_some([t[0][0], t[1][1], t[2][2], t[1][2], t[2][0], t[0][1]]);
    let origin = Origin { file: "morse.xyz".into(), frame: number };
    Frame {
        structure,
        energy: Some(energy),
        forces: Some(forces),
        force_mask: None,
        stress,
        weights: Weights::default(),
        group: None,
        head: None,
        origin,
    }
}

/// Thirty rattled copies of a cell and thirty strained ones.
fn solid() -> Vec<Frame> {
    let mut random = Random::new(11);
    let a = 3.63;
    let sites = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]];
    let mut frames = Vec::new();
    for number in 0..60 {
        let amplitude = if number < 30 { 0.06 } else { 0.004 };
        let strain: [[f64; 3]; 3] =
            std::array::from_fn(|_| std::array::from_fn(|_| if number < 30 { 0.0 } else { 0.02 * random.number() }));
        let cell: [[f64; 3]; 3] = std::array::from_fn(|i| std::array::from_fn(|j| 2.0 * a * (f64::from(u8::from(i == j)) + strain[i][j])));
        let cell = Cell::new(cell);
        let mut positions = Vec::new();
        for n in 0..8 {
            for site in sites {
                let shift = [n & 1, (n >> 1) & 1, (n >> 2) & 1];
                let r = cell.cartesian([0, 1, 2].map(|k| (site[k] + f64::from(shift[k])) / 2.0));
                positions.push([0, 1, 2].map(|k| r[k] + amplitude * (random.number() + random.number())));
            }
        }
        frames.push(label(Structure::crystal(cell, vec![29; 32], positions), number));
    }
    frames
}

fn spoil(frames: &[Frame], change: impl Fn(&mut Frame)) -> Findings {
    let mut frames = frames.to_vec();
    frames.iter_mut().for_each(change);
    look(frames)
}

fn look(frames: Vec<Frame>) -> Findings {
    examine(&Subject::new(&Memory::from(frames)), &DoctorConfig::default()).unwrap()
}

fn scale_energy(frame: &mut Frame, factor: f64) {
    frame.energy = frame.energy.map(|e| e * factor);
}

fn scale_forces(frame: &mut Frame, factor: f64) {
    frame.forces.iter_mut().flatten().flatten().for_each(|f| *f *= factor);
}

fn scale_stress(frame: &mut Frame, factor: f64) {
    frame.stress.iter_mut().flatten().for_each(|s| *s *= factor);
}

/// The message of the error with this code.
fn error(findings: &Findings, code: &str) -> String {
    let found: Vec<&Finding> = findings.of(Severity::Error).filter(|finding| finding.code == code).collect();
    assert!(!found.is_empty(), "{code} is no error in\n{findings}");
    found[0].to_string()
}

fn warning(findings: &Findings, code: &str) -> String {
    let found: Vec<&Finding> = findings.of(Severity::Warning).filter(|finding| finding.code == code).collect();
    assert!(!found.is_empty(), "{code} is no warning in\n{findings}");
    found[0].to_string()
}

fn assert_clean(findings: &Findings) {
    assert!(!findings.has_errors(), "{findings}");
    for code in UNIT_CODES {
        assert!(findings.with_code(code).all(|finding| finding.severity == Severity::Note), "{code}:\n{findings}");
    }
}

const UNIT_CODES: [&str; 10] = [
    "distance-unit",
    "energy-fluctuation",
    "energy-force",
    "energy-magnitude",
    "energy-spread",
    "force-magnitude",
    "stress-energy",
    "stress-magnitude",
    "stress-volume",
    "temperature",
];

#[test]
fn consistent_data_are_clean() {
    let findings = look(solid());
    assert_clean(&findings);
    for code in ["energy-force", "stress-energy", "stress-volume"] {
        let note = findings.with_code(code).next().unwrap_or_else(|| panic!("{code} was not tested:\n{findings}"));
        assert!(note.message.contains("agree") || note.message.contains("right sign"), "{note}");
    }
    let json = serde_json::to_value(&findings).unwrap();
    assert_eq!(json["train_frames"], 60);
    assert_eq!(json["findings"][0]["severity"], "note");
    assert!(findings.to_string().ends_with("60 training and 0 validation frames: 0 errors, 0 warnings"), "{findings}");
}

#[test]
fn signs_and_units_against_each_other() {
    let frames = solid();
    let kcal = 1.0 / KCAL_PER_MOL;
    let findings = spoil(&frames, |frame| scale_energy(frame, kcal));
    assert!(error(&findings, "energy-force").contains("energies are in kcal/mol and forces in eV/Å"), "{findings}");
    let findings = spoil(&frames, |frame| scale_forces(frame, kcal));
    assert!(error(&findings, "energy-force").contains("forces are in kcal/mol/Å and energies in eV"), "{findings}");
    let findings = spoil(&frames, |frame| scale_forces(frame, -1.0));
    assert!(error(&findings, "energy-force").contains("wrong sign"), "{findings}");
    let findings = spoil(&frames, |frame| {
        scale_energy(frame, 1.0 / HARTREE);
        scale_forces(frame, BOHR / HARTREE);
    });
    assert!(error(&findings, "energy-force").contains("per bohr and not per Å"), "{findings}");
    let findings = spoil(&frames, |frame| scale_energy(frame, 1.0 / 32.0));
    assert!(error(&findings, "energy-force").contains("energies are per atom"), "{findings}");

    let findings = spoil(&frames, |frame| scale_stress(frame, -1.0));
    assert!(error(&findings, "stress-energy").contains("wrong sign"), "{findings}");
    assert!(findings.with_code("energy-force").all(|finding| finding.severity == Severity::Note), "{findings}");
    let findings = spoil(&frames, |frame| scale_stress(frame, 1.0 / GPA));
    assert!(error(&findings, "stress-energy").contains("stresses are in GPa"), "{findings}");
    let findings = spoil(&frames, |frame| scale_stress(frame, -10.0 / GPA));
    let text = error(&findings, "stress-energy");
    assert!(text.contains("wrong sign") && text.contains("kbar"), "{findings}");
    // Without energies volumes are the witness.
    let findings = spoil(&frames, |frame| {
        scale_stress(frame, -1.0);
        frame.energy = None;
    });
    assert!(error(&findings, "stress-volume").contains("probably wrong"), "{findings}");
    let findings = spoil(&frames, |frame| {
        scale_stress(frame, 1.0 / GPA);
        frame.energy = None;
    });
    assert!(error(&findings, "stress-volume").contains("stiffer than diamond"), "{findings}");
    // What is known to be right may be allowed.
    let allowed = DoctorConfig { allow: vec!["energy-force".into()], ..DoctorConfig::default() };
    allowed.validate().unwrap();
    let mut wrong = frames.clone();
    wrong.iter_mut().for_each(|frame| scale_forces(frame, -1.0));
    let findings = examine(&Subject::new(&Memory::from(wrong)), &allowed).unwrap();
    warning(&findings, "energy-force");
}

#[test]
fn lengths_in_other_units() {
    let frames = solid();
    for (factor, unit) in [(1.0 / BOHR, "bohr"), (0.1, "nm")] {
        let findings = spoil(&frames, |frame| {
            frame.structure.positions.iter_mut().flatten().for_each(|x| *x *= factor);
            frame.structure.cell.vectors.iter_mut().flatten().for_each(|x| *x *= factor);
        });
        assert!(error(&findings, "distance-unit").contains(unit), "{findings}");
    }
}

#[test]
fn numbers_that_cannot_be() {
    let frames = solid();
    let findings = spoil(&frames, |frame| {
        if frame.origin.frame == 7 {
            frame.forces.as_mut().unwrap()[3][1] = f64::NAN;
        }
    });
    let text = error(&findings, "not-finite");
    assert!(text.contains("forces") && text.contains("frame 7 of morse.xyz"), "{text}");
    let findings = spoil(&frames, |frame| scale_forces(frame, 0.0));
    assert!(error(&findings, "zero-forces").contains("in all training frames that have them (60)"));
    let findings = spoil(&frames, |frame| scale_stress(frame, 0.0));
    error(&findings, "zero-stress");
    let findings = spoil(&frames, |frame| {
        if frame.origin.frame < 3 {
            scale_stress(frame, 0.0);
        }
    });
    assert!(warning(&findings, "zero-stress").contains("3 of 60"), "{findings}");
    let findings = spoil(&frames, |frame| {
        if frame.origin.frame == 5 {
            scale_energy(frame, 0.5);
            frame.forces.as_mut().unwrap()[0] = [0.0, 300.0, 0.0];
        }
        if frame.origin.frame == 6 {
            frame.structure.positions[1] = frame.structure.positions[0].map(|x| x + 0.2);
        }
    });
    assert!(warning(&findings, "energy-outliers").contains("frame 5"), "{findings}");
    assert!(warning(&findings, "force-outliers").contains("frame 5"), "{findings}");
    assert!(warning(&findings, "force-sum").contains("frame 5"), "{findings}");
    assert!(warning(&findings, "close-atoms").contains("frame 6"), "{findings}");
}

#[test]
fn elements_and_heads() {
    let frames = solid();
    let source = Memory::from(frames.clone());
    let subject = Subject { elements: Some(&[1, 6, 8]), ..Subject::new(&source) };
    let findings = examine(&subject, &DoctorConfig::default()).unwrap();
    let text = error(&findings, "unknown-element");
    assert!(text.contains("does not know Cu (60 frames, 1920 atoms); it knows H, C, O") && text.contains("and 55 more"), "{text}");
    assert!(text.contains("finetune.new_elements = \"mean\"") && text.contains("{ like = { Cu = "), "{text}");
    let known = examine(&Subject { elements: Some(&[29]), ..subject }, &DoctorConfig::default()).unwrap();
    assert_clean(&known);
    let mut other = frames[..2].to_vec();
    other[1].structure.numbers[0] = 47;
    let valid = Memory::from(other);
    let findings = examine(&Subject { valid: Some(&valid), ..Subject::new(&source) }, &DoctorConfig::default()).unwrap();
    assert!(warning(&findings, "element-coverage").contains("Ag"), "{findings}");
    // What is in no training frame cannot be learnt.
    let subject = Subject { valid: Some(&valid), elements: Some(&[29]), ..Subject::new(&source) };
    let text = error(&examine(&subject, &DoctorConfig::default()).unwrap(), "unknown-element");
    assert!(text.contains("does not know Ag (1 frame, 1 atom)") && !text.contains("new_elements"), "{text}");
    let text = warning(&findings, "duplicates-across-splits");
    assert!(text.contains("1 exact copy of training frames among the validation frames"), "{text}");
}

#[test]
fn duplicates_through_rotation_and_order() {
    let mut frames = solid()[..20].to_vec();
    let molecule = |shift: f64, tail: f64| {
        let positions: Vec<[f64; 3]> = vec![[0.0, 0.0, 0.0], [2.5, 0.2, 0.0], [1.2, 2.3, 0.3], [1.3, 0.9, 2.2], [3.4, 2.6, tail]];
        label(Structure::molecule(vec![29; 5], positions.iter().map(|r| [r[0] + shift, r[1], r[2]]).collect()), 0)
    };
    let turned = |frame: &Frame| {
        let mut frame = frame.clone();
        frame.structure.positions.iter_mut().for_each(|r| *r = [r[2], r[0], r[1]]);
        frame.forces.iter_mut().flatten().for_each(|f| *f = [f[2], f[0], f[1]]);
        frame.structure.positions.swap(0, 3);
        frame.forces.as_mut().unwrap().swap(0, 3);
        frame
    };
    let original = molecule(0.0, 0.1);
    let mut wrong = turned(&original);
    wrong.energy = wrong.energy.map(|e| e + 0.2);
    frames.extend([original.clone(), turned(&original), molecule(7.0, 0.104), wrong, molecule(0.0, 0.4)]);
    frames.push(frames[3].clone());
    for (k, frame) in frames.iter_mut().enumerate() {
        frame.origin.frame = k;
    }
    let findings = look(frames);
    let all: Vec<String> = findings.with_code("duplicates").map(Finding::to_string).collect();
    assert_eq!(all.len(), 2, "{findings}");
    assert!(
        all[0].contains("3 exact copies of training frames among the training frames")
            && all[0].contains("frame 21 of morse.xyz is like frame 20 of morse.xyz"),
        "{all:?}"
    );
    assert!(all[0].contains("in frames 21, 23, 25 of morse.xyz"), "{all:?}");
    assert!(all[1].contains("1 near-copy") && all[1].contains("frame 22"), "{all:?}");
    assert!(warning(&findings, "duplicates-disagree").contains("by up to 0.200 eV"), "{findings}");
}

#[test]
fn the_result_does_not_depend_on_threads() {
    let frames = solid();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| serde_json::to_string(&look(frames.clone())).unwrap())
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn configurations_are_checked() {
    let config = DoctorConfig { allow: vec!["energy-forces".into()], ..DoctorConfig::default() };
    let text = config.validate().unwrap_err().to_string();
    assert!(text.contains("did you mean `energy-force`?"), "{text}");
    assert!(DoctorConfig { closest: -1.0, ..DoctorConfig::default() }.validate().is_err());
    assert!(CODES.is_sorted());
}

// ---------------------------------------------------------------------------------------------------------------------
// Real data

fn folder() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped because {} is not there", folder.display());
    None
}

fn load(train: &[(&str, Option<&str>)], valid: &[&str]) -> Option<Dataset> {
    let folder = folder()?;
    let config = DataConfig {
        train: train
            .iter()
            .map(|(file, group)| FileConfig { group: group.map(str::to_owned), ..FileConfig::new(folder.join(file)) })
            .collect(),
        valid: valid.iter().map(|file| FileConfig::new(folder.join(file))).collect(),
        valid_fraction: 0.0,
        missing_labels: MissingLabels::Error,
        ..DataConfig::default()
    };
    Some(Dataset::load(&config, &[]).unwrap())
}

fn doctor(data: &Dataset) -> Findings {
    let e0s = data.isolated.energies(None);
    let e0s = (!e0s.is_empty()).then_some(&e0s);
    let subject = Subject { valid: Some(&*data.valid), keys: Some(&data.keys), e0s, ..Subject::new(&*data.train) };
    let findings = examine(&subject, &DoctorConfig::default()).unwrap();
    println!("{findings}\n");
    findings
}

/// The frames of a source, changed.
fn changed(data: &Dataset, change: impl Fn(&mut Frame)) -> Findings {
    let mut frames: Vec<Frame> = (0..data.train.len()).map(|i| Arc::unwrap_or_clone(data.train.frame(i).unwrap())).collect();
    frames.iter_mut().for_each(change);
    let findings = look(frames);
    println!("{findings}\n");
    findings
}

#[test]
fn bpa() {
    let Some(data) = load(&[("3bpa/train_300K.xyz", None), ("3bpa/iso_atoms.xyz", Some("IsolatedAtom"))], &[]) else { return };
    assert_eq!((data.train.len(), data.isolated.energies(None).len()), (500, 4));
    let findings = doctor(&data);
    assert_clean(&findings);
    assert!(findings.with_code("energy-force").any(|finding| finding.message.contains("agree")), "{findings}");
    // What ase.io and numpy say of the same file.
    let config = StatisticsConfig::default();
    let statistics = Statistics::new(&*data.train, &data.isolated, None, 5.0, &config).unwrap();
    assert!((statistics.rms_forces.unwrap() - 0.948).abs() < 5e-4, "{statistics:?}");
    assert_eq!((statistics.frames, statistics.atoms, statistics.elements[&1]), (500, 13500, 6000));
    assert!((statistics.min_distance.unwrap() - 0.94).abs() < 0.03, "{statistics:?}");
    assert!((9.0..26.0).contains(&statistics.avg_num_neighbors) && (-10.0..-4.0).contains(&statistics.mean), "{statistics:?}");
    let kcal = 1.0 / KCAL_PER_MOL;
    let findings = changed(&data, |frame| {
        scale_energy(frame, kcal);
        scale_forces(frame, kcal);
    });
    assert!(error(&findings, "energy-magnitude").contains("kcal/mol"), "{findings}");
    error(&findings, "force-magnitude");
    let findings = changed(&data, |frame| scale_forces(frame, kcal));
    assert!(error(&findings, "energy-force").contains("kcal"), "{findings}");
    let findings = changed(&data, |frame| scale_forces(frame, -1.0));
    assert!(error(&findings, "energy-force").contains("wrong sign"), "{findings}");
    let findings = changed(&data, |frame| {
        scale_energy(frame, 1.0 / HARTREE);
        scale_forces(frame, BOHR / HARTREE);
    });
    assert!(error(&findings, "energy-force").contains("per bohr"), "{findings}");
}

#[test]
fn bpa_sets_share_frames() {
    let Some(data) = load(&[("3bpa/train_300K.xyz", None)], &["3bpa/train_mixedT.xyz"]) else { return };
    let findings = doctor(&data);
    assert_clean(&findings);
    assert!(warning(&findings, "duplicates-across-splits").contains("31 exact copies"), "{findings}");
    assert!(warning(&findings, "element-rank").contains("1 of 4"), "{findings}");
}

#[test]
fn copper() {
    let Some(data) = load(&[("mlearn/Cu/train.extxyz", None)], &["mlearn/Cu/test.extxyz"]) else { return };
    let findings = doctor(&data);
    assert_clean(&findings);
    assert!(warning(&findings, "duplicates-across-splits").contains("13 exact copies"), "{findings}");
    let findings = changed(&data, |frame| scale_stress(frame, -1.0));
    assert!(error(&findings, "stress-energy").contains("wrong sign"), "{findings}");
    let findings = changed(&data, |frame| scale_stress(frame, 1.0 / GPA));
    assert!(error(&findings, "stress-energy").contains("stresses are in GPa"), "{findings}");
    let kcal = 1.0 / KCAL_PER_MOL;
    let findings = changed(&data, |frame| {
        scale_energy(frame, kcal);
        scale_forces(frame, kcal);
    });
    assert!(findings.has_errors(), "{findings}");
    let findings = changed(&data, |frame| scale_energy(frame, kcal));
    assert!(findings.has_errors(), "{findings}");
}

#[test]
fn water() {
    let Some(data) = load(&[("water/dpmd_pbe0ts/train.extxyz", None)], &["water/dpmd_pbe0ts/valid.extxyz"]) else { return };
    let findings = doctor(&data);
    assert_clean(&findings);
    let kcal = 1.0 / KCAL_PER_MOL;
    let findings = changed(&data, |frame| {
        scale_energy(frame, kcal);
        scale_forces(frame, kcal);
    });
    error(&findings, "energy-magnitude");
    let findings = changed(&data, |frame| scale_forces(frame, -1.0));
    assert!(error(&findings, "energy-force").contains("wrong sign"), "{findings}");
}

#[test]
fn many_elements() {
    for file in ["mptrj-random-1k.xyz", "random-TP.xyz", "mptrj-highest-stress-1k.xyz"] {
        let Some(data) = load(&[(&format!("mattersim_bench/{file}"), None)], &[]) else { return };
        assert_clean(&doctor(&data));
    }
}

#[test]
fn other_clean_sets() {
    for files in [
        &["mlearn/Si/train.extxyz"][..],
        &["mlearn/Li/train.extxyz"],
        &["rmd17/ethanol/train_split01.extxyz"],
        &["rmd17/benzene/train_split01.extxyz"],
        &["ethanol_botnet/train.xyz"],
        &["hfo2_sevennet/all.extxyz"],
        &["water/cheng_mattersim/high_level_water.xyz"],
        &["3bpa/train_mixedT.xyz"],
    ] {
        let files: Vec<(&str, Option<&str>)> = files.iter().map(|file| (*file, None)).collect();
        let Some(data) = load(&files, &[]) else { return };
        println!("== {files:?}");
        assert_clean(&doctor(&data));
    }
}
