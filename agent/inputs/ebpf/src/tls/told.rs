//! What is told of TLS: of each file that has it in it, whether it is seen into, and why not.

use serde::Serialize;
use std::path::PathBuf;

/// Files of which the agent tells.
pub(super) const TOLD_MAX: usize = 64;

/// A file with TLS in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TlsFile {
    /// As those name it that run it.
    pub file: PathBuf,
    /// Whose TLS it is, for example `GnuTLS`.
    pub library: &'static str,
    /// Why it is not seen into; `None`: it is.
    pub why_not: Option<String>,
}
