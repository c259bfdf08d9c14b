//! The instruction sets that 8-bit products are written for, and which of them this CPU has.

/// An instruction set that this CPU has. Values are made here only, so that whoever holds one may use its instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(pub(super) Set);

/// The instruction sets that there are implementations for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Set {
    /// Plain Rust.
    Portable,
    /// AVX2: products of 16 bits, because those of 8 bits saturate.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX2 with dot products of 8 bits.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX-512 with its forms for bytes and for 256 bits and dot products of 8 bits, besides AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
}

impl Isa {
    /// Plain Rust, which every CPU runs.
    pub const PORTABLE: Self = Self(Set::Portable);

    /// All that this CPU has, the plainest first.
    pub fn available() -> impl DoubleEndedIterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let special = {
            let avx2 = is_x86_feature_detected!("avx2");
            let vnni = avx2 && is_x86_feature_detected!("avxvnni");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            let avx512 = avx2 && avx512;
            [avx2.then_some(Set::Avx2), vnni.then_some(Set::AvxVnni), avx512.then_some(Set::Avx512Vnni)]
        };
        #[cfg(not(target_arch = "x86_64"))]
        let special = [];
        std::iter::once(Set::Portable).chain(special.into_iter().flatten()).map(Self)
    }

    /// The last of [`Isa::available`].
    pub fn best() -> Self {
        Self::available().next_back().unwrap_or(Self::PORTABLE)
    }

    /// Whether its products are of rows in 16 bits.
    pub(super) fn wants_wide(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => true,
            _ => false,
        }
    }

    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::AvxVnni => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Vnni => "avx512-vnni",
        }
    }
}
