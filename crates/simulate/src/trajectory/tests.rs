use std::process::Command;

use tesseral_atoms::Cell;
use tesseral_atoms::units::{FEMTOSECOND, KCAL_PER_MOL};

use super::*;

/// A frame of a skewed cell that is not in the standard orientation.
fn frame(k: u64) -> (Structure, Vec<[f64; 3]>, Vec<f64>, Evaluation) {
    let t = k as f64;
    let cell = Cell::new([[4.0, 0.3, 0.1], [0.5, 5.0 + 0.01 * t, -0.2], [0.2, 0.1, 6.0]]);
    let positions = vec![[0.1 + t / 3.0, 0.2, 0.3], [2.0, 2.5 - t / 7.0, 3.0], [-11.0, 1.0, 1.0]];
    let mut structure = Structure::crystal(cell, vec![8, 1, 14], positions);
    structure.info.insert("name".into(), "a word".into());
    structure.info.insert("energy".into(), InfoValue::Real(77.0));
    structure.arrays.insert("tags".into(), tesseral_atoms::Array::scalars(vec![1.0, 2.0, 3.0]));
    let velocities = vec![[0.1, -0.2, 0.3 + t], [0.0, 1e-3, 0.0], [1.0 / 3.0, 0.0, -1.0]];
    let evaluation = Evaluation {
        energy: -1.0 / (3.0 + t),
        forces: vec![[1.0 / 7.0, 0.0, t], [0.1, 0.2, 0.3], [-1.0, -2.0, 1e-9]],
        stress: Some([[0.1, 0.2, 0.3], [0.2, 0.4, 0.5], [0.3, 0.5, 0.6 + t]]),
        atomic_energies: vec![],
    };
    (structure, velocities, vec![15.999, 1.008, 28.085], evaluation)
}

use tesseral_atoms::InfoValue;

fn write(writer: &mut Writer, k: u64) {
    let (structure, velocities, masses, evaluation) = frame(k);
    let snapshot = Snapshot {
        step: 10 * k,
        time: 5.0 * k as f64,
        structure: &structure,
        velocities: &velocities,
        masses: &masses,
        evaluation: &evaluation,
        temperature: 300.0 + 1.0 / 3.0,
    };
    writer.write(&snapshot).unwrap();
}

const FORMATS: [Format; 3] = [Format::ExtendedXyz, Format::ExtendedXyzGz, Format::NetCdf];

#[test]
fn names_of_formats() {
    for format in FORMATS {
        assert_eq!(Format::from_name(format!("a/b.{}", format.extension())), Some(format));
    }
    assert_eq!(Format::from_name("x.dcd"), None);
}

#[test]
fn extended_xyz_reads_back_exactly() {
    let folder = tempfile::tempdir().unwrap();
    for format in [Format::ExtendedXyz, Format::ExtendedXyzGz] {
        let path = folder.path().join(format!("t.{}", format.extension()));
        let mut writer = Writer::create(&path, format, &frame(0).0).unwrap();
        (0..3).for_each(|k| write(&mut writer, k));
        writer.sync().unwrap();
        let frames: Vec<Structure> = tesseral_atoms::io::read(&path).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(frames.len(), 3);
        for (k, read) in frames.iter().enumerate() {
            let (structure, velocities, masses, evaluation) = frame(k as u64);
            assert_eq!((read.cell, &read.positions, &read.numbers), (structure.cell, &structure.positions, &structure.numbers));
            assert_eq!(read.arrays["forces"].to_vectors().unwrap(), evaluation.forces);
            let momenta: Vec<[f64; 3]> = velocities.iter().zip(&masses).map(|(v, m)| v.map(|x| x * m)).collect();
            assert_eq!(read.arrays["momenta"].to_vectors().unwrap(), momenta);
            assert_eq!(read.info["energy"].as_f64(), Some(evaluation.energy));
            assert_eq!(read.info["stress"].to_reals().unwrap(), evaluation.stress.unwrap().as_flattened());
            assert_eq!((read.info["step"].as_i64(), read.info["time"].as_f64()), (Some(10 * k as i64), Some(5.0 * k as f64)));
            assert_eq!((read.info["name"].as_str(), read.info["temperature"].as_f64()), (Some("a word"), Some(300.0 + 1.0 / 3.0)));
            assert_eq!(read.arrays["tags"], structure.arrays["tags"]);
        }
    }
}

/// Cut back to a saved position, with garbage after it as a killed run leaves it, each format ends with the same bytes as if nothing had happened.
#[test]
fn cut_back_gives_the_same_bytes() {
    for format in FORMATS {
        let folder = tempfile::tempdir().unwrap();
        let [alone, cut] = ["alone", "cut"].map(|name| folder.path().join(name));
        let first = frame(0).0;
        let mut writer = Writer::create(&alone, format, &first).unwrap();
        (0..6).for_each(|k| write(&mut writer, k));
        writer.sync().unwrap();
        let mut writer = Writer::create(&cut, format, &first).unwrap();
        (0..3).for_each(|k| write(&mut writer, k));
        let saved = writer.sync().unwrap();
        (20..25).for_each(|k| write(&mut writer, k));
        drop(writer);
        let mut bytes = std::fs::read(&cut).unwrap();
        bytes.extend_from_slice(b"half a fra");
        std::fs::write(&cut, &bytes).unwrap();
        let mut writer = Writer::cut_back(&cut, format, &first, saved).unwrap();
        // Right after, the file ends with the third frame.
        let frames = match format {
            Format::NetCdf => u64::from(u32::from_be_bytes(std::fs::read(&cut).unwrap()[4..8].try_into().unwrap())),
            _ => {
                tesseral_atoms::io::read_stream(std::fs::File::open(&cut).unwrap(), "x.extxyz").unwrap().map(Result::unwrap).count() as u64
            }
        };
        assert_eq!(frames, 3);
        (3..6).for_each(|k| write(&mut writer, k));
        writer.sync().unwrap();
        drop(writer);
        assert!(std::fs::read(&alone).unwrap() == std::fs::read(&cut).unwrap(), "{format:?}");
    }
}

/// Another crate's reader finds what was written, turned as lengths and angles need it.
#[test]
fn netcdf_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.nc");
    let mut writer = Writer::create(&path, Format::NetCdf, &frame(0).0).unwrap();
    (0..3).for_each(|k| write(&mut writer, k));
    writer.sync().unwrap();
    let mut reader = netcdf3::FileReader::open(&path).unwrap();
    assert_eq!(reader.data_set().num_records(), Some(3));
    assert_eq!(reader.data_set().get_global_attr_as_string("Conventions").as_deref(), Some("AMBER"));
    assert_eq!(reader.read_var_f32("time").unwrap(), [0.0, 0.005, 0.01]);
    assert_eq!(reader.read_var_i32("atomic_number").unwrap(), [8, 1, 14]);
    let (lengths, angles) = (reader.read_var_f64("cell_lengths").unwrap(), reader.read_var_f64("cell_angles").unwrap());
    let [coordinates, velocities, forces] = ["coordinates", "velocities", "forces"].map(|name| reader.read_var_f32(name).unwrap());
    for k in 0..3 {
        let (structure, v, _, evaluation) = frame(k as u64);
        assert_eq!((&lengths[3 * k..3 * k + 3], &angles[3 * k..3 * k + 3]), (&structure.cell.lengths()[..], &structure.cell.angles()[..]));
        let cell = Cell::from_parameters(structure.cell.lengths(), structure.cell.angles()).unwrap();
        for i in 0..3 {
            // Fractional coordinates do not know of orientation.
            let at = [0, 1, 2].map(|d| f64::from(coordinates[9 * k + 3 * i + d]));
            let (found, expected) = (cell.fractional(at).unwrap(), structure.cell.fractional(structure.positions[i]).unwrap());
            assert!((0..3).all(|d| (found[d] - expected[d]).abs() < 1e-6), "{found:?} {expected:?}");
            // Lengths and dot products with displacements neither.
            let product = |a: [f64; 3], b: [f64; 3]| a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
            let get = |data: &[f32], factor: f64| [0, 1, 2].map(|d| f64::from(data[9 * k + 3 * i + d]) * factor);
            let (v_found, f_found) = (get(&velocities, 1e-3 / FEMTOSECOND), get(&forces, KCAL_PER_MOL));
            assert!((product(v_found, f_found) - product(v[i], evaluation.forces[i])).abs() < 1e-5);
            assert!((product(v_found, at) - product(v[i], structure.positions[i])).abs() < 1e-5);
        }
    }
    let left = Structure::crystal(Cell::new([[0.0, 4.0, 0.0], [4.0, 0.0, 0.0], [0.0, 0.0, 4.0]]), vec![1], vec![[0.0; 3]]);
    let error = Writer::create(&path, Format::NetCdf, &left).err().unwrap();
    assert!(error.to_string().contains("left-handed"), "{error}");
}

/// Molecules have no cell in the file.
#[test]
fn netcdf_of_a_molecule() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.nc");
    let molecule = Structure::molecule(vec![1, 1], vec![[0.0; 3], [0.0, 0.0, 0.74]]);
    let mut writer = Writer::create(&path, Format::NetCdf, &molecule).unwrap();
    let evaluation = Evaluation { forces: vec![[0.0; 3]; 2], ..Evaluation::default() };
    let snapshot = Snapshot {
        step: 1,
        time: 1.0,
        structure: &molecule,
        velocities: &[[0.0; 3]; 2],
        masses: &[1.0; 2],
        evaluation: &evaluation,
        temperature: 0.0,
    };
    writer.write(&snapshot).unwrap();
    drop(writer);
    let mut reader = netcdf3::FileReader::open(&path).unwrap();
    assert!(!reader.data_set().has_var("cell_lengths"));
    assert_eq!(reader.read_var_f32("coordinates").unwrap(), [0.0, 0.0, 0.0, 0.0, 0.0, 0.74]);
}

/// A disk without room is an error that names the file.
#[cfg(target_os = "linux")]
#[test]
fn full_disk() {
    for format in FORMATS {
        let writer = Writer::create("/dev/full", format, &frame(0).0).and_then(|mut writer| {
            let (structure, velocities, masses, evaluation) = frame(0);
            let snapshot = Snapshot {
                step: 0,
                time: 0.0,
                structure: &structure,
                velocities: &velocities,
                masses: &masses,
                evaluation: &evaluation,
                temperature: 0.0,
            };
            writer.write(&snapshot)?;
            writer.flush()
        });
        let error = writer.unwrap_err();
        assert!(error.to_string().contains("/dev/full") && error.hint().unwrap().contains("--resume"), "{error}");
    }
}

/// What Python programs read, where they are installed: MDAnalysis, SciPy and ASE.
#[test]
#[allow(clippy::print_stderr, reason = "a skipped test says so")]
fn python_reads_it() {
    let python = std::env::var("TESSERAL_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let folder = tempfile::tempdir().unwrap();
    for format in FORMATS {
        let path = folder.path().join(format!("t.{}", format.extension()));
        let mut writer = Writer::create(&path, format, &frame(0).0).unwrap();
        (0..3).for_each(|k| write(&mut writer, k));
        writer.sync().unwrap();
    }
    let run = |needs: &str, script: &str| {
        let there = Command::new(&python).args(["-c", &format!("import {needs}")]).output().is_ok_and(|o| o.status.success());
        if !there {
            eprintln!("skipped because {python} has no {needs} (TESSERAL_PYTHON names another python)");
            return;
        }
        let output = Command::new(&python).current_dir(folder.path()).args(["-c", script]).output().unwrap();
        assert!(output.status.success(), "{needs}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run(
        "scipy.io",
        "
import numpy as np
from scipy.io import netcdf_file
f = netcdf_file('t.nc', mmap=False)
assert f.Conventions == b'AMBER' and f.variables['coordinates'].shape == (3, 3, 3)
assert np.allclose(f.variables['time'][:], [0, .005, .01])
",
    );
    run(
        "ase.io",
        "
import numpy as np, ase.io
for name in ['t.extxyz', 't.extxyz.gz']:
    frames = ase.io.read(name, ':')
    assert len(frames) == 3
    a = frames[1]
    assert np.allclose(a.get_velocities()[0], [.1, -.2, 1.3]) or np.allclose(a.get_momenta()[0], np.array([.1, -.2, 1.3]) * 15.999)
    assert a.get_potential_energy() == -1 / 4 and a.get_forces()[0, 2] == 1.0 and np.isclose(a.get_stress(voigt=False)[2, 2], 1.6)
",
    );
    run(
        "MDAnalysis",
        "
import numpy as np, warnings
warnings.simplefilter('ignore')
from MDAnalysis.coordinates.TRJ import NCDFReader
r = NCDFReader('t.nc')
assert r.n_frames == 3 and r.n_atoms == 3
ts = r[2]
assert np.isclose(ts.time, .01)
assert np.allclose(ts.dimensions[:3], [np.sqrt(16.1), np.sqrt(.25 + 5.02**2 + .04), np.sqrt(.04 + .01 + 36)], atol=1e-5), ts.dimensions
v = np.linalg.norm(ts.velocities[0]) / (1000 * 0.09822694750253276)
assert np.isclose(v, np.sqrt(.01 + .04 + 2.3**2), rtol=1e-5), v
f = np.linalg.norm(ts.forces[0]) / 4.184 * 0.0433641043 if np.linalg.norm(ts.forces[0]) > 100 else np.linalg.norm(ts.forces[0]) * 0.0433641043
assert np.isclose(f, np.sqrt(1 / 49 + 4), rtol=1e-4), f
",
    );
}
