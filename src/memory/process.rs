//! What the system says of this process's memory. Linux; elsewhere nothing is known.

use std::fs;

/// Where the limit of a control group stands: version 2, then version 1. In a container the root is its own group.
const LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// Version 1 says with a number close to the largest that there is no limit.
const NO_LIMIT: u64 = 1 << 60;

/// Bytes that the control group may have; `None` where there is no limit.
pub fn limit() -> Option<u64> {
    LIMITS.iter().find_map(|path| parse_limit(&fs::read_to_string(path).ok()?))
}

fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < NO_LIMIT)
}

/// Bytes of memory in use now, and the most that ever were: `VmRSS` and `VmHWM` of `/proc/self/status`.
pub fn resident() -> Option<(u64, u64)> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    Some((field(&status, "VmRSS:")?, field(&status, "VmHWM:")?))
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_say_that_there_is_no_limit() {
        assert_eq!(parse_limit("4294967296\n"), Some(4 << 30));
        assert_eq!(parse_limit("max\n"), None);
        assert_eq!(parse_limit("9223372036854771712\n"), None);
    }

    #[test]
    fn fields_are_kibibytes() {
        let status = "Name:\tconvoy\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!((field(status, "VmRSS:"), field(status, "VmHWM:")), (Some(1 << 20), Some(2 << 20)));
        assert_eq!(field(status, "VmSwap:"), None);
    }
}
