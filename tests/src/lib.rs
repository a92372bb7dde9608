//! What the conformance tests share: every golden model, imported.

pub mod parts;

use std::path::{Path, PathBuf};

use tesseral_atoms::Structure;
use tesseral_potentials::Artifact;

/// An imported golden model and the structures its reference holds.
pub struct Golden {
    /// Folder and file name.
    pub name: String,
    /// The model.
    pub artifact: Artifact,
    /// Structures with reference results.
    pub frames: Vec<Structure>,
}

/// The folder of golden models: that of the repository, or `TESSERAL_GOLDEN`, for test programs that run elsewhere.
pub fn golden_folder() -> PathBuf {
    std::env::var_os("TESSERAL_GOLDEN").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("golden"), PathBuf::from)
}

/// A gzipped file written out for readers that want a path; others as they are.
///
/// # Panics
/// If the file cannot be read: the golden data is part of the repository.
pub fn plain(path: &Path, folder: &Path) -> PathBuf {
    if path.extension().is_none_or(|e| e != "gz") {
        return path.to_owned();
    }
    let target = folder.join(path.file_stem().expect("golden files have names"));
    let mut reader = flate2::read::GzDecoder::new(std::fs::File::open(path).expect("golden file"));
    let mut writer = std::fs::File::create(&target).expect("temporary file");
    std::io::copy(&mut reader, &mut writer).expect("golden file is whole");
    target
}

/// Every golden model of a family folder ("mace", "sevennet") that is a checkpoint with a reference of the same name.
///
/// # Panics
/// If one cannot be imported.
pub fn golden(family: &str) -> Vec<Golden> {
    let folder = golden_folder().join(family);
    let temporary = tempfile::tempdir().expect("temporary folder");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder).expect("golden folder").map(|e| e.expect("golden entry").path()).collect();
    paths.sort();
    let mut models = Vec::new();
    for path in paths {
        let file = path.file_name().expect("name").to_string_lossy().into_owned();
        let stem = file.strip_suffix(".gz").unwrap_or(&file);
        let Some(stem) = stem.strip_suffix(".model").or_else(|| stem.strip_suffix(".pth")) else { continue };
        let reference = folder.join(format!("ref_{stem}.extxyz"));
        // Its product basis is only in generated code; that it is refused is a test of the importer.
        if stem == "cueq_layout" || !reference.exists() {
            continue;
        }
        let artifact = tesseral_import::import(&plain(&path, temporary.path())).unwrap_or_else(|e| panic!("{file}: {e}"));
        let frames = tesseral_atoms::io::read(&reference).expect("reference").map(|f| f.expect("reference frame")).collect();
        models.push(Golden { name: format!("{family}/{stem}"), artifact, frames });
    }
    models
}

/// The first head of a model, which every test may use.
pub fn first_head(artifact: &Artifact) -> Option<String> {
    artifact.header().heads().first().cloned()
}

/// Rattled rock salt of `8 · repeats³` atoms of two elements, by numbers of `random` between −1 and 1.
pub fn rock_salt(repeats: usize, a: f64, elements: [u8; 2], mut random: impl FnMut() -> f64) -> Structure {
    let mut crystal = Structure { pbc: [true; 3], ..Structure::default() };
    for k in 0..3 {
        crystal.cell.vectors[k][k] = a * repeats as f64;
    }
    let side = 2 * repeats;
    for n in 0..side.pow(3) {
        let site = [n / (side * side), n / side % side, n % side];
        crystal.positions.push(site.map(|x| x as f64 * 0.5 * a + 0.08 * random()));
        crystal.numbers.push(elements[site.iter().sum::<usize>() % 2]);
    }
    crystal
}
