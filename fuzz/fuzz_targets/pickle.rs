//! The pickle machine on arbitrary bytes, and everything that walks the records it builds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tesseral_import::Limits;
use tesseral_import::torch::describe::{Detail, describe};
use tesseral_import::torch::module::{generated_code, irreps, state_dict};
use tesseral_import::torch::pickle;

fuzz_target!(|data: &[u8]| {
    let limits = Limits { objects: 100_000, references: 200_000, text_bytes: 1 << 20, tensor_bytes: 1 << 20, ..Limits::default() };
    let Ok(pickle) = pickle::load(data, &limits) else { return };
    let root = pickle.root();
    let _ = describe(root, Detail::default());
    let _ = irreps(root);
    let _ = generated_code(root);
    let _ = state_dict(root, &limits);
    for (_, value) in root.as_dict().into_iter().flatten() {
        let _ = value.as_array().map(|array| array.to_tensor(pickle.heap(), "fuzz"));
        let _ = value.as_tensor().map(|tensor| tensor.decode("fuzz", &[0; 64], Default::default()));
    }
});
