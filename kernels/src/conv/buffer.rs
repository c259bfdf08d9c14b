//! Floats that start on a cache line, so that panels and padded pixels never straddle one more line than they must, and
//! that lie in huge pages where the system has them: a network is read from end to end for every batch, and with small
//! pages the address of every fourth kilobyte has to be looked up anew.
//!
//! Buffers are cut from large mappings one after another, because a huge page is larger than most of them. Nothing is
//! given back to a mapping; it goes with the last buffer that lies in it. Tools that watch memory see mappings and not
//! what is cut from them, so with `--cfg apart`, and under Miri, each buffer is an allocation of its own (`make address`).
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

#[cfg(not(any(apart, miri)))]
use memmap2::MmapMut as Memory;

/// Floats of a cache line.
const LINE: usize = 16;

/// Floats of a mapping; a buffer of more than half as many has one of its own. What nobody asks for is never touched.
const MAPPING: usize = if cfg!(miri) { 1 << 12 } else { 16 << 20 };

/// Where the next buffer comes from, while a buffer from there is alive.
static CURRENT: Mutex<(Weak<Mapping>, usize)> = Mutex::new((Weak::new(), 0));

/// Memory that buffers share.
#[derive(Debug)]
struct Mapping {
    start: NonNull<f32>,
    /// Owns the memory; only ever looked at through `start`.
    _memory: Memory,
}

// SAFETY: the pointer is to memory that the mapping owns, and is only read here.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// A fixed number of floats, zero at first.
#[derive(Debug)]
pub(super) struct Buffer {
    start: NonNull<f32>,
    length: usize,
    /// Keeps the memory.
    _mapping: Arc<Mapping>,
}

// SAFETY: a buffer owns its floats as a vector does.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// # Panics
    /// When the system has no memory left.
    pub(super) fn zeros(length: usize) -> Self {
        let lines = length.div_ceil(LINE) * LINE;
        let (mapping, used) = match lines <= MAPPING / 2 && !cfg!(any(apart, miri)) {
            true => Self::cut(lines),
            false => (Arc::new(Mapping::of(lines)), 0),
        };
        // SAFETY: `used + lines` floats lie in the mapping.
        let start = unsafe { mapping.start.add(used) };
        Self { start, length, _mapping: mapping }
    }

    /// Takes `floats` from the current mapping or a new one: it, and the floats before them.
    fn cut(floats: usize) -> (Arc<Mapping>, usize) {
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let (mapping, used) = match (current.0.upgrade(), current.1) {
            (Some(mapping), used) if floats <= MAPPING - used => (mapping, used),
            _ => (Arc::new(Mapping::of(MAPPING)), 0),
        };
        *current = (Arc::downgrade(&mapping), used + floats);
        (mapping, used)
    }

    pub(super) fn floats(&self) -> &[f32] {
        // SAFETY: `zeros` gave this buffer `length` floats that are nobody else's, and any bits are a float.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    pub(super) fn floats_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `floats`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Mapping {
    /// Room for `floats`, zeros.
    fn of(floats: usize) -> Self {
        let bytes = floats.checked_mul(size_of::<f32>()).expect("bug: whoever asks has checked the size");
        let mut memory = memory(bytes);
        let start = NonNull::new(memory.as_mut_ptr()).expect("bug: a mapping is somewhere").cast();
        Self { start, _memory: memory }
    }
}

/// So many bytes of zeros from the system, in huge pages where it has them.
#[cfg(not(any(apart, miri)))]
fn memory(bytes: usize) -> Memory {
    let memory = Memory::map_anon(bytes)
        .unwrap_or_else(|error| panic!("no memory for {} MB of a network: {error}", bytes >> 20));
    // Where the system refuses, small pages do.
    #[cfg(target_os = "linux")]
    let _ = memory.advise(memmap2::Advice::HugePage);
    memory
}

/// A cache line of the heap.
#[cfg(any(apart, miri))]
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "only looked at through a mapping's start")] [f32; LINE]);

#[cfg(any(apart, miri))]
type Memory = Vec<Line>;

/// So many bytes of zeros from the heap.
#[cfg(any(apart, miri))]
fn memory(bytes: usize) -> Memory {
    vec![Line([0.0; LINE]); bytes.div_ceil(size_of::<Line>())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zero_on_lines_of_their_own_and_outlive_each_other() {
        let lengths = [0, 1, 16, 17, MAPPING / 3, MAPPING / 2, MAPPING / 2 + 1, 33];
        let mut buffers: Vec<Buffer> = lengths.map(Buffer::zeros).into();
        for (at, (buffer, length)) in buffers.iter_mut().zip(lengths).enumerate() {
            assert_eq!(buffer.floats().len(), length);
            assert_eq!(buffer.floats().as_ptr().align_offset(64), 0);
            assert!(buffer.floats().iter().all(|&float| float == 0.0));
            buffer.floats_mut().fill(at as f32);
        }
        for at in (0..buffers.len()).step_by(2) {
            buffers[at] = Buffer::zeros(lengths[at]);
        }
        for (at, buffer) in buffers.iter().enumerate() {
            let value = if at % 2 == 0 { 0.0 } else { at as f32 };
            assert!(buffer.floats().iter().all(|&float| float == value));
        }
    }

    #[test]
    fn memory_goes_with_the_last_buffer() {
        let mapping = Arc::downgrade(&Buffer::zeros(MAPPING / 2 + 1)._mapping);
        assert_eq!(mapping.strong_count(), 0);
    }
}
