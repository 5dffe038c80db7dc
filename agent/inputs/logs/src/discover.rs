//! Which files are to be read: globs against the folders below their fixed parts.
//!
//! Folders are walked without following links; what is no regular file (pipes, sockets, devices) is passed over. Invariant:
//! one walk looks at no more than [`ENTRIES_MAX`] entries and [`FOLDERS_MAX`] folders, and says so if that was not all.

use crate::identity::{FileId, Stamp, stamp};
use crate::{Config, Error};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use hashbrown::HashMap;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const ENTRIES_MAX: usize = 200_000;

/// Each is watched as well, and Linux grants 8,192 watches a user on small machines.
const FOLDERS_MAX: usize = 2_000;

/// How deep `**` goes.
const DEPTH_MAX: usize = 16;

/// What to read and what not.
#[derive(Debug)]
pub(crate) struct Globs {
    include: GlobSet,
    exclude: GlobSet,
    /// The part of each glob before its first wildcard, and how deep the walk goes below it.
    bases: Vec<(Arc<Path>, usize)>,
    follow_symlinks: bool,
}

/// A file that matches.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) path: PathBuf,
    /// The folder the walk began in: what lies below it is not trusted with links.
    pub(crate) base: Arc<Path>,
    pub(crate) id: FileId,
    pub(crate) size: u64,
    pub(crate) stamp: Stamp,
}

/// What one walk found.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    pub(crate) files: Vec<Candidate>,
    /// Folders that may get new files.
    pub(crate) folders: Vec<PathBuf>,
    /// Links that match and were refused.
    pub(crate) links_refused: u64,
    /// Whether a limit ended it.
    pub(crate) is_incomplete: bool,
}

impl Globs {
    pub(crate) fn new(config: &Config) -> Result<Globs, Error> {
        let mut bases: Vec<(Arc<Path>, usize)> = Vec::new();
        for glob in &config.include {
            let (base, depth) = base(Path::new(glob));
            match bases.iter_mut().find(|(known, _)| **known == *base) {
                Some((_, known)) => *known = depth.max(*known),
                None => bases.push((base.into(), depth)),
            }
        }
        let include = set("include", &config.include)?;
        Ok(Globs { include, exclude: set("exclude", &config.exclude)?, bases, follow_symlinks: config.follow_symlinks })
    }

    pub(crate) fn is_match(&self, path: &Path) -> bool {
        self.include.is_match(path) && !self.exclude.is_match(path)
    }

    /// The folder whose walk comes to `path`.
    pub(crate) fn base_of(&self, path: &Path) -> Arc<Path> {
        let bases = self.bases.iter().map(|(base, _)| base).filter(|base| path.starts_with(base));
        let longest = bases.max_by_key(|base| base.as_os_str().len());
        longest.map_or_else(|| path.parent().unwrap_or(path).into(), Arc::clone)
    }

    /// All files that match now, sorted by path.
    pub(crate) fn walk(&self) -> Walk {
        let (mut walk, mut entries) = (Walk::default(), 0);
        // How deep each folder was walked: another glob may go deeper.
        let mut seen: HashMap<PathBuf, usize> = HashMap::new();
        for (base, depth) in &self.bases {
            let mut folders = vec![(base.to_path_buf(), *depth)];
            while let Some((folder, depth)) = folders.pop() {
                let before = seen.get(&folder).copied();
                if before.is_some_and(|before| before >= depth) {
                    continue;
                }
                seen.insert(folder.clone(), depth);
                if walk.folders.len() >= FOLDERS_MAX || entries >= ENTRIES_MAX {
                    walk.is_incomplete = true;
                    break;
                }
                let Ok(found) = std::fs::read_dir(&folder) else { continue };
                if before.is_none() {
                    walk.folders.push(folder);
                }
                for entry in found.flatten() {
                    entries += 1;
                    let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
                    if kind.is_dir() {
                        if depth > 0 {
                            folders.push((path, depth - 1));
                        }
                    } else if (kind.is_file() || kind.is_symlink()) && self.is_match(&path) {
                        self.take(path, base, kind.is_symlink(), &mut walk);
                    }
                }
            }
        }
        walk.files.sort_by(|a, b| a.path.cmp(&b.path));
        walk.files.dedup_by(|a, b| a.path == b.path);
        walk
    }

    fn take(&self, path: PathBuf, base: &Arc<Path>, is_link: bool, walk: &mut Walk) {
        if is_link && !self.follow_symlinks {
            walk.links_refused += 1;
            return;
        }
        let metadata = if is_link { std::fs::metadata(&path) } else { std::fs::symlink_metadata(&path) };
        // Gone meanwhile, or a link to something else.
        let Some(metadata) = metadata.ok().filter(std::fs::Metadata::is_file) else { return };
        let (id, size, stamp) = (FileId::of(&metadata), metadata.size(), stamp(&metadata));
        walk.files.push(Candidate { path, base: Arc::clone(base), id, size, stamp });
    }
}

fn set(key: &'static str, globs: &[String]) -> Result<GlobSet, Error> {
    let mut builder = GlobSetBuilder::new();
    let wrong = |glob: &str, allowed| Error::Config { key, found: format!("{glob:?}"), allowed };
    for glob in globs {
        if key == "include" && !glob.starts_with('/') {
            return Err(wrong(glob, "globs that begin with a slash"));
        }
        let built = GlobBuilder::new(glob).literal_separator(true).build();
        builder.add(built.map_err(|_| wrong(glob, "globs of *, **, ?, [ab] and {a,b} with balanced brackets"))?);
    }
    builder.build().map_err(|error| Error::Config { key, found: error.to_string(), allowed: "fewer or simpler globs" })
}

/// The folder before the first wildcard, and how many folders deep the glob goes below it.
fn base(glob: &Path) -> (PathBuf, usize) {
    let is_wild = |part: &OsStr| part.as_encoded_bytes().iter().any(|byte| b"*?[{\\".contains(byte));
    let parts: Vec<&OsStr> = glob.iter().collect();
    let fixed = parts.iter().position(|part| is_wild(part)).unwrap_or(parts.len()).min(parts.len().saturating_sub(1));
    let below = &parts[fixed..];
    // "{a/b,c}" hides a separator from `iter`, and "**" any number of them.
    let is_deep = below.iter().any(|part| *part == "**" || part.as_encoded_bytes().contains(&b'{'));
    let depth = if is_deep { DEPTH_MAX } else { below.len().saturating_sub(1) };
    (parts[..fixed].iter().collect(), depth)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(folder: &Path, include: &[&str], exclude: &[&str], follow_symlinks: bool) -> Globs {
        let below = |globs: &[&str]| globs.iter().map(|glob| format!("{}/{glob}", folder.display())).collect();
        let config = Config { include: below(include), exclude: below(exclude), follow_symlinks, ..Config::default() };
        Globs::new(&config).unwrap()
    }

    fn names(walk: &Walk, folder: &Path) -> Vec<String> {
        walk.files.iter().map(|file| file.path.strip_prefix(folder).unwrap().display().to_string()).collect()
    }

    #[test]
    fn globs_choose_files_and_links_are_refused_unless_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("nginx/old/deep")).unwrap();
        for file in ["a.log", "b.txt", "nginx/access.log", "nginx/old/deep/x.log", "nginx/secret.log"] {
            std::fs::write(root.join(file), "x").unwrap();
        }
        std::os::unix::fs::symlink(root.join("b.txt"), root.join("link.log")).unwrap();
        std::os::unix::fs::symlink(root.join("nginx"), root.join("folder-link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, root.join("pipe.log"), rustix::fs::Mode::RUSR).unwrap();

        let walk = globs(root, &["**/*.log"], &["**/secret*"], false).walk();
        assert_eq!(names(&walk, root), ["a.log", "nginx/access.log", "nginx/old/deep/x.log"]);
        assert_eq!(walk.links_refused, 1);
        let walk = globs(root, &["*.log"], &[], true).walk();
        assert_eq!(names(&walk, root), ["a.log", "link.log"]);
        assert_eq!(walk.folders, [root], "no deeper than the glob");
        for both in [&["nginx/*.log", "**/*.log"], &["*/*.log", "nginx/**"]] {
            let walk = globs(root, both, &[], false).walk();
            assert!(
                names(&walk, root).contains(&"nginx/old/deep/x.log".to_owned()),
                "one glob below another: {both:?}"
            );
            assert_eq!(walk.folders.iter().collect::<std::collections::HashSet<_>>().len(), walk.folders.len());
        }
        let walk = globs(root, &["b.txt", "nginx/*.log", "{a.log,nginx/*.log}"], &[], false).walk();
        assert_eq!(names(&walk, root), ["a.log", "b.txt", "nginx/access.log", "nginx/secret.log"]);
    }

    #[test]
    fn the_fixed_part_of_a_glob_is_where_the_walk_begins() {
        let table = [
            ("/var/log/**/*.log", "/var/log", DEPTH_MAX),
            ("/var/log/syslog", "/var/log", 0),
            ("/var/log/*/*.log", "/var/log", 1),
            ("/*.log", "/", 0),
        ];
        for (glob, folder, depth) in table {
            assert_eq!(base(Path::new(glob)), (PathBuf::from(folder), depth), "{glob}");
        }
    }

    #[test]
    fn a_glob_that_cannot_be_is_refused_by_name() {
        for glob in ["relative/*.log", "/var/log/[a"] {
            let config = Config { include: vec![glob.into()], ..Config::default() };
            let message = Globs::new(&config).unwrap_err().to_string();
            assert!(message.starts_with(&format!("logs.include is {glob:?}")), "{message}");
        }
    }
}
