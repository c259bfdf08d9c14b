//! Eight floats at a time, for the loops around the micro-kernel: AVX2 registers where the CPU has them, arrays where
//! not.
#![allow(unsafe_code)]

/// Floats of a [`Lanes`].
pub(super) const WIDTH: usize = 8;

/// The instruction sets that there are implementations for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    /// Plain Rust.
    Portable,
    /// AVX2 and FMA. Only [`Isa::detect`] makes this value.
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Isa {
    /// The best this CPU can run.
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Isa::Avx2;
        }
        Isa::Portable
    }

    /// Its usual name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2+fma",
        }
    }
}

/// Calls `$body::<L>($arg)`, an `unsafe fn`, with the lanes of `$isa`, compiled for its instructions.
macro_rules! dispatch {
    ($isa:expr, $body:ident, $arg:expr, $type:ty) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2(arg: $type) {
            // SAFETY: the caller's promise is the one that the body asks for.
            unsafe { $body::<std::arch::x86_64::__m256>(arg) }
        }
        match $isa {
            $crate::conv::lanes::Isa::Portable => $body::<[f32; $crate::conv::lanes::WIDTH]>($arg),
            #[cfg(target_arch = "x86_64")]
            $crate::conv::lanes::Isa::Avx2 => avx2($arg),
        }
    }};
}
pub(super) use dispatch;

/// [`WIDTH`] floats.
///
/// # Safety
/// The CPU has the instructions of the implementation: methods may only be called from functions compiled for them.
pub(super) unsafe trait Lanes: Copy {
    /// # Safety
    /// `from` is good for [`WIDTH`] floats.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// `to` is good for [`WIDTH`] floats.
    unsafe fn store(self, to: *mut f32);
    fn splat(value: f32) -> Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// `self * by + plus`, rounded once or twice.
    fn mul_add(self, by: Self, plus: Self) -> Self;
    /// `plus - self * by`, rounded once or twice.
    fn neg_mul_add(self, by: Self, plus: Self) -> Self;
    /// The larger; a NaN in `self` passes.
    fn at_least(self, low: Self) -> Self;
    /// The smaller; a NaN in `self` passes.
    fn at_most(self, high: Self) -> Self;
    /// The larger; a NaN in either passes.
    fn max(self, other: Self) -> Self;
}

// SAFETY: no special instructions.
unsafe impl Lanes for [f32; WIDTH] {
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<Self>().read() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<Self>().write(self) }
    }

    #[inline(always)]
    fn splat(value: f32) -> Self {
        [value; WIDTH]
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] + other[i])
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] - other[i])
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] * other[i])
    }

    #[inline(always)]
    fn mul_add(self, by: Self, plus: Self) -> Self {
        std::array::from_fn(|i| self[i] * by[i] + plus[i])
    }

    #[inline(always)]
    fn neg_mul_add(self, by: Self, plus: Self) -> Self {
        std::array::from_fn(|i| plus[i] - self[i] * by[i])
    }

    #[inline(always)]
    fn at_least(self, low: Self) -> Self {
        std::array::from_fn(|i| if self[i] < low[i] { low[i] } else { self[i] })
    }

    #[inline(always)]
    fn at_most(self, high: Self) -> Self {
        std::array::from_fn(|i| if self[i] > high[i] { high[i] } else { self[i] })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        std::array::from_fn(|i| if self[i] > other[i] || self[i].is_nan() { self[i] } else { other[i] })
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::Lanes;

    // SAFETY: `Isa::Avx2`, the only way here, is made only where the CPU has AVX2 and FMA; that is also why every
    // intrinsic below may be called.
    unsafe impl Lanes for __m256 {
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller's promise.
            unsafe { _mm256_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller's promise.
            unsafe { _mm256_storeu_ps(to, self) }
        }

        #[inline(always)]
        fn splat(value: f32) -> Self {
            // SAFETY: see the impl.
            unsafe { _mm256_set1_ps(value) }
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: see the impl.
            unsafe { _mm256_add_ps(self, other) }
        }

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            // SAFETY: see the impl.
            unsafe { _mm256_sub_ps(self, other) }
        }

        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            // SAFETY: see the impl.
            unsafe { _mm256_mul_ps(self, other) }
        }

        #[inline(always)]
        fn mul_add(self, by: Self, plus: Self) -> Self {
            // SAFETY: see the impl.
            unsafe { _mm256_fmadd_ps(self, by, plus) }
        }

        #[inline(always)]
        fn neg_mul_add(self, by: Self, plus: Self) -> Self {
            // SAFETY: see the impl.
            unsafe { _mm256_fnmadd_ps(self, by, plus) }
        }

        // Both instructions return their second operand when one is NaN.
        #[inline(always)]
        fn at_least(self, low: Self) -> Self {
            // SAFETY: see the impl.
            unsafe { _mm256_max_ps(low, self) }
        }

        #[inline(always)]
        fn at_most(self, high: Self) -> Self {
            // SAFETY: see the impl.
            unsafe { _mm256_min_ps(high, self) }
        }

        #[inline(always)]
        fn max(self, other: Self) -> Self {
            // SAFETY: see the impl.
            unsafe {
                let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(self, self);
                _mm256_blendv_ps(_mm256_max_ps(self, other), self, nan)
            }
        }
    }
}
