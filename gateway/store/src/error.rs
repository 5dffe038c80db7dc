//! What can go wrong: starting and serving ([`Error`]), and one request ([`Refusal`]).

use crate::engine::EngineError;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The store cannot start or go on. None of these is worth a retry without a change.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An option that cannot be.
    #[error("{option}: {found}; {allowed}")]
    Option {
        /// Which.
        option: &'static str,
        /// What was given.
        found: String,
        /// What may be given.
        allowed: &'static str,
    },
    /// The data folder cannot be used.
    #[error("data folder {}: {what}", folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why.
        what: String,
    },
    /// The engine did not open the data.
    #[error("the engine did not open {}: {what}", folder.display())]
    Open {
        /// The data folder.
        folder: PathBuf,
        /// What the engine said.
        what: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another with --listen")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// One request's end without success, as ClickHouse words it: `Code: N. DB::Exception: text`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// ClickHouse's error code.
    pub(crate) code: i32,
    /// What it says, without the code and the version.
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(code: i32, message: impl Into<String>) -> Refusal {
        Refusal { code, message: message.into() }
    }

    /// From the engine's text. Errors of the engine's client part come wrapped in themselves; the inner one is the whole.
    pub(crate) fn from_engine(text: &str) -> Refusal {
        const MARK: &str = " DB::Exception: ";
        let Some((code, mut message)) = split_code(text) else {
            // 1002 is UNKNOWN_EXCEPTION.
            return Refusal::new(1002, text.trim());
        };
        if let Some((inner, rest)) = split_code(message)
            && inner == code
        {
            message = rest.rsplit_once(" (version ").map_or(rest, |(inner, _)| inner);
        }
        return Refusal::new(code, message.trim_end());

        fn split_code(text: &str) -> Option<(i32, &str)> {
            let (code, message) = text.strip_prefix("Code: ")?.split_once('.')?;
            Some((code.parse().ok()?, message.strip_prefix(MARK)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_errors_are_told_apart_by_code() {
        let text = "Code: 62. DB::Exception: Syntax error. (SYNTAX_ERROR)";
        assert_eq!(Refusal::from_engine(text), Refusal::new(62, "Syntax error. (SYNTAX_ERROR)"));
    }

    #[test]
    fn an_error_wrapped_in_itself_is_unwrapped() {
        let text = "Code: 32. DB::Exception: Code: 32. DB::Exception: Too short. (EOF) (version 26.5.1.1). (EOF)";
        assert_eq!(Refusal::from_engine(text), Refusal::new(32, "Too short. (EOF)"));
    }

    #[test]
    fn a_text_without_a_code_is_an_unknown_exception() {
        assert_eq!(Refusal::from_engine("std::bad_alloc").code, 1002);
    }
}
