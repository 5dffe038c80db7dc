//! A kernel of Debian's, by apt: from the mirror that this machine's own sources name, through lists of its own.
//!
//! It stays in the cache until its folder is removed. Invariant: the system's sources, lists and packages stay as they are.

use super::{empty, output};
use crate::progress::Step;
use anyhow::{Context, Result, bail};
use ollystack_tests::cache;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package that always depends on a suite's newest kernel. The one for clouds has no drivers to unpack.
const NEWEST: &str = "linux-image-cloud-amd64";
/// Debian's own, where it keeps them; without the file apt knows the keys otherwise, or refuses.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The kernel's image in the cache, fetched if it is not there.
pub(super) fn kernel(line: &str, suite: &str, step: &mut Step) -> Result<PathBuf> {
    let folder = cache::folder()?.join("kernels").join(line);
    if let Some(image) = image(&folder) {
        return Ok(image);
    }
    let work = folder.join("work");
    empty(&work)?;
    let apt = Apt::new(&work, suite)?;
    step.run(apt.command("apt-get").args(["update", "-q"]))
        .with_context(|| format!("apt cannot read the suite {suite}"))?;
    let depends = output(apt.command("apt-cache").args(["depends", "--important", NEWEST]))?;
    let name = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let name = name.with_context(|| format!("{NEWEST} of {suite} depends on no kernel: {depends:?}"))?;
    step.run(apt.command("apt-get").args(["download", "-q", &format!("linux-image-{name}")]).current_dir(&work))?;
    let package = entries(&work).into_iter().find(|path| path.extension().is_some_and(|end| end == "deb"));
    let package = package.with_context(|| format!("apt-get download left no package in {}", work.display()))?;
    let unpacked = work.join("unpacked");
    output(Command::new("dpkg").arg("-x").args([&package, &unpacked]))?;
    let found = image(&unpacked.join("boot")).with_context(|| format!("no kernel in {}", package.display()))?;
    let kept = folder.join(found.file_name().unwrap_or_default());
    fs::rename(&found, &kept).with_context(|| format!("move {}", found.display()))?;
    fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
    Ok(kept)
}

fn image(folder: &Path) -> Option<PathBuf> {
    let is_image = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"));
    entries(folder).into_iter().find(is_image)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Apt with sources and lists of its own.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(folder: &Path, suite: &str) -> Result<Apt> {
        let list = folder.join("sources.list");
        let keys = if Path::new(KEYS).is_file() { format!("[signed-by={KEYS}] ") } else { String::new() };
        fs::write(&list, format!("deb {keys}{} {suite} main\n", mirror()?))?;
        for place in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(place))?;
        }
        fs::write(folder.join("status"), "")?;
        let at = |place: &str| folder.join(place).display().to_string();
        let options = [
            ("Dir::Etc::SourceList", at("sources.list")),
            ("Dir::Etc::SourceParts", "-".to_owned()),
            ("Dir::State", at("state")),
            ("Dir::State::status", at("status")),
            ("Dir::Cache", at("cache")),
            ("APT::Architecture", "amd64".to_owned()),
            ("APT::Architectures", "amd64".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            // Another user could not write into this one's cache.
            ("APT::Sandbox::User", String::new()),
        ];
        Ok(Apt { options: options.into_iter().map(|(name, value)| format!("{name}={value}")).collect() })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }
}

/// Where this machine gets Debian's packages from.
fn mirror() -> Result<String> {
    let format = "$(ORIGIN) $(CODENAME) $(REPO_URI)";
    let told = output(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]))?;
    match main_archive(&told) {
        Some(mirror) => Ok(mirror.to_owned()),
        None => bail!("no source of Debian's main archive among apt's: add one, its kernels are booted"),
    }
}

/// The archive of whole suites: those of updates and security bear a suffix.
fn main_archive(told: &str) -> Option<&str> {
    told.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (origin, codename, uri) = (words.next()?, words.next()?, words.next()?);
        (origin == "Debian" && !codename.contains('-')).then_some(uri)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_whole_suites_of_debian() {
        let told =
            "Other nodistro http://other/\nDebian trixie-security http://m/security/\nDebian trixie http://m/debian/\n";
        assert_eq!(main_archive(told), Some("http://m/debian/"));
        assert_eq!(main_archive("Ubuntu noble http://u/\n"), None);
    }
}
