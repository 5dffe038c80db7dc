//! What the control group that the agent runs in allows of memory, and whether it makes the agent wait for some.
//!
//! Read from `/proc/self/cgroup` and the hierarchy below `/sys/fs/cgroup`, version 2 or 1. Invariant: where nothing can be read,
//! nothing is limited.

use std::path::{Path, PathBuf};

/// Of the group's limit, what is left to what the group holds besides: page cache under writing, page tables, sockets.
pub(crate) const OTHERS_PERCENT: u64 = 10;
/// Percent of the last ten seconds in which some task of the group waited for memory, from which on it is stalled.
const STALLED_PERCENT: f64 = 20.0;

/// Files that say so. Empty outside of any group.
#[derive(Debug, Default)]
pub(crate) struct Cgroup {
    /// Of the group and all above it.
    limits: Vec<PathBuf>,
    pressure: Option<PathBuf>,
}

impl Cgroup {
    /// That of this process.
    pub(crate) fn own() -> Cgroup {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Cgroup::find(&groups, Path::new("/sys/fs/cgroup"))
    }

    fn find(groups: &str, root: &Path) -> Cgroup {
        for line in groups.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            let (root, limit) = match controllers {
                "" if root.join("cgroup.controllers").exists() => (root.to_owned(), "memory.max"),
                _ if controllers.split(',').any(|name| name == "memory") => {
                    (root.join("memory"), "memory.limit_in_bytes")
                }
                _ => continue,
            };
            let own = root.join(path.trim_start_matches('/'));
            let groups = own.ancestors().take_while(|group| group.starts_with(&root));
            let limits = groups.map(|group| group.join(limit)).filter(|file| file.exists()).collect();
            let pressure = Some(own.join("memory.pressure")).filter(|file| file.exists());
            return Cgroup { limits, pressure };
        }
        Cgroup::default()
    }

    /// The smallest limit, without what is left to others. None: no limit.
    pub(crate) fn memory_bytes_max(&self) -> Option<u64> {
        let read = |file: &PathBuf| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
        // Version 1 says "no limit" by a number near 2^63.
        let smallest = self.limits.iter().filter_map(read).min().filter(|bytes| *bytes < 1 << 60)?;
        Some(smallest / 100 * (100 - OTHERS_PERCENT))
    }

    /// What is left of a grant where less than it is allowed.
    pub(crate) fn least(&self, granted: u64) -> u64 {
        self.memory_bytes_max().map_or(granted, |allowed| allowed.min(granted))
    }

    /// Whether memory is so short in the group that its tasks wait for it. Of a group with a limit: elsewhere it is the host that is
    /// short, and little of it the agent's.
    pub(crate) fn is_stalled(&self) -> bool {
        let Some(pressure) = self.pressure.as_ref().filter(|_| self.memory_bytes_max().is_some()) else { return false };
        stalled_percent(&std::fs::read_to_string(pressure).unwrap_or_default()) >= STALLED_PERCENT
    }
}

/// Of the line `some avg10=1.53 avg60=0.87 avg300=0.73 total=14803`.
fn stalled_percent(pressure: &str) -> f64 {
    let some = pressure.lines().find_map(|line| line.strip_prefix("some avg10="));
    some.and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_smallest_limit_on_the_way_up_counts_and_a_tenth_is_left_to_others() {
        let root = tree(&[
            ("cgroup.controllers", "memory"),
            ("memory.max", "1\n"),
            ("pods/memory.max", "1000\n"),
            ("pods/agent/memory.max", "max\n"),
            ("pods/agent/memory.pressure", "some avg10=20.00 avg60=0.87 avg300=0.73 total=14803\n"),
        ]);
        let above = Cgroup::find("0::/pods/agent\n", &root.path().join("pods"));
        assert_eq!(above.memory_bytes_max(), None, "not the root of a hierarchy");
        std::fs::remove_file(root.path().join("memory.max")).unwrap();
        let group = Cgroup::find("0::/pods/agent\n", root.path());
        assert_eq!((group.memory_bytes_max(), group.is_stalled()), (Some(900), true));
        assert_eq!((group.least(1_000), group.least(800)), (900, 800));
        std::fs::write(root.path().join("pods/memory.max"), "max\n").unwrap();
        assert_eq!((group.memory_bytes_max(), group.is_stalled()), (None, false));
    }

    #[test]
    fn version_1_says_no_limit_by_a_large_number() {
        let root = tree(&[
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/agent/memory.limit_in_bytes", "2000\n"),
        ]);
        let groups = "5:cpu,cpuacct:/agent\n4:hugetlb,memory:/agent\n0::/\n";
        assert_eq!(Cgroup::find(groups, root.path()).memory_bytes_max(), Some(1_800));
        std::fs::remove_file(root.path().join("memory/agent/memory.limit_in_bytes")).unwrap();
        assert_eq!(Cgroup::find(groups, root.path()).memory_bytes_max(), None);
    }

    #[test]
    fn outside_of_any_group_nothing_is_limited() {
        let root = tree(&[]);
        let nowhere = Cgroup::find("", root.path());
        assert_eq!((nowhere.memory_bytes_max(), nowhere.is_stalled()), (None, false));
    }
}
