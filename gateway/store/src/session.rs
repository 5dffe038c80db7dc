//! One request's life in the engine: a connection of its own, its database and settings, its statement.
//!
//! A fresh connection a request (0.3 ms) gives what HTTP promises without sessions: nothing that a request sets is seen by another.
//! Work comes from a lane's thread, outcomes go back through it. Invariant: an INSERT's data reaches the engine by descriptor, never inside
//! the statement's text.

use crate::error::{Error, Refusal};
use crate::library::{Handle, Library, Output, Summary};
use crate::options::Options;
use std::ffi::CString;
use std::fmt::Write as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// A statement ready to run.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// Its text.
    pub(crate) sql: Vec<u8>,
    /// Where its INFILE lies, kept open until it is done.
    pub(crate) data: Option<OwnedFd>,
    /// Database it runs in.
    pub(crate) database: Option<String>,
    /// Settings of the request.
    pub(crate) settings: Vec<(String, String)>,
    /// Bound parameters.
    pub(crate) parameters: Vec<(String, String)>,
    /// Format of the answer where the statement names none.
    pub(crate) format: String,
    /// Nothing may be changed: it came by GET.
    pub(crate) readonly: bool,
    /// The request's id.
    pub(crate) query_id: String,
}

/// What came of it.
pub(crate) type Outcome = Result<(Output, Summary), Refusal>;

/// The running engine.
#[derive(Debug)]
pub(crate) struct Engine {
    library: Library,
    arguments: Arc<[CString]>,
    /// The connection that keeps the engine running.
    root: Handle,
    /// `version()`.
    pub(crate) version: String,
    /// `timezone()`.
    pub(crate) timezone: String,
}

/// Opens connections to the running engine.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    library: Library,
    arguments: Arc<[CString]>,
}

/// 210, NETWORK_ERROR: retryable for every client.
const NETWORK_ERROR: i32 = 210;

impl Engine {
    /// Load the library and open the data folder.
    pub(crate) fn open(library: &Path, folder: &Path, config: &Path, options: &Options) -> Result<Engine, Error> {
        let failed = |what: String| Error::Open { folder: folder.to_owned(), what };
        let mut arguments = vec![
            "clickhouse".to_owned(),
            format!("--path={}", folder.display()),
            format!("--config-file={}", config.display()),
        ];
        if options.engine_log != "fatal" {
            arguments.push(format!("--log-level={}", options.engine_log));
        }
        let arguments: Result<Arc<[CString]>, _> = arguments.into_iter().map(CString::new).collect();
        let arguments = arguments.map_err(|_| failed("its name holds a zero byte".to_owned()))?;
        let library = Library::load(library).map_err(failed)?;
        let mut root = library
            .connect(&arguments)
            .ok_or_else(|| failed("it said why on standard error; is another process using the folder?".to_owned()))?;
        let mut ask = |sql: &str| -> Result<String, Error> {
            let output = root.query(sql.as_bytes(), "TSVRaw", &[]).map_err(failed)?;
            Ok(String::from_utf8_lossy(output.as_ref()).trim_end().to_owned())
        };
        let version = ask("SELECT version()")?;
        let timezone = ask("SELECT timezone()")?;
        Ok(Engine { library, arguments, root, version, timezone })
    }

    pub(crate) fn connector(&self) -> Connector {
        Connector { library: self.library, arguments: Arc::clone(&self.arguments) }
    }

    /// Cancel every statement that runs.
    pub(crate) fn cancel_all(&mut self) -> Result<(), Refusal> {
        let sql = b"KILL QUERY WHERE query NOT LIKE 'KILL QUERY%' ASYNC";
        self.root.query(sql, "TSV", &[]).map_err(|text| Refusal::from_engine(&text))?;
        Ok(())
    }
}

impl Connector {
    /// Run one statement from connection to answer.
    pub(crate) fn run(&self, work: &Work) -> Outcome {
        let mut connection = self
            .library
            .connect(&self.arguments)
            .ok_or_else(|| Refusal::new(NETWORK_ERROR, "the engine opened no connection; it is stopping"))?;
        let mut run = |sql: &[u8], parameters: &[(String, String)]| {
            connection.query(sql, &work.format, parameters).map_err(|text| Refusal::from_engine(&text))
        };
        if let Some(database) = &work.database {
            run(format!("USE {}", quoted(database, '`')).as_bytes(), &[])?;
        }
        run(set(work)?.as_bytes(), &[])?;
        let output = run(&work.sql, &work.parameters)?;
        let summary = output.summary();
        Ok((output, summary))
    }
}

/// One SET for all settings of a request. The request's id goes along as `log_comment`: the engine gives out its own query ids.
fn set(work: &Work) -> Result<String, Refusal> {
    let mut sql = String::from("SET ");
    let mut separator = "";
    let own = ("log_comment".to_owned(), work.query_id.clone());
    let readonly = ("readonly".to_owned(), "2".to_owned());
    let own = (!work.settings.iter().any(|(name, _)| *name == own.0)).then_some(&own);
    for (name, value) in own.into_iter().chain(&work.settings).chain(work.readonly.then_some(&readonly)) {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            // 115 is UNKNOWN_SETTING.
            return Err(Refusal::new(115, format!("Unknown setting '{name}'. (UNKNOWN_SETTING)")));
        }
        // Writing to a string cannot fail.
        let _ = write!(sql, "{separator}{name} = {}", quoted(value, '\''));
        separator = ", ";
    }
    Ok(sql)
}

/// The statement that reads an INSERT's data from a descriptor of this process.
pub(crate) fn insert_from(target: &[u8], settings: &[u8], format: &str, data: &OwnedFd) -> Vec<u8> {
    let file = format!(" FROM INFILE '/proc/self/fd/{}' COMPRESSION 'none' ", data.as_raw_fd());
    // A comment may end each part.
    [target, b"\n", file.as_bytes(), settings, b"\nFORMAT ", format.as_bytes()].concat()
}

/// A name or a string as SQL has it.
fn quoted(text: &str, quote: char) -> String {
    let mut sql = String::with_capacity(text.len() + 2);
    sql.push(quote);
    for c in text.chars() {
        if c == quote || c == '\\' {
            sql.push('\\');
        }
        sql.push(c);
    }
    sql.push(quote);
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(settings: &[(&str, &str)], readonly: bool) -> Work {
        let settings = settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Work { settings, readonly, query_id: "id".into(), ..Work::default() }
    }

    #[test]
    fn settings_become_one_statement_and_readonly_comes_last() {
        let sql = set(&work(&[("max_threads", "1"), ("readonly", "0")], true)).unwrap();
        assert_eq!(sql, "SET log_comment = 'id', max_threads = '1', readonly = '0', readonly = '2'");
        assert_eq!(set(&work(&[("log_comment", "mine")], false)).unwrap(), "SET log_comment = 'mine'");
    }

    #[test]
    fn a_settings_value_cannot_leave_its_quotes_nor_a_name_be_more_than_one() {
        let sql = set(&work(&[("x", r"a\'; DROP TABLE t")], false)).unwrap();
        assert!(sql.ends_with(r"x = 'a\\\'; DROP TABLE t'"));
        assert_eq!(set(&work(&[("x = 1, y", "1")], false)).unwrap_err().code, 115);
    }
}
