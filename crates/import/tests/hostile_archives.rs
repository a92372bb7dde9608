//! Archives made to do harm, and broken ones, are refused with an error that names the entry.

#[allow(unreachable_pub, reason = "shared with the other test files")]
mod assembler;

use assembler::{Pickle, f32_bytes, tiny_mace, torch_zip, zip_of, zip_with};
use tesseral_import::torch::archive::{ArchiveError, FoundFormat};
use tesseral_import::torch::tensor::TensorError;
use tesseral_import::{Error, ForeignCheckpoint, Limits};
use zip::CompressionMethod;

fn open(bytes: Vec<u8>) -> Result<ForeignCheckpoint, Error> {
    ForeignCheckpoint::from_bytes("file.model", bytes, Limits::default())
}

#[track_caller]
fn refused(bytes: Vec<u8>) -> ArchiveError {
    match open(bytes).expect_err("accepted") {
        Error::InFile { error, .. } => match *error {
            Error::Archive(error) => error,
            other => panic!("{other}"),
        },
        other => panic!("{other}"),
    }
}

#[test]
fn other_formats_are_recognised() {
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    let legacy = [&b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."[..], &[0; 100]].concat();
    let cases: [(Vec<u8>, FoundFormat, &str); 9] = [
        (Vec::new(), FoundFormat::Empty, "fetch the file again"),
        (legacy, FoundFormat::LegacyTorch, "save it again"),
        (tar, FoundFormat::LegacyTorchTar, "save it again"),
        (b"\x80\x04N.".to_vec(), FoundFormat::BarePickle, "can be read"),
        (b"\x10\0\0\0\0\0\0\0{\"a\":{}}".to_vec(), FoundFormat::Safetensors, "opened directly"),
        (b"\x1f\x8b\x08\0abcdefgh".to_vec(), FoundFormat::Gzip, "gunzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0".to_vec(), FoundFormat::GitLfsPointer, "git lfs pull"),
        (b"\n<!DOCTYPE html><html>404".to_vec(), FoundFormat::WebPage, "fetch the file again"),
        (b"3\nLattice=\"1 0 0\"\nH 0 0 0\n".to_vec(), FoundFormat::Unknown, "can be read"),
    ];
    for (bytes, expected, hint) in cases {
        let error = open(bytes).unwrap_err();
        assert!(error.to_string().starts_with("file.model: "), "{error}");
        match error.kind() {
            Error::Archive(ArchiveError::NotAnArchive { found }) => assert_eq!(*found, expected),
            other => panic!("{expected:?}: {other}"),
        }
        assert!(error.hint().unwrap().contains(hint), "{:?}", error.hint());
    }
    let missing = ForeignCheckpoint::open("/no/such/file.model").unwrap_err();
    assert!(matches!(missing, Error::Io { .. }), "{missing}");
    assert!(ForeignCheckpoint::open(env!("CARGO_MANIFEST_DIR")).is_err());
}

#[test]
fn truncated_archives_are_refused_wherever_they_end() {
    let whole = tiny_mace();
    open(whole.clone()).unwrap();
    for part in 0..50 {
        let cut = whole.len() * part / 50;
        let error = open(whole[..cut].to_vec()).unwrap_err();
        assert!(matches!(error.kind(), Error::Archive(_)), "cut at {cut}: {error}");
        assert!(error.hint().is_some(), "{error}");
    }
}

#[test]
fn a_flipped_bit_in_a_storage_is_noticed() {
    let mut bytes = tiny_mace();
    let needle = f32_bytes(&[5.0, 6.0, 7.0, 8.0]);
    let place = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes[place + 2] ^= 1;
    let checkpoint = open(bytes).unwrap();
    let state = checkpoint.state_dict().unwrap();
    let name = "interactions.0.linear.weight";
    let error = checkpoint.tensor(name, state.get(name).unwrap()).unwrap_err();
    assert!(matches!(&error, Error::Archive(ArchiveError::DamagedEntry { entry, .. }) if entry == "m/data/3"), "{error}");
}

#[test]
fn names_that_leave_their_folder_are_refused() {
    let pickle = Pickle::new().none().stop();
    for name in ["../evil", "m/../../evil", "/etc/passwd", "m/./x", "m//x", "c:/x", "m\\x", "m/a\nb", "m/.."] {
        let error = refused(zip_of(&[("m/data.pkl", &pickle), (name, b"x")]));
        assert!(matches!(&error, ArchiveError::UnsafeName { entry } if entry == name), "{name:?}: {error}");
    }
    // Two entries of one name: the writer refuses to make them, so one name is patched to the other.
    let mut twice = zip_of(&[("m/data.pkl", &pickle), ("m/data/0", b"good"), ("m/data/1", b"evil")]);
    while let Some(place) = twice.windows(8).position(|window| window == b"m/data/1") {
        twice[place + 7] = b'0';
    }
    assert!(matches!(refused(twice), ArchiveError::Ambiguous { .. }));
}

#[test]
fn archives_of_something_else_are_refused() {
    let pickle = Pickle::new().none().stop();
    assert!(matches!(refused(zip_of(&[("readme.txt", b"hello")])), ArchiveError::NoPickle));
    assert!(matches!(refused(zip_of(&[])), ArchiveError::NoPickle | ArchiveError::NotAnArchive { .. }));
    assert!(matches!(refused(zip_of(&[("data.pkl", &pickle)])), ArchiveError::NoPickle));
    assert!(matches!(refused(zip_of(&[("a/b/data.pkl", &pickle)])), ArchiveError::NoPickle));
    let two = zip_of(&[("a/data.pkl", &pickle), ("b/data.pkl", &pickle)]);
    assert!(matches!(refused(two), ArchiveError::SeveralPickles { .. }));
    let order = zip_of(&[("m/data.pkl", &pickle), ("m/byteorder", b"middle")]);
    assert!(matches!(refused(order), ArchiveError::ByteOrder { .. }));
}

#[test]
fn big_endian_storages_are_read() {
    let pickle = Pickle::new()
        .dict(|p| p.str("model_state_dict").dict(|p| p.str("w").tensor("DoubleStorage", "0", 1, 0, &[1], &[1])).str("config").dict(|p| p))
        .stop();
    let bytes = zip_of(&[("m/data.pkl", &pickle), ("m/byteorder", b"big"), ("m/data/0", &(-0.75f64).to_be_bytes())]);
    let checkpoint = open(bytes).unwrap();
    let state = checkpoint.state_dict().unwrap();
    assert_eq!(checkpoint.tensor("w", state.get("w").unwrap()).unwrap().item(), Some(-0.75));
}

#[test]
fn deflated_archives_are_read_and_bombs_are_not() {
    let weights: Vec<f32> = (0..1000).map(|i| (i as f32).sin()).collect();
    let pickle = Pickle::new()
        .dict(|p| {
            p.str("model_state_dict").dict(|p| p.str("w").tensor("FloatStorage", "0", 1000, 0, &[1000], &[1])).str("config").dict(|p| p)
        })
        .stop();
    let honest = zip_with(&[("m/data.pkl", &pickle), ("m/data/0", &f32_bytes(&weights))], CompressionMethod::Deflated);
    let checkpoint = open(honest).unwrap();
    let state = checkpoint.state_dict().unwrap();
    let read = checkpoint.tensor("w", state.get("w").unwrap()).unwrap();
    assert_eq!(read.to_f64(), weights.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());

    // 64 MiB of zeros in 64 KiB.
    let zeros = vec![0; 64 << 20];
    let bomb = zip_with(&[("m/data.pkl", &pickle), ("m/data/0", &zeros)], CompressionMethod::Deflated);
    assert!(bomb.len() < 100_000);
    let error = refused(bomb.clone());
    assert!(matches!(&error, ArchiveError::TooLarge { what, .. } if what.contains("m/data/0")), "{error}");

    // The same, declared to be small: the CRC and the size do not match what comes out.
    let mut lying = bomb;
    let declared = (64u32 << 20).to_le_bytes();
    while let Some(place) = lying.windows(4).position(|window| window == declared) {
        lying[place..place + 4].copy_from_slice(&4000u32.to_le_bytes());
    }
    let checkpoint = open(lying).unwrap();
    let error = checkpoint.tensor("w", checkpoint.state_dict().unwrap().get("w").unwrap()).unwrap_err();
    assert!(matches!(error, Error::Archive(ArchiveError::DamagedEntry { .. })), "{error}");

    // A sum of sizes above the limit.
    let limits = Limits { archive_bytes: 5000, ..Limits::default() };
    let archive = zip_of(&[("m/data.pkl", &pickle), ("m/data/0", &f32_bytes(&weights))]);
    assert!(archive.len() < 5000);
    let many = ForeignCheckpoint::from_bytes("m", archive, Limits { archive_bytes: 4100, ..limits }).unwrap_err();
    assert!(matches!(many.kind(), Error::Archive(ArchiveError::TooLarge { .. })), "{many}");
}

#[test]
fn a_missing_storage_is_named() {
    let pickle = Pickle::new()
        .dict(|p| p.str("model_state_dict").dict(|p| p.str("w").tensor("FloatStorage", "7", 1, 0, &[1], &[1])).str("config").dict(|p| p))
        .stop();
    let checkpoint = open(torch_zip(&pickle, &[])).unwrap();
    let error = checkpoint.tensor("w", checkpoint.state_dict().unwrap().get("w").unwrap()).unwrap_err();
    assert!(matches!(&error, Error::Archive(ArchiveError::MissingEntry { entry }) if entry == "m/data/7"), "{error}");
    let declared = Pickle::new()
        .dict(|p| {
            p.str("model_state_dict").dict(|p| p.str("w").tensor("FloatStorage", "0", i64::MAX, 0, &[1], &[1])).str("config").dict(|p| p)
        })
        .stop();
    let checkpoint = open(torch_zip(&declared, &[("0", &[0; 4])])).unwrap();
    let error = checkpoint.tensor("w", checkpoint.state_dict().unwrap().get("w").unwrap()).unwrap_err();
    assert!(matches!(error, Error::Tensor(TensorError::StorageSize { .. })), "{error}");
}
