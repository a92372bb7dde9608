//! One source, several instruction sets: loops written plainly are compiled for AVX-512, AVX2 or NEON and the portable baseline, and
//! the best that the processor has is chosen at run time.

use crate::real::Real;

/// How `a·b + c` is computed: in one instruction, or in two where the processor has none (there `mul_add` would call a slow library routine).
pub trait Fma: Copy + Send + Sync + 'static {
    /// `a·b + c`.
    fn fma<T: Real>(a: T, b: T, c: T) -> T;
}

/// One fused instruction, rounded once.
#[derive(Clone, Copy, Debug)]
pub struct Fused;
/// A multiplication and an addition.
#[derive(Clone, Copy, Debug)]
pub struct Unfused;

impl Fma for Fused {
    #[inline(always)]
    fn fma<T: Real>(a: T, b: T, c: T) -> T {
        num_traits::Float::mul_add(a, b, c)
    }
}

impl Fma for Unfused {
    #[inline(always)]
    fn fma<T: Real>(a: T, b: T, c: T) -> T {
        a * b + c
    }
}

/// A kernel that can be compiled for several instruction sets. Mark `run` `#[inline(always)]`, and everything hot that it calls.
pub trait Kernel {
    /// What the kernel gives back.
    type Output;
    /// The kernel, with the multiply-add of the instruction set it is compiled for.
    fn run<F: Fma>(self) -> Self::Output;
}

/// Runs a kernel with the best instruction set of this processor.
#[inline]
pub fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(v4) = pulp::x86::V4::try_new() {
            return v4.vectorize(
                #[inline(always)]
                || kernel.run::<Fused>(),
            );
        }
        if let Some(v3) = pulp::x86::V3::try_new() {
            return v3.vectorize(
                #[inline(always)]
                || kernel.run::<Fused>(),
            );
        }
        kernel.run::<Unfused>()
    }
    #[cfg(target_arch = "aarch64")]
    {
        kernel.run::<Fused>()
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        kernel.run::<Unfused>()
    }
}
