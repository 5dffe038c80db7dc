//! What one test has for itself: a folder, a database in the shared store, and the processes it starts.

use crate::process::tail;
use crate::{AgentConfig, Binaries, Gateway, GatewayConfig, Link, Store};
use anyhow::{Context, Result};
use std::path::Path;
use tempfile::TempDir;

/// Every input off, so that what arrives is what a test asks for; and nothing waits longer than it must.
const QUIET_AND_QUICK: &[(&str, &str)] = &[
    ("host.enabled", "false"),
    ("logs.enabled", "false"),
    ("otlp.enabled", "false"),
    ("sockets.enabled", "false"),
    ("ebpf.enabled", "false"),
    ("telemetry.enabled", "false"),
    // A row for every line, so that a test can ask for each.
    ("patterns.enabled", "false"),
    ("metrics.window_ms", "1000"),
    ("metrics.first_window_ms", "1000"),
    ("metrics.grace_ms", "200"),
    ("traces.wait_ms", "300"),
    ("traces.grace_ms", "100"),
    ("export.batch_interval_ms", "50"),
    ("export.retry_initial_ms", "50"),
    ("export.retry_max_ms", "500"),
];

/// How a test ended that did not fail.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Held,
    /// It could not be asked on this machine, and why.
    Skipped(String),
}

/// One test's surroundings.
#[derive(Debug)]
pub struct World<'a> {
    binaries: &'a Binaries,
    store: &'a Store,
    database: String,
    folder: TempDir,
}

impl<'a> World<'a> {
    /// A fresh folder, and a database named after the test.
    pub fn new(name: &str, binaries: &'a Binaries, store: &'a Store) -> Result<Self> {
        let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let folder = tempfile::Builder::new().prefix("ollystack-test-").tempdir().context("no temporary folder")?;
        // ClickHouse's and the gateway's names end at 64 characters.
        let database: String = format!("t_{plain}").chars().take(60).collect();
        Ok(Self { binaries, store, database, folder })
    }

    /// Where its files go.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The binaries under test.
    pub fn binaries(&self) -> &'a Binaries {
        self.binaries
    }

    /// The shared store.
    pub fn store(&self) -> &'a Store {
        self.store
    }

    /// This test's database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Configuration for a gateway that fills this test's database.
    pub fn gateway(&self) -> Result<GatewayConfig> {
        self.gateway_behind(&self.store.url())
    }

    /// A gateway that runs and has made its tables: before, whoever asks for rows is told that there is no such table.
    pub fn gateway_with_tables(&self) -> Result<Gateway> {
        let mut gateway = self.gateway()?.start(self.binaries)?;
        gateway.wait_until_the_schema_is_there()?;
        Ok(gateway)
    }

    /// Configuration for a gateway behind another way to ClickHouse.
    pub fn gateway_behind(&self, clickhouse: &str) -> Result<GatewayConfig> {
        let config = GatewayConfig::new(&self.folder.path().join("gateway"), clickhouse, &self.database)?;
        // A test's rows are few: they need not wait a second for company, nor a repetition long for the attempt before it.
        let config = config.set("batch.wait_ms", "50").set("batch.begin_within_ms", "4000");
        Ok(config.set("clickhouse.connect_timeout_ms", "500").set("clickhouse.insert_timeout_ms", "5000"))
    }

    /// A wire to the store that can be cut.
    pub fn link_to_store(&self) -> Result<Link> {
        Link::to_port(self.store.port())
    }

    /// Configuration for an agent that sends to this gateway, as this tenant, with every input off.
    pub fn agent(&self, gateway: &Gateway, tenant: &str) -> Result<AgentConfig> {
        let key = gateway.new_key(tenant)?;
        self.agent_to(&format!("http://{}", gateway.grpc()), &key.secret)
    }

    /// Configuration for an agent that sends to any endpoint, with every input off.
    pub fn agent_to(&self, endpoint: &str, api_key: &str) -> Result<AgentConfig> {
        let mut config = AgentConfig::new(&self.folder.path().join("agent"), endpoint, api_key)?;
        config.settings = QUIET_AND_QUICK.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Ok(config)
    }

    /// Runs one statement in this test's database; `{db}` stands for its name.
    pub fn sql(&self, statement: &str) -> Result<String> {
        self.store.sql(&statement.replace("{db}", &self.database))
    }

    /// One number.
    pub fn count(&self, statement: &str) -> Result<u64> {
        let text = self.sql(statement)?;
        text.parse().with_context(|| format!("`{statement}` gave `{text}`, not a count"))
    }

    /// The ends of all logs, for a report of failure: the product's own first, as a reader may see no more than a few lines.
    pub fn logs(&self) -> String {
        let mut logs = Vec::new();
        self.each_log(|path, text| {
            let name = path.file_name().unwrap_or_default();
            let own = ["agent.log", "gateway.log"].iter().any(|own| name == *own);
            let lines = if own { 16 } else { 40 };
            logs.push((!own, format!("--- {}\n{}\n", path.display(), tail(text, lines))));
        });
        logs.sort();
        logs.into_iter().map(|(_, log)| log).collect()
    }

    fn each_log(&self, mut read: impl FnMut(&Path, &str)) {
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|end| end == "log") {
                    let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).into_owned();
                    read(&path, &text);
                }
            }
        }
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        self.each_log(crate::keys::look);
        // Without SYNC: waiting for the last reader of a table would hold one of the store's few query threads.
        let _ = self.sql("DROP DATABASE IF EXISTS {db}");
        // Of a test that lays out a cluster.
        let _ = self.sql("DROP DATABASE IF EXISTS {db}_local");
    }
}
