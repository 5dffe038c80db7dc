//! Where the running kernel keeps the fields that the programs read: from its type information to `ollystack_ebpf::layout`.
//!
//! Invariant: a layout is complete or it is an error that names the missing field.

use crate::btf::Btf;
use crate::config::Config;
use crate::host::Pages;
use ollystack_ebpf::layout::{Block, Cgroup, Flow, Iter, NO_HOP, Oom, Process, RunQueue, Sock, Tcp};

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

pub(crate) fn flow(btf: &Btf<Pages>, config: &Config) -> Result<Flow, String> {
    let compat =
        field(btf, "task_struct", "thread_info").and_then(|base| Ok(base + field(btf, "thread_info", COMPAT.0)?));
    Ok(Flow {
        sock: sock(btf)?,
        // Two ways of attaching need it; the others do without.
        iter: iter(btf).unwrap_or_default(),
        task_files: field(btf, "task_struct", "files")?,
        files_fdt: field(btf, "files_struct", "fdt")?,
        fdtable_max_fds: field(btf, "fdtable", "max_fds")?,
        fdtable_fd: field(btf, "fdtable", "fd")?,
        file_inode: field(btf, "file", "f_inode")?,
        file_private_data: field(btf, "file", "private_data")?,
        inode_mode: field(btf, "inode", "i_mode")?,
        socket_sk: field(btf, "socket", "sk")?,
        sk_type: field(btf, "sock", "sk_type")?,
        sk_protocol: field(btf, "sock", "sk_protocol")?,
        tcp_write_seq: field(btf, "tcp_sock", "write_seq")?,
        tcp_copied_seq: field(btf, "tcp_sock", "copied_seq")?,
        tcp_rcv_nxt: field(btf, "tcp_sock", "rcv_nxt")?,
        tcp_snd_una: field(btf, "tcp_sock", "snd_una")?,
        tcp_bytes_received: field(btf, "tcp_sock", "bytes_received")?,
        tcp_bytes_acked: field(btf, "tcp_sock", "bytes_acked")?,
        task_compat: compat.as_ref().copied().unwrap_or(0),
        // A kernel that cannot tell has no 32-bit calls to tell apart.
        task_compat_mask: if compat.is_ok() { COMPAT.1 } else { 0 },
        agent: std::process::id(),
        ring_bytes: config.ring_bytes,
        head_bytes: config.head_bytes,
        misses_max: config.misses_max,
        protocols: config.protocols.iter().fold(0, |bits, protocol| bits | 1 << protocol.number()),
        registers: btf.names("BPF_FUNC_task_pt_regs").into(),
    })
}

pub(crate) fn oom(btf: &Btf<Pages>) -> Result<Oom, String> {
    // Counts of pages lay side by side until Linux 6.2; since, each has a part for each CPU.
    let (within, bytes) = match btf.size("percpu_counter").filter(|_| btf.size("mm_rss_stat").is_none()) {
        Some(bytes) => (field(btf, "percpu_counter", "count")?, bytes),
        None => (0, 8),
    };
    Ok(Oom {
        cgroup: cgroup(btf, "memory_cgrp_id")?,
        task_pid: field(btf, "task_struct", "pid")?,
        task_tgid: field(btf, "task_struct", "tgid")?,
        task_comm: field(btf, "task_struct", "comm")?,
        task_cred: field(btf, "task_struct", "cred")?,
        cred_uid: field(btf, "cred", "uid")?,
        task_mm: field(btf, "task_struct", "mm")?,
        mm_rss_stat: field(btf, "mm_struct", "rss_stat")? + within,
        rss_stat_bytes: bytes,
    })
}

pub(crate) fn block(btf: &Btf<Pages>) -> Result<Block, String> {
    // The program reads each pair as one.
    for (of, first, second) in [("request", "cmd_flags", "rq_flags"), ("gendisk", "major", "first_minor")] {
        if field(btf, of, second)? != field(btf, of, first)? + 4 {
            return Err(format!("this kernel's struct {of} keeps {first} and {second} apart"));
        }
    }
    let own = btf.offset("request", "rq_disk");
    let (request_disk, queue_disk) = match own {
        Some(offset) => (offset, NO_HOP),
        None => (field(btf, "request", "q")?, field(btf, "request_queue", "disk")?),
    };
    Ok(Block {
        request_cmd_flags: field(btf, "request", "cmd_flags")?,
        request_data_len: field(btf, "request", "__data_len")?,
        request_start_time_ns: field(btf, "request", "start_time_ns")?,
        request_disk,
        queue_disk,
        disk_major: field(btf, "gendisk", "major")?,
        // RQF_FLUSH_SEQ: before it was an enumerator, it was this bit.
        flush_sequence: 1 << (btf.enumerator("rqf_flags", "__RQF_FLUSH_SEQ").unwrap_or(4) & 31),
    })
}

pub(crate) fn run_queue(btf: &Btf<Pages>) -> Result<RunQueue, String> {
    let state = btf.offset("task_struct", "__state");
    Ok(RunQueue {
        cgroup: cgroup(btf, "cpu_cgrp_id")?,
        task_pid: field(btf, "task_struct", "pid")?,
        // Before Linux 5.14, and of 64 bits.
        task_state: state.map_or_else(|| field(btf, "task_struct", "state"), Ok)?,
    })
}

/// From a task to its control group by one controller.
fn cgroup(btf: &Btf<Pages>, controller: &str) -> Result<Cgroup, String> {
    let number = btf
        .enumerator("cgroup_subsys_id", controller)
        .ok_or_else(|| format!("this kernel has no {controller}: the controller is not built in"))?;
    let parent = btf.offset("kernfs_node", "parent");
    Ok(Cgroup {
        task_cgroups: field(btf, "task_struct", "cgroups")?,
        css_set_subsys: field(btf, "css_set", "subsys")? + number * 8,
        css_cgroup: field(btf, "cgroup_subsys_state", "cgroup")?,
        css_serial_nr: field(btf, "cgroup_subsys_state", "serial_nr")?,
        cgroup_kn: field(btf, "cgroup", "kn")?,
        kernfs_node_name: field(btf, "kernfs_node", "name")?,
        // Renamed in Linux 6.15.
        kernfs_node_parent: parent.map_or_else(|| field(btf, "kernfs_node", "__parent"), Ok)?,
    })
}

/// Where a message says where its bytes are.
fn iter(btf: &Btf<Pages>) -> Option<Iter> {
    /// No kernel numbers a kind so.
    const NONE: u32 = u32::MAX;
    let base = btf.offset("msghdr", "msg_iter")?;
    let at = |name: &str| btf.offset("iov_iter", name).map(|offset| base + offset);
    let kind = |name: &str| btf.enumerator("iter_type", name);
    let has_blocking = btf.parameters("tcp_recvmsg")? > 5;
    Some(Iter {
        kind: at("iter_type").or_else(|| at("type"))?,
        // Up to Linux 5.13 the kind shares its field with the direction.
        kind_mask: if at("iter_type").is_some() { 0xFF } else { !1 },
        iovec: kind("ITER_IOVEC")?,
        iov: at("__iov").or_else(|| at("iov"))?,
        ubuf: kind("ITER_UBUF").unwrap_or(NONE),
        ubuf_address: at("ubuf").unwrap_or_default(),
        iov_offset: at("iov_offset")?,
        receive_flags: if has_blocking { 4 } else { 3 },
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
