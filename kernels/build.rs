//! Lists the files of `cuda/` for `src/sources.rs`, so that a new kernel is a new file and nothing else.

use std::{env, fs, path::Path};

fn main() {
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("set by cargo")).join("cuda");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut names: Vec<String> = fs::read_dir(&folder)
        .expect("the folder cuda can be read")
        .map(|entry| entry.expect("the folder cuda can be read").file_name().into_string().expect("names of kernels are ASCII"))
        .filter(|name| name.ends_with(".cu") || name.ends_with(".cuh"))
        .collect();
    names.sort();
    let mut table = String::from("&[\n");
    for name in names {
        let path = folder.join(&name);
        println!("cargo::rerun-if-changed={}", path.display());
        table += &format!("    ({name:?}, include_str!({:?})),\n", path.display().to_string());
    }
    table += "]\n";
    let out = Path::new(&env::var("OUT_DIR").expect("set by cargo")).join("files.rs");
    fs::write(out, table).expect("the output folder can be written");
}
