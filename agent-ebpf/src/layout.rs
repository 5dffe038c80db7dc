//! Where the running kernel keeps what the programs read. The agent fills these from BTF before it loads the programs.
//!
//! A field is the byte offset of the kernel's field of that name from the start of the struct it is named after.

use crate::Plain;

macro_rules! plain {
    ($($name:ty),*) => { $(
        // SAFETY: repr(C) and u32 only, so there is no padding.
        unsafe impl Plain for $name {}
    )* };
}
plain!(Sock, Iter, Flow, Tcp, Process, Cgroup, Oom, Block, RunQueue);

/// `struct sock`, its common part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)] // the kernel's own field names
pub struct Sock {
    pub skc_family: u32,
    /// Remote port in network order, with `skc_num`, the local port in host order, right behind it. The kernel clears the
    /// latter when a connection closes.
    pub skc_dport: u32,
    /// Local port in network order, which stays.
    pub inet_sport: u32,
    pub skc_rcv_saddr: u32,
    pub skc_daddr: u32,
    pub skc_v6_rcv_saddr: u32,
    pub skc_v6_daddr: u32,
}

impl Flow {
    /// Until the agent fills it.
    // SAFETY: any bit pattern is a valid value (`Plain`).
    pub const UNFILLED: Flow = unsafe { core::mem::zeroed() };
}

/// Where a `struct msghdr` of the kernel says where the bytes are, its `struct iov_iter` within it. All from the message's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Iter {
    /// What the bytes lie in: its field, and the bits of it that tell.
    pub kind: u32,
    /// See `kind`.
    pub kind_mask: u32,
    /// The kind that is pieces told of in an array of the kernel's (`ITER_IOVEC`), and where its address is.
    pub iovec: u32,
    /// See `iovec`.
    pub iov: u32,
    /// The kind that is one piece (`ITER_UBUF`, from Linux 6.0), and where its address is. A kind that no kernel has if it has none.
    pub ubuf: u32,
    /// See `ubuf`.
    pub ubuf_address: u32,
    /// How much of the first piece is done with.
    pub iov_offset: u32,
    /// Which argument of `tcp_recvmsg` and its twins are the flags, counted from 0: 3, or 4 up to Linux 5.18.
    pub receive_flags: u32,
}

/// What the flow programs read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)] // the kernel's own names: struct, then field
pub struct Flow {
    pub sock: Sock,
    pub iter: Iter,
    pub task_files: u32,
    pub files_fdt: u32,
    pub fdtable_max_fds: u32,
    pub fdtable_fd: u32,
    pub file_inode: u32,
    pub file_private_data: u32,
    pub inode_mode: u32,
    pub socket_sk: u32,
    /// `SOCK_STREAM` or `SOCK_DGRAM`, 16 bits.
    pub sk_type: u32,
    /// `IPPROTO_TCP` and the like, 16 bits.
    pub sk_protocol: u32,
    pub tcp_write_seq: u32,
    pub tcp_copied_seq: u32,
    pub tcp_rcv_nxt: u32,
    pub tcp_snd_una: u32,
    pub tcp_bytes_received: u32,
    pub tcp_bytes_acked: u32,
    /// Where a task says that its call is a 32-bit one, and the bits that say so: such calls are numbered differently.
    pub task_compat: u32,
    pub task_compat_mask: u32,
    /// The agent's own process, which is left out.
    pub agent: u32,
    /// Bytes of the ring, from which its fill is judged.
    pub ring_bytes: u32,
    /// Bytes of a call to copy at most.
    pub head_bytes: u32,
    /// Calls of no protocol that is known after which a socket is given up.
    pub misses_max: u32,
    /// A bit for each protocol of `sniff` that is wanted.
    pub protocols: u32,
    /// Whether a program's registers can be asked for (`bpf_task_pt_regs`).
    pub registers: u32,
}

/// What the TCP programs read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)] // the kernel's own names: struct, then field
pub struct Tcp {
    pub sock: Sock,
    pub sock_err: u32,
    pub sock_flags: u32,
    pub tcp_srtt_us: u32,
    pub tcp_bytes_sent: u32,
    pub tcp_bytes_retrans: u32,
    pub tcp_bytes_received: u32,
}

/// What the process programs read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)] // the kernel's own names: struct, then field
pub struct Process {
    pub task_tgid: u32,
    pub task_real_parent: u32,
    pub task_exit_code: u32,
    pub task_signal: u32,
    pub task_start_time: u32,
    pub signal_live: u32,
    pub binprm_filename: u32,
}

/// From a task to the folders of its control group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)] // the kernel's own names: struct, then field
pub struct Cgroup {
    pub task_cgroups: u32,
    /// The group's state by the controller that is asked for.
    pub css_set_subsys: u32,
    pub css_cgroup: u32,
    /// A number that no other state ever has.
    pub css_serial_nr: u32,
    pub cgroup_kn: u32,
    pub kernfs_node_name: u32,
    pub kernfs_node_parent: u32,
}

/// What the program that sees kills for want of memory reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)] // the kernel's own names: struct, then field
pub struct Oom {
    pub cgroup: Cgroup,
    pub task_pid: u32,
    pub task_tgid: u32,
    pub task_comm: u32,
    pub task_cred: u32,
    pub cred_uid: u32,
    pub task_mm: u32,
    /// The first of four counts of pages: of files, anonymous, swapped out, shared.
    pub mm_rss_stat: u32,
    /// Bytes from one to the next.
    pub rss_stat_bytes: u32,
}

/// What the program that sees block devices reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)] // the kernel's own names: struct, then field
pub struct Block {
    /// With `rq_flags` right behind it.
    pub request_cmd_flags: u32,
    pub request_data_len: u32,
    pub request_start_time_ns: u32,
    /// To the disk (before Linux 5.17), or to the queue that has it.
    pub request_disk: u32,
    /// From the queue to the disk; [`NO_HOP`] where the request has the disk itself.
    pub queue_disk: u32,
    /// With `first_minor` right behind it.
    pub disk_major: u32,
    /// The bit of `rq_flags` that a request bears while it is a part of another.
    pub flush_sequence: u32,
}

/// In place of an offset: there is nothing to follow.
pub const NO_HOP: u32 = u32::MAX;

/// What the programs that see threads wait for a CPU read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)] // the kernel's own names: struct, then field
pub struct RunQueue {
    pub cgroup: Cgroup,
    pub task_pid: u32,
    /// 32 bits of what a thread is doing; 0 is running.
    pub task_state: u32,
}
