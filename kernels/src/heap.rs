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

#[cfg(all(test, target_os = "linux", target_env = "gnu", not(miri)))]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    fn resident_mib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() / 1024
    }

    #[test]
    fn what_is_free_between_what_is_not_goes_back() {
        const BLOCK: usize = 32 << 10;
        let before = resident_mib();
        let mut blocks: Vec<Vec<u8>> = (0..64).flat_map(|_| (0..64).map(|_| vec![1; BLOCK])).collect();
        // One of 64 stays, so that nothing but pages in the middle can go.
        let mut at = 0;
        blocks.retain(|_| {
            at += 1;
            at % 64 == 0
        });
        let fragmented = resident_mib();
        assert!(fragmented > before + 100, "{before} MiB, then {fragmented}");
        trim();
        let trimmed = resident_mib();
        assert!(trimmed < before + 40, "{before} MiB, {fragmented}, then {trimmed}");
        assert!(blocks.iter().all(|block| block.iter().all(|byte| *byte == 1)));
    }
}
