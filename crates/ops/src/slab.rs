//! Slabs of channels: the vectors that the compiled kernels compute with.
//!
//! A slab is as many neighbouring channels as fill 64 bytes, [`width`] numbers: one register of AVX-512, two of AVX2, an array that the compiler
//! vectorises elsewhere. Kernels are written once over [`Slab`] and run with the best instruction set of the processor by [`dispatch`].

#![allow(unsafe_code, reason = "SIMD: loads and stores through pointers, intrinsics behind a check of the processor")]

use crate::real::Real;

/// Channels of a slab of `T`: 16 of `f32`, 8 of `f64`.
pub const fn width<T>() -> usize {
    64 / size_of::<T>()
}

/// The smallest multiple of [`width`] that holds `channels`.
pub const fn padded<T>(channels: usize) -> usize {
    channels.div_ceil(width::<T>()) * width::<T>()
}

/// [`width`] numbers that are computed with side by side.
pub trait Slab: Copy + Send + Sync + 'static {
    /// The type of a number.
    type Scalar: Real;

    /// Zeros.
    fn zero() -> Self;
    /// One number in every lane.
    fn splat(x: Self::Scalar) -> Self;
    /// Reads a slab.
    ///
    /// # Safety
    /// [`width`] numbers can be read from `from`.
    unsafe fn load(from: *const Self::Scalar) -> Self;
    /// Writes a slab.
    ///
    /// # Safety
    /// [`width`] numbers can be written to `to`.
    unsafe fn store(self, to: *mut Self::Scalar);
    /// `self·b + c`, rounded once where the processor can.
    fn fma(self, b: Self, c: Self) -> Self;
    /// `self·b`
    fn mul(self, b: Self) -> Self;
    /// `self + b`
    fn add(self, b: Self) -> Self;
    /// The sum over the lanes of each of eight slabs, in a fixed order.
    fn sums8(v: [Self; 8]) -> [Self::Scalar; 8];
    /// The sum over the lanes of each of four slabs.
    fn sums4(v: [Self; 4]) -> [Self::Scalar; 4];
    /// The sum over the lanes of each of two slabs.
    fn sums2(v: [Self; 2]) -> [Self::Scalar; 2];
}

/// A kernel over slabs of `T`. Mark `run`, and everything hot that it calls, `#[inline(always)]`.
pub trait SlabKernel<T: Real> {
    /// What the kernel gives back.
    type Output;
    /// The kernel.
    fn run<V: Slab<Scalar = T>>(self) -> Self::Output;
}

/// The slabs of a type for each instruction set.
pub trait HasSlabs: Real {
    /// For AVX-512.
    #[cfg(target_arch = "x86_64")]
    type V4: Slab<Scalar = Self>;
    /// For AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    type V3: Slab<Scalar = Self>;
    /// For everything else.
    type Portable: Slab<Scalar = Self>;
}

/// Instruction sets in the order of preference; a smaller one than the processor has can be asked for by `TESSERAL_SIMD` (`avx2`, `portable`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstructionSet {
    /// AVX-512 (x86-64-v4).
    Avx512,
    /// AVX2 and FMA (x86-64-v3).
    Avx2,
    /// What every processor of the architecture has (NEON on ARM).
    Portable,
}

impl InstructionSet {
    /// What kernels run with on this machine.
    pub fn active() -> Self {
        static ACTIVE: std::sync::OnceLock<InstructionSet> = std::sync::OnceLock::new();
        *ACTIVE.get_or_init(|| {
            let best = Self::best();
            match std::env::var("TESSERAL_SIMD").as_deref() {
                Ok("portable") => Self::Portable,
                Ok("avx2") if best == Self::Avx512 => Self::Avx2,
                _ => best,
            }
        })
    }

    #[cfg(target_arch = "x86_64")]
    fn best() -> Self {
        if pulp::x86::V4::try_new().is_some() {
            Self::Avx512
        } else if pulp::x86::V3::try_new().is_some() {
            Self::Avx2
        } else {
            Self::Portable
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn best() -> Self {
        Self::Portable
    }

    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "AVX-512",
            Self::Avx2 => "AVX2",
            Self::Portable if cfg!(target_arch = "aarch64") => "NEON",
            Self::Portable => "portable",
        }
    }
}

/// Runs a kernel with the best instruction set of this processor.
#[inline]
pub fn dispatch<T: HasSlabs, K: SlabKernel<T>>(kernel: K) -> K::Output {
    dispatch_to(InstructionSet::active(), kernel)
}

/// Runs a kernel with one instruction set, or the best that the processor has below it.
#[inline]
pub fn dispatch_to<T: HasSlabs, K: SlabKernel<T>>(set: InstructionSet, kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if set == InstructionSet::Avx512
            && let Some(v4) = pulp::x86::V4::try_new()
        {
            return v4.vectorize(
                #[inline(always)]
                || kernel.run::<T::V4>(),
            );
        }
        if set != InstructionSet::Portable
            && let Some(v3) = pulp::x86::V3::try_new()
        {
            return v3.vectorize(
                #[inline(always)]
                || kernel.run::<T::V3>(),
            );
        }
    }
    let _ = set;
    kernel.run::<T::Portable>()
}

/// Slabs as arrays: the compiler vectorises the loops for whatever the target has.
#[derive(Clone, Copy)]
pub struct Lanes<T, const N: usize>([T; N]);

macro_rules! portable {
    ($t:ty, $n:expr) => {
        impl Slab for Lanes<$t, $n> {
            type Scalar = $t;

            #[inline(always)]
            fn zero() -> Self {
                Self([0.0; $n])
            }

            #[inline(always)]
            fn splat(x: $t) -> Self {
                Self([x; $n])
            }

            #[inline(always)]
            unsafe fn load(from: *const $t) -> Self {
                // SAFETY: the caller vouches for `width` readable numbers; the array has no stricter alignment than they.
                Self(unsafe { from.cast::<[$t; $n]>().read() })
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut $t) {
                // SAFETY: the caller vouches for `width` writable numbers.
                unsafe { to.cast::<[$t; $n]>().write(self.0) }
            }

            #[inline(always)]
            fn fma(self, b: Self, c: Self) -> Self {
                let mut out = c.0;
                for k in 0..$n {
                    // In two instructions where the target has no fused one, rather than in a slow library routine.
                    out[k] = if cfg!(target_arch = "aarch64") { self.0[k].mul_add(b.0[k], out[k]) } else { self.0[k] * b.0[k] + out[k] };
                }
                Self(out)
            }

            #[inline(always)]
            fn mul(self, b: Self) -> Self {
                let mut out = self.0;
                for k in 0..$n {
                    out[k] *= b.0[k];
                }
                Self(out)
            }

            #[inline(always)]
            fn add(self, b: Self) -> Self {
                let mut out = self.0;
                for k in 0..$n {
                    out[k] += b.0[k];
                }
                Self(out)
            }

            #[inline(always)]
            fn sums8(v: [Self; 8]) -> [$t; 8] {
                v.map(|v| v.0.iter().sum())
            }

            #[inline(always)]
            fn sums4(v: [Self; 4]) -> [$t; 4] {
                v.map(|v| v.0.iter().sum())
            }

            #[inline(always)]
            fn sums2(v: [Self; 2]) -> [$t; 2] {
                v.map(|v| v.0.iter().sum())
            }
        }
    };
}
portable!(f32, 16);
portable!(f64, 8);

impl HasSlabs for f32 {
    #[cfg(target_arch = "x86_64")]
    type V4 = x86::F32x16;
    #[cfg(target_arch = "x86_64")]
    type V3 = x86::F32x8x2;
    type Portable = Lanes<f32, 16>;
}

impl HasSlabs for f64 {
    #[cfg(target_arch = "x86_64")]
    type V4 = x86::F64x8;
    #[cfg(target_arch = "x86_64")]
    type V3 = x86::F64x4x2;
    type Portable = Lanes<f64, 8>;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! SAFETY of every block here: the types are named by `dispatch_to` alone, inside a function that the processor's instruction set has been
    //! checked for; pointers come with the promise of [`Slab::load`] and [`Slab::store`].
    #![allow(clippy::undocumented_unsafe_blocks, reason = "one reason for all, above")]

    use std::arch::x86_64::*;

    use super::Slab;

    /// Sixteen `f32` in one AVX-512 register.
    #[derive(Clone, Copy)]
    pub struct F32x16(__m512);

    impl F32x16 {
        /// Adds the two halves of each 128-bit lane until every element of it holds the lane's sum.
        #[inline(always)]
        unsafe fn in_lane(v: __m512) -> __m512 {
            unsafe {
                let v = _mm512_add_ps(v, _mm512_permute_ps::<0b01_00_11_10>(v));
                _mm512_add_ps(v, _mm512_permute_ps::<0b10_11_00_01>(v))
            }
        }

        /// Lanes (a02, a13, b02, b13) of 128 bits: the halves of a and of b added.
        #[inline(always)]
        unsafe fn halves(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xEE>(a, b)) }
        }

        /// Lanes (a, b, c, d) from two results of [`Self::halves`].
        #[inline(always)]
        unsafe fn quarters(ab: __m512, cd: __m512) -> __m512 {
            unsafe { _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xDD>(ab, cd)) }
        }
    }

    impl Slab for F32x16 {
        type Scalar = f32;

        #[inline(always)]
        fn zero() -> Self {
            unsafe { Self(_mm512_setzero_ps()) }
        }

        #[inline(always)]
        fn splat(x: f32) -> Self {
            unsafe { Self(_mm512_set1_ps(x)) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { Self(_mm512_loadu_ps(from)) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm512_storeu_ps(to, self.0) }
        }

        #[inline(always)]
        fn fma(self, b: Self, c: Self) -> Self {
            unsafe { Self(_mm512_fmadd_ps(self.0, b.0, c.0)) }
        }

        #[inline(always)]
        fn mul(self, b: Self) -> Self {
            unsafe { Self(_mm512_mul_ps(self.0, b.0)) }
        }

        #[inline(always)]
        fn add(self, b: Self) -> Self {
            unsafe { Self(_mm512_add_ps(self.0, b.0)) }
        }

        #[inline(always)]
        fn sums8(v: [Self; 8]) -> [f32; 8] {
            unsafe {
                let low = Self::quarters(Self::halves(v[0].0, v[1].0), Self::halves(v[2].0, v[3].0));
                let high = Self::quarters(Self::halves(v[4].0, v[5].0), Self::halves(v[6].0, v[7].0));
                let sum = _mm512_add_ps(_mm512_unpacklo_ps(low, high), _mm512_unpackhi_ps(low, high));
                let sum = _mm512_add_ps(sum, _mm512_permute_ps::<0b01_00_11_10>(sum));
                let index = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
                let packed = _mm512_castps512_ps256(_mm512_permutexvar_ps(index, sum));
                let mut out = [0.0; 8];
                _mm256_storeu_ps(out.as_mut_ptr(), packed);
                out
            }
        }

        #[inline(always)]
        fn sums4(v: [Self; 4]) -> [f32; 4] {
            unsafe {
                let sum = Self::in_lane(Self::quarters(Self::halves(v[0].0, v[1].0), Self::halves(v[2].0, v[3].0)));
                let index = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
                let packed = _mm512_castps512_ps128(_mm512_permutexvar_ps(index, sum));
                let mut out = [0.0; 4];
                _mm_storeu_ps(out.as_mut_ptr(), packed);
                out
            }
        }

        #[inline(always)]
        fn sums2(v: [Self; 2]) -> [f32; 2] {
            unsafe {
                let sum = Self::halves(v[0].0, v[1].0);
                let sum = Self::in_lane(_mm512_add_ps(sum, _mm512_shuffle_f32x4::<0xB1>(sum, sum)));
                let index = _mm512_setr_epi32(0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
                let packed = _mm512_castps512_ps128(_mm512_permutexvar_ps(index, sum));
                let mut out = [0.0; 4];
                _mm_storeu_ps(out.as_mut_ptr(), packed);
                [out[0], out[1]]
            }
        }
    }

    /// Eight `f64` in one AVX-512 register.
    #[derive(Clone, Copy)]
    pub struct F64x8(__m512d);

    impl F64x8 {
        #[inline(always)]
        unsafe fn halves(a: __m512d, b: __m512d) -> __m512d {
            unsafe { _mm512_add_pd(_mm512_shuffle_f64x2::<0x44>(a, b), _mm512_shuffle_f64x2::<0xEE>(a, b)) }
        }

        #[inline(always)]
        unsafe fn quarters(ab: __m512d, cd: __m512d) -> __m512d {
            unsafe { _mm512_add_pd(_mm512_shuffle_f64x2::<0x88>(ab, cd), _mm512_shuffle_f64x2::<0xDD>(ab, cd)) }
        }
    }

    impl Slab for F64x8 {
        type Scalar = f64;

        #[inline(always)]
        fn zero() -> Self {
            unsafe { Self(_mm512_setzero_pd()) }
        }

        #[inline(always)]
        fn splat(x: f64) -> Self {
            unsafe { Self(_mm512_set1_pd(x)) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f64) -> Self {
            unsafe { Self(_mm512_loadu_pd(from)) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f64) {
            unsafe { _mm512_storeu_pd(to, self.0) }
        }

        #[inline(always)]
        fn fma(self, b: Self, c: Self) -> Self {
            unsafe { Self(_mm512_fmadd_pd(self.0, b.0, c.0)) }
        }

        #[inline(always)]
        fn mul(self, b: Self) -> Self {
            unsafe { Self(_mm512_mul_pd(self.0, b.0)) }
        }

        #[inline(always)]
        fn add(self, b: Self) -> Self {
            unsafe { Self(_mm512_add_pd(self.0, b.0)) }
        }

        #[inline(always)]
        fn sums8(v: [Self; 8]) -> [f64; 8] {
            unsafe {
                let low = Self::quarters(Self::halves(v[0].0, v[1].0), Self::halves(v[2].0, v[3].0));
                let high = Self::quarters(Self::halves(v[4].0, v[5].0), Self::halves(v[6].0, v[7].0));
                let sum = _mm512_add_pd(_mm512_unpacklo_pd(low, high), _mm512_unpackhi_pd(low, high));
                let index = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
                let mut out = [0.0; 8];
                _mm512_storeu_pd(out.as_mut_ptr(), _mm512_permutexvar_pd(index, sum));
                out
            }
        }

        #[inline(always)]
        fn sums4(v: [Self; 4]) -> [f64; 4] {
            let z = Self::zero();
            let [a, b, c, d, ..] = Self::sums8([v[0], v[1], v[2], v[3], z, z, z, z]);
            [a, b, c, d]
        }

        #[inline(always)]
        fn sums2(v: [Self; 2]) -> [f64; 2] {
            unsafe { [_mm512_reduce_add_pd(v[0].0), _mm512_reduce_add_pd(v[1].0)] }
        }
    }

    /// Sixteen `f32` in two AVX2 registers.
    #[derive(Clone, Copy)]
    pub struct F32x8x2([__m256; 2]);
    /// Eight `f64` in two AVX2 registers.
    #[derive(Clone, Copy)]
    pub struct F64x4x2([__m256d; 2]);

    impl F32x8x2 {
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            unsafe {
                let v = _mm256_add_ps(self.0[0], self.0[1]);
                let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
                _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
            }
        }
    }

    impl F64x4x2 {
        #[inline(always)]
        unsafe fn sum(self) -> f64 {
            unsafe {
                let v = _mm256_add_pd(self.0[0], self.0[1]);
                let v = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd::<1>(v));
                _mm_cvtsd_f64(_mm_add_sd(v, _mm_unpackhi_pd(v, v)))
            }
        }
    }

    macro_rules! two_registers {
        ($name:ident, $t:ty, $half:expr, $zero:ident, $set1:ident, $load:ident, $store:ident, $fma:ident, $mul:ident, $add:ident) => {
            impl Slab for $name {
                type Scalar = $t;

                #[inline(always)]
                fn zero() -> Self {
                    unsafe { Self([$zero(), $zero()]) }
                }

                #[inline(always)]
                fn splat(x: $t) -> Self {
                    unsafe { Self([$set1(x), $set1(x)]) }
                }

                #[inline(always)]
                unsafe fn load(from: *const $t) -> Self {
                    unsafe { Self([$load(from), $load(from.add($half))]) }
                }

                #[inline(always)]
                unsafe fn store(self, to: *mut $t) {
                    unsafe {
                        $store(to, self.0[0]);
                        $store(to.add($half), self.0[1]);
                    }
                }

                #[inline(always)]
                fn fma(self, b: Self, c: Self) -> Self {
                    unsafe { Self([$fma(self.0[0], b.0[0], c.0[0]), $fma(self.0[1], b.0[1], c.0[1])]) }
                }

                #[inline(always)]
                fn mul(self, b: Self) -> Self {
                    unsafe { Self([$mul(self.0[0], b.0[0]), $mul(self.0[1], b.0[1])]) }
                }

                #[inline(always)]
                fn add(self, b: Self) -> Self {
                    unsafe { Self([$add(self.0[0], b.0[0]), $add(self.0[1], b.0[1])]) }
                }

                #[inline(always)]
                fn sums8(v: [Self; 8]) -> [$t; 8] {
                    v.map(
                        #[inline(always)]
                        |v| unsafe { v.sum() },
                    )
                }

                #[inline(always)]
                fn sums4(v: [Self; 4]) -> [$t; 4] {
                    v.map(
                        #[inline(always)]
                        |v| unsafe { v.sum() },
                    )
                }

                #[inline(always)]
                fn sums2(v: [Self; 2]) -> [$t; 2] {
                    v.map(
                        #[inline(always)]
                        |v| unsafe { v.sum() },
                    )
                }
            }
        };
    }
    two_registers!(
        F32x8x2,
        f32,
        8,
        _mm256_setzero_ps,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_fmadd_ps,
        _mm256_mul_ps,
        _mm256_add_ps
    );
    two_registers!(
        F64x4x2,
        f64,
        4,
        _mm256_setzero_pd,
        _mm256_set1_pd,
        _mm256_loadu_pd,
        _mm256_storeu_pd,
        _mm256_fmadd_pd,
        _mm256_mul_pd,
        _mm256_add_pd
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Arithmetic<'a, T>(&'a [T]);

    impl<T: Real> SlabKernel<T> for Arithmetic<'_, T> {
        type Output = (Vec<T>, Vec<T>);

        #[inline(always)]
        fn run<V: Slab<Scalar = T>>(self) -> Self::Output {
            let w = width::<T>();
            // SAFETY: the test hands in eight slabs.
            let v: [V; 8] = std::array::from_fn(|k| unsafe { V::load(self.0[k * w..].as_ptr()) });
            let mut sums = V::sums8(v).to_vec();
            sums.extend(V::sums4([v[3], v[1], v[4], v[6]]));
            sums.extend(V::sums2([v[5], v[2]]));
            let mut out = vec![T::zero(); w];
            // SAFETY: `out` is one slab.
            unsafe { v[0].mul(V::splat(T::of(2.0))).fma(v[1], v[2].add(V::zero())).store(out.as_mut_ptr()) };
            (sums, out)
        }
    }

    fn check<T: HasSlabs + std::fmt::Debug>(tolerance: f64) {
        let w = width::<T>();
        let values: Vec<f64> = (0..8 * w).map(|k| ((k * k * 37 + 11 * k) % 101) as f64 / 7.0 - 6.0).collect();
        let typed: Vec<T> = values.iter().map(|&x| T::of(x)).collect();
        let sum = |k: usize| values[k * w..(k + 1) * w].iter().sum::<f64>();
        let want_sums: Vec<f64> = [0, 1, 2, 3, 4, 5, 6, 7, 3, 1, 4, 6, 5, 2].map(sum).to_vec();
        for set in [InstructionSet::Avx512, InstructionSet::Avx2, InstructionSet::Portable] {
            let (sums, out) = dispatch_to(set, Arithmetic(&typed));
            for (got, want) in sums.iter().zip(&want_sums) {
                assert!((candle_core::WithDType::to_f64(*got) - want).abs() < tolerance, "{set:?}: {got:?} instead of {want}");
            }
            for (k, got) in out.iter().enumerate() {
                let want = 2.0 * values[k] * values[w + k] + values[2 * w + k];
                assert!((candle_core::WithDType::to_f64(*got) - want).abs() < tolerance, "{set:?}: {got:?} instead of {want}");
            }
        }
    }

    #[test]
    fn every_instruction_set_computes_the_same() {
        check::<f32>(2e-4);
        check::<f64>(1e-12);
    }

    #[test]
    fn widths_fill_a_cache_line() {
        assert_eq!((width::<f32>(), width::<f64>()), (16, 8));
        assert_eq!((padded::<f32>(1), padded::<f32>(32), padded::<f64>(33)), (16, 32, 40));
    }
}
