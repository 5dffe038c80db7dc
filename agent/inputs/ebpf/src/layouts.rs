//! Where the running kernel keeps the fields that the programs read: from its type information to `ollystack_ebpf::layout`.
//!
//! Invariant: a layout is complete or it is an error that names the missing field.

use crate::btf::Btf;
use crate::config::Config;
use crate::host::Pages;
use ollystack_ebpf::layout::{Http, Process, Sock, Tcp};

/// A task whose call is a 32-bit one: the field of its `thread_info` that says so, and the bits.
#[cfg(target_arch = "x86_64")]
const COMPAT: (&str, u32) = ("status", 1 << 1); // TS_COMPAT
#[cfg(not(target_arch = "x86_64"))]
const COMPAT: (&str, u32) = ("flags", 1 << 22); // TIF_32BIT of arm64

fn field(btf: &Btf<Pages>, of: &str, name: &str) -> Result<u32, String> {
    btf.offset(of, name).ok_or_else(|| format!("this kernel's struct {of} has no field {name} that can be read"))
}

pub(crate) fn process(btf: &Btf<Pages>) -> Result<Process, String> {
    Ok(Process {
        task_tgid: field(btf, "task_struct", "tgid")?,
        task_real_parent: field(btf, "task_struct", "real_parent")?,
        task_exit_code: field(btf, "task_struct", "exit_code")?,
        task_signal: field(btf, "task_struct", "signal")?,
        task_start_time: field(btf, "task_struct", "start_time")?,
        signal_live: field(btf, "signal_struct", "live")?,
        binprm_filename: field(btf, "linux_binprm", "filename")?,
    })
}

pub(crate) fn tcp(btf: &Btf<Pages>) -> Result<Tcp, String> {
    Ok(Tcp {
        sock: sock(btf)?,
        sock_err: field(btf, "sock", "sk_err")?,
        sock_flags: field(btf, "sock_common", "skc_flags")?,
        tcp_srtt_us: field(btf, "tcp_sock", "srtt_us")?,
        tcp_bytes_sent: field(btf, "tcp_sock", "bytes_sent")?,
        tcp_bytes_retrans: field(btf, "tcp_sock", "bytes_retrans")?,
        tcp_bytes_received: field(btf, "tcp_sock", "bytes_received")?,
    })
}

pub(crate) fn http(btf: &Btf<Pages>, config: &Config) -> Result<Http, String> {
    let compat =
        field(btf, "task_struct", "thread_info").and_then(|base| Ok(base + field(btf, "thread_info", COMPAT.0)?));
    Ok(Http {
        sock: sock(btf)?,
        task_files: field(btf, "task_struct", "files")?,
        files_fdt: field(btf, "files_struct", "fdt")?,
        fdtable_max_fds: field(btf, "fdtable", "max_fds")?,
        fdtable_fd: field(btf, "fdtable", "fd")?,
        file_inode: field(btf, "file", "f_inode")?,
        file_private_data: field(btf, "file", "private_data")?,
        inode_mode: field(btf, "inode", "i_mode")?,
        socket_type: field(btf, "socket", "type")?,
        socket_sk: field(btf, "socket", "sk")?,
        task_compat: compat.as_ref().copied().unwrap_or(0),
        // A kernel that cannot tell has no 32-bit calls to tell apart.
        task_compat_mask: if compat.is_ok() { COMPAT.1 } else { 0 },
        agent: std::process::id(),
        ring_bytes: config.http_ring_bytes,
        head_bytes: config.http_head_bytes,
        misses_max: config.http_misses_max,
    })
}

fn sock(btf: &Btf<Pages>) -> Result<Sock, String> {
    let layout = Sock {
        skc_family: field(btf, "sock_common", "skc_family")?,
        skc_dport: field(btf, "sock_common", "skc_dport")?,
        inet_sport: field(btf, "inet_sock", "inet_sport")?,
        skc_rcv_saddr: field(btf, "sock_common", "skc_rcv_saddr")?,
        skc_daddr: field(btf, "sock_common", "skc_daddr")?,
        skc_v6_rcv_saddr: field(btf, "sock_common", "skc_v6_rcv_saddr")?,
        skc_v6_daddr: field(btf, "sock_common", "skc_v6_daddr")?,
    };
    // The programs take both ports, as one word, for the identity of a connection.
    if field(btf, "sock_common", "skc_num")? != layout.skc_dport + 2 {
        return Err("this kernel's struct sock_common keeps its two ports apart".into());
    }
    Ok(layout)
}
