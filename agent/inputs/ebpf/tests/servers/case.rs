//! A server that runs, its client, and what the client is going to ask.

use libtest_mimic::Failed;
use ollystack_tests::cache;
use std::any::Any;
use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Within this a server is to accept connections.
const START: Duration = Duration::from_secs(30);
/// Whom servers run as that refuse to be root's.
const NOBODY: u32 = 65_534;

/// What runs, and what is to be seen.
pub(crate) struct Case {
    /// Runs as long as this.
    pub(crate) _server: Running,
    pub(crate) address: SocketAddr,
    pub(crate) client: Command,
    /// What the client asks; if it tells of everything that it asked (see [`asked`]), what must be among it.
    pub(crate) expected: Vec<Expected>,
    /// How long each request took by the client's own clock, in milliseconds, read from what it printed, in the order of the
    /// requests; empty if it has none.
    pub(crate) clock: fn(&str) -> Vec<f64>,
    /// Requests are made one after the other, so that spans come in their order. Else at least those of one name are, if the
    /// client has a clock.
    pub(crate) is_ordered: bool,
    /// How the name of the server's service begins: some run under another name than they were called by.
    pub(crate) service: &'static str,
}

impl Case {
    /// All requests, once the client has told what it asked.
    pub(crate) fn expected(&self, told: &str) -> Result<Vec<Expected>, Failed> {
        let asked = asked(told);
        if asked.is_empty() {
            return Ok(self.expected.clone());
        }
        let mut rest = asked.clone();
        for expected in &self.expected {
            let is_it = |asked: &Expected| (asked.name, asked.error) == (expected.name, expected.error);
            let place = rest.iter().position(is_it).ok_or_else(|| format!("the client tells of no {expected:?}"))?;
            rest.swap_remove(place);
        }
        Ok(asked)
    }
}

/// A request, as both sides are to tell it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) name: &'static str,
    /// `error.type` of the client's span.
    pub(crate) error: Option<&'static str>,
    /// The server's span is an error too.
    pub(crate) is_fault_of_server: bool,
    /// What the server is known to take at least.
    pub(crate) least_ms: u64,
}

/// A request that succeeds.
pub(crate) fn fine(name: &'static str) -> Expected {
    Expected { name, error: None, is_fault_of_server: false, least_ms: 0 }
}

/// A request that fails by its client's fault.
pub(crate) fn refused(name: &'static str, error: &'static str) -> Expected {
    Expected { error: Some(error), ..fine(name) }
}

/// A request that fails by its server's fault.
pub(crate) fn failed(name: &'static str, error: &'static str) -> Expected {
    Expected { is_fault_of_server: true, ..refused(name, error) }
}

impl Expected {
    pub(crate) fn lasting(self, least_ms: u64) -> Expected {
        Expected { least_ms, ..self }
    }
}

/// A process that ends with its test.
pub(crate) struct Running {
    child: Child,
    /// Where it tells its process, if that is not the child: some start themselves anew as another user.
    pid_file: Option<PathBuf>,
    /// Folders that are gone with it.
    keeps: Option<Box<dyn Any + Send>>,
}

impl Running {
    /// What it works in stays as long as it runs.
    pub(crate) fn keeping(self, what: impl Any + Send) -> Running {
        let mut running = self;
        running.keeps = Some(Box::new(what));
        running
    }

    pub(crate) fn told_in(self, pid_file: PathBuf) -> Running {
        let mut running = self;
        running.pid_file = Some(pid_file);
        running
    }

    fn terminate(&self) {
        let told = self.pid_file.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        let told = told.and_then(|text| text.trim().parse().ok());
        for process in [told, i32::try_from(self.child.id()).ok()].into_iter().flatten() {
            let process = rustix::process::Pid::from_raw(process);
            let _ = process.map(|process| rustix::process::kill_process(process, rustix::process::Signal::TERM));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Politely first: some have children of their own to end.
        self.terminate();
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program of `PATH`, of PostgreSQL's own folder or of set-up's; or a module of Python, as `python3 NAME`; or Kafka's libraries.
pub(crate) fn is_installed(name: &str) -> bool {
    match name.split_once(' ') {
        None => program(name).is_some(),
        Some(("python3", module)) => {
            let import =
                Command::new("python3").args(["-c", &format!("import {module}")]).stderr(Stdio::null()).status();
            import.is_ok_and(|status| status.success())
        }
        Some(_) => cache::kafka().is_ok_and(|folder| folder.is_dir()),
    }
}

/// Where a program is.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    folders.extend(versions.map(|version| version.path().join("bin")));
    folders.extend(cache::ferretdb());
    folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// A command that says nothing unless it fails, which shows in what is seen.
pub(crate) fn command<S: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = S>) -> Result<Command, Failed> {
    let mut command = Command::new(program(name).ok_or_else(|| format!("{name} is not installed"))?);
    command.args(arguments).stdin(Stdio::null());
    Ok(command)
}

/// The command as nobody, who owns the folder then.
pub(crate) fn as_nobody(mut command: Command, folder: &Path) -> Result<Command, Failed> {
    chown(folder, Some(NOBODY), Some(NOBODY))?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
    command.uid(NOBODY).gid(NOBODY).current_dir(folder);
    Ok(command)
}

/// A port of loopback that nobody listens on, nor is given to a connection meanwhile.
pub(crate) fn free_address() -> Result<SocketAddr, Failed> {
    Ok((Ipv4Addr::LOCALHOST, ollystack_tests::free_port()?).into())
}

/// Run a preparation to its end.
pub(crate) fn prepare(mut command: Command) -> Result<(), Failed> {
    let output = command.output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// Start a server and wait until it accepts connections.
pub(crate) fn serve(mut command: Command, address: SocketAddr) -> Result<Running, Failed> {
    let mut server =
        Running { child: command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?, pid_file: None, keeps: None };
    let deadline = Instant::now() + START;
    while TcpStream::connect(address).is_err() {
        if let Some(status) = server.child.try_wait()? {
            return Err(format!("{command:?} ended: {status}").into());
        }
        if Instant::now() > deadline {
            return Err(format!("{command:?} does not accept connections").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}

/// Lines `took <seconds>`, which clients of this test print.
pub(crate) fn took(output: &str) -> Vec<f64> {
    let lines = output.lines().filter_map(|line| line.strip_prefix("took "));
    lines.filter_map(|seconds| seconds.trim().parse::<f64>().ok()).map(|seconds| seconds * 1_000.0).collect()
}

/// Lines `asked <name>`, `refused <error> <name>` and `failed <error> <name>`, which clients of this test print that ask more than they are told to.
fn asked(output: &str) -> Vec<Expected> {
    let each = |line: &str| {
        // Kept for the rest of the test's life, as the names that are written down here are.
        let line: &'static str = line.to_owned().leak();
        let (verb, rest) = line.split_once(' ')?;
        match (verb, rest.split_once(' ')) {
            ("asked", _) => Some(fine(rest)),
            ("refused", Some((error, name))) => Some(refused(name, error)),
            ("failed", Some((error, name))) => Some(failed(name, error)),
            _ => None,
        }
    };
    output.lines().filter_map(each).collect()
}

/// A client without a clock.
pub(crate) fn untimed(_: &str) -> Vec<f64> {
    Vec::new()
}
