//! How many atoms are to come: for the time that a progress bar says is left.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use tesseral_atoms::io::Format;

/// Files beyond this size are not read twice.
const LARGEST_SCAN: u64 = 1 << 30;

/// The number of atoms in all files, `None` if it cannot be told quickly. Only the line counts of XYZ frames are looked at;
/// nothing depends on the answer being right.
pub(crate) fn count_atoms(files: &[PathBuf]) -> Option<u64> {
    files.iter().map(|path| count_in(path)).sum()
}

fn count_in(path: &Path) -> Option<u64> {
    if Format::from_name(path)? != Format::ExtendedXyz {
        return None;
    }
    let file = std::fs::File::open(path).ok()?;
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > LARGEST_SCAN {
        return None;
    }
    count_xyz(BufReader::with_capacity(1 << 18, file))
}

fn count_xyz(mut reader: impl BufRead) -> Option<u64> {
    let mut total = 0u64;
    let mut count = String::new();
    loop {
        count.clear();
        // Compressed or strange files have no newline for long.
        if reader.by_ref().take(1000).read_line(&mut count).ok()? == 0 {
            return Some(total);
        }
        if count.trim().is_empty() {
            continue;
        }
        let atoms: u64 = count.trim().parse().ok()?;
        total = total.checked_add(atoms)?;
        for _ in 0..atoms.checked_add(1)? {
            if reader.skip_until(b'\n').ok()? == 0 {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atoms_are_counted_by_lines() {
        assert_eq!(count_xyz(&b"2\n\nH 0 0 0\nH 0 0 1\n\n1\nx\nO 0 0 0\n"[..]), Some(3));
        assert_eq!(count_xyz(&b"2\n\nH 0 0 0\n"[..]), None);
        assert_eq!(count_xyz(&b"many\n"[..]), None);
        assert_eq!(count_xyz(&b"18446744073709551615\n"[..]), None);
        assert_eq!(count_xyz(&b""[..]), Some(0));
        assert_eq!(count_xyz(&b"\x1f\x8b\xff"[..]), None);
    }
}
