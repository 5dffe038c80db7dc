//! The whole product on this host, as a user would run it: the release build of store, gateway and agent, started in this
//! order, stopped in the reverse. The demo shows it, the benches measure it.
//!
//! Everything it writes is in one temporary folder, which goes with it.

use crate::cargo;
use crate::progress::Steps;
use crate::{repository, setup};
use anyhow::{Context, Result, bail, ensure};
use ollystack_tests::{Agent, AgentConfig, Binaries, Gateway, GatewayConfig, Store, StoreConfig, port_or_free, until};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The database that the gateway fills.
pub(crate) const DATABASE: &str = "ollystack";

/// The signals, with the tables their rows land in.
pub(crate) const SIGNALS: [(&str, &str); 3] =
    [("metrics", "metrics_raw"), ("logs", "logs_raw"), ("traces", "traces_raw")];

/// What the running stack is made of.
pub(crate) struct Stack {
    // In the order in which they must go: the sender first.
    agent: Agent,
    gateway: Gateway,
    store: Store,
    start: Instant,
    _folder: TempDir,
}

/// The release binaries and the engine, ready to start.
pub(crate) struct Built(Binaries);

/// What the agent says about itself, of `/status`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Status {
    /// One per signal, in the order of [`SIGNALS`].
    pub(crate) signals: Vec<Account>,
    pub(crate) inputs: Vec<Input>,
    pub(crate) memory: Memory,
}

/// One signal's ledger.
#[derive(Clone, Debug, Default, Deserialize, serde::Serialize)]
pub(crate) struct Account {
    pub(crate) signal: String,
    pub(crate) seen: u64,
    pub(crate) carried: u64,
    pub(crate) sent: u64,
    pub(crate) folded: u64,
    pub(crate) sampled_out: u64,
    pub(crate) suppressed: u64,
    pub(crate) dropped: BTreeMap<String, u64>,
    pub(crate) waiting: BTreeMap<String, i64>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) balance: i64,
}

/// One input's state.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) phase: String,
    pub(crate) note: String,
}

/// The agent's memory beside its RSS.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Memory {
    pub(crate) map_bytes: u64,
}

impl Account {
    /// How many records each sent one stands for.
    pub(crate) fn reduction(&self) -> Option<f64> {
        let decided = self.sent + self.folded + self.sampled_out + self.suppressed;
        (self.sent > 0).then(|| decided as f64 / self.sent as f64)
    }

    /// Raw OTLP bytes over bytes on the wire.
    pub(crate) fn reduction_bytes(&self) -> Option<f64> {
        (self.bytes_in > 0 && self.bytes_out > 0).then(|| self.bytes_in as f64 / self.bytes_out as f64)
    }
}

impl Status {
    /// Whether every record is accounted for.
    pub(crate) fn closed(&self) -> bool {
        self.signals.len() == SIGNALS.len() && self.signals.iter().all(|account| account.balance == 0)
    }
}

/// Sets up what is missing, builds the release binaries and fetches the engine.
pub(crate) fn build(log: &str) -> Result<Built> {
    let mut steps = Steps::new(repository().join("target/xtask").join(log))?;
    let folder = target_folder()?.join("release");
    let mut good = steps.step("set-up", setup::toolchain);
    good = good
        && steps.step("release build", |step| {
            let packages = ["-p", "ollystack-agent", "-p", "ollystack-gateway"];
            step.run(cargo(&["build", "--release", "--locked"]).args(packages))
        });
    good = good
        && steps
            .step("engine", |step| step.run(Command::new(folder.join("ollystack-gateway")).args(["store", "--fetch"])));
    ensure!(good, "the set-up above failed");
    Ok(Built(Binaries::at(folder)))
}

/// Where cargo builds: the folder above the profile's that this program was built into.
pub(crate) fn target_folder() -> Result<std::path::PathBuf> {
    let program = std::env::current_exe().context("the path of the running program is unknown")?;
    let folder = program.ancestors().nth(2).context("the running program has no target folder")?;
    Ok(folder.to_owned())
}

impl Stack {
    /// Starts store, gateway and agent, each on its default port where that is free. `settings` are keys of the agent.
    /// A `stop` that says so ends the start.
    pub(crate) fn start(built: &Built, settings: impl Fn(AgentConfig) -> AgentConfig) -> Result<Self> {
        // Below the target folder: a real disk, where a temporary folder may be memory.
        let base = repository().join("target/xtask");
        std::fs::create_dir_all(&base)?;
        let folder = tempfile::Builder::new().prefix("run-").tempdir_in(&base).context("no folder for the run")?;
        let Built(binaries) = built;
        let start = Instant::now();
        let store = StoreConfig { port: port_or_free(8123)?, ..StoreConfig::new(&folder.path().join("store"))? };
        let store = store.start(binaries)?;
        let gateway = GatewayConfig {
            folder: folder.path().join("gateway"),
            clickhouse: store.url(),
            database: DATABASE.to_owned(),
            // The agent has the ports that applications send to.
            ports: [port_or_free(14_317)?, port_or_free(14_318)?, port_or_free(8888)?],
            settings: Vec::new(),
            disk: None,
            through: Vec::new(),
        };
        gateway.write()?;
        let key = gateway.new_key(binaries, "demo")?;
        let gateway = gateway.start(binaries)?;
        let agent = AgentConfig {
            folder: folder.path().join("agent"),
            endpoint: format!("http://{}", gateway.grpc()),
            api_key: key.secret,
            ports: [port_or_free(4317)?, port_or_free(4318)?, port_or_free(8889)?],
            settings: Vec::new(),
            disk: None,
            through: Vec::new(),
        };
        let agent = settings(agent).start(binaries)?;
        Ok(Self { agent, gateway, store, start, _folder: folder })
    }

    /// When the first process started.
    pub(crate) fn started(&self) -> Instant {
        self.start
    }

    /// ClickHouse's HTTP interface.
    pub(crate) fn url(&self) -> String {
        self.store.url()
    }

    /// The agent's process id.
    pub(crate) fn agent_process(&mut self) -> u32 {
        self.agent.process().id()
    }

    /// One statement.
    pub(crate) fn sql(&self, statement: &str) -> Result<String> {
        self.store.sql(statement)
    }

    /// Rows of each signal. A table that the gateway has not made yet has none.
    pub(crate) fn rows(&self) -> Result<[u64; 3]> {
        let count = |(_, table): (&str, &str)| format!("ifNull(sumIf(total_rows, name = '{table}'), 0)");
        let counts = SIGNALS.map(count).join(", ");
        let text = self.sql(&format!("SELECT {counts} FROM system.tables WHERE database = '{DATABASE}'"))?;
        let mut rows = text.split('\t').map(|count| count.parse().with_context(|| format!("`{text}` are no counts")));
        let mut next = || rows.next().unwrap_or_else(|| bail!("`{text}` lacks a count"));
        Ok([next()?, next()?, next()?])
    }

    /// What the agent says.
    pub(crate) fn status(&self) -> Result<Status> {
        serde_json::from_value(self.agent.status()?).context("the agent's /status has another form")
    }

    /// An error when one of the processes has ended.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        self.store.process().must_run()?;
        self.gateway.process().must_run()?;
        self.agent.process().must_run()
    }

    /// A status in which the ledger is closed, or the last one seen: a reading is off by what moves while it is made.
    pub(crate) fn settled_status(&self) -> Result<Status> {
        let start = Instant::now();
        until("the ledger closes", || {
            let status = self.status()?;
            Ok((status.closed() || start.elapsed() > Duration::from_secs(5)).then_some(status))
        })
    }

    /// Stops the agent, which sends or keeps what it has; the gateway, which writes what it took; then counts the rows and
    /// stops the store.
    pub(crate) fn stop(mut self) -> Result<[u64; 3]> {
        let agent = self.agent.stop()?;
        ensure!(agent.success(), "the agent ended with {agent}");
        let gateway = self.gateway.stop()?;
        ensure!(gateway.success(), "the gateway ended with {gateway}");
        let rows = self.rows()?;
        let store = self.store.process().stop()?;
        ensure!(store.success(), "the store ended with {store}");
        Ok(rows)
    }
}
