//! An agent of its own: configuration file, state folder, OTLP and admin ports.
//!
//! What is not set is at its default; a test turns off what it does not ask for.

use crate::gateway::sum_of;
use crate::port::free_port;
use crate::process::{Binaries, Process, SmallDisk, through};
use crate::wait::until;
use crate::{Answer, get, post};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

/// What an agent is started with.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// State, log and configuration lie here.
    pub folder: PathBuf,
    /// Where it sends to: `http://127.0.0.1:4317`.
    pub endpoint: String,
    /// The API key; it is handed over by the environment.
    pub api_key: String,
    /// OTLP/gRPC, OTLP/HTTP, admin.
    pub ports: [u16; 3],
    /// Further keys, dotted, with their values as TOML.
    pub settings: Vec<(String, String)>,
    /// A small disk to run with.
    pub disk: Option<SmallDisk>,
    /// A program to start it by, such as a tracer, with its arguments.
    pub through: Vec<String>,
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    binaries: Binaries,
    config: AgentConfig,
    process: Process,
}

impl AgentConfig {
    /// On free ports.
    pub fn new(folder: &Path, endpoint: &str, api_key: &str) -> Result<Self> {
        let ports = [free_port()?, free_port()?, free_port()?];
        let (endpoint, api_key) = (endpoint.to_owned(), api_key.to_owned());
        Ok(Self {
            folder: folder.to_owned(),
            endpoint,
            api_key,
            ports,
            settings: Vec::new(),
            disk: None,
            through: Vec::new(),
        })
    }

    /// Sets a key, its value as TOML; the last word on a key counts.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.retain(|(set, _)| set != key);
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The configuration file's path.
    pub fn file(&self) -> PathBuf {
        self.folder.join("agent.toml")
    }

    /// Writes the configuration file.
    pub fn write(&self) -> Result<()> {
        std::fs::create_dir_all(&self.folder).with_context(|| format!("make {}", self.folder.display()))?;
        let address = |port: u16| format!("\"127.0.0.1:{port}\"");
        let [grpc, http, admin] = self.ports.map(address);
        let fixed = [
            ("endpoint", format!("{:?}", self.endpoint)),
            ("state_dir", format!("{:?}", self.folder.join("state"))),
            ("admin.listen", admin),
            ("otlp.grpc_address", grpc),
            ("otlp.http_address", http),
        ];
        let mut text = String::new();
        for (key, value) in fixed.iter().filter(|(key, _)| !self.settings.iter().any(|(set, _)| set == key)) {
            text.push_str(&format!("{key} = {value}\n"));
        }
        for (key, value) in &self.settings {
            text.push_str(&format!("{key} = {value}\n"));
        }
        std::fs::write(self.file(), text).with_context(|| format!("write {}", self.file().display()))
    }

    /// Samples that a crash at this moment would take, as the agent has them in its books (`state/ledger`, see agent/src/books).
    pub fn samples_at_risk(&self) -> Result<u64> {
        let bytes = std::fs::read(self.folder.join("state/ledger"))?;
        let slots = bytes.chunks(4096).map(|slot| -> Vec<u64> {
            slot.chunks_exact(8).filter_map(|word| word.try_into().ok()).map(u64::from_le_bytes).collect()
        });
        // Fields: 1 reasons, 3 generation, 7 samples since the checkpoint; behind 10 of the whole and 9 of metrics come the reasons and
        // the places, the queue first.
        let newest = slots.max_by_key(|fields| fields.get(3).copied()).context("the books are empty")?;
        let at = |field: usize| newest.get(field).copied().context("the books are too short");
        Ok(at(7)? + at(19 + at(1)? as usize)?)
    }

    /// A command of the agent with this configuration, without the environment's own settings.
    pub fn command(&self, binaries: &Binaries, arguments: &[&str]) -> Result<Command> {
        let mut command = binaries.command("ollystack-agent")?;
        command.args(arguments).arg("--config").arg(self.file());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("OLLYSTACK_") {
                command.env_remove(name);
            }
        }
        command.env("OLLYSTACK_API_KEY", &self.api_key);
        Ok(command)
    }

    fn run(&self, binaries: &Binaries) -> Result<Process> {
        let command = self.command(binaries, &["run"])?;
        let command = self.disk.as_ref().map(|disk| disk.around(&command)).unwrap_or(command);
        Process::start("agent", through(&self.through, command), &self.folder.join("agent.log"))
    }

    /// Writes the configuration, starts the agent and returns at once.
    pub fn spawn(&self, binaries: &Binaries) -> Result<Agent> {
        self.write()?;
        let process = self.run(binaries)?;
        Ok(Agent { binaries: binaries.clone(), config: self.clone(), process })
    }

    /// Starts the agent and waits until its admin port answers.
    pub fn start(&self, binaries: &Binaries) -> Result<Agent> {
        let mut agent = self.spawn(binaries)?;
        agent.wait_until_it_runs()?;
        Ok(agent)
    }
}

impl Agent {
    /// The `host:port` for OTLP/gRPC.
    pub fn grpc(&self) -> String {
        format!("127.0.0.1:{}", self.config.ports[0])
    }

    /// The base URL for OTLP/HTTP.
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.config.ports[1])
    }

    /// What it was started with.
    pub fn config(&self) -> &AgentConfig {
        &self.config
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn admin(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.config.ports[2])
    }

    /// Waits until the admin port answers.
    pub fn wait_until_it_runs(&mut self) -> Result<()> {
        let url = self.admin("/healthz");
        until("the agent runs", || {
            self.process.must_run()?;
            Ok(get(&url).ok().map(drop))
        })
    }

    /// What `/status` says.
    pub fn status(&self) -> Result<Value> {
        let answer = get(&self.admin("/status"))?;
        serde_json::from_slice(&answer.body).with_context(|| format!("/status is not JSON: {}", answer.text()))
    }

    /// One signal's ledger of `/status`.
    pub fn account(&self, signal: &str) -> Result<Value> {
        let status = self.status()?;
        account_of(&status["signals"], signal)
    }

    /// The same over all runs with this state.
    pub fn account_in_all(&self, signal: &str) -> Result<Value> {
        let status = self.status()?;
        account_of(&status["in_all"]["signals"], signal)
    }

    /// Waits until every record is accounted for: a reading is off by what moves while it is made.
    pub fn ledger_closes(&self) -> Result<()> {
        let mut last = Value::Null;
        let closed = until("the ledger closes", || {
            last = self.status()?["signals"].clone();
            let accounts = last.as_array().context("/status has no ledger")?;
            Ok((accounts.len() == 3 && accounts.iter().all(|account| account["balance"] == 0)).then_some(()))
        });
        closed.with_context(|| format!("the ledger stays open: {last:#}"))
    }

    /// One sum of a Prometheus metric: all its series whose labels contain each of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        Ok(sum_of(&get(&self.admin("/metrics"))?.text(), name, labels))
    }

    /// POST to the OTLP/HTTP port.
    pub fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
        post(&format!("{}{path}", self.http()), headers, body)
    }

    /// SIGTERM, and how it ended.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.process.stop()
    }

    /// Starts again, with the same state, after it was stopped or killed.
    pub fn restart(&mut self) -> Result<()> {
        if self.process.try_wait()?.is_none() {
            bail!("the agent still runs: stop or kill it before a restart");
        }
        self.process = self.config.run(&self.binaries)?;
        self.wait_until_it_runs()
    }
}

fn account_of(signals: &Value, signal: &str) -> Result<Value> {
    let account = signals.as_array().and_then(|all| all.iter().find(|account| account["signal"] == signal));
    account.cloned().with_context(|| format!("/status has no ledger of {signal}: {signals}"))
}
