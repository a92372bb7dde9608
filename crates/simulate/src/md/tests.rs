use std::collections::BTreeMap;
use std::fs;

use tesseral_atoms::Cell;

use super::*;
use crate::analysis::{RadialSettings, Window};
use crate::analytic::{Ending, LennardJones};
use crate::dynamics::{Ensemble, Ramp};

/// A small crystal of argon with one neon, 32 atoms.
fn argon() -> Structure {
    let a = 5.4;
    let mut positions = Vec::new();
    for (x, y, z) in (0..8).map(|i| (f64::from(i % 2), f64::from(i / 2 % 2), f64::from(i / 4))) {
        for s in [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]] {
            positions.push([(x + s[0]) * a, (y + s[1]) * a, (z + s[2]) * a]);
        }
    }
    let mut numbers = vec![18; 32];
    numbers[5] = 10;
    Structure::crystal(Cell::cubic(2.0 * a), numbers, positions)
}

fn lennard_jones() -> MakeField<'static> {
    Box::new(|| Ok(Box::new(LennardJones::new(0.0104, 3.4, 5.3, Ending::ShiftedForce))))
}

fn settings(steps: u64, format: Format) -> Settings {
    let window = Window { every: 2, lags: 8, spacing: 3 };
    let radial = RadialSettings { r_max: 5.0, bins: 20, every: 5 };
    Settings {
        save_every: 3,
        log_every: 2,
        restart_every: 7,
        format,
        analysis: analysis::Settings { radial: Some(radial), displacement: Some(window), velocity: Some(window) },
        ..Settings::for_run(steps, Guards::usual(true))
    }
}

fn dynamics(ensemble: Ensemble) -> dynamics::Settings {
    dynamics::Settings {
        time_step: 5.0,
        ensemble,
        temperature: Ramp::constant(60.0),
        pressure: Ramp { from: 0.0, to: 1e-4 },
        seed: 3,
        steps: 60,
        ..dynamics::Settings::default()
    }
}

/// Every file below a folder but the report, with its bytes.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            all.extend(files(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            all.insert(name, fs::read(&path).unwrap());
        }
    }
    all
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for (name, bytes) in files(from) {
        fs::create_dir_all(to.join(&name).parent().unwrap()).unwrap();
        fs::write(to.join(name), bytes).unwrap();
    }
}

/// Does something after each step.
struct After<F>(F);

impl<F: FnMut(Progress) -> bool> Observer for After<F> {
    fn step(&mut self, progress: Progress) -> bool {
        (self.0)(progress)
    }
}

fn same(a: &Path, b: &Path) {
    let (a, b) = (files(a), files(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, bytes) in &a {
        assert!(bytes == &b[name], "{name} differs");
    }
}

/// As it was on disk after each step, with half a line more in every growing file, a run goes on to the very bytes of one that was left alone; so does one that was
/// interrupted.
#[test]
fn resumed_runs_are_the_same_to_the_bit() {
    let scr = Ensemble::StochasticCell { time: 100.0, barostat_time: 500.0, compressibility: 30.0, anisotropic: true };
    let cases = [
        (Format::ExtendedXyz, Ensemble::Nve, 1),
        (Format::ExtendedXyzGz, Ensemble::Langevin { friction: 0.01 }, 1),
        (Format::NetCdf, scr, 1),
        (Format::ExtendedXyz, Ensemble::NoseHoover { time: 200.0, chain: 3 }, 3),
    ];
    for (format, ensemble, replicas) in cases {
        let folder = tempfile::tempdir().unwrap();
        let alone = folder.path().join("alone");
        fs::create_dir(&alone).unwrap();
        let create =
            |at: &Path| Run::create(at, "test", argon(), &dynamics(ensemble), replicas, settings(40, format), lennard_jones()).unwrap();
        let mut copies = 0;
        let mut run = create(&alone);
        let outcome = run.run(&mut After(|_| {
            let to = folder.path().join(format!("copy{copies}"));
            copy(&alone, &to);
            copies += 1;
            true
        }));
        assert_eq!(outcome.unwrap(), Outcome::Done);
        drop(run);
        assert_eq!(copies, 40);
        for k in (0..copies).step_by(3) {
            let killed = folder.path().join(format!("copy{k}"));
            for (name, mut bytes) in files(&killed) {
                if name.ends_with("jsonl") || name.contains("trajectory") {
                    bytes.extend_from_slice(b"{\"half a li");
                    fs::write(killed.join(name), bytes).unwrap();
                }
            }
            fs::write(killed.join(".tesseral-aB3xYz.tmp"), b"{\"ver").unwrap();
            let mut run = Run::resume(&killed, lennard_jones()).unwrap();
            assert_eq!(run.run(&mut ()).unwrap(), Outcome::Done);
            drop(run);
            same(&alone, &killed);
        }
        let interrupted = folder.path().join("interrupted");
        fs::create_dir(&interrupted).unwrap();
        let mut run = create(&interrupted);
        let outcome = run.run(&mut After(|progress: Progress| progress.done < 17.0)).unwrap();
        assert_eq!(outcome, Outcome::Interrupted { saved_step: 14 });
        drop(run);
        let mut run = Run::resume(&interrupted, lennard_jones()).unwrap();
        assert_eq!(run.progress().done, 14.0);
        run.run(&mut ()).unwrap();
        drop(run);
        same(&alone, &interrupted);
        // What is there can be read: 1 + 40/3 frames, 1 + 40/2 lines.
        let one = folder_of(&alone, 0, replicas);
        assert_eq!(fs::read_to_string(one.join(THERMO)).unwrap().lines().count(), 21);
        if format != Format::NetCdf {
            let frames = tesseral_atoms::io::read(one.join(format!("trajectory.{}", format.extension()))).unwrap();
            assert_eq!(frames.map(Result::unwrap).count(), 14);
        }
        assert!(fs::read_to_string(one.join("rdf.csv")).unwrap().starts_with("r (Å),g Ne–Ne,n Ne–Ne,g Ne–Ar"));
    }
}

/// Lennard-Jones that gives a huge force, or fails, in some evaluations.
struct Faulty {
    inner: LennardJones,
    calls: u64,
    at: Vec<u64>,
    fails: bool,
}

impl ForceField for Faulty {
    fn evaluate_into(&mut self, structure: &Structure, to: &mut Evaluation) -> Result<(), ForceError> {
        self.inner.evaluate_into(structure, to)?;
        self.calls += 1;
        if self.at.contains(&self.calls) {
            if self.fails {
                return Err(ForceError::new("the machine is on fire"));
            }
            to.forces[4] = [0.0, 300.0, 400.0];
        }
        Ok(())
    }
}

/// All calls of all force fields of a run are counted together.
fn faulty(at: &[u64], fails: bool) -> MakeField<'static> {
    let calls = std::rc::Rc::new(std::cell::Cell::new(0u64));
    let at = at.to_vec();
    struct Counted(Faulty, std::rc::Rc<std::cell::Cell<u64>>);
    impl ForceField for Counted {
        fn evaluate_into(&mut self, structure: &Structure, to: &mut Evaluation) -> Result<(), ForceError> {
            self.0.calls = self.1.get();
            let result = self.0.evaluate_into(structure, to);
            self.1.set(self.0.calls);
            result
        }
    }
    Box::new(move || {
        let inner = LennardJones::new(0.0104, 3.4, 5.3, Ending::ShiftedForce);
        Ok(Box::new(Counted(Faulty { inner, calls: 0, at: at.clone(), fails }, calls.clone())))
    })
}

fn with_guard(text: &[&str]) -> Guards {
    let mut guards = Guards::usual(true);
    text.iter().for_each(|text| guards.set(text.parse().unwrap()));
    guards
}

#[test]
fn a_guard_stops_and_says_where() {
    for (fails, says) in [
        (false, "step 12 (60.0 fs): the force on atom 4 (Ar) is 500.000 eV/Å (more than 100)"),
        (true, "step 12 (60.0 fs): the machine is on fire"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        // The first evaluation is that of step 0.
        let mut run = Run::create(
            folder.path(),
            "test",
            argon(),
            &dynamics(Ensemble::Nve),
            1,
            settings(40, Format::ExtendedXyz),
            faulty(&[13], fails),
        )
        .unwrap();
        assert_eq!(run.run(&mut ()).unwrap(), Outcome::Stopped(1));
        let Some(Status::Stopped(violation)) = run.statuses().next() else { panic!("not stopped") };
        assert_eq!(violation.message, says);
        let events = fs::read_to_string(folder.path().join(EVENTS)).unwrap();
        assert!(events.contains("\"event\":\"stopped\"") && events.contains(says), "{events}");
        assert!(!folder.path().join(FINAL).exists());
        run.write_report().unwrap();
        drop(run);
        // Without what was wrong it goes on, from the last saved state.
        let mut run = Run::resume(folder.path(), lennard_jones()).unwrap();
        assert_eq!(run.progress().done, 7.0);
        assert_eq!(run.run(&mut ()).unwrap(), Outcome::Done);
    }
}

#[test]
fn a_guard_goes_back_and_halves_the_time_step() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { guards: with_guard(&["force=rollback"]), calm_steps: 6, ..settings(30, Format::NetCdf) };
    let mut run = Run::create(folder.path(), "test", argon(), &dynamics(Ensemble::Nve), 1, settings, faulty(&[13], false)).unwrap();
    assert_eq!(run.run(&mut ()).unwrap(), Outcome::Done);
    let events: Vec<Event> =
        fs::read_to_string(folder.path().join(EVENTS)).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        matches!(&events[0], Event::RolledBack { violation, to_step: 7, time_step: 2.5 } if violation.step == 12 && violation.atoms == [4]),
        "{events:?}"
    );
    // Six steps of 5 fs are twelve of 2.5 fs.
    assert_eq!(events[1], Event::Restored { step: 19, time_step: 5.0 });
    assert_eq!(events.len(), 2);
    // The run is as long as asked for, and frames are equally spaced.
    let log: Vec<serde_json::Value> =
        fs::read_to_string(folder.path().join(THERMO)).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(
        log.iter().map(|row| row["time"].as_f64().unwrap()).collect::<Vec<_>>(),
        (0..=15).map(|k| 10.0 * f64::from(k)).collect::<Vec<_>>()
    );
    assert_eq!(log.last().unwrap()["step"], 36);
    let mut reader = netcdf3::FileReader::open(folder.path().join("trajectory.nc")).unwrap();
    let times = reader.read_var_f32("time").unwrap();
    assert_eq!(times, (0..=10).map(|k| (0.015 * f64::from(k)) as f32).collect::<Vec<_>>());
}

#[test]
fn a_guard_goes_back_only_so_often() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { guards: with_guard(&["failure=rollback"]), most_rollbacks: 2, ..settings(30, Format::ExtendedXyz) };
    let bad: Vec<u64> = (13..200).collect();
    let mut run = Run::create(folder.path(), "test", argon(), &dynamics(Ensemble::Nve), 1, settings, faulty(&bad, true)).unwrap();
    assert_eq!(run.run(&mut ()).unwrap(), Outcome::Stopped(1));
    let Some(Status::Stopped(violation)) = run.statuses().next() else { panic!("not stopped") };
    assert_eq!(violation.message, "step 8 (36.2 fs): the machine is on fire; gone back 2 times already");
    assert_eq!(fs::read_to_string(folder.path().join(EVENTS)).unwrap().lines().count(), 3);
}

/// One replica that a guard ends leaves the others alone.
#[test]
fn replicas_are_runs_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let (many, single) = (folder.path().join("many"), folder.path().join("single"));
    fs::create_dir(&many).unwrap();
    fs::create_dir(&single).unwrap();
    let mut run = Run::create(
        &many,
        "test",
        argon(),
        &dynamics(Ensemble::Bussi { time: 50.0 }),
        3,
        settings(30, Format::ExtendedXyz),
        faulty(&[1 + 3 * 9 + 1], true),
    )
    .unwrap();
    assert_eq!(run.run(&mut ()).unwrap(), Outcome::Stopped(1));
    let stopped: Vec<bool> = run.statuses().map(|s| matches!(s, Status::Stopped(_))).collect();
    assert_eq!(stopped, [true, false, false]);
    run.write_report().unwrap();
    let html = fs::read_to_string(many.join(REPORT)).unwrap();
    assert!(html.contains("replica 2") && html.contains("the machine is on fire") && html.contains("Radial distribution"), "{html}");
    // The third is the run of its seed.
    let own = dynamics::Settings { seed: 5, ..dynamics(Ensemble::Bussi { time: 50.0 }) };
    Run::create(&single, "test", argon(), &own, 1, settings(30, Format::ExtendedXyz), lennard_jones()).unwrap().run(&mut ()).unwrap();
    for name in ["trajectory.extxyz", THERMO, FINAL, "msd.csv"] {
        assert!(fs::read(single.join(name)).unwrap() == fs::read(many.join("replica-2").join(name)).unwrap(), "{name}");
    }
}

#[test]
fn bad_input_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let attempt = |structure: Structure, dynamics: dynamics::Settings, settings: Settings| {
        let error = Run::create(folder.path(), "test", structure, &dynamics, 1, settings, lennard_jones()).err().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(error.hint().is_some(), "{error}");
        error.to_string()
    };
    let good = || (dynamics(Ensemble::Nve), settings(10, Format::ExtendedXyz));
    let mut close = argon();
    close.positions[1] = [0.6, 0.0, 0.0];
    let text = attempt(close, good().0, good().1);
    assert!(text.contains("atom 0 (Ar) and atom 1 (Ar) are 0.600 Å apart"), "{text}");
    let text = attempt(argon(), good().0, Settings { save_every: 0, ..good().1 });
    assert!(text.contains("0 steps between frames"), "{text}");
    let molecule = Structure { pbc: [false; 3], ..argon() };
    attempt(molecule, dynamics(Ensemble::Mtk { time: 100.0, barostat_time: 1000.0, anisotropic: false }), good().1);
    attempt(Structure::default(), good().0, good().1);
    let error = Run::resume(folder.path(), lennard_jones()).err().unwrap();
    assert!(error.to_string().contains("no state of a run has been saved"), "{error}");
    fs::write(folder.path().join(RESTART), "{\"version\":1,").unwrap();
    let error = Run::resume(folder.path(), lennard_jones()).err().unwrap();
    assert!(error.to_string().contains("restart.json: is no saved state"), "{error}");
}

/// A full disk ends the run with an error; what is there is whole, and with room the run goes on to the same bytes.
#[cfg(target_os = "linux")]
#[test]
fn full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (alone, full) = (folder.path().join("alone"), folder.path().join("full"));
    fs::create_dir(&alone).unwrap();
    fs::create_dir(&full).unwrap();
    let create = |at: &Path| {
        Run::create(at, "test", argon(), &dynamics(Ensemble::Nve), 1, settings(30, Format::ExtendedXyz), lennard_jones()).unwrap()
    };
    create(&alone).run(&mut ()).unwrap();
    let mut run = create(&full);
    run.run(&mut After(|progress: Progress| progress.done < 10.0)).unwrap();
    drop(run);
    let mut run = Run::resume(&full, lennard_jones()).unwrap();
    // From now on there is no room for the log.
    run.members[0].thermo_is_full();
    let error = run.run(&mut ()).err().unwrap();
    assert!(error.to_string().contains("/dev/full") && error.hint().unwrap().contains("--resume"), "{error}");
    drop(run);
    tesseral_atoms::io::read(full.join("trajectory.extxyz")).unwrap().for_each(|frame| drop(frame.unwrap()));
    Run::resume(&full, lennard_jones()).unwrap().run(&mut ()).unwrap();
    // Nothing but the files of a run is there.
    same(&alone, &full);
}
