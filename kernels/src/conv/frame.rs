//! What every step of a run gets to see: the arena, the batch, the member's place in the team and its scratch.
#![allow(unsafe_code)]

use super::lanes::Isa;
use super::micro::MicroKernels;
use super::step::Place;
use super::team::Member;

/// One member's view of one run.
pub(super) struct Frame<'a> {
    /// Start of the arena.
    pub(super) arena: ArenaPtr,
    /// Floats from the start of the arena to each slot; it may begin before the arena where only later parts are used.
    pub(super) slots: &'a [usize],
    /// At least as many zeros as any step reads at a pixel outside the picture.
    pub(super) zeros: &'a [f32],
    /// Scratch that all members share.
    pub(super) shared: ArenaPtr,
    pub(super) kernels: MicroKernels,
    pub(super) isa: Isa,
    /// Images of this run.
    pub(super) batch: usize,
    pub(super) member: &'a Member<'a>,
}

/// Start of memory that members write at disjoint places.
#[derive(Debug, Clone, Copy)]
pub(super) struct ArenaPtr(pub(super) *mut f32);

// SAFETY: a pointer by itself; whoever goes through it argues why nobody else does.
unsafe impl Send for ArenaPtr {}
// SAFETY: as above.
unsafe impl Sync for ArenaPtr {}

/// Memory of one member, kept from run to run.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) pointers: Vec<*const f32>,
    pub(super) floats: super::buffer::Buffer,
    /// Room for a list of slots.
    pub(super) slots: Vec<usize>,
}

// SAFETY: the pointers are only read in the piece of work that wrote them.
unsafe impl Send for Scratch {}

impl Frame<'_> {
    /// The float `offset` into the place's slot.
    ///
    /// # Safety
    /// The slot has room for the place's map, `batch` times, and `offset` lies in there.
    #[inline]
    pub(super) unsafe fn at(&self, place: Place, offset: usize) -> *mut f32 {
        debug_assert!(offset < self.batch * place.map.floats(), "{offset} of {place:?}");
        // SAFETY: the caller's promise; what is used of slots lies in the arena.
        unsafe { self.arena.0.add(self.slots[place.slot].wrapping_add(offset)) }
    }
}
