//! Which container, pod or service a control group is, from the names of its folders as the kernel programs copied them.
//!
//! Invariant: a group is told with the attributes that the host input tells it with, so that both are found together.

use crate::processes::text;
use ollystack_ebpf::cgroup::Names;
use ollystack_record::otlp::common::v1::KeyValue;
use ollystack_record::service_name;
use ollystack_record::value::string;
use ollystack_schema::names::semconv;

/// From the root down. Of a group that is deeper than what was copied the innermost folders, without a slash before them.
pub(crate) fn path(names: &Names) -> String {
    let depth = names.iter().take_while(|name| name[0] != 0).count();
    let folders = names[..depth].iter().rev().map(|name| text(name)).collect::<Vec<_>>().join("/");
    if depth == names.len() { folders } else { format!("/{folders}") }
}

/// Of a group by its path: the path, and the container and pod it is.
pub(crate) fn attributes(path: &str) -> Vec<KeyValue> {
    let mut attributes = vec![string(semconv::PROCESS_LINUX_CGROUP, path)];
    if let Some(id) = service_name::container_of_path(path) {
        attributes.push(string(semconv::CONTAINER_ID, id));
        attributes.extend(service_name::pod_uid(path).map(|uid| string(semconv::K8S_POD_UID, uid)));
    }
    attributes
}

/// The service that a group, or a process in it of which nothing else is known but its name, is; empty if there is none.
pub(crate) fn service(path: &str, executable: &str) -> String {
    let cgroup = format!("0::{path}");
    service_name::service_name(service_name::Process { cgroup: &cgroup, executable, ..Default::default() })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ollystack_ebpf::cgroup::{LEVELS, NAME_BYTES};
    use ollystack_record::value::string_attribute;

    pub(crate) const CONTAINER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// As the kernel side writes them.
    pub(crate) fn names(path: &str) -> Names {
        let mut names = [[0; NAME_BYTES]; LEVELS];
        for (name, folder) in names.iter_mut().zip(path.split('/').rev()) {
            name[..folder.len()].copy_from_slice(folder.as_bytes());
        }
        names
    }

    #[test]
    fn a_path_is_whole_or_has_no_slash_before_it() {
        for whole in ["/", "/system.slice/shop.service", "/a/b/c/d/e"] {
            assert_eq!(path(&names(whole)), whole);
        }
        assert_eq!(path(&names("/a/b/c/d/e/f/g")), "b/c/d/e/f/g");
    }

    #[test]
    fn containers_pods_and_services_are_told() {
        let pod = "kubepods-burstable-pod0f1e2d3c_1111_2222_3333_444455556666.slice";
        let path = format!("/kubepods.slice/{pod}/cri-containerd-{CONTAINER}.scope");
        let told = attributes(&path);
        assert_eq!(string_attribute(&told, semconv::CONTAINER_ID), Some(CONTAINER));
        assert_eq!(string_attribute(&told, semconv::K8S_POD_UID), Some("0f1e2d3c-1111-2222-3333-444455556666"));
        assert_eq!(string_attribute(&told, semconv::PROCESS_LINUX_CGROUP), Some(path.as_str()));
        assert_eq!(service("/system.slice/shop.service", "python3"), "shop");
        assert_eq!(service("/user.slice", "shopd"), "shopd");
        assert_eq!(service("/user.slice", ""), "");
    }
}
