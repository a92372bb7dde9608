//! What buffers and arguments are made of.

mod sealed {
    pub trait Sealed {}
}

/// A number that has the same bytes in Rust and in CUDA.
pub trait Element: sealed::Sealed + Copy + Default + PartialEq + std::fmt::Debug + Send + Sync + 'static {
    /// Its name in CUDA.
    const C_NAME: &'static str;
    /// Its letter in the signatures of emulated kernels (`emulator/emulator.h`).
    #[doc(hidden)]
    const CODE: u8;
}

/// A floating-point number that kernels compute in: `real` of `tesseral.cuh`.
pub trait Real: Element {
    /// Its name in Rust.
    const NAME: &'static str;
}

macro_rules! elements {
    ($($type:ty, $name:literal, $code:literal;)*) => {$(
        impl sealed::Sealed for $type {}
        impl Element for $type {
            const C_NAME: &'static str = $name;
            const CODE: u8 = $code;
        }
    )*};
}

elements! {
    f32, "float", b'f';
    f64, "double", b'd';
    u32, "unsigned", b'u';
    i32, "int", b'i';
    i16, "short", b's';
    u8, "unsigned char", b'b';
}

impl Real for f32 {
    const NAME: &'static str = "f32";
}

impl Real for f64 {
    const NAME: &'static str = "f64";
}

/// The bytes of a slice.
#[allow(unsafe_code, reason = "a view of plain numbers")]
pub(crate) fn bytes<T: Element>(of: &[T]) -> &[u8] {
    // SAFETY: elements are the six plain types above (the trait is sealed), which have no padding; length and lifetime are those of the slice.
    unsafe { std::slice::from_raw_parts(of.as_ptr().cast(), size_of_val(of)) }
}

/// The bytes of a slice, to be written.
#[allow(unsafe_code, reason = "a view of plain numbers")]
pub(crate) fn bytes_mut<T: Element>(of: &mut [T]) -> &mut [u8] {
    // SAFETY: as in `bytes`, and any bytes are a valid element.
    unsafe { std::slice::from_raw_parts_mut(of.as_mut_ptr().cast(), size_of_val(of)) }
}
