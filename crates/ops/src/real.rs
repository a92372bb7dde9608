//! The two precisions that potentials are computed in.

use candle_core::{CpuStorage, DType, Layout, Result, WithDType};

/// `f32` or `f64`: what a kernel needs of its number type.
///
/// Kernels are generic over it, so that every formula is written once for both precisions.
pub trait Real: tesseral_kernels::Real + WithDType + num_traits::Float + num_traits::NumAssign + Default + std::iter::Sum {
    /// 1.5·2^(bits of the mantissa): added to a number of moderate size it leaves the nearest integer in the low bits.
    const ROUNDER: Self;

    /// The nearest value of this type.
    fn of(value: f64) -> Self;

    /// 2ⁿ from n + [`Real::ROUNDER`], for n within the range of exponents of normal numbers: bit shifts, so that loops vectorise.
    fn power_of_two(rounded: Self) -> Self;

    /// `dst = alpha·dst + lhs·rhs` for row-major views on one thread.
    ///
    /// Shapes: `dst` `[m, n]` with row stride `dst_rs`, `lhs` `[m, k]`, `rhs` `[k, n]`; strides are `(row, column)` in elements.
    fn gemm(
        m: usize,
        n: usize,
        k: usize,
        dst: (&mut [Self], usize),
        accumulate: bool,
        lhs: (&[Self], usize, usize),
        rhs: (&[Self], usize, usize),
    );
}

macro_rules! real {
    ($t:ty, $rounder:expr, $mantissa_bits:expr, $one:expr) => {
        impl Real for $t {
            const ROUNDER: Self = $rounder;

            #[inline(always)]
            fn power_of_two(rounded: Self) -> Self {
                <$t>::from_bits((rounded.to_bits() << $mantissa_bits).wrapping_add($one))
            }

            #[inline(always)]
            #[allow(clippy::cast_possible_truncation, clippy::unnecessary_cast)]
            fn of(value: f64) -> Self {
                value as $t
            }

            #[allow(unsafe_code, reason = "the gemm crate takes raw pointers")]
            fn gemm(
                m: usize,
                n: usize,
                k: usize,
                (dst, dst_rs): (&mut [Self], usize),
                accumulate: bool,
                (lhs, lhs_rs, lhs_cs): (&[Self], usize, usize),
                (rhs, rhs_rs, rhs_cs): (&[Self], usize, usize),
            ) {
                if m == 0 || n == 0 {
                    return;
                }
                let last = |rows: usize, cols: usize, rs: usize, cs: usize| (rows - 1) * rs + (cols - 1) * cs;
                assert!(dst_rs >= n && last(m, n, dst_rs, 1) < dst.len(), "gemm: dst [{m}, {n}] does not fit its slice");
                if k == 0 {
                    if !accumulate {
                        for row in 0..m {
                            dst[row * dst_rs..row * dst_rs + n].fill(0.0);
                        }
                    }
                    return;
                }
                assert!(last(m, k, lhs_rs, lhs_cs) < lhs.len(), "gemm: lhs [{m}, {k}] does not fit its slice");
                assert!(last(k, n, rhs_rs, rhs_cs) < rhs.len(), "gemm: rhs [{k}, {n}] does not fit its slice");
                // SAFETY: the three assertions above keep every element that the strides address inside its slice,
                // `dst` is borrowed mutably so it overlaps neither input, and one thread is asked for.
                unsafe {
                    gemm::gemm(
                        m,
                        n,
                        k,
                        dst.as_mut_ptr(),
                        1,
                        dst_rs as isize,
                        accumulate,
                        lhs.as_ptr(),
                        lhs_cs as isize,
                        lhs_rs as isize,
                        rhs.as_ptr(),
                        rhs_cs as isize,
                        rhs_rs as isize,
                        1.0,
                        1.0,
                        false,
                        false,
                        false,
                        gemm::Parallelism::None,
                    );
                }
            }
        }
    };
}
real!(f32, 12_582_912.0, 23, 0x3f80_0000);
real!(f64, 6_755_399_441_055_744.0, 52, 0x3ff0_0000_0000_0000);

/// The elements of a contiguous CPU tensor, as a kernel reads them.
///
/// # Errors
/// If the layout is not contiguous (callers of custom ops make their inputs so) or the type differs.
pub fn slice<'a, T: Real>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let data = T::cpu_storage_as_slice(storage)?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => Err(candle_core::Error::RequiresContiguous { op: "tesseral-ops" }.bt()),
    }
}

/// Runs `$body` with `$t` bound to the Rust type of a floating-point CPU storage; any other type is an error.
macro_rules! dispatch_real {
    ($storage:expr, $op:expr, |$t:ident| $body:expr) => {
        match candle_core::backend::BackendStorage::dtype($storage) {
            candle_core::DType::F32 => {
                type $t = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $t = f64;
                $body
            }
            dtype => Err($crate::real::unsupported(dtype, $op)),
        }
    };
}
pub(crate) use dispatch_real;

/// The error for a tensor that is neither `f32` nor `f64`.
pub(crate) fn unsupported(dtype: DType, op: &'static str) -> candle_core::Error {
    candle_core::Error::UnsupportedDTypeForOp(dtype, op).bt()
}
