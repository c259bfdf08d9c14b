//! What the allocator keeps of memory that is free. It owns one call; when it is worth making is the caller's to know.
//!
//! glibc gives back the end of a heap and nothing in its middle, so that what a process has resident is the most it has ever
//! needed in each place: it creeps up for hours under a load that stays the same, and stays up after a burst.
#![allow(unsafe_code)]

/// Gives pages that nothing lies on back to the system. Takes about a millisecond for a heap of a hundred MiB, during which
/// threads that share a part of the heap wait. Does nothing where the C library is not glibc.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
    // SAFETY: the call takes the allocator's own locks and touches only what is free; 0 is what to leave at the end.
    unsafe {
        libc::malloc_trim(0);
    }
}
