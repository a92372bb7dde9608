use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use tesseral_testkit::Random;

use super::*;

const TWO: NonZeroUsize = NonZeroUsize::new(2).expect("not zero");

fn sample(step: u64) -> Checkpoint {
    let rng = ChaCha12Rng::seed_from_u64(step);
    let mut checkpoint = Checkpoint::new(TrainingState {
        step,
        epoch: 3,
        config_hash: "abc".into(),
        rng: serde_json::to_value(&rng).unwrap(),
        loader: serde_json::json!({ "order": [3, 1, 2], "at": 1, "scale": 0.1 + 0.2 }),
        schedule: ScheduleState { reduction: 0.8 * 0.8, best: Some(1.0 / 3.0), bad: 4, cooldown: 0 },
        counters: BTreeMap::from([("roll_backs".to_owned(), 1)]),
        other: serde_json::Value::Null,
        best: Some(Best { loss: 5e-324, step: 7, epoch: 1 }),
    });
    let named = |name: &str, shape: &[usize], numbers| NamedTensor { name: name.into(), shape: shape.to_vec(), numbers };
    let odd = vec![-0.0, f64::MIN_POSITIVE / 8.0, f64::NAN, f64::NEG_INFINITY, 0.1, step as f64];
    let f32s = Random::new(step + 1).numbers(5).iter().map(|&x| x as f32).collect();
    checkpoint.insert(PARAMETERS, vec![named("b.weight", &[5], Numbers::F32(f32s)), named("a", &[2, 3], Numbers::F64(odd))]).unwrap();
    checkpoint
        .insert(OPTIMIZER, vec![named("steps/a", &[], Numbers::I64(vec![-1])), named("empty", &[0, 4], Numbers::F64(vec![]))])
        .unwrap();
    checkpoint
}

/// NaN is not equal to itself, its bits are.
fn same(a: &Checkpoint, b: &Checkpoint) -> bool {
    let bits = |c: &Checkpoint| {
        c.tensors.iter().map(|(name, t)| (name.clone(), t.name.clone(), t.shape.clone(), bytes(&t.numbers))).collect::<Vec<_>>()
    };
    a.state == b.state && bits(a) == bits(b)
}

#[test]
fn round_trip_to_the_bit() {
    let checkpoint = sample(12);
    let encoded = checkpoint.encode().unwrap();
    let decoded = Checkpoint::decode(&encoded, Path::new("x")).unwrap();
    assert!(same(&decoded, &checkpoint));
    assert_eq!(decoded.encode().unwrap(), encoded);
    let names: Vec<String> = decoded.section(PARAMETERS).into_iter().map(|t| t.name).collect();
    assert_eq!(names, ["a", "b.weight"]);
    assert!(decoded.section("para").is_empty());
    // The generator goes on where it was.
    let mut rng = ChaCha12Rng::seed_from_u64(12);
    let mut restored: ChaCha12Rng = serde_json::from_value(decoded.state.rng).unwrap();
    assert_eq!(restored.random::<u64>(), rng.random::<u64>());
    let value = serde_json::to_value(&rng).unwrap();
    let mut restored: ChaCha12Rng = serde_json::from_str(&serde_json::to_string(&value).unwrap()).unwrap();
    assert_eq!(restored.random::<u64>(), rng.random::<u64>());
}

#[test]
fn what_cannot_be_written_is_refused_before() {
    let mut checkpoint = sample(1);
    checkpoint.state.best = Some(Best { loss: f64::NAN, step: 0, epoch: 0 });
    assert!(matches!(checkpoint.encode(), Err(CheckpointError::Content(_))));
    let mut checkpoint = sample(1);
    let tensor = NamedTensor { name: "a".into(), shape: vec![3], numbers: Numbers::F64(vec![0.0; 2]) };
    assert!(matches!(checkpoint.insert(PARAMETERS, vec![tensor.clone()]), Err(CheckpointError::Content(m)) if m.contains("param/a")));
    let mut checkpoint = Checkpoint::new(TrainingState::default());
    checkpoint.insert(PARAMETERS, vec![tensor]).unwrap();
    assert!(matches!(checkpoint.encode(), Err(CheckpointError::Content(m)) if m.contains("param/a")));
}

#[test]
fn every_truncation_is_noticed() {
    let encoded = sample(3).encode().unwrap();
    for length in 0..encoded.len() {
        let error = Checkpoint::decode(&encoded[..length], Path::new("cut")).unwrap_err();
        assert!(matches!(error, CheckpointError::Damaged { .. }), "{length}: {error}");
    }
    let mut longer = encoded;
    longer.push(0);
    assert!(Checkpoint::decode(&longer, Path::new("long")).is_err());
}

#[test]
fn every_flipped_bit_is_noticed() {
    let encoded = sample(3).encode().unwrap();
    for at in 0..encoded.len() {
        for bit in 0..8 {
            let mut changed = encoded.clone();
            changed[at] ^= 1 << bit;
            match Checkpoint::decode(&changed, Path::new("changed")) {
                Err(CheckpointError::Damaged { .. }) => {}
                // The digit of the version.
                Err(CheckpointError::Version { .. }) => {
                    assert!(encoded[..at].ends_with(br#"\"version\":"#), "byte {at} bit {bit}");
                }
                other => panic!("byte {at} bit {bit}: {other:?}"),
            }
        }
    }
}

#[test]
fn intact_but_foreign_is_not_damaged() {
    // A state with one more field, with a valid checksum.
    let state = serde_json::to_string(&sample(1).state).unwrap().replacen('{', r#"{"more":1,"#, 1);
    let sha256 = Hash::new(&state).finish();
    let metadata = serde_json::to_string(&Metadata { format: FORMAT.into(), version: VERSION, sha256, state }).unwrap();
    let none: Vec<(String, Bytes<'_>)> = Vec::new();
    let file = safetensors::serialize(none, Some(HashMap::from([(KEY.to_owned(), metadata)]))).unwrap();
    let error = Checkpoint::decode(&file, Path::new("x")).unwrap_err();
    assert!(matches!(&error, CheckpointError::Foreign { reason, .. } if reason.contains("more")), "{error}");
}

#[test]
fn the_last_ones_and_the_best_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/checkpoints");
    assert!(latest(&path).unwrap().is_none());
    let checkpoints = Checkpoints::open(&path, TWO).unwrap();
    assert!(checkpoints.latest().unwrap().is_none());
    for step in [10, 20, 30] {
        checkpoints.save(&sample(step), step == 20).unwrap();
    }
    let steps = |path: &Path| entries(path).unwrap().iter().map(|e| e.step).collect::<Vec<_>>();
    assert_eq!(steps(&path), [30, 20]);
    assert!(same(&Checkpoint::read(&checkpoints.best_path()).unwrap(), &sample(20)));
    assert!(same(&checkpoints.latest().unwrap().unwrap().checkpoint, &sample(30)));
    // The training went back to an earlier step: what was written last is the newest.
    checkpoints.save(&sample(15), false).unwrap();
    assert_eq!(checkpoints.latest().unwrap().unwrap().checkpoint.state.step, 15);
    assert_eq!(steps(&path), [15, 30]);
    assert!(checkpoints.latest().unwrap().unwrap().checkpoint.expect_config("abc", &path).is_ok());
    let error = sample(1).expect_config("def", Path::new("run")).unwrap_err();
    assert!(matches!(&error, CheckpointError::Configuration { .. }) && error.hint().is_some(), "{error}");
}

#[test]
fn damaged_ones_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(folder.path(), NonZeroUsize::new(3).unwrap()).unwrap();
    let paths: Vec<PathBuf> = [10, 20, 30].iter().map(|&step| checkpoints.save(&sample(step), step == 10).unwrap()).collect();
    let good = fs::read(&paths[2]).unwrap();
    fs::write(&paths[2], &good[..good.len() - 7]).unwrap();
    let mut flipped = fs::read(&paths[1]).unwrap();
    let last = flipped.len() - 1;
    flipped[last] ^= 4;
    fs::write(&paths[1], flipped).unwrap();
    let found = latest(folder.path()).unwrap().unwrap();
    assert_eq!((found.checkpoint.state.step, &found.path), (10, &paths[0]));
    let damaged: Vec<&PathBuf> = found.damaged.iter().map(|(path, _)| path).collect();
    assert_eq!(damaged, [&paths[2], &paths[1]]);
    // Whoever writes there puts them aside, and goes on.
    assert_eq!(checkpoints.latest().unwrap().unwrap().checkpoint.state.step, 10);
    assert!(!paths[1].exists() && !paths[2].exists());
    checkpoints.save(&sample(11), false).unwrap();
    assert_eq!(checkpoints.latest().unwrap().unwrap().damaged, []);

    for entry in entries(folder.path()).unwrap() {
        fs::write(entry.path, b"").unwrap();
    }
    match latest(folder.path()).unwrap_err() {
        CheckpointError::NoneIntact { damaged, best_is_intact, .. } => assert!(damaged.len() == 2 && best_is_intact),
        other => panic!("{other}"),
    }
}

#[test]
fn a_newer_version_is_not_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(folder.path(), TWO).unwrap();
    checkpoints.save(&sample(1), false).unwrap();
    let path = checkpoints.save(&sample(2), false).unwrap();
    let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
    let at = text.find(r#"\"version\":1"#).unwrap() + r#"\"version\":"#.len();
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] = b'2';
    fs::write(&path, bytes).unwrap();
    assert!(matches!(checkpoints.latest(), Err(CheckpointError::Version { found: 2, .. })));
}

#[test]
fn one_writer_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(".tesseral-xyz.tmp"), b"half").unwrap();
    let first = Checkpoints::open(folder.path(), TWO).unwrap();
    assert!(!folder.path().join(".tesseral-xyz.tmp").exists());
    first.save(&sample(1), false).unwrap();
    let error = Checkpoints::open(folder.path(), TWO).unwrap_err();
    assert!(matches!(error, CheckpointError::InUse { .. }), "{error}");
    // Reading is free.
    assert!(latest(folder.path()).unwrap().is_some());
    drop(first);
    Checkpoints::open(folder.path(), TWO).unwrap();
}

/// Without locks (some network file systems) two writers and a reader still see whole files only.
#[test]
fn readers_see_whole_files_while_two_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let writers: Vec<Checkpoints> = (0..2u8)
        .map(|k| Checkpoints { folder: path.to_owned(), keep: TWO, _lock: File::create(path.join(format!("lock{k}"))).unwrap() })
        .collect();
    let read = || {
        let found = latest(path).unwrap();
        if let Some(found) = found {
            assert!(found.damaged.is_empty());
            assert!(same(&found.checkpoint, &sample(found.checkpoint.state.step)));
        }
    };
    std::thread::scope(|scope| {
        for (k, writer) in writers.iter().enumerate() {
            scope.spawn(move || (0..15).for_each(|n| drop(writer.save(&sample(100 * k as u64 + n), n == 3).unwrap())));
        }
        (0..30).for_each(|_| read());
    });
    read();
    assert!(Checkpoint::read(&path.join(BEST)).is_ok());
    assert!(fs::read_dir(path).unwrap().all(|f| !f.unwrap().file_name().to_string_lossy().ends_with(".tmp")));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_what_was_there() {
    if !Path::new("/dev/full").exists() {
        eprintln!("skipped because there is no /dev/full");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(folder.path(), TWO).unwrap();
    checkpoints.save(&sample(1), false).unwrap();
    std::os::unix::fs::symlink("/dev/full", checkpoints.best_path()).unwrap();
    let error = checkpoints.save(&sample(2), true).unwrap_err();
    assert!(matches!(&error, CheckpointError::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull), "{error}");
    assert!(error.hint().unwrap().contains("space"));
    let steps: Vec<u64> = entries(folder.path()).unwrap().iter().map(|e| e.step).collect();
    assert_eq!(steps, [1]);
    assert!(same(&checkpoints.latest().unwrap().unwrap().checkpoint, &sample(1)));
}

#[cfg(unix)]
#[test]
fn a_folder_without_permission() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
    if File::create(folder.path().join("x")).is_ok() {
        eprintln!("skipped because this user may write anywhere");
        return;
    }
    let error = Checkpoints::open(&folder.path().join("new"), TWO).unwrap_err();
    assert!(matches!(&error, CheckpointError::Write { .. }) && error.hint().is_some(), "{error}");
    let error = Checkpoints::open(folder.path(), TWO).unwrap_err();
    assert!(matches!(&error, CheckpointError::Write { .. }) && error.hint().is_some(), "{error}");
}

/// On a file system that really fills up: `mount -t tmpfs -o size=40k tmpfs DIR` and `TESSERAL_SMALL_DISK=DIR`.
#[test]
fn a_small_disk_that_fills_up() {
    let Some(disk) = std::env::var_os("TESSERAL_SMALL_DISK") else {
        eprintln!("skipped because TESSERAL_SMALL_DISK is not set");
        return;
    };
    let folder = tempfile::tempdir_in(disk).unwrap();
    let checkpoints = Checkpoints::open(folder.path(), NonZeroUsize::MAX).unwrap();
    let (last, error) = (1..1000).find_map(|step| checkpoints.save(&sample(step), false).err().map(|error| (step - 1, error))).unwrap();
    assert!(matches!(&error, CheckpointError::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull), "{error}");
    assert!(last > 1);
    for entry in entries(folder.path()).unwrap() {
        assert!(same(&Checkpoint::read(&entry.path).unwrap(), &sample(entry.step)));
    }
    assert!(same(&checkpoints.latest().unwrap().unwrap().checkpoint, &sample(last)));
    // The half-written one is gone, and with space the training goes on.
    assert!(fs::read_dir(folder.path()).unwrap().all(|f| !f.unwrap().file_name().to_string_lossy().ends_with(".tmp")));
    remove(&entries(folder.path()).unwrap().last().unwrap().path);
    checkpoints.save(&sample(last + 1), false).unwrap();
}
