//! A request's meaning: which parameters are ClickHouse's HTTP interface, which are settings, who asks, and the text and data to run.
//!
//! From `http` (head and body bytes) to `session` (work). Invariant: nothing of the body is looked at before the user and
//! password were found right, and where a parameter comes twice the first one counts.

use super::encoding;
use crate::error::Refusal;
use crate::options::Password;
use crate::session::{Work, insert_from};
use crate::statement::{Plan, plan};
use base64::Engine as _;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, Method, request::Parts};
use rustix::fs::{MemfdFlags, memfd_create};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

const BAD_ARGUMENTS: i32 = 36;
const NOT_IMPLEMENTED: i32 = 48;
const UNKNOWN_FORMAT: i32 = 73;
const CANNOT_ALLOCATE: i32 = 173;
const REQUIRED_PASSWORD: i32 = 194;
const AUTHENTICATION_FAILED: i32 = 516;
const ACCESS_DENIED: i32 = 497;

/// Data that goes into the statement's text, for `input()`: eight times the size while it is parsed.
const INPUT_BYTES_MAX: usize = 16 << 20;

/// Parameters of the interface that are neither settings nor have an effect here: authentication is done before, and an answer is
/// always whole before it is sent.
const IGNORED: [&str; 11] = [
    "user",
    "password",
    "quota_key",
    "wait_end_of_query",
    "buffer_size",
    "stacktrace",
    "role",
    "client_protocol_version",
    "session_timeout",
    "session_check",
    "close_session",
];

/// Who may ask.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    pub(crate) user: String,
    pub(crate) password: Option<Password>,
    /// Whether the address is of this host only.
    pub(crate) loopback: bool,
}

impl Gate {
    /// Check user, password and, so that no web page in a browser of this host can ask, where the request comes from.
    pub(crate) fn admit(&self, head: &Parts, query: &[(String, String)]) -> Result<(), Refusal> {
        if head.headers.contains_key(ORIGIN) {
            return Err(Refusal::new(ACCESS_DENIED, "requests of web pages (with an Origin header) are not served"));
        }
        if self.loopback && self.password.is_none() && !is_this_host(text(&head.headers, HOST.as_str())) {
            let message = "the Host header names another host; use localhost or an IP address, or set a password";
            return Err(Refusal::new(ACCESS_DENIED, message));
        }
        let Some(expected) = &self.password else { return Ok(()) };
        let (user, password) = self.credentials(&head.headers, query)?;
        if user == self.user && expected.is(&password) {
            return Ok(());
        }
        let message =
            format!("{user}: Authentication failed: password is incorrect, or there is no user with such name.");
        Err(Refusal::new(AUTHENTICATION_FAILED, message))
    }

    fn credentials(&self, headers: &HeaderMap, query: &[(String, String)]) -> Result<(String, String), Refusal> {
        let parameter = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let or_default = |user: Option<String>| user.filter(|user| !user.is_empty()).unwrap_or("default".to_owned());
        if let Some(key) = text(headers, "x-clickhouse-key") {
            let user = text(headers, "x-clickhouse-user").map(str::to_owned);
            return Ok((or_default(user), key.to_owned()));
        }
        if let Some(value) = text(headers, AUTHORIZATION.as_str()) {
            let pair = value
                .strip_prefix("Basic ")
                .and_then(|basic| base64::engine::general_purpose::STANDARD.decode(basic.trim()).ok())
                .and_then(|pair| String::from_utf8(pair).ok())
                .and_then(|pair| pair.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned())));
            return pair.ok_or_else(|| {
                Refusal::new(
                    AUTHENTICATION_FAILED,
                    "Invalid authentication: only 'Basic' HTTP Authorization is supported",
                )
            });
        }
        match parameter("password") {
            Some(password) => Ok((or_default(parameter("user")), password)),
            None => Err(Refusal::new(
                REQUIRED_PASSWORD,
                format!("{}: Authentication failed: a password is required", or_default(parameter("user"))),
            )),
        }
    }
}

fn is_this_host(host: Option<&str>) -> bool {
    // HTTP/1.0 clients send none, and they are no browsers.
    let Some(host) = host else { return true };
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// A request that was understood.
#[derive(Debug)]
pub(crate) struct Request {
    /// For a lane.
    pub(crate) work: Work,
    /// Whether it belongs to the inserts' lane.
    pub(crate) insert: bool,
    /// The answer's format.
    pub(crate) format: String,
    /// Whether the answer is to be in ClickHouse's blocks.
    pub(crate) blocks: bool,
    /// The Content-Encoding of the answer, if one is wanted and known.
    pub(crate) encoding: Option<&'static str>,
}

/// The parameters of the URL.
pub(crate) fn query_of(head: &Parts) -> Vec<(String, String)> {
    form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned().collect()
}

/// Understand a request. `body` is as it came; at most `max` bytes come of it.
pub(crate) fn understand(
    head: &Parts,
    mut query: Vec<(String, String)>,
    body: &[u8],
    max: usize,
    query_id: String,
) -> Result<Request, Refusal> {
    let decoded;
    let mut body = match text(&head.headers, CONTENT_ENCODING.as_str()) {
        None | Some("" | "identity") => body,
        Some(encoding) => {
            decoded = encoding::decode(encoding, body, max)?;
            &decoded
        }
    };
    if let Some(boundary) = text(&head.headers, CONTENT_TYPE.as_str()).and_then(boundary) {
        query.extend(multipart(body, &boundary)?);
        body = &[];
    }
    let flag = |name: &str| query.iter().any(|(key, value)| key == name && value == "1");
    let unpacked;
    if flag("decompress") {
        unpacked = encoding::decode_blocks(body, max)?;
        body = &unpacked;
    }
    let blocks = flag("compress");
    let encoding = flag("enable_http_compression").then(|| accepted(&head.headers)).flatten();

    let mut work = Work {
        query_id,
        database: text(&head.headers, "x-clickhouse-database").map(str::to_owned),
        format: text(&head.headers, "x-clickhouse-format").unwrap_or_default().to_owned(),
        readonly: matches!(head.method, Method::GET | Method::HEAD),
        ..Work::default()
    };
    let mut statement = String::new();
    let mut seen = std::collections::HashSet::new();
    for (key, value) in query {
        if !seen.insert(key.clone()) {
            continue;
        }
        match key.as_str() {
            "query" => statement = value,
            "database" => work.database = Some(value),
            "default_format" if work.format.is_empty() => work.format = value,
            "default_format" | "query_id" | "compress" | "decompress" | "enable_http_compression" => {}
            "session_id" => {
                return Err(Refusal::new(
                    NOT_IMPLEMENTED,
                    "sessions (session_id) are not served by the embedded store",
                ));
            }
            ignored if IGNORED.contains(&ignored) => {}
            _ => match key.strip_prefix("param_") {
                Some(name) => work.parameters.push((name.to_owned(), value)),
                None => work.settings.push((key, value)),
            },
        }
    }
    work.database = work.database.filter(|database| !database.is_empty());
    let named = !work.format.is_empty();
    if !named {
        work.format = "TabSeparated".to_owned();
    }
    let request = prepare(work, statement.as_bytes(), body, named)?;
    Ok(Request { blocks, encoding, ..request })
}

/// Join the statement with its data.
fn prepare(mut work: Work, statement: &[u8], body: &[u8], named: bool) -> Result<Request, Refusal> {
    // Without a statement in the URL the body begins with it. A statement that the URL only begins goes on in the body.
    let joined;
    let (planned, body) = if statement.is_empty() {
        (plan(body)?, &[][..])
    } else {
        match plan(statement)? {
            Plan::Insert { format: None, .. } if !body.is_empty() && !named => {
                joined = [statement, b"\n", body].concat();
                (plan(&joined)?, &[][..])
            }
            Plan::Run { .. } if !body.is_empty() => {
                joined = [statement, b"\n", body].concat();
                (plan(&joined)?, &[][..])
            }
            planned => (planned, body),
        }
    };
    let mut format = work.format.clone();
    let insert = match planned {
        Plan::Run { sql, format: own, insert } => {
            work.sql = sql.to_vec();
            if let Some(own) = own {
                format = own.to_owned();
            }
            insert
        }
        Plan::Insert { target, settings, format: own, data } => {
            let own = own.unwrap_or(if named { &work.format } else { "Values" });
            check_format(own)?;
            let file = in_memory(&[data, body])?;
            work.sql = insert_from(target, settings, own, &file);
            work.data = Some(file);
            true
        }
        Plan::Input { before, structure, after, format: own, data } => {
            check_format(own)?;
            if data.len() + body.len() > INPUT_BYTES_MAX {
                return Err(encoding::too_large(INPUT_BYTES_MAX));
            }
            // The library has no input(); format() reads a literal the same way, and hexadecimal digits pass through any parser.
            let mut literal = String::with_capacity(2 * (data.len() + body.len()));
            for byte in data.iter().chain(body) {
                // Writing to a string cannot fail.
                let _ = write!(literal, "{byte:02x}");
            }
            let source = format!("format({own}, ");
            work.sql = [before, source.as_bytes(), structure, b", unhex('", literal.as_bytes(), b"'))", after].concat();
            true
        }
    };
    Ok(Request { work, insert, format, blocks: false, encoding: None })
}

/// A format goes into the statement's text: it must be a name.
fn check_format(format: &str) -> Result<(), Refusal> {
    if !format.is_empty() && format.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Ok(());
    }
    Err(Refusal::new(UNKNOWN_FORMAT, format!("Unknown format {format}. (UNKNOWN_FORMAT)")))
}

/// A file in memory, for the engine to read by descriptor.
fn in_memory(parts: &[&[u8]]) -> Result<OwnedFd, Refusal> {
    let failed = |error: std::io::Error| Refusal::new(CANNOT_ALLOCATE, format!("cannot keep the data: {error}"));
    let descriptor = memfd_create("ollystack-insert", MemfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
    let mut file = File::from(descriptor);
    for part in parts {
        file.write_all(part).map_err(failed)?;
    }
    Ok(file.into())
}

/// The first of the encodings that we know.
fn accepted(headers: &HeaderMap) -> Option<&'static str> {
    let accepted = text(headers, "accept-encoding")?;
    let offers =
        |name: &str| accepted.split(',').any(|offer| offer.split(';').next().unwrap_or_default().trim() == name);
    ["lz4", "zstd", "gzip"].into_iter().find(|name| offers(name))
}

fn boundary(content_type: &str) -> Option<String> {
    let rest = content_type.strip_prefix("multipart/form-data")?;
    let value = rest.split(';').find_map(|part| part.trim().strip_prefix("boundary="))?;
    Some(value.trim_matches('"').to_owned())
}

/// The fields of a form: how clients send statements with bound parameters.
fn multipart(body: &[u8], boundary: &str) -> Result<Vec<(String, String)>, Refusal> {
    let broken = || Refusal::new(BAD_ARGUMENTS, "the multipart/form-data body is damaged");
    let body = std::str::from_utf8(body).map_err(|_| broken())?;
    let delimiter = format!("--{boundary}");
    let mut fields = Vec::new();
    let mut rest = body.strip_prefix(&delimiter).ok_or_else(broken)?;
    while !rest.starts_with("--") {
        let (head, after) =
            rest.strip_prefix("\r\n").and_then(|part| part.split_once("\r\n\r\n")).ok_or_else(broken)?;
        if head.contains("filename=") {
            return Err(Refusal::new(NOT_IMPLEMENTED, "external tables are not served by the embedded store"));
        }
        let name = head.split_once("name=\"").and_then(|(_, name)| name.split_once('"')).ok_or_else(broken)?.0;
        let (value, after) = after.split_once(&format!("\r\n{delimiter}")).ok_or_else(broken)?;
        fields.push((name.to_owned(), value.to_owned()));
        rest = after;
    }
    Ok(fields)
}

#[cfg(test)]
mod tests;
