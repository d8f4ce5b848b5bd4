//! Memory limits of control groups (Linux): what Docker, Kubernetes, Slurm and systemd set.
//!
//! A process is in one group of each hierarchy; a limit of any group above it applies too. Version 1 has a hierarchy for
//! memory, version 2 a single one. `/proc/self/cgroup` contains the group, `/proc/self/mountinfo` the folder in which the
//! hierarchy is visible:
//!
//! ```text
//! /proc/self/cgroup       0::/user.slice/job                              version 2
//!                         4:memory:/slurm/job_7                           version 1
//! /proc/self/mountinfo    30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
//!                         35 30 0:31 /docker/4f /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
//!                                    ^ the group whose folder is the mount point
//! ```

use super::Room;
use crate::cli::text;
use std::fs;
use std::path::{Path, PathBuf};

/// The names of the files of a version.
struct Version {
    kind: &'static str,
    limit: &'static str,
    used: &'static str,
    /// Of `memory.stat`: the cache of files, which the kernel frees before it ends a process.
    cache: [&'static str; 2],
}

const VERSIONS: [Version; 2] = [
    Version {
        kind: "cgroup",
        limit: "memory.limit_in_bytes",
        used: "memory.usage_in_bytes",
        cache: ["total_inactive_file", "total_active_file"],
    },
    Version { kind: "cgroup2", limit: "memory.max", used: "memory.current", cache: ["inactive_file", "active_file"] },
];

/// The room in every group of this process that has a limit. Paths begin at `root`, which is `/` except in tests.
pub fn rooms(root: &Path) -> Vec<Room> {
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap_or_default();
    let (groups, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    let mut rooms = Vec::new();
    for mount in mounts.lines().filter_map(mount) {
        let Some(group) = groups.lines().find_map(|line| group(line, mount.version)) else { continue };
        // A process outside of what is mounted (`/../other`): only the limits of the mount point are visible.
        let inside = Path::new(group).strip_prefix(&mount.group).unwrap_or(Path::new(""));
        let inside = if inside.components().any(|part| part.as_os_str() == "..") { Path::new("") } else { inside };
        rooms.extend(inside.ancestors().filter_map(|inside| room(root, &mount.point.join(inside), mount.version)));
    }
    rooms
}

/// A hierarchy with limits of memory.
struct Mount {
    version: &'static Version,
    /// The group whose folder is the mount point.
    group: PathBuf,
    point: PathBuf,
}

/// A line of `mountinfo`.
fn mount(line: &str) -> Option<Mount> {
    let (place, system) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (group, point) = (unescape(place.next()?), unescape(place.next()?));
    let mut system = system.split(' ');
    let (kind, options) = (system.next()?, system.nth(1)?);
    let version = VERSIONS.iter().find(|version| version.kind == kind)?;
    (kind == "cgroup2" || options.split(',').any(|option| option == "memory")).then_some(Mount {
        version,
        group,
        point,
    })
}

/// The group in a line of `/proc/self/cgroup`, if it is of the hierarchy for memory: `4:memory:/group`, `0::/group`.
fn group<'a>(line: &'a str, version: &Version) -> Option<&'a str> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, group) = (parts.next()?, parts.next()?);
    let fits = match version.kind {
        "cgroup2" => controllers.is_empty(),
        _ => controllers.split(',').any(|controller| controller == "memory"),
    };
    fits.then_some(group)
}

/// The room in one group; `None` without a limit.
fn room(root: &Path, folder: &Path, version: &Version) -> Option<Room> {
    let read = |name: &str| fs::read_to_string(root.join(folder.strip_prefix("/").ok()?).join(name)).ok();
    let number = |text: String| text.trim().parse::<u64>().ok();
    let (limit, used) = (number(read(version.limit)?)?, number(read(version.used)?)?);
    let stat = read("memory.stat").unwrap_or_default();
    let value =
        |key: &str| stat.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse::<u64>().ok());
    let cache: u64 = version.cache.iter().filter_map(|key| value(key)).sum();
    let bytes = limit.saturating_sub(used.saturating_sub(cache));
    // Version 1 writes "no limit" as the largest whole number of pages.
    let is_limited = limit < 1 << 62;
    is_limited.then(|| Room { bytes, limit: format!("the limit of its control group is {}", text::bytes(limit)) })
}

/// `\040` is a space, as in `/etc/fstab`.
fn unescape(text: &str) -> PathBuf {
    let mut parts = text.split('\\');
    let mut whole = parts.next().unwrap_or_default().to_string();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                whole.push(char::from(byte));
                whole.push_str(&part[3..]);
            }
            None => {
                whole.push('\\');
                whole.push_str(part);
            }
        }
    }
    whole.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root folder with these files; it is removed at the end.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("resnet-by-hand-cgroup-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            for (path, content) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
            Root(root)
        }

        fn bytes(&self) -> Vec<u64> {
            rooms(&self.0).into_iter().map(|room| room.bytes).collect()
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn every_group_above_the_process_counts() {
        let root = Root::new(
            "v2",
            &[
                ("proc/self/cgroup", "0::/slice/job\n"),
                ("proc/self/mountinfo", &format!("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n{V2}")),
                ("sys/fs/cgroup/slice/job/memory.max", "max\n"),
                ("sys/fs/cgroup/slice/job/memory.current", "5\n"),
                ("sys/fs/cgroup/slice/memory.max", "1000\n"),
                ("sys/fs/cgroup/slice/memory.current", "700\n"),
                ("sys/fs/cgroup/slice/memory.stat", "anon 500\ninactive_file 150\nactive_file 50\nfile 200\n"),
                // Another job, which uses more than it may.
                ("sys/fs/cgroup/other/memory.max", "10\n"),
                ("sys/fs/cgroup/other/memory.current", "20\n"),
            ],
        );
        assert_eq!(root.bytes(), [1000 - (700 - 150 - 50)]);
        fs::write(root.0.join("sys/fs/cgroup/slice/job/memory.max"), "100").unwrap();
        assert_eq!(root.bytes(), [95, 500]);
        // Above the limit.
        fs::write(root.0.join("sys/fs/cgroup/slice/job/memory.current"), "101").unwrap();
        assert_eq!(root.bytes(), [0, 500]);
    }

    #[test]
    fn version_1_has_a_hierarchy_of_its_own_for_memory() {
        let root = Root::new(
            "v1",
            &[
                ("proc/self/cgroup", "9:cpu,cpuacct:/a\n4:memory:/job 7\n0::/ignored\n"),
                (
                    "proc/self/mountinfo",
                    "33 30 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                     35 30 0:31 / /mnt/me\\040mory rw - cgroup cgroup rw,memory\n",
                ),
                ("mnt/me mory/job 7/memory.limit_in_bytes", "900"),
                ("mnt/me mory/job 7/memory.usage_in_bytes", "600"),
                ("mnt/me mory/job 7/memory.stat", "inactive_file 500\ntotal_inactive_file 40\ntotal_active_file 2\n"),
                ("mnt/me mory/memory.limit_in_bytes", "9223372036854771712"),
                ("mnt/me mory/memory.usage_in_bytes", "600"),
            ],
        );
        assert_eq!(root.bytes(), [342]);
    }

    /// In a container `/sys/fs/cgroup` is the container's group, whose name outside may or may not be known inside.
    #[test]
    fn in_a_container_the_mount_point_is_the_group() {
        let files = |mounted: &str, group: &str| {
            let mounts = format!("40 30 0:31 {mounted} /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
            let root = Root::new(
                "container",
                &[
                    ("proc/self/cgroup", &format!("4:memory:{group}\n")),
                    ("proc/self/mountinfo", &mounts),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "64"),
                    ("sys/fs/cgroup/memory/memory.usage_in_bytes", "4"),
                    ("sys/fs/cgroup/memory/inner/memory.limit_in_bytes", "32"),
                    ("sys/fs/cgroup/memory/inner/memory.usage_in_bytes", "4"),
                ],
            );
            root.bytes()
        };
        assert_eq!(files("/docker/4f", "/docker/4f"), [60]);
        assert_eq!(files("/docker/4f", "/docker/4f/inner"), [28, 60]);
        assert_eq!(files("/", "/"), [60]);
        assert_eq!(files("/", "/../../elsewhere"), [60]);
        assert_eq!(files("/docker/4f", "/elsewhere"), [60]);
    }

    #[test]
    fn without_control_groups_there_is_no_limit() {
        assert!(Root::new("none", &[("proc/self/mountinfo", V2)]).bytes().is_empty());
        assert!(rooms(Path::new("/nowhere")).is_empty());
        assert!(
            Root::new("odd", &[("proc/self/mountinfo", "- \n1 2\n x - y\n"), ("proc/self/cgroup", "::\n:\n")])
                .bytes()
                .is_empty()
        );
    }
}
