//! The ClickHouse that rows go to: inserts a frozen block, runs statements, and tells errors apart.
//!
//! Invariant: whoever sends a block, the first time or from the spill, sends the same statement, settings, token and bytes; so a
//! block that arrived before is dropped by ClickHouse, in the table and in the views behind it.

use crate::batch::block::Block;
use crate::config;
use crate::delivered::Identity;
use bytes::Bytes;
use clickhouse::Client;
use clickhouse::error::Error as ClientError;
use hyper_rustls::{ConfigBuilderExt, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client as HyperClient, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use std::time::Duration;
use tokio::time::timeout;
use tokio_rustls::rustls::{self, ClientConfig};

/// Rows are compressed and sent in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;

/// Statements of migrations and health checks. A statement that is still running then goes on in ClickHouse.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// A look-up by primary key. A sender waits for it.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an idle connection is kept: less than ClickHouse's own 10 s (3 s before 23.11).
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// Connected by need; clones share the connections.
#[derive(Clone, Debug)]
pub(crate) struct ClickHouse {
    client: Client,
    database: String,
    insert_timeout: Duration,
}

/// Why something did not work, and so what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Not reached, or the connection broke: whether a block arrived is unknown. Again later.
    Network,
    /// No answer in time: whether a block arrived is unknown. Again later.
    Timeout,
    /// Reached, and too busy or short of something. Again later.
    Overload,
    /// Reached, and does not let us in. Again later, when somebody has put it right.
    Access,
    /// Database or table is not there. Again, after the migrations.
    Missing,
    /// This block will never be taken.
    Block,
    /// An answer that says none of this. Again later, but not for ever.
    Other,
}

impl Kind {
    /// For counters.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Network => "network",
            Kind::Timeout => "timeout",
            Kind::Overload => "overload",
            Kind::Access => "access",
            Kind::Missing => "missing",
            Kind::Block => "block",
            Kind::Other => "other",
        }
    }
}

/// What ClickHouse said, or why it could not be asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Error {
    pub(crate) kind: Kind,
    /// ClickHouse's number for it, if it gave one.
    pub(crate) code: Option<u32>,
    message: String,
}

/// Why no client can be made from the configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetUpError {
    #[error("clickhouse.url {url}: no trusted certificates on this host: {source}; install ca-certificates")]
    Roots { url: String, source: std::io::Error },
    #[error("clickhouse.url {url}: {source}")]
    Tls { url: String, source: rustls::Error },
}

impl ClickHouse {
    /// `url` is the configured one, or the embedded engine's.
    pub(crate) fn new(config: &config::ClickHouse, url: &str) -> Result<ClickHouse, SetUpError> {
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(config.connect_timeout()));
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(60)));
        let mut builder = HyperClient::builder(TokioExecutor::new());
        builder.pool_idle_timeout(IDLE_TIMEOUT);
        let client = if url.starts_with("https://") {
            tcp.enforce_http(false);
            let provider = rustls::crypto::ring::default_provider();
            let tls = ClientConfig::builder_with_provider(provider.into())
                .with_safe_default_protocol_versions()
                .map_err(|source| SetUpError::Tls { url: url.to_owned(), source })?
                .with_native_roots()
                .map_err(|source| SetUpError::Roots { url: url.to_owned(), source })?
                .with_no_client_auth();
            let https =
                HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().wrap_connector(tcp);
            Client::with_http_client(builder.build(https))
        } else {
            Client::with_http_client(builder.build(tcp))
        };
        let mut client = client.with_url(url).with_product_info("ollystack-gateway", env!("CARGO_PKG_VERSION"));
        if !config.user.is_empty() {
            client = client.with_user(&config.user);
        }
        if !config.password.is_empty() {
            client = client.with_password(config.password.expose());
        }
        Ok(ClickHouse { client, database: config.database.clone(), insert_timeout: config.insert_timeout() })
    }

    /// Insert a block.
    pub(crate) async fn insert(&self, block: &Block) -> Result<(), Error> {
        let insert = self
            .client
            .clone()
            .with_database(&self.database)
            .insert_formatted_with(block.statement())
            .with_setting("insert_deduplication_token", &block.head.token)
            .with_setting("insert_deduplicate", "1")
            .with_setting("deduplicate_blocks_in_dependent_materialized_views", "1")
            .with_setting("async_insert", "0")
            // The answer comes after the insert and says how it went.
            .with_setting("wait_end_of_query", "1");
        let sending = async {
            let mut insert = insert;
            let mut rows = block.rows.clone();
            while !rows.is_empty() {
                let piece: Bytes = rows.split_to(PIECE_BYTES.min(rows.len()));
                insert.send(piece).await?;
            }
            insert.end().await
        };
        within(self.insert_timeout, sending).await
    }

    /// Run a statement in our database.
    pub(crate) async fn run(&self, statement: &str) -> Result<(), Error> {
        let query = self.client.clone().with_database(&self.database).query_raw(statement);
        within(STATEMENT_TIMEOUT, query.execute()).await
    }

    /// Run a statement outside of our database, for the time before it exists.
    pub(crate) async fn run_outside(&self, statement: &str) -> Result<(), Error> {
        within(STATEMENT_TIMEOUT, self.client.query_raw(statement).execute()).await
    }

    /// The answer to a query as tab-separated lines.
    pub(crate) async fn lines(&self, query: &str) -> Result<Vec<Vec<String>>, Error> {
        let query = self.client.clone().with_database(&self.database).query_raw(query);
        let text = within(STATEMENT_TIMEOUT, async { query.fetch_bytes("TabSeparated")?.collect().await }).await?;
        let text = String::from_utf8_lossy(&text);
        Ok(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
    }

    /// How many rows of a delivery have arrived.
    pub(crate) async fn rows_of(&self, identity: &Identity) -> Result<u64, Error> {
        const QUERY: &str = "SELECT toUInt64(sum(Rows)) FROM ingested_batches \
                             WHERE TenantId = ? AND AgentId = ? AND BatchSequence = ? AND Signal = ?";
        let client = self.client.clone().with_database(&self.database);
        let query = client.query(QUERY).bind(&*identity.tenant).bind(&*identity.agent).bind(identity.sequence);
        within(LOOK_UP_TIMEOUT, query.bind(identity.signal.name()).fetch_one()).await
    }

    /// Our database.
    pub(crate) fn database(&self) -> &str {
        &self.database
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, ClientError>>) -> Result<T, Error> {
    match timeout(limit, work).await {
        Ok(done) => done.map_err(Error::from),
        Err(_) => Err(Error::timeout(limit)),
    }
}

impl Error {
    /// No answer within `limit`.
    pub(crate) fn timeout(limit: Duration) -> Error {
        let message = format!("no answer from ClickHouse within {} ms", limit.as_millis());
        Error { kind: Kind::Timeout, code: None, message }
    }
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Error {
        let message = chain(&error);
        match &error {
            ClientError::BadResponse(text) => {
                let code = code(text);
                Error { kind: code.map_or(Kind::Other, kind), code, message }
            }
            ClientError::TimedOut => Error { kind: Kind::Timeout, code: None, message },
            ClientError::Network(_) => Error { kind: Kind::Network, code: None, message },
            _ => Error { kind: Kind::Other, code: None, message },
        }
    }
}

/// An error with what lies below it: "client error (Connect)" alone helps nobody.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        below = error.source();
    }
    text
}

/// `Code: 241. DB::Exception: ...` is how ClickHouse starts an error.
fn code(text: &str) -> Option<u32> {
    let digits = text.split_once("Code: ")?.1;
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// ClickHouse's numbers, from its ErrorCodes.cpp. What is not listed is [`Kind::Other`].
fn kind(code: u32) -> Kind {
    match code {
        // A cut request, files and pipes, timeouts, read-only, quota, simultaneous queries, sockets, Keeper, memory, disk,
        // too many parts, replicas, cancelled, threads, deadlock, object storage.
        3
        | 23
        | 24
        | 74..=76
        | 159
        | 160
        | 164
        | 201..=203
        | 209
        | 210
        | 225
        | 236
        | 241..=243
        | 252
        | 279
        | 285
        | 286
        | 289
        | 319
        | 394
        | 425
        | 439
        | 473
        | 499
        | 999 => Kind::Overload,
        // Unknown user, wrong or missing password, address, database and object rights.
        192..=195 | 291 | 497 | 516 => Kind::Access,
        60 | 81 => Kind::Missing,
        // Parsing, columns, types, formats, sizes, nulls, constraints, enums: the block does not fit the table.
        6..=8
        | 10
        | 15
        | 16
        | 20
        | 25..=27
        | 32
        | 33
        | 38
        | 41
        | 43
        | 44
        | 47
        | 50
        | 53
        | 62
        | 69
        | 70
        | 72
        | 73
        | 117
        | 131
        | 190
        | 349
        | 469
        | 691 => Kind::Block,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart() {
        let answer = |text: &str| Error::from(ClientError::BadResponse(text.to_owned()));
        for (text, code, kind) in [
            ("Code: 252. DB::Exception: Too many parts (300). (TOO_MANY_PARTS)", Some(252), Kind::Overload),
            ("Code: 241. DB::Exception: Memory limit exceeded", Some(241), Kind::Overload),
            ("Code: 516. DB::Exception: default: Authentication failed", Some(516), Kind::Access),
            ("Code: 60. DB::Exception: Table ollystack.logs_raw does not exist", Some(60), Kind::Missing),
            ("Code: 16. DB::Exception: No such column Foo in table", Some(16), Kind::Block),
            ("Code: 33. DB::Exception: Cannot read all data", Some(33), Kind::Block),
            ("Code: 49. DB::Exception: Logical error", Some(49), Kind::Other),
            ("502 Bad Gateway", None, Kind::Other),
        ] {
            let error = answer(text);
            assert_eq!((error.code, error.kind), (code, kind), "{text}");
            assert!(error.to_string().contains(text));
        }
        assert_eq!(Error::from(ClientError::TimedOut).kind, Kind::Timeout);
        assert_eq!(Error::from(ClientError::Network("x".into())).kind, Kind::Network);
    }
}
