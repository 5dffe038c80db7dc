//! One child process: its command line, its log file, its end.
//!
//! A process is ended by its id when its handle is dropped: SIGTERM first, SIGKILL when it does not obey.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::wait::within;

/// How long a process may take to stop after SIGTERM before its handle's drop kills it.
const GRACE: Duration = Duration::from_secs(20);

/// Where the binaries of the workspace lie, and whether Ctrl-C on the terminal is to reach their processes.
#[derive(Clone, Debug)]
pub struct Binaries {
    folder: PathBuf,
    apart: bool,
}

impl Binaries {
    /// Those of a target folder's profile, such as `target/release`. Ctrl-C reaches only whoever starts them, who then ends
    /// them in order.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), apart: true }
    }

    /// Those built beside the running program: `target/debug` for a test binary in `target/debug/deps`. Ctrl-C ends them too, so
    /// that none is left behind by tests that are broken off.
    pub fn beside_this_program() -> Result<Self> {
        let program = std::env::current_exe().context("the path of the running program is unknown")?;
        let folder = program.parent().context("the running program has no folder")?;
        let folder = if folder.ends_with("deps") { folder.join("..") } else { folder.to_owned() };
        Ok(Self { folder, apart: false })
    }

    /// A command of one; an error says how to build it.
    pub(crate) fn command(&self, name: &str) -> Result<Command> {
        let path = self.folder.join(name);
        if !path.is_file() {
            bail!("{} is not built; run `cargo xtask check`, or `cargo build --workspace` first", path.display());
        }
        let mut command = Command::new(path);
        if self.apart {
            command.process_group(0);
        }
        Ok(command)
    }
}

/// A disk of a few megabytes for one process alone: a tmpfs in a mount namespace of its own, which ends with the process.
#[derive(Clone, Debug)]
pub struct SmallDisk {
    /// Where the process sees it. Must exist.
    pub folder: PathBuf,
    /// Its size.
    pub bytes: u64,
}

impl SmallDisk {
    /// Why this machine cannot make one, if it cannot.
    pub fn impossible(&self) -> Option<String> {
        let output = self.around(&Command::new("true")).output();
        match output {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(format!("no small disk: {}", String::from_utf8_lossy(&output.stderr).trim())),
            Err(error) => Some(format!("no small disk: unshare: {error}")),
        }
    }

    /// The command, with this disk mounted. The process keeps the id that it is started with.
    pub(crate) fn around(&self, command: &Command) -> Command {
        let mut wrapped = Command::new("unshare");
        let mount = format!("mount -t tmpfs -o size={} tmpfs \"$0\" && exec \"$@\"", self.bytes);
        wrapped
            .args(["-r", "-m", "sh", "-c", &mount])
            .arg(&self.folder)
            .arg(command.get_program())
            .args(command.get_args());
        keep_environment(&mut wrapped, command);
        wrapped
    }
}

/// The command, started by another program, such as a tracer, that is given as its words.
pub fn through(words: &[String], command: Command) -> Command {
    let Some((program, arguments)) = words.split_first() else { return command };
    let mut wrapped = Command::new(program);
    wrapped.args(arguments).arg(command.get_program()).args(command.get_args());
    keep_environment(&mut wrapped, &command);
    wrapped
}

fn keep_environment(wrapped: &mut Command, command: &Command) {
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
}

/// User and system time of a process, all its threads, as the kernel counts it: in hundredths.
pub fn cpu_seconds(process: u32) -> Result<f64> {
    times(&process.to_string(), 11..13)
}

/// The same of all children of this process that have ended and were waited for: what one took that ended in between is the difference
/// of two readings.
pub fn cpu_seconds_of_the_ended() -> Result<f64> {
    times("self", 13..15)
}

/// Sums times of proc_pid_stat(5); its third field, behind the command's bracket, is number 0.
fn times(process: &str, which: std::ops::Range<usize>) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect::<Vec<_>>();
    let ticks: Option<u64> =
        fields.get(which).map(|times| times.iter().filter_map(|time| time.parse::<u64>().ok()).sum());
    Ok(ticks.context("/proc/PID/stat has another form")? as f64 / 100.0)
}

/// A running child process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`, standard output and error into `log` (appended, so that a restart keeps the story).
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let out =
            File::options().create(true).append(true).open(log).with_context(|| format!("open {}", log.display()))?;
        let err = out.try_clone()?;
        let child = command
            // Held open until this process ends, however it ends: a child that is told to can end with it.
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("start {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), ended: None })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where it writes its standard output and error.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// An error, with the end of the log, if it has ended.
    pub fn must_run(&mut self) -> Result<()> {
        match self.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}:\n{}", self.name, tail(&self.output(), 30)),
        }
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }

    /// Waits for its own end.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("{} (pid {}) has ended", self.name, self.id());
        within(deadline, &what, || self.try_wait())
    }

    /// Sends a signal; nothing when it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.try_wait()?.is_none()
            && let Some(pid) = Pid::from_raw(self.child.id() as i32)
        {
            kill_process(pid, signal).with_context(|| format!("signal {}", self.name))?;
        }
        Ok(())
    }

    /// SIGTERM, then the exit status.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(Duration::from_secs(60))
    }

    /// SIGKILL, and the end.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait(Duration::from_secs(60)).map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let start = Instant::now();
        let _ = self.signal(Signal::TERM);
        while matches!(self.try_wait(), Ok(None)) {
            if start.elapsed() > GRACE {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The last lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
