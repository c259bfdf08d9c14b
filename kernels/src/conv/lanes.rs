//! Some floats at a time: registers of AVX-512 or AVX2 where the CPU has them, arrays where not.
#![allow(unsafe_code)]

/// An instruction set that this CPU has. Values are made here only, so that whoever holds one may use its instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(pub(super) Set);

/// The instruction sets that there are implementations for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Set {
    /// Plain Rust.
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 with its 256-bit forms, besides AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// Plain Rust, which every CPU runs.
    pub const PORTABLE: Self = Self(Set::Portable);

    /// All that this CPU has, the plainest first.
    pub fn available() -> impl DoubleEndedIterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let special = {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl");
            [avx2.then_some(Set::Avx2), avx512.then_some(Set::Avx512)]
        };
        #[cfg(not(target_arch = "x86_64"))]
        let special = [];
        std::iter::once(Set::Portable).chain(special.into_iter().flatten()).map(Self)
    }

    /// The last of [`Isa::available`].
    pub fn best() -> Self {
        Self::available().next_back().unwrap_or(Self::PORTABLE)
    }

    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2+fma",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
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
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,avx512f,avx512vl")]
        unsafe fn avx512(arg: $type) {
            // SAFETY: as above.
            unsafe { $body::<std::arch::x86_64::__m512>(arg) }
        }
        match $isa.0 {
            $crate::conv::lanes::Set::Portable => $body::<[f32; 8]>($arg),
            #[cfg(target_arch = "x86_64")]
            $crate::conv::lanes::Set::Avx2 => avx2($arg),
            #[cfg(target_arch = "x86_64")]
            $crate::conv::lanes::Set::Avx512 => avx512($arg),
        }
    }};
}
pub(super) use dispatch;

/// [`Lanes::WIDTH`] floats.
///
/// # Safety
/// The CPU has the instructions of the implementation: methods may only be called from functions compiled for them.
pub(super) unsafe trait Lanes: Copy {
    /// Floats at a time, a divisor of a panel's.
    const WIDTH: usize;
    /// # Safety
    /// `from` is good for [`Lanes::WIDTH`] floats.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// `to` is good for [`Lanes::WIDTH`] floats.
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
unsafe impl Lanes for [f32; 8] {
    const WIDTH: usize = 8;

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
        [value; 8]
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
mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    /// Implements [`Lanes`] for a register with the intrinsics of that width.
    macro_rules! lanes {
        (
            $register:ty, $width:literal, $load:ident, $store:ident, $splat:ident, $add:ident, $sub:ident, $mul:ident,
            $mul_add:ident, $neg_mul_add:ident, $max:ident, $min:ident, $unless_nan:expr
        ) => {
            // SAFETY: the set of `Isa` that leads here is made only where the CPU has its instructions; that is also why
            // every intrinsic below may be called.
            unsafe impl Lanes for $register {
                const WIDTH: usize = $width;

                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    // SAFETY: the caller's promise.
                    unsafe { $load(from) }
                }

                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    // SAFETY: the caller's promise.
                    unsafe { $store(to, self) }
                }

                #[inline(always)]
                fn splat(value: f32) -> Self {
                    // SAFETY: see the impl.
                    unsafe { $splat(value) }
                }

                #[inline(always)]
                fn add(self, other: Self) -> Self {
                    // SAFETY: see the impl.
                    unsafe { $add(self, other) }
                }

                #[inline(always)]
                fn sub(self, other: Self) -> Self {
                    // SAFETY: see the impl.
                    unsafe { $sub(self, other) }
                }

                #[inline(always)]
                fn mul(self, other: Self) -> Self {
                    // SAFETY: see the impl.
                    unsafe { $mul(self, other) }
                }

                #[inline(always)]
                fn mul_add(self, by: Self, plus: Self) -> Self {
                    // SAFETY: see the impl.
                    unsafe { $mul_add(self, by, plus) }
                }

                #[inline(always)]
                fn neg_mul_add(self, by: Self, plus: Self) -> Self {
                    // SAFETY: see the impl.
                    unsafe { $neg_mul_add(self, by, plus) }
                }

                // Both instructions return their second operand when one is NaN.
                #[inline(always)]
                fn at_least(self, low: Self) -> Self {
                    // SAFETY: see the impl.
                    unsafe { $max(low, self) }
                }

                #[inline(always)]
                fn at_most(self, high: Self) -> Self {
                    // SAFETY: see the impl.
                    unsafe { $min(high, self) }
                }

                #[inline(always)]
                fn max(self, other: Self) -> Self {
                    // SAFETY: see the impl.
                    unsafe { $unless_nan(self, $max(self, other)) }
                }
            }
        };
    }

    lanes!(
        __m256,
        8,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_set1_ps,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_mul_ps,
        _mm256_fmadd_ps,
        _mm256_fnmadd_ps,
        _mm256_max_ps,
        _mm256_min_ps,
        unless_nan_256
    );
    lanes!(
        __m512,
        16,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_set1_ps,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_mul_ps,
        _mm512_fmadd_ps,
        _mm512_fnmadd_ps,
        _mm512_max_ps,
        _mm512_min_ps,
        unless_nan_512
    );

    /// `value` where it is NaN, else `otherwise`.
    ///
    /// # Safety
    /// The CPU has AVX2.
    #[inline(always)]
    unsafe fn unless_nan_256(value: __m256, otherwise: __m256) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_blendv_ps(otherwise, value, _mm256_cmp_ps::<_CMP_UNORD_Q>(value, value)) }
    }

    /// The same.
    ///
    /// # Safety
    /// The CPU has AVX-512.
    #[inline(always)]
    unsafe fn unless_nan_512(value: __m512, otherwise: __m512) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(value, value), otherwise, value) }
    }
}
