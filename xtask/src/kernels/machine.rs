//! A machine of nothing but a kernel and the live tests: made of a folder packed as the kernel's first file system.
//!
//! Emulated without the help of hardware, which is not to be had everywhere: it boots in seconds. Invariant: a machine that does
//! not power off is ended in time.

use super::{empty, output};
use crate::progress::Step;
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Boot and tests take about a minute on two idle cores.
const SECONDS_MAX: &str = "480";
/// What the first process says last, before the exit status of the tests.
pub(super) const ENDED: &str = "the live tests ended with ";

/// The first process.
const INIT: &str = "#!/bin/busybox sh
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs devtmpfs /dev
busybox mount -t tmpfs tmpfs /tmp
busybox ip link set lo up
busybox uname -r
/live --color never
echo \"@ENDED@$?\"
busybox poweroff -f
";

/// Packs the tests, with the libraries they are linked to, into `image`.
pub(super) fn world(tests: &Path, image: &Path) -> Result<PathBuf> {
    let root = image.with_extension("root");
    empty(&root)?;
    for folder in ["bin", "proc", "sys", "dev", "tmp"] {
        fs::create_dir(root.join(folder))?;
    }
    let busybox = output(Command::new("sh").args(["-c", "command -v busybox"]))?;
    ensure!(libraries(Path::new(busybox.trim()))?.is_empty(), "busybox is not a static one: install busybox-static");
    copy(Path::new(busybox.trim()), &root.join("bin/busybox"))?;
    copy(tests, &root.join("live"))?;
    for library in libraries(tests)? {
        copy(&library, &root.join(library.strip_prefix("/").unwrap_or(&library)))?;
    }
    let init = root.join("init");
    fs::write(&init, INIT.replace("@ENDED@", ENDED))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    pack(&root, image)?;
    fs::remove_dir_all(&root)?;
    Ok(image.to_owned())
}

/// The libraries that a program is linked to, and its loader.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let told = Command::new("ldd").arg(program).output().context("ldd does not start")?;
    Ok(paths(&String::from_utf8_lossy(&told.stdout)))
}

/// The absolute paths in what `ldd` says.
fn paths(told: &str) -> Vec<PathBuf> {
    told.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':')).map(PathBuf::from).collect()
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().unwrap_or(to))?;
    fs::copy(from, to).map(drop).with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

/// A folder as an archive that a kernel unpacks.
fn pack(root: &Path, image: &Path) -> Result<()> {
    let names = output(Command::new("busybox").args(["find", "."]).current_dir(root))?;
    let mut cpio = Command::new("busybox");
    cpio.args(["cpio", "-o", "-H", "newc"]).current_dir(root).stdin(Stdio::piped()).stderr(Stdio::null());
    let mut child = cpio.stdout(File::create(image)?).spawn().context("busybox does not start")?;
    if let Some(mut names_in) = child.stdin.take() {
        names_in.write_all(names.as_bytes())?;
    }
    ensure!(child.wait()?.success(), "busybox cannot pack {}", root.display());
    Ok(())
}

/// Boots a kernel into such a world, and waits until it powers off.
pub(super) fn boot(kernel: &Path, world: &Path, step: &mut Step) -> Result<()> {
    let mut machine = Command::new("timeout");
    // Without cmpxchg16b, whose flags emulation has been seen to spoil when it is interrupted.
    let processor = ["-accel", "tcg", "-cpu", "max,-cx16", "-smp", "2"];
    machine.args(["--kill-after=5", SECONDS_MAX, "qemu-system-x86_64"]).args(processor);
    machine.args(["-m", "768", "-display", "none", "-vga", "none", "-nic", "none", "-monitor", "none", "-no-reboot"]);
    machine.args(["-serial", "stdio", "-append", "console=ttyS0 quiet panic=-1 oops=panic"]);
    machine.arg("-kernel").arg(kernel).arg("-initrd").arg(world);
    match step.run(&mut machine) {
        Ok(()) => Ok(()),
        Err(error) if format!("{error}").contains("124") => bail!("it did not power off within {SECONDS_MAX} s"),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_loader_are_found_and_what_has_no_file_is_not() {
        let told =
            "\tlinux-vdso.so.1 (0x7ffd)\n\tlibc.so.6 => /lib/libc.so.6 (0x7f11)\n\t/lib64/ld-linux.so.2 (0x7f22)\n";
        assert_eq!(paths(told), [PathBuf::from("/lib/libc.so.6"), "/lib64/ld-linux.so.2".into()]);
        assert_eq!(paths("\tnot a dynamic executable\n"), Vec::<PathBuf>::new());
    }
}
