//! What every scraper is given and may answer.
//!
//! A scraper reads (kernel text into the shared buffer), takes a snapshot (pure parsing) and projects it (samples of series
//! that it keeps). Invariant: a scraper that fails leaves the others' samples as they are.

use crate::read::KernelFile;
use crate::series::{Catalog, Samples};
use ollystack_record::{Resource, Sample};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Reads one part of the system.
pub(crate) trait Scraper: Send {
    /// As it appears in `doctor`, in logs and in the stats.
    fn name(&self) -> &'static str;

    /// Read once and add samples.
    fn scrape(&mut self, context: &mut Context<'_>) -> Result<(), ScrapeError>;
}

/// Samples of one resource.
pub(crate) type Part = (Arc<Resource>, Vec<Sample>);

/// What scrapers share.
pub(crate) struct Context<'a> {
    /// Where the kernel's files are.
    pub(crate) roots: &'a Roots,
    /// Room for what is read; its content is nobody's.
    pub(crate) buffer: &'a mut Vec<u8>,
    /// Makes series.
    pub(crate) catalog: &'a mut Catalog,
    /// The host, which processes and containers are parts of.
    pub(crate) host: &'a Resource,
    /// The host's samples.
    pub(crate) samples: &'a mut Samples,
    /// The samples of processes and containers.
    pub(crate) parts: &'a mut Vec<Part>,
}

impl Context<'_> {
    /// Read a file that stays open into the buffer; the error names it.
    pub(crate) fn read(&mut self, file: &mut KernelFile) -> Result<(), ScrapeError> {
        file.read(self.buffer).map_err(|source| ScrapeError::read(file.path(), source))
    }
}

/// Why a reading gave nothing, or not all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScrapeError {
    /// The file could not be read.
    #[error("{path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file does not say what it says on any known kernel.
    #[error("{path}: no {what} in it")]
    Parse {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// Something does not answer.
    #[error("{0}")]
    Stuck(String),
}

impl ScrapeError {
    pub(crate) fn read(path: &Path, source: io::Error) -> ScrapeError {
        ScrapeError::Read { path: path.to_owned(), source }
    }

    pub(crate) fn parse(file: &KernelFile, what: &'static str) -> ScrapeError {
        ScrapeError::Parse { path: file.path().to_owned(), what }
    }
}

/// Where the host's kernel files are.
#[derive(Clone, Debug)]
pub(crate) struct Roots {
    /// The host's root.
    pub(crate) root: PathBuf,
    /// The host's /proc.
    pub(crate) proc: PathBuf,
    /// The host's /sys.
    pub(crate) sys: PathBuf,
    /// The process whose network and mounts stand for the host's.
    own: PathBuf,
}

impl Roots {
    /// Seen from a container, the host's network and mounts are those of its process 1; otherwise they are our own.
    pub(crate) fn new(root: &Path) -> Roots {
        let proc = root.join("proc");
        let own = proc.join(if root == Path::new("/") { "self" } else { "1" });
        Roots { root: root.to_owned(), proc, sys: root.join("sys"), own }
    }

    /// A file of the process that stands for the host, such as `net/dev`.
    pub(crate) fn own(&self, file: &str) -> PathBuf {
        self.own.join(file)
    }
}
