//! Runs a program under strace, so that what it asks of the disk is on record, or fails where we say.
//!
//! From strace's text, strings in hexadecimal, to [`Event`]s in the order in which the calls returned. Invariant: a call that is
//! followed here and cannot be understood is an error, never left out.

use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;

/// The calls that change files or names, and those that tell which file is meant. `writev` to standard output is what a program
/// says of itself.
const FOLLOWED: &str = "openat,close,lseek,write,writev,pwrite64,pwritev,ftruncate,fallocate,fsync,fdatasync,\
                        sync_file_range,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,\
                        copy_file_range,sendfile,sendto";
/// Nothing that is written in one call is longer.
const STRING_BYTES_MAX: &str = "16777216";

/// A call that came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// How many events had come back when it was called.
    pub(crate) began: usize,
    /// Which thread called.
    pub(crate) thread: u32,
    /// What it did.
    pub(crate) call: Call,
}

/// What is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Open {
        path: PathBuf,
        fd: i64,
        create: bool,
        truncate: bool,
        append: bool,
    },
    Close {
        fd: i64,
    },
    Seek {
        fd: i64,
        position: u64,
    },
    /// At the position of the descriptor where none is named; of as many bytes as the kernel took.
    Write {
        fd: i64,
        at: Option<u64>,
        bytes: Vec<u8>,
    },
    Resize {
        fd: i64,
        length: u64,
    },
    /// A sync that failed tells nothing but that its pages may be lost.
    Sync {
        fd: i64,
        failed: bool,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Unlink {
        path: PathBuf,
    },
    MakeFolder {
        path: PathBuf,
    },
}

/// Why programs cannot be traced here, if they cannot.
pub(crate) fn impossible() -> Option<String> {
    match Command::new("strace").args(["-qq", "-f", "-e", "trace=none", "true"]).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("strace may not trace: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Some(format!("no strace ({error}); `cargo xtask setup` installs it")),
    }
}

/// What strace is to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Strace {
    /// Where the calls go, if they are wanted.
    pub(crate) record: Option<PathBuf>,
    /// Which call fails, and how: `fsync:error=EIO:when=3`.
    pub(crate) inject: Option<String>,
    /// Only calls on these files.
    pub(crate) paths: Vec<PathBuf>,
}

impl Strace {
    /// What to start a program by. It keeps its process id: the tracer is the grandchild.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = ["strace", "-D", "-f", "-q"].map(str::to_owned).to_vec();
        match &self.record {
            Some(record) => {
                let followed = format!("trace={FOLLOWED}");
                words
                    .extend(["--seccomp-bpf", "-xx", "-s", STRING_BYTES_MAX, "-e", &followed, "-o"].map(str::to_owned));
                words.push(record.display().to_string());
            }
            None => words.extend(["-o", "/dev/null"].map(str::to_owned)),
        }
        words.extend(self.inject.iter().flat_map(|inject| ["-e".to_owned(), format!("inject={inject}")]));
        words.extend(self.paths.iter().flat_map(|path| ["-P".to_owned(), path.display().to_string()]));
        words
    }

    /// The command, traced.
    pub(crate) fn around(&self, command: Command) -> Command {
        ollystack_tests::through(&self.words(), command)
    }
}

/// Reads what strace wrote.
pub(crate) fn events(text: &str) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    let mut begun: HashMap<&str, (usize, &str)> = HashMap::new();
    for line in text.lines() {
        let Some((thread, said)) = line.split_once(' ') else { continue };
        let said = said.trim_start();
        if said.starts_with("---") || said.starts_with("+++") {
            continue;
        }
        if let Some(first) = said.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, (events.len(), first));
            continue;
        }
        let resumed = said.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>"));
        let call = match resumed {
            Some((_, rest)) => {
                let (began, first) =
                    begun.remove(thread).with_context(|| format!("resumed, never begun: {said:.80}"))?;
                call(&format!("{first}{rest}"))?.map(|call| (began, call))
            }
            None => call(said)?.map(|call| (events.len(), call)),
        };
        let thread = thread.parse().with_context(|| format!("no thread: {line:.80}"))?;
        events.extend(call.map(|(began, call)| Event { began, thread, call }));
    }
    Ok(events)
}

/// One call, or none when it changed nothing.
fn call(said: &str) -> Result<Option<Call>> {
    let understood = || -> Option<Result<Option<Call>>> {
        let (name, rest) = said.split_once('(')?;
        let (arguments, result) = rest.rsplit_once(" = ")?;
        let arguments = split(arguments.trim_end().strip_suffix(')')?);
        let result = result.split(' ').next()?;
        let failed = result.starts_with('-') || result == "?";
        let number = |at: usize| arguments.get(at)?.parse::<i64>().ok();
        let fd = number(0);
        Some(Ok(Some(match name {
            "fsync" | "fdatasync" => Call::Sync { fd: fd?, failed },
            _ if failed => return Some(Ok(None)),
            "openat" => {
                let flags = arguments.get(2)?;
                let has = |flag| flags.split('|').any(|set| set == flag);
                Call::Open {
                    path: path(arguments.get(1)?)?,
                    fd: result.parse().ok()?,
                    create: has("O_CREAT"),
                    truncate: has("O_TRUNC"),
                    append: has("O_APPEND"),
                }
            }
            "close" => Call::Close { fd: fd? },
            "lseek" => Call::Seek { fd: fd?, position: result.parse().ok()? },
            "write" | "writev" | "pwrite64" | "sendto" => {
                let mut bytes: Vec<u8> = Vec::new();
                for string in arguments.get(1)?.split('"').skip(1).step_by(2) {
                    bytes.extend(unhex(string)?);
                }
                let at = if name == "pwrite64" { Some(number(3)?.unsigned_abs()) } else { None };
                bytes.truncate(result.parse().ok()?);
                Call::Write { fd: fd?, at, bytes }
            }
            "ftruncate" => Call::Resize { fd: fd?, length: number(1)?.unsigned_abs() },
            "rename" => Call::Rename { from: path(arguments.first()?)?, to: path(arguments.get(1)?)? },
            "renameat" | "renameat2" => Call::Rename { from: path(arguments.get(1)?)?, to: path(arguments.get(3)?)? },
            "unlink" | "rmdir" => Call::Unlink { path: path(arguments.first()?)? },
            "unlinkat" => Call::Unlink { path: path(arguments.get(1)?)? },
            "mkdir" => Call::MakeFolder { path: path(arguments.first()?)? },
            "mkdirat" => Call::MakeFolder { path: path(arguments.get(1)?)? },
            other => return Some(Err(anyhow::anyhow!("{other} is not followed yet: {said:.200}"))),
        })))
    };
    understood().unwrap_or_else(|| bail!("strace said what is not understood: {said:.200}"))
}

/// Arguments, at the commas outside of brackets. Strings are hexadecimal: no comma in them.
fn split(arguments: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut begin) = (Vec::new(), 0_i32, 0);
    for (at, byte) in arguments.bytes().enumerate() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(arguments[begin..at].trim());
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(arguments[begin..].trim());
    parts
}

fn path(argument: &str) -> Option<PathBuf> {
    let text = unhex(argument.strip_prefix('"')?.strip_suffix('"')?)?;
    Some(PathBuf::from(String::from_utf8(text).ok()?))
}

/// `\x6f\x6b`.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let bytes = text.as_bytes().chunks(4);
    bytes
        .map(|c| if c.len() == 4 && c.starts_with(b"\\x") { Some(digit(c[2])? << 4 | digit(c[3])?) } else { None })
        .collect()
}

/// A short text of every kind of line; part of the torture, as this target has no unit tests.
pub(crate) fn check() -> Result<()> {
    let text = "7 openat(AT_FDCWD, \"\\x2f\\x61\", O_RDWR|O_CREAT|O_CLOEXEC, 0644) = 3\n\
                8  pwrite64(3, \"\\x6f\\x6b\", 2, 8 <unfinished ...>\n\
                7  fdatasync(3)                            = -1 EIO (Input/output error) (INJECTED)\n\
                8  <... pwrite64 resumed>)                 = 2\n\
                7  writev(1, [{iov_base=\"\\x6f\", iov_len=1}, {iov_base=\"\\x6b\", iov_len=1}], 2) = 2\n\
                7  +++ exited with 0 +++\n";
    let found = events(text)?;
    let expected = vec![
        Event {
            began: 0,
            thread: 7,
            call: Call::Open { path: "/a".into(), fd: 3, create: true, truncate: false, append: false },
        },
        Event { began: 1, thread: 7, call: Call::Sync { fd: 3, failed: true } },
        Event { began: 1, thread: 8, call: Call::Write { fd: 3, at: Some(8), bytes: b"ok".to_vec() } },
        Event { began: 3, thread: 7, call: Call::Write { fd: 1, at: None, bytes: b"ok".to_vec() } },
    ];
    ensure!(found == expected, "the reader of traces is wrong: {found:?}");
    Ok(())
}
