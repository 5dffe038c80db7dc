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
plain!(Sock, Http, Tcp, Process);

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

/// What the HTTP programs read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)] // the kernel's own names: struct, then field
pub struct Http {
    pub sock: Sock,
    pub task_files: u32,
    pub files_fdt: u32,
    pub fdtable_max_fds: u32,
    pub fdtable_fd: u32,
    pub file_inode: u32,
    pub file_private_data: u32,
    pub inode_mode: u32,
    pub socket_type: u32,
    pub socket_sk: u32,
    /// Where a task says that its call is a 32-bit one, and the bits that say so: such calls are numbered differently.
    pub task_compat: u32,
    pub task_compat_mask: u32,
    /// The agent's own process, which is left out.
    pub agent: u32,
    /// Bytes of the ring, from which its fill is judged.
    pub ring_bytes: u32,
    /// Bytes of a head to copy at most.
    pub head_bytes: u32,
    /// Messages without HTTP after which a socket is given up.
    pub misses_max: u32,
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
