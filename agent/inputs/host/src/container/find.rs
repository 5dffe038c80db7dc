//! Which control groups are containers or systemd services, by the names that runtimes give them.
//!
//! Invariant: one search looks at no more than [`FOLDERS_MAX`] groups and no deeper than [`DEPTH_MAX`]; what runs inside a
//! container is the container's.

use ollystack_record::service_name;
use std::io;
use std::path::{Path, PathBuf};

const FOLDERS_MAX: usize = 5_000;

/// kubepods.slice / quality / pod / container is 4; nested clusters double that.
const DEPTH_MAX: usize = 10;

/// One group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Found {
    /// From the root of its hierarchy, beginning with a slash.
    pub(crate) path: String,
    /// The id of the container; `None` for a service.
    pub(crate) container: Option<String>,
}

/// Everything below `root`, containers before services.
pub(crate) fn find(root: &Path, services: bool, max: usize) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut folders: Vec<(PathBuf, String, usize)> = vec![(root.to_owned(), String::new(), 0)];
    let mut seen = 0;
    let mut first = true;
    while let Some((folder, path, depth)) = folders.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if first => return Err(error),
            Err(_) => continue, // gone meanwhile
        };
        first = false;
        for entry in entries.flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if !is_folder || seen >= FOLDERS_MAX {
                continue;
            }
            seen += 1;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = format!("{path}/{name}");
            if let Some(id) = service_name::container_of_path(&name) {
                let container = Some(id.to_owned());
                // podman and docker make a second group of the same id inside: the outer one counts it in.
                found.push(Found { path, container });
                continue;
            }
            if services && name.ends_with(".service") && !name.starts_with("user@") {
                found.push(Found { path: path.clone(), container: None });
            }
            if depth < DEPTH_MAX {
                folders.push((entry.path(), path, depth + 1));
            }
        }
    }
    found.sort_by(|a, b| (a.container.is_none(), &a.path).cmp(&(b.container.is_none(), &b.path)));
    found.truncate(max);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_and_services_are_found_where_runtimes_put_them() {
        let folder = tempfile::tempdir().unwrap();
        let id = |digit: &str| digit.repeat(64);
        let pod = format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{}.scope", id("a"));
        let docker = format!("/docker/{}", id("b"));
        let paths = [
            &pod,
            &docker,
            "/system.slice/nginx.service",
            "/user.slice/user@1000.service/app.slice",
            "/system.slice/nginx.service/worker",
            &format!("{docker}/system.slice/inner.service"),
        ];
        for path in paths {
            std::fs::create_dir_all(folder.path().join(&path[1..])).unwrap();
        }
        let paths = |services, max| -> Vec<String> {
            find(folder.path(), services, max).unwrap().into_iter().map(|found| found.path).collect()
        };
        assert_eq!(paths(true, 9), [docker.as_str(), &pod, "/system.slice/nginx.service"]);
        assert_eq!(paths(false, 9), [docker.as_str(), &pod]);
        assert_eq!(paths(true, 1), [docker.as_str()]);
    }

    #[test]
    fn a_hierarchy_that_is_not_there_is_an_error() {
        assert!(find(Path::new("/nonexistent"), true, 1).is_err());
    }
}
