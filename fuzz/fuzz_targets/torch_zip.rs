//! Whole foreign checkpoints from arbitrary bytes: archive, pickle, tensors, nested archives.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tesseral_import::torch::describe::Detail;
use tesseral_import::{ForeignCheckpoint, Limits};

fuzz_target!(|data: &[u8]| {
    let limits = Limits {
        archive_bytes: 4 << 20,
        archive_entries: 1000,
        objects: 100_000,
        references: 200_000,
        text_bytes: 1 << 20,
        tensor_bytes: 1 << 20,
        ..Limits::default()
    };
    let checkpoint = match ForeignCheckpoint::from_bytes("fuzz", data.to_vec(), limits) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let _ = error.hint();
            return;
        }
    };
    let _ = checkpoint.describe(Detail::default());
    let _ = checkpoint.to_json(checkpoint.root());
    let _ = checkpoint.generated_tensors();
    if let Ok(state) = checkpoint.state_dict() {
        for entry in state.iter() {
            let _ = checkpoint.tensor(&entry.name, &entry.tensor);
        }
    }
});
