//! Any bytes as extended XYZ: no panic, and what can be read can be written and read back the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tesseral_atoms::Structure;
use tesseral_atoms::io::{Format, read_from, write_extxyz};

fuzz_target!(|data: &[u8]| {
    let frames: Vec<Structure> = read_from(data, Format::ExtendedXyz).flatten().collect();
    for frame in &frames {
        frame.validate().ok();
        let mut written = Vec::new();
        // Some names and texts that can be read cannot be written again; then nothing is.
        if write_extxyz(&mut written, frame).is_err() {
            assert!(written.is_empty());
            continue;
        }
        let again: Vec<Structure> = read_from(&written[..], Format::ExtendedXyz).collect::<Result<_, _>>().expect("own output");
        assert_eq!(again.len(), 1);
        let mut rewritten = Vec::new();
        write_extxyz(&mut rewritten, &again[0]).expect("written before");
        assert_eq!(written, rewritten);
        // Six numbers of a stress or virial are written as nine. Compared as text, because NaN is not equal to itself.
        let rest = |structure: &Structure| {
            let mut structure = structure.clone();
            structure.info.retain(|key, _| key != "stress" && key != "virial");
            format!("{structure:?}")
        };
        assert_eq!(rest(&again[0]), rest(frame));
    }
});
