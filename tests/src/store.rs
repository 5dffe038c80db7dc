//! The embedded ClickHouse engine as a process of its own, and SQL through its HTTP interface.

use crate::get;
use crate::http::post_within;
use crate::port::free_port;
use crate::process::{Binaries, Process};
use crate::wait::within;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The name of a cluster of one, the store itself, to tables of which rows go without a network.
pub const CLUSTER: &str = "ollystack";

/// Laid beside the engine's own configuration: the cluster; and the disks of a policy of storage tiers, and of one that lacks a volume.
fn more_xml(disks: &Path) -> String {
    let disk = |name: &str| format!("<{name}><path>{}/{name}/</path></{name}>", disks.display());
    let volume = |name: &str| format!("<{name}><disk>{name}</disk></{name}>");
    let [default, warm, cold] = ["default", "warm", "cold"].map(volume);
    format!(
        "<clickhouse>
    <tcp_port>9000</tcp_port>
    <remote_servers><{CLUSTER}><shard>
        <internal_replication>true</internal_replication>
        <replica><host>localhost</host><port>9000</port></replica>
    </shard></{CLUSTER}></remote_servers>
    <storage_configuration>
        <disks>{}{}</disks>
        <policies>
            <ollystack><volumes>{default}{warm}{cold}</volumes><move_factor>0</move_factor></ollystack>
            <no_cold><volumes>{default}{warm}</volumes></no_cold>
        </policies>
    </storage_configuration>
</clickhouse>
",
        disk("warm"),
        disk("cold")
    )
}

/// Loading half a gigabyte of engine from a cold disk takes its time.
const START: Duration = Duration::from_secs(180);

/// What a store is started with.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Data and log lie here.
    pub folder: PathBuf,
    /// The HTTP interface's port.
    pub port: u16,
    /// What the engine may take; as it is by default where none is said.
    pub memory_bytes: Option<u64>,
    /// Configuration laid beside the engine's own, instead of a cluster of one and disks for tiers.
    pub more_xml: Option<String>,
}

/// As long may a statement take: one that fills or merges tables of a hundred million rows takes minutes.
const STATEMENT: Duration = Duration::from_secs(900);

/// A running store.
#[derive(Debug)]
pub struct Store {
    binaries: Binaries,
    config: StoreConfig,
    process: Process,
}

impl StoreConfig {
    /// On a free port.
    pub fn new(folder: &Path) -> Result<Self> {
        Ok(Self { folder: folder.to_owned(), port: free_port()?, memory_bytes: None, more_xml: None })
    }

    fn run(&self, binaries: &Binaries) -> Result<Process> {
        std::fs::create_dir_all(&self.folder).with_context(|| format!("make {}", self.folder.display()))?;
        let more = self.folder.join("data/ollystack/config.d");
        let xml = self.more_xml.clone().unwrap_or_else(|| more_xml(&self.folder));
        let written = std::fs::create_dir_all(&more).and_then(|()| std::fs::write(more.join("more.xml"), xml));
        written.with_context(|| format!("write {}", more.display()))?;
        let mut command = binaries.command("ollystack-gateway")?;
        // Half a gigabyte of engine must not be left behind when this process is killed.
        command.args(["store", "--until-stdin-ends"]).arg("--listen").arg(format!("127.0.0.1:{}", self.port));
        command.arg("--dir").arg(self.folder.join("data"));
        if let Some(bytes) = self.memory_bytes {
            command.arg("--memory-bytes").arg(bytes.to_string());
        }
        Process::start("store", command, &self.folder.join("store.log"))
    }

    /// Starts the store and returns at once.
    pub fn spawn(&self, binaries: &Binaries) -> Result<Store> {
        let process = self.run(binaries)?;
        Ok(Store { binaries: binaries.clone(), config: self.clone(), process })
    }

    /// Starts the store and waits until it answers.
    pub fn start(&self, binaries: &Binaries) -> Result<Store> {
        let mut store = self.spawn(binaries)?;
        store.wait_until_it_answers()?;
        Ok(store)
    }
}

impl Store {
    /// ClickHouse's HTTP interface.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.config.port)
    }

    /// The port of it.
    pub fn port(&self) -> u16 {
        self.config.port
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Starts again, with the same data, after it was stopped or killed.
    pub fn restart(&mut self) -> Result<()> {
        if self.process.try_wait()?.is_none() {
            bail!("the store still runs: stop or kill it before a restart");
        }
        self.process = self.config.run(&self.binaries)?;
        self.wait_until_it_answers()
    }

    /// Waits until `/ping` answers.
    pub fn wait_until_it_answers(&mut self) -> Result<()> {
        let ping = format!("{}/ping", self.url());
        within(START, "the store answers", || {
            self.process.must_run()?;
            Ok(get(&ping).is_ok_and(|answer| answer.status == 200).then_some(()))
        })
    }

    /// Runs one statement; the answer as text, tab-separated, without the last line's end.
    pub fn sql(&self, statement: &str) -> Result<String> {
        self.sql_in("default", statement)
    }

    /// The same in another database than the default one.
    pub fn sql_in(&self, database: &str, statement: &str) -> Result<String> {
        let answer =
            post_within(STATEMENT, &format!("{}/?database={database}", self.url()), &[], statement.as_bytes())?;
        if answer.status != 200 {
            bail!("ClickHouse answered {} to `{statement}`: {}", answer.status, answer.text());
        }
        Ok(answer.text().trim_end_matches('\n').to_owned())
    }
}
