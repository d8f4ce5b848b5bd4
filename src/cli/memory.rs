//! Memory: the peak of this process, and what it may still allocate. Known on Linux only.
//!
//! Three things limit a process: the free memory of the machine, its control groups ([`cgroup`]: containers and batch
//! systems), and `ulimit -v`.

mod cgroup;
pub mod estimate;

use super::text;
use std::fs;
use std::path::Path;

/// What the process may still allocate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    pub bytes: u64,
    /// What limits it, for an error message.
    pub limit: String,
}

/// The peak memory of this process, in bytes.
pub fn peak() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// The memory that this process can still allocate without swapping, in bytes.
pub fn available() -> Option<u64> {
    room().map(|room| room.bytes)
}

/// The tightest of the limits.
pub fn room() -> Option<Room> {
    room_in(Path::new("/"))
}

/// The tightest of the limits in the files of `/proc` and `/sys` in `root`.
fn room_in(root: &Path) -> Option<Room> {
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap_or_default();
    let machine = kilobytes(&read("proc/meminfo"), "MemAvailable:")
        .map(|bytes| Room { bytes, limit: "the free memory of the machine".to_string() });
    let ulimit = address_space(&read("proc/self/limits")).map(|limit| Room {
        bytes: limit.saturating_sub(kilobytes(&read("proc/self/status"), "VmSize:").unwrap_or(0)),
        limit: format!("the limit of `ulimit -v` is {}", text::bytes(limit)),
    });
    machine.into_iter().chain(ulimit).chain(cgroup::rooms(root)).min_by_key(|room| room.bytes)
}

/// The value of a line `key  123 kB`, in bytes.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The soft limit of the address space in `/proc/self/limits`.
fn address_space(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_counts() {
        let root = std::env::temp_dir().join(format!("resnet-by-hand-memory-{}", std::process::id()));
        let write = |name: &str, content: &str| {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), content).unwrap();
        };
        let limits =
            |soft: &str| format!("Max open files 1 2 files\nMax address space         {soft}   unlimited   bytes\n");
        let found = || room_in(&root).map(|room| (room.bytes, room.limit.split(' ').next_back().unwrap().to_string()));
        assert_eq!(found(), None);
        write("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:      800 kB\n");
        assert_eq!(found(), Some((800 * 1024, "machine".to_string())));
        write("proc/self/limits", &limits("unlimited"));
        write("proc/self/status", "VmPeak: 900 kB\nVmSize:\t     300 kB\n");
        assert_eq!(found(), Some((800 * 1024, "machine".to_string())));
        write("proc/self/limits", &limits("512000"));
        assert_eq!(found(), Some((512_000 - 300 * 1024, "kB".to_string())));
        // A limit below what is in use.
        write("proc/self/limits", &limits("1000"));
        assert_eq!(found(), Some((0, "kB".to_string())));
        fs::remove_dir_all(&root).unwrap();
    }
}
