//! Gets the engine's package with npm, its ordinary client, and takes the library out of it.

use super::{EngineError, Pin, Progress, hash_copy};
use flate2::read::GzDecoder;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// 167 MB at 100 kB/s.
const DEADLINE: Duration = Duration::from_secs(30 * 60);

/// Run `npm pack` into `work`; the tarball.
pub(super) fn npm_pack(
    pin: &Pin,
    work: &Path,
    engines: &Path,
    progress: &dyn Fn(Progress),
) -> Result<PathBuf, EngineError> {
    let package = format!("{}@{}", pin.package, pin.version);
    let shown = format!("npm pack {package}");
    progress(Progress::Fetching(shown.clone()));
    let failed = |what: String| EngineError::Npm { command: shown.clone(), what };
    let said = work.join("npm.log");
    let log = File::create(&said).map_err(EngineError::file(&said))?;
    let errors = log.try_clone().map_err(EngineError::file(&said))?;
    let mut npm = Command::new("npm");
    npm.args(["pack", &package, "--ignore-scripts", "--no-fund", "--no-audit", "--no-update-notifier"]);
    npm.arg("--pack-destination").arg(work).current_dir(work);
    npm.stdin(Stdio::null()).stdout(log).stderr(errors);
    if std::env::var_os("HOME").is_none() {
        npm.env("npm_config_cache", work.join("npm"));
    }
    let mut child = npm.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => EngineError::NoNpm { command: shown.clone(), folder: engines.to_owned() },
        _ => failed(error.to_string()),
    })?;
    let start = Instant::now();
    let status = loop {
        match child.try_wait().map_err(|error| failed(error.to_string()))? {
            Some(status) => break status,
            None if start.elapsed() < DEADLINE => std::thread::sleep(Duration::from_millis(100)),
            None => {
                // It may have ended by itself meanwhile; either way it is gone after this.
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(format!("not done after {} minutes", DEADLINE.as_secs() / 60)));
            }
        }
    };
    if !status.success() {
        let said = std::fs::read_to_string(&said).unwrap_or_default();
        let last: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).rev().take(5).collect();
        return Err(failed(format!("{status}: {}", last.into_iter().rev().collect::<Vec<_>>().join(" | "))));
    }
    Ok(work.join(pin.tarball))
}

/// Write `package/libchdb.so` of the tarball to `to`, synced; its SHA-256.
pub(super) fn unpack(tarball: &Path, to: &Path) -> Result<String, EngineError> {
    let file = File::open(tarball).map_err(EngineError::file(tarball))?;
    let mut archive = tar::Archive::new(GzDecoder::new(io::BufReader::with_capacity(1 << 20, file)));
    for entry in archive.entries().map_err(EngineError::file(tarball))? {
        let mut entry = entry.map_err(EngineError::file(tarball))?;
        if entry.path().is_ok_and(|path| path == Path::new("package/libchdb.so")) {
            let mut library = File::create_new(to).map_err(EngineError::file(to))?;
            let hash = hash_copy(&mut entry, &mut library).map_err(EngineError::file(to))?;
            library.sync_all().map_err(EngineError::file(to))?;
            return Ok(hash);
        }
    }
    Err(EngineError::NoLibrary { path: tarball.to_owned() })
}
