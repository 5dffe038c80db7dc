//! `system.filesystem.*`, from the host's mount table and statvfs(2).
//!
//! statvfs on a dead network or failing disk can hang for ever, so a thread of its own calls it and this scraper waits for
//! the answer only [`PATIENCE`]. One mount a device: bind mounts show the same space again. Invariant: a hanging filesystem
//! costs its own samples and those behind it, and a quarter of a second each reading.

use crate::scrape::{Context, Roots, ScrapeError, Scraper};
use crate::series::{Catalog, Definition, Groups, amount, gauge};
use crate::{read, text};
use ollystack_record::{Series, value};
use ollystack_schema::names::semconv;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

const USAGE: Definition = amount("system.filesystem.usage", "By", "Space of the filesystem by state");
const UTILIZATION: Definition = gauge(
    "system.filesystem.utilization",
    "1",
    "Share of the space that users can have which is used, as df(1) has it",
);
const LIMIT: Definition = amount("system.filesystem.limit", "By", "Size of the filesystem");

const MOUNTS_MAX: usize = 128;
const PATIENCE: Duration = Duration::from_millis(250);

/// Filesystems without space of their own. autofs must not be asked at all: asking mounts it.
const WITHOUT_SPACE: [&str; 31] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "iso9660",
    "mqueue",
    "nsfs",
    "overlay",
    "proc",
    "pstore",
    "ramfs",
    "rootfs",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "squashfs",
    "sysfs",
    "tracefs",
    "udf",
    "erofs",
    "aufs",
    "nfsd",
    "fuse.lxcfs",
];

/// Filesystems whose server may be away. Anything in user space may be, too.
const OVER_NETWORK: [&str; 12] =
    ["nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "lustre", "9p", "afs", "ncpfs", "virtiofs"];

#[derive(Clone, Debug, PartialEq)]
struct Mount {
    device: String,
    mount_point: String,
    kind: String,
    read_only: bool,
    device_number: String,
}

/// Space in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Space {
    used: u64,
    free: u64,
    reserved: u64,
}

struct Answer {
    spaces: Vec<(Mount, Space)>,
}

pub(crate) struct Filesystem {
    table: PathBuf,
    root: PathBuf,
    over_network: bool,
    worker: Option<(SyncSender<Vec<Mount>>, Receiver<Answer>)>,
    waiting: bool,
    groups: Groups<5>,
}

impl Filesystem {
    pub(crate) fn new(roots: &Roots, over_network: bool) -> Filesystem {
        Filesystem {
            table: roots.own("mountinfo"),
            root: roots.root.clone(),
            over_network,
            worker: None,
            waiting: false,
            groups: Groups::new(MOUNTS_MAX),
        }
    }

    /// Ask the worker, and wait a little. The thread is started on first use and ends when this is dropped.
    fn ask(&mut self, mounts: Vec<Mount>) -> Result<Answer, ScrapeError> {
        if self.worker.is_none() {
            self.worker = Some(start(self.root.clone())?);
        }
        let Some((questions, answers)) = &self.worker else { return Err(stuck("no thread")) };
        // An answer to an earlier question is taken as the answer to this one: it is the same question.
        if !self.waiting && questions.try_send(mounts).is_err() {
            self.worker = None;
            return Err(stuck("its thread has ended"));
        }
        self.waiting = true;
        match answers.recv_timeout(PATIENCE) {
            Ok(answer) => {
                self.waiting = false;
                Ok(answer)
            }
            Err(RecvTimeoutError::Timeout) => Err(stuck("a filesystem does not answer statvfs")),
            Err(RecvTimeoutError::Disconnected) => {
                (self.worker, self.waiting) = (None, false);
                Err(stuck("its thread has ended"))
            }
        }
    }
}

fn stuck(why: &str) -> ScrapeError {
    ScrapeError::Stuck(format!("filesystems are not measured: {why}"))
}

/// The thread that may hang. Each question is a list of mounts, each answer their space.
fn start(root: PathBuf) -> Result<(SyncSender<Vec<Mount>>, Receiver<Answer>), ScrapeError> {
    let (questions, inbox) = sync_channel::<Vec<Mount>>(1);
    let (outbox, answers) = sync_channel(1);
    let work = move || {
        for mounts in inbox {
            let space =
                |mount: Mount| Some((space(&root, &mount.mount_point)?, mount)).map(|(space, mount)| (mount, space));
            let spaces = mounts.into_iter().filter_map(space).collect();
            if outbox.send(Answer { spaces }).is_err() {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("host-statvfs".into()).stack_size(128 << 10).spawn(work);
    match thread {
        Ok(_) => Ok((questions, answers)),
        Err(error) => Err(ScrapeError::Stuck(format!("filesystems are not measured: no thread: {error}"))),
    }
}

fn space(root: &Path, mount_point: &str) -> Option<Space> {
    let found = rustix::fs::statvfs(root.join(mount_point.trim_start_matches('/'))).ok()?;
    space_of(found.f_frsize, found.f_blocks, found.f_bfree, found.f_bavail)
}

/// `None` for a filesystem without blocks.
fn space_of(block_bytes: u64, blocks: u64, free: u64, available: u64) -> Option<Space> {
    let bytes = |blocks: u64| blocks.saturating_mul(block_bytes);
    let (free, available) = (free.min(blocks), available.min(free).min(blocks));
    let space = Space { used: bytes(blocks - free), free: bytes(available), reserved: bytes(free - available) };
    (bytes(blocks) > 0).then_some(space)
}

impl Scraper for Filesystem {
    fn name(&self) -> &'static str {
        "filesystem"
    }

    fn scrape(&mut self, context: &mut Context<'_>) -> Result<(), ScrapeError> {
        read::read_once(&self.table, context.buffer).map_err(|source| ScrapeError::read(&self.table, source))?;
        let mounts = select(context.buffer, self.over_network);
        for (mount, space) in self.ask(mounts)?.spaces {
            let catalog = &mut *context.catalog;
            let key = format!("{}\0{}", mount.device_number, mount.mount_point);
            let Some(series) = self.groups.get(key.as_bytes(), || series(catalog, &mount)) else { continue };
            let samples = &mut *context.samples;
            samples.int(&series[0], space.used);
            samples.int(&series[1], space.free);
            samples.int(&series[2], space.reserved);
            samples.double(&series[3], space.used as f64 / (space.used + space.free) as f64);
            samples.int(&series[4], space.used + space.free + space.reserved);
        }
        self.groups.sweep();
        Ok(())
    }
}

fn series(catalog: &mut Catalog, mount: &Mount) -> [Arc<Series>; 5] {
    let attributes = vec![
        value::string(semconv::SYSTEM_DEVICE, &mount.device),
        value::string(semconv::SYSTEM_FILESYSTEM_MOUNTPOINT, &mount.mount_point),
        value::string(semconv::SYSTEM_FILESYSTEM_TYPE, &mount.kind),
        value::string(semconv::SYSTEM_FILESYSTEM_MODE, if mount.read_only { "ro" } else { "rw" }),
    ];
    let [used, free, reserved] = ["used", "free", "reserved"].map(|state| {
        let mut attributes = attributes.clone();
        attributes.push(value::string(semconv::SYSTEM_FILESYSTEM_STATE, state));
        catalog.series(&USAGE, attributes)
    });
    [used, free, reserved, catalog.series(&UTILIZATION, attributes.clone()), catalog.series(&LIMIT, attributes)]
}

/// The mounts worth measuring: one a device, the one with the shortest path.
fn select(table: &[u8], over_network: bool) -> Vec<Mount> {
    let mut selected: Vec<Mount> = Vec::new();
    for mount in text::lines(table).filter_map(parse) {
        let kind = mount.kind.as_str();
        let may_be_away = OVER_NETWORK.contains(&kind) || kind.starts_with("fuse");
        if WITHOUT_SPACE.contains(&kind) || (may_be_away && !over_network) {
            continue;
        }
        match selected.iter().position(|other| other.device_number == mount.device_number) {
            Some(at) if selected[at].mount_point.len() > mount.mount_point.len() => selected[at] = mount,
            None if selected.len() < MOUNTS_MAX => selected.push(mount),
            _ => {}
        }
    }
    selected
}

/// A line of mountinfo, by the procfs crate; spaces and the like in paths come as octal escapes.
fn parse(line: &[u8]) -> Option<Mount> {
    let line = std::str::from_utf8(line).ok()?;
    let mount = procfs::process::MountInfo::from_line(line).ok()?;
    Some(Mount {
        device: unescaped(mount.mount_source.as_deref().unwrap_or_default()),
        mount_point: unescaped(mount.mount_point.to_str()?),
        kind: mount.fs_type,
        read_only: mount.mount_options.contains_key("ro"),
        device_number: mount.majmin,
    })
}

/// `\040` is a space: a backslash and three octal digits are one byte.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(value) => {
                bytes.push(value);
                rest = &tail[3..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
        27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard\n\
        30 27 254:0 /var/lib/x /mnt/bind rw,relatime - ext4 /dev/vda rw\n\
        31 27 8:17 / /mnt/my\\040disk ro,relatime - xfs /dev/sdb1 ro\n\
        32 27 0:50 / /mnt/nfs rw - nfs4 server:/export rw\n\
        33 27 0:51 / /mnt/ssh rw - fuse.sshfs host:/ rw\n\
        34 27 0:52 / /home rw - autofs auto rw\n\
        torn line\n";

    #[test]
    fn each_local_device_is_measured_once_and_nothing_that_may_hang() {
        let points: Vec<_> = select(TABLE.as_bytes(), false).into_iter().map(|mount| mount.mount_point).collect();
        assert_eq!(points, ["/", "/mnt/my disk"]);
        let points: Vec<_> = select(TABLE.as_bytes(), true).into_iter().map(|mount| mount.mount_point).collect();
        assert_eq!(points, ["/", "/mnt/my disk", "/mnt/nfs", "/mnt/ssh"]);
    }

    #[test]
    fn what_a_mount_is_comes_from_the_table() {
        let mounts = select(TABLE.as_bytes(), false);
        assert!(mounts[1].read_only && mounts[1].kind == "xfs" && mounts[1].device == "/dev/sdb1");
        assert!(!mounts[0].read_only);
    }

    #[test]
    fn the_states_of_a_filesystem_add_up_even_if_the_filesystem_lies() {
        assert_eq!(space_of(4096, 100, 30, 20), Some(Space { used: 70 * 4096, free: 20 * 4096, reserved: 10 * 4096 }));
        assert_eq!(space_of(1, 10, 20, 30), Some(Space { used: 0, free: 10, reserved: 0 }));
        assert_eq!(space_of(4096, 0, 0, 0), None);
    }

    #[test]
    fn a_filesystem_that_hangs_is_reported_and_its_answer_is_taken_when_it_comes() {
        let roots = Roots::new(Path::new("/"));
        let mut filesystem = Filesystem::new(&roots, false);
        let (questions, _inbox) = sync_channel(1);
        let (outbox, answers) = sync_channel(1);
        filesystem.worker = Some((questions, answers));
        assert!(filesystem.ask(Vec::new()).is_err());
        assert!(filesystem.ask(Vec::new()).is_err(), "still waiting, not asking again");
        outbox.send(Answer { spaces: Vec::new() }).unwrap();
        assert!(filesystem.ask(Vec::new()).is_ok());
    }
}
