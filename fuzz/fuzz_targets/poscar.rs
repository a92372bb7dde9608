//! Any bytes as POSCAR: no panic, and what can be read is consistent.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tesseral_atoms::io::{Format, read_from};

fuzz_target!(|data: &[u8]| {
    for structure in read_from(data, Format::Poscar).flatten() {
        assert_eq!(structure.numbers.len(), structure.positions.len());
        structure.validate().ok();
    }
});
