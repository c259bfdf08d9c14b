//! A process of its own, because what it measures is the whole process's: memory that is resident before and after a trim.
#![cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use kernels::heap::trim;

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
