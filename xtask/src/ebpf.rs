//! `cargo xtask ebpf`: builds the kernel programs for every architecture and puts the objects where the agent embeds them.
//!
//! Stable Rust has no BPF target, so this needs either a nightly toolchain with its sources or Debian's packages with a
//! prebuilt core; whichever is there is taken. The objects hold no path of the machine that built them, so one toolchain
//! gives the same bytes everywhere. `objects/BUILT` says which sources and which toolchain they came from. Invariant:
//! `--check` changes nothing in the repository and fails if the committed objects are not what the sources give.

use crate::repository;
use crate::setup::works;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The program that links BPF, at the version the objects are built with.
const LINKER: &str = "0.13.0";
/// LLVM behind Debian's Rust and the linker.
const LLVM: &str = "22";
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];
const PROGRAMS: [&str; 7] = ["process", "tcp", "flow", "oom", "block", "run_queue", "profile"];
const TARGET: &str = "bpfel-unknown-none";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Build elsewhere and fail if the committed objects are stale.
    #[arg(long)]
    check: bool,
}

/// A Rust that can build for BPF.
struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    /// Builds core from its sources: nightly. Otherwise core comes prebuilt: Debian.
    builds_core: bool,
    linker: PathBuf,
    objcopy: PathBuf,
    /// Versions, in words.
    name: String,
}

/// Builds, or checks.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let objects = repository().join("agent-ebpf/objects");
    let sources = digest(&sources()?)?;
    let built = fs::read_to_string(objects.join("BUILT")).unwrap_or_default();
    let recorded = |key: &str| built.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim();
    if options.check {
        ensure!(
            recorded("sources:") == sources,
            "agent-ebpf/objects are stale: run `cargo xtask ebpf` and commit them"
        );
    }
    let toolchain = Toolchain::ensure()?;
    if options.check && recorded("toolchain:") != toolchain.name {
        // Another compiler gives other bytes from the same sources, so only that they build can be shown here.
        println!("skipped: comparing bytes: built by {}, here is {}", recorded("toolchain:"), toolchain.name);
    }
    for architecture in ARCHITECTURES {
        let folder = toolchain.build(architecture)?;
        let into = objects.join(architecture);
        fs::create_dir_all(&into)?;
        for program in PROGRAMS {
            let object = into.join(format!("{program}.o"));
            let fresh = toolchain.stripped(&folder.join(program))?;
            let is_same = fs::read(&object).is_ok_and(|bytes| bytes == fresh);
            if options.check {
                let comparable = recorded("toolchain:") == toolchain.name;
                ensure!(is_same || !comparable, "{} is stale: run `cargo xtask ebpf` and commit it", object.display());
            } else {
                fs::write(&object, &fresh).with_context(|| format!("write {}", object.display()))?;
            }
            println!("{architecture}/{program}.o {} bytes{}", fresh.len(), if is_same { "" } else { ", changed" });
        }
    }
    if !options.check {
        fs::write(objects.join("BUILT"), format!("toolchain: {}\nsources: {sources}\n", toolchain.name))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Toolchain {
    /// What is there; else what can be installed here; else the commands that would.
    fn ensure() -> Result<Toolchain> {
        if let Some(toolchain) = Toolchain::find()? {
            return Ok(toolchain);
        }
        let is_debian = works("apt-get", &["--version"]);
        let is_root = fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
        if !is_debian || !is_root {
            bail!("no Rust for BPF found; {}", by_hand());
        }
        println!("installing Rust for BPF: some minutes, once");
        install().with_context(by_hand)?;
        Toolchain::find()?.with_context(|| format!("installed, but still not found; {}", by_hand()))
    }

    fn find() -> Result<Option<Toolchain>> {
        let Some(linker) = linker() else { return Ok(None) };
        let objcopy = format!("/usr/lib/llvm-{LLVM}/bin/llvm-objcopy");
        let debian = output("/usr/bin/rustc", &["--print", "target-libdir", "--target", TARGET]);
        if debian.is_some_and(|folder| holds_core(Path::new(&folder))) && works(&objcopy, &["--version"]) {
            let (cargo, rustc) = (PathBuf::from("/usr/bin/cargo"), PathBuf::from("/usr/bin/rustc"));
            return Toolchain::named(cargo, rustc, false, linker, objcopy.into()).map(Some);
        }
        let which = |program: &str| output("rustup", &["which", "--toolchain", "nightly", program]).map(PathBuf::from);
        let (Some(cargo), Some(rustc)) = (which("cargo"), which("rustc")) else { return Ok(None) };
        let Some(root) = output(&rustc, &["--print", "sysroot"]).map(PathBuf::from) else { return Ok(None) };
        let host = output(&rustc, &["--print", "host-tuple"]).unwrap_or_default();
        let own = root.join("lib/rustlib").join(host).join("bin/llvm-objcopy");
        let objcopies = [own, "llvm-objcopy".into(), objcopy.into()];
        let objcopy = objcopies.into_iter().find(|program| works(program, &["--version"]));
        match objcopy.filter(|_| root.join("lib/rustlib/src/rust/library/core").is_dir()) {
            Some(objcopy) => Toolchain::named(cargo, rustc, true, linker, objcopy).map(Some),
            None => Ok(None),
        }
    }

    fn named(
        cargo: PathBuf,
        rustc: PathBuf,
        builds_core: bool,
        linker: PathBuf,
        objcopy: PathBuf,
    ) -> Result<Toolchain> {
        let version = output(&rustc, &["--version"]).context("rustc does not tell its version")?;
        let name = format!("{version}, bpf-linker {LINKER}");
        Ok(Toolchain { cargo, rustc, builds_core, linker, objcopy, name })
    }

    /// Builds all programs for one architecture; the folder they are in.
    fn build(&self, architecture: &str) -> Result<PathBuf> {
        let programs = repository().join("agent-ebpf/programs");
        let target = programs.join("target").join(architecture);
        let mut flags = vec![
            format!("-Clinker={}", self.linker.display()),
            "-Clink-arg=--btf".to_owned(),
            "-Cdebuginfo=2".to_owned(),
            format!("--cfg=bpf_target_arch=\"{architecture}\""),
        ];
        for (from, to) in self.paths(&programs)? {
            flags.push(format!("--remap-path-prefix={}={to}", from.display()));
        }
        let mut build = self.cargo(&programs);
        build.args(["build", "--release", "--locked", "--quiet", "--target", TARGET, "--target-dir"]).arg(&target);
        if self.builds_core {
            build.arg("-Zbuild-std=core");
        }
        build.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        let done = build.status().with_context(|| format!("{} does not start", self.cargo.display()))?;
        ensure!(done.success(), "the kernel programs do not build for {architecture}");
        Ok(target.join(TARGET).join("release"))
    }

    /// What of this machine would get into the objects, and what stands there instead.
    fn paths(&self, programs: &Path) -> Result<Vec<(PathBuf, &'static str)>> {
        let metadata = self.cargo(programs).args(["metadata", "--format-version", "1", "--locked"]).output()?;
        let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).context("cargo metadata")?;
        let packages = metadata["packages"].as_array().into_iter().flatten();
        let manifests = packages.filter(|package| package["name"] == "aya-ebpf");
        let manifest = manifests.filter_map(|package| package["manifest_path"].as_str()).next();
        let crates = manifest.and_then(|path| Path::new(path).parent()?.parent()).context("aya-ebpf has no folder")?;
        let mut paths = vec![(crates.to_owned(), "crates"), (repository(), "ollystack")];
        // Core's, where it is built here; a prebuilt one has its makers' paths for good.
        let root = output(&self.rustc, &["--print", "sysroot"]).context("rustc does not tell its root")?;
        paths.push((Path::new(&root).join("lib/rustlib/src/rust"), "rust"));
        Ok(paths)
    }

    /// Debug information stripped, but for BTF.
    fn stripped(&self, program: &Path) -> Result<Vec<u8>> {
        let into = program.with_extension("stripped");
        let done = Command::new(&self.objcopy).arg("--strip-debug").args([program, &into]).status()?;
        ensure!(done.success(), "{} refused {}", self.objcopy.display(), program.display());
        fs::read(&into).with_context(|| format!("read {}", into.display()))
    }

    /// Cargo of this toolchain, free of what the outer cargo left in the environment.
    fn cargo(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.cargo);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if (text.starts_with("CARGO") && text != "CARGO_HOME") || text.starts_with("RUST") {
                command.env_remove(&name);
            }
        }
        // Debian's compiler is a stable one that is told to take nightly's features, as the BPF crates need a few.
        command
            .current_dir(folder)
            .env("RUSTC", &self.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TERM_COLOR", "never");
        command
    }
}

/// The linker of the right version, wherever cargo or the path has it.
fn linker() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    let places = [PathBuf::from("bpf-linker"), home.join("bin/bpf-linker")];
    places.into_iter().find(|place| output(place, &["--version"]).is_some_and(|text| text.ends_with(LINKER)))
}

fn install() -> Result<()> {
    let run = |command: &mut Command| -> Result<()> {
        let done = command.status().with_context(|| format!("{:?} does not start", command.get_program()))?;
        ensure!(done.success(), "{command:?} failed");
        Ok(())
    };
    run(Command::new("apt-get").args(["update", "-q"]))?;
    let mut packages = Command::new("apt-get");
    packages.args(["install", "-y", "-q", "--no-install-recommends"]).args(packages_of_debian());
    run(packages.env("DEBIAN_FRONTEND", "noninteractive"))?;
    if linker().is_none() {
        let mut install = Command::new("cargo");
        install.args(["install", "bpf-linker", "--version", LINKER, "--locked", "--no-default-features", "--features"]);
        install.arg(format!("llvm-{LLVM}")).env(format!("LLVM_SYS_{LLVM}1_PREFIX"), format!("/usr/lib/llvm-{LLVM}"));
        run(install.env("RUSTFLAGS", format!("-L/usr/lib/llvm-{LLVM}/lib")))?;
    }
    Ok(())
}

fn packages_of_debian() -> Vec<String> {
    let plain = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf", "zlib1g-dev", "libzstd-dev"].map(str::to_owned);
    let llvm = [format!("llvm-{LLVM}-dev"), format!("libpolly-{LLVM}-dev")];
    plain.into_iter().chain(llvm).collect()
}

fn by_hand() -> String {
    format!(
        "on Debian run `apt-get install {}` and `LLVM_SYS_{LLVM}1_PREFIX=/usr/lib/llvm-{LLVM} \
         RUSTFLAGS=-L/usr/lib/llvm-{LLVM}/lib cargo install bpf-linker --version {LINKER} --locked --no-default-features \
         --features llvm-{LLVM}`; elsewhere run `rustup toolchain install nightly --component rust-src --component \
         llvm-tools` and `cargo install bpf-linker --version {LINKER} --locked`",
        packages_of_debian().join(" ")
    )
}

fn holds_core(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

/// The trimmed output of a program that succeeded.
fn output(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// All that decides what the objects hold, in a fixed order.
fn sources() -> Result<Vec<PathBuf>> {
    let root = repository().join("agent-ebpf");
    let mut files = vec![root.join("programs/Cargo.toml"), root.join("programs/Cargo.lock")];
    let mut folders = vec![root.join("src"), root.join("programs/src"), root.join("programs/records")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    Ok(files)
}

/// FNV-1a over paths and contents: it tells a change, and nobody forges one.
fn digest(files: &[PathBuf]) -> Result<String> {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes.iter().chain(&[0]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3);
        }
    };
    for file in files {
        feed(file.strip_prefix(repository())?.to_string_lossy().as_bytes());
        feed(&fs::read(file).with_context(|| format!("read {}", file.display()))?);
    }
    Ok(format!("{hash:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_objects_were_built_from_these_sources() {
        let built = fs::read_to_string(repository().join("agent-ebpf/objects/BUILT")).unwrap();
        let sources = digest(&sources().unwrap()).unwrap();
        assert!(built.contains(&sources), "run `cargo xtask ebpf` and commit agent-ebpf/objects");
    }
}
