//! `journalctl` as a child: where it begins, its lines, and what it said when it ended.
//!
//! The journal's files are journald's own; its program reads them all, whatever their version, compression and rotation, and
//! links nothing into the agent. Invariant: of a line no more is held than is kept of it,
//! and the child dies with its handle.

use crate::Config;
use crate::cursor::Place;
use crate::entry::{Entry, FIELDS};
use crate::reader::Reader;
use std::ffi::OsString;
use std::io;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::task::JoinHandle;

/// What is kept of its complaints.
const COMPLAINT_BYTES_MAX: usize = 1_024;

/// Where to begin.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum From {
    /// With the first entry.
    Beginning,
    /// With this one, which was read already, or what follows it if it is gone.
    At(Place),
    /// With the second in which it was: its cursor is not understood any more.
    Around(Place),
    /// The last entry alone, and no more.
    Last,
}

/// A running one.
#[derive(Debug)]
pub(crate) struct Journalctl {
    child: Child,
    stdout: BufReader<ChildStdout>,
    complaint: JoinHandle<String>,
    /// Has the line that is being read.
    reader: Reader,
}

/// A line of it.
#[derive(Debug)]
pub(crate) enum Line {
    Entry(Box<Entry>),
    /// No entry.
    Junk,
}

/// `--cursor` and not `--after-cursor`: with a filter, journalctl before 255 passes over the first match after the latter.
pub(crate) fn arguments(config: &Config, from: &From) -> Vec<OsString> {
    let mut arguments =
        vec!["--output=json".to_owned(), "--all".into(), "--quiet".into(), format!("--output-fields={FIELDS}")];
    if !config.directory.is_empty() {
        arguments.push(format!("--directory={}", config.directory));
    }
    arguments.extend(config.units.iter().map(|unit| format!("--unit={unit}")));
    match from {
        From::Last => arguments.push("--lines=1".into()),
        From::Beginning => {}
        From::At(place) => arguments.push(format!("--cursor={}", place.cursor)),
        From::Around(place) => arguments.push(format!("--since=@{}", place.time_unix_nano / 1_000_000_000)),
    }
    if *from != From::Last {
        arguments.extend(["--follow".into(), "--no-tail".into()]);
    }
    arguments.into_iter().map(Into::into).collect()
}

impl Journalctl {
    pub(crate) fn start(config: &Config, from: &From) -> io::Result<Journalctl> {
        let mut child = Command::new(&config.journalctl)
            .args(arguments(config, from))
            // Times and messages of its own in one form.
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let no_pipe = || io::Error::other("no pipe from journalctl");
        let stdout = child.stdout.take().ok_or_else(no_pipe)?;
        let complaint = tokio::spawn(last_words(child.stderr.take().ok_or_else(no_pipe)?));
        let stdout = BufReader::with_capacity(64 << 10, stdout);
        Ok(Journalctl { child, stdout, complaint, reader: Reader::new(config.message_bytes_max) })
    }

    /// The next line; `None` at its end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let chunk = self.stdout.fill_buf().await?;
            if chunk.is_empty() {
                return Ok(None);
            }
            let end = memchr::memchr(b'\n', chunk);
            self.reader.read(&chunk[..end.unwrap_or(chunk.len())]);
            let length = end.map_or(chunk.len(), |end| end + 1);
            self.stdout.consume(length);
            if end.is_some() {
                return Ok(Some(self.reader.end().map_or(Line::Junk, |entry| Line::Entry(Box::new(entry)))));
            }
        }
    }

    /// Why it ended: what it complained about last, or its status.
    pub(crate) async fn complaint(mut self) -> String {
        // Its output has ended or is of no use any more.
        let _ = self.child.start_kill();
        let status = match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        self.complaint.await.ok().filter(|text| !text.is_empty()).unwrap_or(status)
    }
}

/// Read all of it, so that it never waits for us, and keep the end.
async fn last_words(mut stderr: ChildStderr) -> String {
    let (mut chunk, mut text) = ([0; COMPLAINT_BYTES_MAX], Vec::new());
    while let Ok(length @ 1..) = stderr.read(&mut chunk).await {
        text.extend_from_slice(&chunk[..length]);
        text.drain(..text.len().saturating_sub(COMPLAINT_BYTES_MAX));
    }
    String::from_utf8_lossy(&text).trim().replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_where_to_begin_and_what_to_leave_out() {
        let config = Config { units: vec!["nginx*".into()], directory: "/host/journal".into(), ..Config::default() };
        let place = Place { cursor: "s=1;i=2".into(), time_unix_nano: 1_795_165_927_999_999_999 };
        let has = |from: &From, expected: &[&str], not: &str| {
            let arguments = arguments(&config, from);
            let arguments: Vec<&str> = arguments.iter().map(|argument| argument.to_str().unwrap()).collect();
            expected.iter().all(|argument| arguments.contains(argument)) && !arguments.contains(&not)
        };
        assert!(has(
            &From::Beginning,
            &["--unit=nginx*", "--directory=/host/journal", "--follow", "--no-tail"],
            "--lines=1"
        ));
        assert!(has(&From::At(place.clone()), &["--cursor=s=1;i=2", "--follow"], "--lines=1"));
        assert!(has(&From::Around(place), &["--since=@1795165927"], "--cursor=s=1;i=2"));
        assert!(has(&From::Last, &["--lines=1", "--all", "--output=json"], "--follow"));
    }
}
