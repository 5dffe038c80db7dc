//! The ClickHouse that rows go to: inserts a frozen block, runs statements, and tells errors apart.
//!
//! Invariant: whoever sends a block, the first time or from the spill, sends the same statement, settings, token and bytes; so a
//! block that arrived before is dropped by ClickHouse, in the table and in the views behind it.

use crate::batch::block::Block;
use crate::config;
use crate::delivered::deadline::Deadline;
use crate::delivered::{Identity, UnderWay};
#[cfg(feature = "kafka")]
use crate::kafka::message::Head as MessageHead;
use bytes::Bytes;
use clickhouse::error::Error as ClientError;
use clickhouse::query::Query;
use clickhouse::{Client, Compression};
use hyper_rustls::{ConfigBuilderExt, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client as HyperClient, Error as HyperError, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use ollystack_receive::Signal;
use ollystack_schema::migrations::{Placement, local_database};
use ollystack_schema::rows::{LogRow, MetricRow, SpanRow, Table};
use ollystack_store::blocks::Encoder;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::timeout;
use tokio_rustls::rustls::{self, ClientConfig};

/// Rows are compressed and sent in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;

/// The first is smaller: a piece counts as sent when it is handed over, and only the next one waits until there is a connection that has
/// taken it. So whatever the size of a block, its end is sent on a connection that stands, behind a head that is on its way.
const FIRST_PIECE_BYTES: usize = 1;

/// Statements of migrations and health checks. A statement that is still running then goes on in ClickHouse.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// What ClickHouse says of servers that did not run a statement for the cluster in time comes before our own limit.
const CLUSTER_STATEMENT_SECONDS: &str = "50";

/// A look-up by primary key. A sender waits for it.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// A look-up of all deliveries of a block: some 80 bytes each, and agents with a line a second make thousands; the default is 256 KiB.
const LOOK_UP_BYTES_MAX: &str = "67108864";

/// Rows that ClickHouse takes as one block, by default; a part of each table and view comes of a block at a time.
const BLOCK_ROWS_MAX: u32 = 1_048_449;

/// How far the clocks of gateways may differ: rows of an attempt are looked for among what was ingested so much before and after it.
const CLOCKS_APART: Duration = Duration::from_secs(3_600);

/// How long an idle connection is kept: less than ClickHouse's own 10 s (3 s before 23.11).
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// Connected by need; clones share the connections.
#[derive(Clone, Debug)]
pub(crate) struct ClickHouse {
    client: Client,
    database: String,
    cluster: Option<String>,
    insert_timeout: Duration,
}

/// Why something did not work, and so what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Not reached, or the connection broke: whether a block arrived is unknown. Again later.
    Network,
    /// No answer in time: whether a block arrived is unknown. Again later.
    Timeout,
    /// Not sent, or not to its end, because its time was over.
    Late,
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
            Kind::Late => "late",
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
    /// False when ClickHouse has heard nothing of it.
    pub(crate) reached: bool,
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
        // What was sent and is not confirmed so soon is never sent again: the kernel would go on for minutes, past our close, and
        // an insert would arrive after its time.
        tcp.set_tcp_user_timeout(Some(config.connect_timeout()));
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
        let cluster = config.cluster().map(str::to_owned);
        if cluster.is_some() {
            client = client
                // The answer comes when the rows are on their shards, not when they are on their way.
                .with_setting("distributed_foreground_insert", "1")
                .with_setting("insert_quorum", &config.insert_quorum)
                .with_setting("insert_quorum_timeout", config.insert_timeout().as_millis().to_string())
                .with_setting("distributed_ddl_task_timeout", CLUSTER_STATEMENT_SECONDS);
        }
        Ok(ClickHouse { client, database: config.database.clone(), cluster, insert_timeout: config.insert_timeout() })
    }

    /// Insert a block. With `begin_by` it begins by then or not at all, and ends in time here and, by the limit it is sent with, in
    /// ClickHouse.
    pub(crate) async fn insert(&self, block: &Block, begin_by: Option<Deadline>) -> Result<(), Error> {
        let mut insert = self
            .client
            .clone()
            .with_database(&self.database)
            // The pieces are compressed here.
            .with_compression(Compression::None)
            .insert_formatted_with(block.statement())
            .with_setting("decompress", "1")
            .with_setting("insert_deduplication_token", &block.head.token)
            .with_setting("insert_deduplicate", "1")
            .with_setting("deduplicate_blocks_in_dependent_materialized_views", "1")
            // Rows of a block hardly ever fold into one another; what does is merged later.
            .with_setting("optimize_on_insert", "0")
            .with_setting("max_insert_block_size", block.head.count.max(BLOCK_ROWS_MAX).to_string())
            .with_setting("async_insert", "0")
            // The answer comes after the insert and says how it went.
            .with_setting("wait_end_of_query", "1");
        if begin_by.is_some() {
            insert = insert
                .with_setting("max_execution_time", self.insert_timeout.as_secs_f64().to_string())
                .with_setting("timeout_overflow_mode", "throw");
        }
        let in_time = |by: Option<Deadline>| match by.is_some_and(Deadline::passed) {
            true => Err(Error::late()),
            false => Ok(()),
        };
        let end_by = begin_by.map(|_| Deadline::after(self.insert_timeout));
        let sending = async {
            let mut insert = insert;
            in_time(begin_by)?;
            let (mut rows, mut piece_bytes) = (&block.rows[..], FIRST_PIECE_BYTES);
            let mut encoder = Encoder::default();
            while !rows.is_empty() {
                let (piece, rest) = rows.split_at(piece_bytes.min(rows.len()));
                rows = rest;
                insert.send(Bytes::copy_from_slice(encoder.encode(piece))).await?;
                // This process may have been stopped for a while: without its end the insert is none.
                in_time(end_by).map_err(|error| Error { reached: true, ..error })?;
                piece_bytes = PIECE_BYTES;
            }
            Ok(insert.end().await?)
        };
        match timeout(self.insert_timeout, sending).await {
            Ok(done) => done,
            Err(_) => Err(Error::timeout(self.insert_timeout)),
        }
    }

    /// Insert rows of JSON, one a line, as they are: for tables whose rows may come twice.
    pub(crate) async fn insert_json(&self, table: &'static str, rows: String) -> Result<(), Error> {
        let statement = format!("INSERT INTO {table} FORMAT JSONEachRow");
        let mut insert = self.client.clone().with_database(&self.database).insert_formatted_with(statement);
        insert = insert.with_setting("async_insert", "0").with_setting("wait_end_of_query", "1");
        let sending = async {
            insert.send(Bytes::from(rows)).await?;
            insert.end().await
        };
        within(STATEMENT_TIMEOUT, sending).await
    }

    /// Run a statement in the database of what migrations make.
    pub(crate) async fn run(&self, statement: &str) -> Result<(), Error> {
        let query = self.client.clone().with_database(self.home()).query_raw(statement);
        within(STATEMENT_TIMEOUT, query.execute()).await
    }

    /// Run a statement outside of our database, for the time before it exists.
    pub(crate) async fn run_outside(&self, statement: &str) -> Result<(), Error> {
        within(STATEMENT_TIMEOUT, self.client.query_raw(statement).execute()).await
    }

    /// The answer to a query as tab-separated lines.
    pub(crate) async fn lines(&self, query: &str) -> Result<Vec<Vec<String>>, Error> {
        Self::lines_of(self.client.clone().with_database(&self.database).query_raw(query)).await
    }

    /// The same outside of our database, for the time before it exists.
    pub(crate) async fn lines_outside(&self, query: &str) -> Result<Vec<Vec<String>>, Error> {
        Self::lines_of(self.client.query_raw(query)).await
    }

    async fn lines_of(query: Query) -> Result<Vec<Vec<String>>, Error> {
        let text = within(STATEMENT_TIMEOUT, async { query.fetch_bytes("TabSeparated")?.collect().await }).await?;
        let text = String::from_utf8_lossy(&text);
        Ok(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
    }

    /// Whether rows of a delivery have arrived whose last attempt was sent `age` ago.
    pub(crate) async fn has(&self, identity: &Identity, age: Duration) -> Result<bool, Error> {
        let query = format!(
            "SELECT toUInt64(sum(Rows)) FROM {} WHERE TenantId = ? AND AgentId = ? AND BatchSequence = ? AND Signal = ?",
            self.everywhere("ingested_batches")
        );
        let client = self.client.clone().with_database(self.home());
        let query = client.query(&query).bind(&*identity.tenant).bind(&*identity.agent).bind(identity.sequence);
        let rows: u64 = within(LOOK_UP_TIMEOUT, query.bind(identity.signal.name()).fetch_one()).await?;
        if rows > 0 {
            return Ok(true);
        }
        // The table comes before its views: an insert that was broken off between them has left rows there alone.
        let then = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(age);
        let (from, to) = (then.saturating_sub(CLOCKS_APART).as_secs(), (then + CLOCKS_APART).as_secs());
        let query = format!(
            "SELECT count() FROM {} WHERE TenantId = ? AND AgentId = ? AND BatchSequence = ? \
             AND cityHash64(AgentId, BatchSequence) = cityHash64(?, toUInt64(?)) \
             AND IngestedAt BETWEEN toDateTime(?) AND toDateTime(?)",
            self.everywhere(table_of(identity.signal))
        );
        let query = client.query(&query).bind(&*identity.tenant).bind(&*identity.agent).bind(identity.sequence);
        // Once more, as the index has them.
        let query = query.bind(&*identity.agent).bind(identity.sequence);
        Ok(within(LOOK_UP_TIMEOUT, query.bind(from).bind(to).fetch_one::<u64>()).await? > 0)
    }

    /// How many rows there are of one service of a delivery: of the resource whose name it is, whatever points say of themselves.
    #[cfg(feature = "kafka")]
    pub(crate) async fn rows_of(&self, signal: Signal, head: &MessageHead) -> Result<u64, Error> {
        let client = self.client.clone().with_database(self.home());
        let (mut from, mut to) = (head.ingested_at, head.ingested_at);
        if !head.agent.is_empty() {
            // An earlier attempt may have come at any time.
            let when = format!(
                "SELECT toUInt32(toDateTime(min(IngestedOn))), toUInt32(max(IngestedAt)) FROM {} \
                 WHERE TenantId = ? AND AgentId = ? AND BatchSequence = ? AND Signal = ?",
                self.everywhere("ingested_batches")
            );
            let query = client.query(&when).bind(&head.tenant).bind(&head.agent).bind(head.sequence);
            (from, to) = within(LOOK_UP_TIMEOUT, query.bind(signal.name()).fetch_one::<(u32, u32)>()).await?;
            if to == 0 {
                return Ok(0);
            }
        }
        let (home, table, everywhere) = (self.home(), table_of(signal), self.everywhere(table_of(signal)));
        // A replica that has fewer rows lags.
        let most = |of: &str| {
            format!(
                "SELECT max(n) FROM (SELECT count() AS n FROM {everywhere} WHERE {of} GROUP BY hostName(), tcpPort())"
            )
        };
        // Of the delivery: seven values.
        const DELIVERY: &str = "TenantId = ? AND AgentId = ? AND BatchSequence = ? \
                                AND cityHash64(AgentId, BatchSequence) = cityHash64(?, toUInt64(?)) \
                                AND IngestedAt BETWEEN toDateTime(?) AND toDateTime(?)";
        let of_delivery = |query: Query| {
            let query = query.bind(&head.tenant).bind(&head.agent).bind(head.sequence);
            query.bind(&head.agent).bind(head.sequence).bind(from).bind(to)
        };
        let query = match signal {
            Signal::Logs | Signal::Traces => {
                of_delivery(client.query(&most(&format!("{DELIVERY} AND ServiceName = ?")))).bind(&head.service)
            }
            Signal::Metrics => {
                // Each server asks itself for labels: they are where the points are.
                let query = most(&format!(
                    "{DELIVERY} AND (MetricName, SeriesHash) IN (SELECT MetricName, SeriesHash FROM `{home}`.metrics_series \
                     WHERE TenantId = ? AND (MetricName, SeriesHash) IN \
                     (SELECT MetricName, SeriesHash FROM `{home}`.`{table}` WHERE {DELIVERY}) AND ResourceAttributes['service.name'] = ?)"
                ));
                let query = of_delivery(client.query(&query)).bind(&head.tenant);
                of_delivery(query).bind(&head.service)
            }
        };
        within(LOOK_UP_TIMEOUT, query.fetch_one::<u64>()).await
    }

    /// How many of these deliveries of one signal have rows in the table itself, of this very attempt.
    pub(crate) async fn in_table(&self, deliveries: &[&UnderWay]) -> Result<usize, Error> {
        let Some(first) = deliveries.first() else { return Ok(0) };
        let since = deliveries.iter().map(|under_way| under_way.since()).min().unwrap_or(0);
        let keys: Vec<_> = deliveries
            .iter()
            .map(|under_way| (under_way.identity(), under_way.since()))
            .map(|(of, since)| (&*of.tenant, &*of.agent, of.sequence, since))
            .collect();
        let query = format!(
            "SELECT uniqExact(TenantId, AgentId, BatchSequence) FROM {} WHERE IngestedAt >= toDateTime(?) \
             AND (TenantId, AgentId, BatchSequence, toUnixTimestamp(IngestedAt)) IN ?",
            self.everywhere(table_of(first.identity().signal))
        );
        let client = self.client.clone().with_database(self.home());
        let query = client.query(&query).with_setting("max_query_size", LOOK_UP_BYTES_MAX).bind(since).bind(keys);
        let there: u64 = within(LOOK_UP_TIMEOUT, query.fetch_one()).await?;
        Ok(usize::try_from(there).unwrap_or(usize::MAX))
    }

    /// Our database.
    pub(crate) fn database(&self) -> &str {
        &self.database
    }

    /// The cluster, if it is one.
    pub(crate) fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }

    /// What a statement needs to run on all servers, behind the name of what it makes or changes.
    pub(crate) fn on_cluster(&self) -> String {
        self.cluster.as_ref().map(|name| format!(" ON CLUSTER '{name}'")).unwrap_or_default()
    }

    /// How migrations are rendered.
    pub(crate) fn placement(&self) -> Placement {
        match &self.cluster {
            None => Placement::SingleNode,
            Some(name) => Placement::Cluster { name: name.clone(), database: self.database.clone() },
        }
    }

    /// The database of what migrations make: on a cluster one of its own.
    pub(crate) fn home(&self) -> String {
        match self.cluster {
            None => self.database.clone(),
            Some(_) => local_database(&self.database),
        }
    }

    /// A table of ours as it is asked for what has arrived. On a cluster on every replica, as one that lags does not know yet, and one
    /// that is away makes the question fail: that rows are not there is said by all or by none.
    pub(crate) fn everywhere(&self, table: &str) -> String {
        let table = format!("`{}`.`{table}`", self.home());
        match &self.cluster {
            None => table,
            Some(name) => format!("clusterAllReplicas('{name}', {table})"),
        }
    }
}

fn table_of(signal: Signal) -> &'static str {
    match signal {
        Signal::Metrics => MetricRow::NAME,
        Signal::Logs => LogRow::NAME,
        Signal::Traces => SpanRow::NAME,
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
        Error { kind: Kind::Timeout, code: None, reached: true, message }
    }

    fn late() -> Error {
        let message = "the time in which a block may be written was over".to_owned();
        Error { kind: Kind::Late, code: None, reached: false, message }
    }
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Error {
        let (kind, code) = match &error {
            ClientError::BadResponse(text) => {
                let code = code(text);
                (code.map_or(Kind::Other, kind), code)
            }
            ClientError::TimedOut => (Kind::Timeout, None),
            ClientError::Network(_) => (Kind::Network, None),
            _ => (Kind::Other, None),
        };
        let reached = match &error {
            ClientError::Network(below) => !below.downcast_ref::<HyperError>().is_some_and(HyperError::is_connect),
            _ => true,
        };
        Error { kind, code, reached, message: chain(&error) }
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
    use crate::batch::block::Head;
    use crate::config::{Flags, Layers};
    use std::future::poll_fn;
    use std::io::Read;
    use std::net::TcpListener;
    use std::pin::pin;
    use std::task::Poll;
    use std::thread;

    #[tokio::test]
    async fn an_insert_of_a_process_that_stood_still_until_its_time_was_over_has_no_end() {
        const END: &[u8] = b"\r\n0\r\n\r\n";
        const INSERT_TIMEOUT: Duration = Duration::from_millis(50);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heard = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut heard, mut piece) = (Vec::new(), [0; 4096]);
            while !heard.ends_with(END) {
                match stream.read(&mut piece) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => heard.extend_from_slice(&piece[..read]),
                }
            }
            heard
        });
        let config = Layers::new(None, std::iter::empty(), &Flags::default()).unwrap().config().unwrap();
        let clickhouse = ClickHouse::new(&config.clickhouse, &url).unwrap();
        let clickhouse = ClickHouse { insert_timeout: INSERT_TIMEOUT, ..clickhouse };
        let head = Head {
            table: "logs_raw".into(),
            columns: "`Body`".into(),
            format: "RowBinary".into(),
            token: "one".into(),
            count: 1,
            tenants: [].into(),
        };
        let block = Block { head, rows: Bytes::from_static(b"\x03one") };
        {
            let mut insert = pin!(clickhouse.insert(&block, Some(Deadline::after(Duration::from_secs(60)))));
            assert!(poll_fn(|context| Poll::Ready(insert.as_mut().poll(context))).await.is_pending());
            // All that runs here runs on this thread: it stands still before there is a connection.
            thread::sleep(2 * INSERT_TIMEOUT);
            insert.await.unwrap_err();
        }
        let heard = tokio::task::spawn_blocking(|| heard.join()).await.unwrap().unwrap();
        assert!(!heard.ends_with(END), "it was ended after its time: {}", String::from_utf8_lossy(&heard));
    }

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
