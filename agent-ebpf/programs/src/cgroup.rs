//! From a task to its control group.

use crate::{at, pointer};
use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use ollystack_ebpf::cgroup::{LEVELS, NAME_BYTES, Names};
use ollystack_ebpf::layout;

/// A task's state by the controller that the layout is for.
#[inline(always)]
pub fn state_of(task: u64, layout: &layout::Cgroup) -> Option<u64> {
    let set = pointer(task, layout.task_cgroups)?;
    pointer(set, layout.css_set_subsys)
}

/// A number of a state's own.
#[inline(always)]
pub fn number_of(state: u64, layout: &layout::Cgroup) -> Option<u64> {
    at(state, layout.css_serial_nr)
}

/// Write the names of a state's group where they belong: a program's stack is too small for them.
///
/// # Safety
/// `into` must be room that a ring or map gave.
#[inline(always)]
pub unsafe fn write_names(into: *mut Names, state: Option<u64>, layout: &layout::Cgroup) {
    // SAFETY: as promised by the caller.
    unsafe { into.write([[0; NAME_BYTES]; LEVELS]) };
    let group = state.and_then(|state| pointer(state, layout.css_cgroup));
    let mut folder = group.and_then(|group| pointer(group, layout.cgroup_kn));
    let mut level = 0;
    while level < LEVELS {
        let Some(here) = folder else { return };
        if let Some(name) = pointer(here, layout.kernfs_node_name) {
            // SAFETY: as promised by the caller, and `level` is within bounds; the helper checks the address that it reads.
            unsafe {
                let room = into.cast::<[u8; NAME_BYTES]>().add(level);
                let _ = bpf_probe_read_kernel_str(room.cast(), NAME_BYTES as u32, name as *const _);
            }
        }
        folder = pointer(here, layout.kernfs_node_parent);
        level += 1;
    }
}

/// Read the control group's part of a layout.
#[macro_export]
macro_rules! cgroup_layout {
    ($layout:ident) => {
        ::ollystack_ebpf::layout::Cgroup {
            task_cgroups: $crate::field!($layout.cgroup.task_cgroups),
            css_set_subsys: $crate::field!($layout.cgroup.css_set_subsys),
            css_cgroup: $crate::field!($layout.cgroup.css_cgroup),
            css_serial_nr: $crate::field!($layout.cgroup.css_serial_nr),
            cgroup_kn: $crate::field!($layout.cgroup.cgroup_kn),
            kernfs_node_name: $crate::field!($layout.cgroup.kernfs_node_name),
            kernfs_node_parent: $crate::field!($layout.cgroup.kernfs_node_parent),
        }
    };
}

/// A control group's layout before the agent fills it in.
pub const UNKNOWN: layout::Cgroup = layout::Cgroup {
    task_cgroups: 0,
    css_set_subsys: 0,
    css_cgroup: 0,
    css_serial_nr: 0,
    cgroup_kn: 0,
    kernfs_node_name: 0,
    kernfs_node_parent: 0,
};
