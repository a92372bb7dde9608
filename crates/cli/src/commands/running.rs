//! What commands that run for long have in common: interruption, their folder, their plan.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use anyhow::{Context, Result};
use tesseral_atoms::{Evaluation, ForceField, Structure};
use tesseral_simulate::files;

use crate::commands::evaluate::frames_of;
use crate::errors::{Hinted, INTERRUPTED};

/// What is asked for when the process is told to end: the first time to save the state and end, then to end at once. Commands ask before there is anything to
/// save, and again where they look at it.
pub(crate) fn on_signals() -> Result<Arc<AtomicBool>> {
    static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    if let Some(stop) = STOP.get() {
        return Ok(stop.clone());
    }
    let stop = STOP.get_or_init(Arc::default).clone();
    let (flag, times) = (stop.clone(), AtomicU32::new(0));
    ctrlc::set_handler(move || {
        flag.store(true, Ordering::Relaxed);
        if times.fetch_add(1, Ordering::Relaxed) > 0 {
            std::process::exit(i32::from(INTERRUPTED));
        }
    })
    .context("signals cannot be handled")?;
    Ok(stop)
}

/// The structure of a file, or of standard input for `-`: the one at `index`, counted from 0 or, if negative, from the end.
pub(crate) fn structure_of(path: &Path, index: isize) -> Result<Structure> {
    let frames = frames_of(path).map_err(|e| e.error)?;
    if let Ok(index) = usize::try_from(index) {
        let mut read = 0;
        for frame in frames {
            let frame = frame.map_err(|e| e.error)?;
            if frame.index == index {
                return Ok(frame.structure);
            }
            read = frame.index + 1;
        }
        return Err(Hinted::new(format!("{} has {read} structures, none with the index {index}", path.display())).into());
    }
    let mut last = std::collections::VecDeque::new();
    for frame in frames {
        last.push_back(frame.map_err(|e| e.error)?.structure);
        if last.len() > index.unsigned_abs() {
            last.pop_front();
        }
    }
    let read = last.len();
    last.pop_front()
        .filter(|_| read == index.unsigned_abs())
        .ok_or_else(|| Hinted::new(format!("{} has {read} structures, none with the index {index}", path.display())).into())
}

/// The atoms that `--fix` names: by index, range or element, as in "0-15,20,Cu". None without it.
pub(crate) fn fixed_atoms(list: Option<&str>, structure: &Structure) -> Result<Vec<usize>> {
    let wrong = |message: String| anyhow::Error::new(Hinted::new(message).hint("atoms are counted from 0: --fix 0-15,20,Cu").usage());
    let mut chosen = Vec::new();
    for word in list.into_iter().flat_map(|list| list.split(',')).map(str::trim) {
        let index = |text: &str| -> Result<usize> {
            let atom: usize = text.trim().parse().map_err(|_| wrong(format!("--fix: `{word}` is no atom, range or element")))?;
            if atom >= structure.len() {
                return Err(wrong(format!("--fix {word}: the structure has {} atoms", structure.len())));
            }
            Ok(atom)
        };
        if let Some(number) = tesseral_atoms::elements::atomic_number(word).filter(|&number| number > 0) {
            let before = chosen.len();
            chosen.extend((0..structure.len()).filter(|&i| structure.numbers[i] == number));
            if chosen.len() == before {
                return Err(wrong(format!("--fix {word}: the structure has none of it")));
            }
        } else if let Some((from, to)) = word.split_once('-') {
            let (from, to) = (index(from)?, index(to)?);
            if from > to {
                return Err(wrong(format!("--fix {word}: the range ends before it begins")));
            }
            chosen.extend(from..=to);
        } else {
            chosen.push(index(word)?);
        }
    }
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

/// Makes the folder of a run. One with something in it belongs to another run, which is lost only if asked for.
pub(crate) fn new_folder(folder: &Path, overwrite: bool) -> Result<()> {
    let occupied = folder.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    if occupied && !overwrite {
        return Err(Hinted::new(format!("{} is not empty", folder.display()))
            .hint("go on with what was begun there (--resume), replace it (--overwrite), or name another folder (-o)")
            .into());
    }
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    files::sweep(folder);
    // Better now than after an hour.
    tempfile::tempfile_in(folder).with_context(|| format!("cannot write to the folder {}", folder.display()))?;
    Ok(())
}

/// Seconds that evaluating a structure takes: the faster of two, after one to warm up.
pub(crate) fn seconds_a_step(field: &mut dyn ForceField, structure: &Structure) -> Result<f64> {
    let mut evaluation = Evaluation::default();
    field.evaluate_into(structure, &mut evaluation)?;
    let mut fastest = f64::INFINITY;
    for _ in 0..2 {
        let start = Instant::now();
        field.evaluate_into(structure, &mut evaluation)?;
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    Ok(fastest)
}

/// A duration for people: "85 ms", "12 s", "3 min 20 s", "5 h 12 min", "3 d 4 h".
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..10 if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole / 60 % 60),
        _ => format!("{} d {} h", whole / 86_400, whole / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn atoms_to_fix() {
        let structure = Structure::molecule(vec![8, 1, 1, 29, 29], vec![[0.0; 3]; 5]);
        let of = |list: &str| fixed_atoms(Some(list), &structure).ok();
        assert_eq!(of("0-2"), Some(vec![0, 1, 2]));
        assert_eq!(of("Cu, 1,1"), Some(vec![1, 3, 4]));
        assert!(["", "5", "0-9", "Fe", "x", "-1", "3-1", "1,,2"].iter().all(|list| of(list).is_none()));
        assert_eq!(fixed_atoms(None, &structure).ok(), Some(vec![]));
    }

    #[test]
    fn durations() {
        let text = [0.085, 1.26, 12.4, 200.0, 18_720.0, 273_600.0].map(duration);
        assert_eq!(text, ["85 ms", "1.3 s", "12 s", "3 min 20 s", "5 h 12 min", "3 d 4 h"]);
    }
}
