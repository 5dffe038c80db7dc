//! A gateway of its own: configuration file, key file, three ports, one database.

use crate::port::free_port;
use crate::process::{Binaries, Process, SmallDisk, through};
use crate::wait::until;
use crate::{Answer, get, post};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

/// What a gateway is started with.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// State, log and configuration lie here.
    pub folder: PathBuf,
    /// ClickHouse's HTTP interface.
    pub clickhouse: String,
    /// The database in it.
    pub database: String,
    /// OTLP/gRPC, OTLP/HTTP, admin.
    pub ports: [u16; 3],
    /// Further keys, dotted, with their values as TOML.
    pub settings: Vec<(String, String)>,
    /// A small disk to run with.
    pub disk: Option<SmallDisk>,
    /// A program to start it by, such as a tracer, with its arguments.
    pub through: Vec<String>,
}

/// An API key and the tenant it stands for.
#[derive(Clone, Debug)]
pub struct Key {
    /// The tenant.
    pub tenant: String,
    /// What a client sends.
    pub secret: String,
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    binaries: Binaries,
    config: GatewayConfig,
    process: Process,
}

impl GatewayConfig {
    /// On free ports.
    pub fn new(folder: &Path, clickhouse: &str, database: &str) -> Result<Self> {
        let ports = [free_port()?, free_port()?, free_port()?];
        let (clickhouse, database) = (clickhouse.to_owned(), database.to_owned());
        Ok(Self {
            folder: folder.to_owned(),
            clickhouse,
            database,
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
        self.folder.join("gateway.toml")
    }

    /// Writes the configuration file.
    pub fn write(&self) -> Result<()> {
        std::fs::create_dir_all(&self.folder).with_context(|| format!("make {}", self.folder.display()))?;
        let [grpc, http, admin] = self.ports;
        let mut text = format!(
            "data_dir = {:?}\nserver.grpc_listen = \"127.0.0.1:{grpc}\"\nserver.http_listen = \"127.0.0.1:{http}\"\n\
             admin.listen = \"127.0.0.1:{admin}\"\nclickhouse.url = {:?}\nclickhouse.database = {:?}\n",
            self.folder, self.clickhouse, self.database
        );
        for (key, value) in &self.settings {
            text.push_str(&format!("{key} = {value}\n"));
        }
        std::fs::write(self.file(), text).with_context(|| format!("write {}", self.file().display()))
    }

    /// A command of the gateway with this configuration, without the environment's own settings.
    pub fn command(&self, binaries: &Binaries, arguments: &[&str]) -> Result<Command> {
        let mut command = binaries.command("ollystack-gateway")?;
        command.args(arguments).arg("--config").arg(self.file());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("OLLYSTACK_") {
                command.env_remove(name);
            }
        }
        Ok(command)
    }

    /// A new API key for a tenant.
    pub fn new_key(&self, binaries: &Binaries, tenant: &str) -> Result<Key> {
        let output = self.command(binaries, &["keys", "new", "--tenant", tenant])?.output()?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "keys new: {}", String::from_utf8_lossy(&output.stderr));
        let secret = printed.split_whitespace().find(|word| word.starts_with("olly_"));
        let secret = secret.with_context(|| format!("`keys new` printed no key: {printed}"))?.to_owned();
        crate::keys::made(&secret);
        Ok(Key { tenant: tenant.to_owned(), secret })
    }

    fn run(&self, binaries: &Binaries) -> Result<Process> {
        let command = self.command(binaries, &["run"])?;
        let command = self.disk.as_ref().map(|disk| disk.around(&command)).unwrap_or(command);
        Process::start("gateway", through(&self.through, command), &self.folder.join("gateway.log"))
    }

    /// Writes the configuration, starts the gateway and returns at once.
    pub fn spawn(&self, binaries: &Binaries) -> Result<Gateway> {
        self.write()?;
        let process = self.run(binaries)?;
        Ok(Gateway { binaries: binaries.clone(), config: self.clone(), process })
    }

    /// Starts the gateway and waits until it takes requests.
    pub fn start(&self, binaries: &Binaries) -> Result<Gateway> {
        let mut gateway = self.spawn(binaries)?;
        gateway.wait_until_it_serves()?;
        Ok(gateway)
    }
}

impl Gateway {
    /// The `host:port` for OTLP/gRPC.
    pub fn grpc(&self) -> String {
        format!("127.0.0.1:{}", self.config.ports[0])
    }

    /// The port for OTLP/gRPC.
    pub fn grpc_port(&self) -> u16 {
        self.config.ports[0]
    }

    /// The base URL for OTLP/HTTP.
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.config.ports[1])
    }

    /// What it was started with.
    pub fn config(&self) -> &GatewayConfig {
        &self.config
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until the OTLP ports answer.
    pub fn wait_until_it_serves(&mut self) -> Result<()> {
        let url = format!("http://127.0.0.1:{}/healthz", self.config.ports[2]);
        until("the gateway serves", || {
            self.process.must_run()?;
            let healthy = get(&url).is_ok_and(|answer| answer.status == 200);
            let listens = std::net::TcpStream::connect(("127.0.0.1", self.config.ports[0])).is_ok();
            Ok((healthy && listens).then_some(()))
        })
    }

    /// Waits until every migration is applied: before, rows of plain senders wait in the spill, and agents are told to keep theirs.
    pub fn wait_until_the_schema_is_there(&mut self) -> Result<()> {
        let url = format!("http://127.0.0.1:{}/readyz", self.config.ports[2]);
        until("the schema is there", || {
            self.process.must_run()?;
            Ok(get(&url).is_ok_and(|answer| answer.status == 200).then_some(()))
        })
    }

    /// A new API key for a tenant, once the gateway knows it: it looks for changes of its key file now and then.
    pub fn new_key(&self, tenant: &str) -> Result<Key> {
        let key = self.config.new_key(&self.binaries, tenant)?;
        until("the gateway knows the new key", || {
            let nothing = self.post("/v1/logs", Some(&key), &[("content-type", "application/x-protobuf")], b"")?;
            Ok((nothing.status == 200).then_some(()))
        })?;
        Ok(key)
    }

    /// POST to the OTLP/HTTP port.
    pub fn post(&self, path: &str, key: Option<&Key>, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
        let bearer = key.map(|key| format!("Bearer {}", key.secret));
        let mut headers = headers.to_vec();
        headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
        post(&format!("{}{path}", self.http()), &headers, body)
    }

    /// One sum of a Prometheus metric: all its series whose labels contain each of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let answer = get(&format!("http://127.0.0.1:{}/metrics", self.config.ports[2]))?;
        Ok(sum_of(&answer.text(), name, labels))
    }

    /// What `/status` says.
    pub fn status(&self) -> Result<Value> {
        let answer = get(&format!("http://127.0.0.1:{}/status", self.config.ports[2]))?;
        serde_json::from_slice(&answer.body).with_context(|| format!("/status is not JSON: {}", answer.text()))
    }

    /// SIGTERM, and how it ended.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.process.stop()
    }

    /// Starts again, with the same state, after it was stopped or killed.
    pub fn restart(&mut self) -> Result<()> {
        if self.process.try_wait()?.is_none() {
            bail!("the gateway still runs: stop or kill it before a restart");
        }
        self.process = self.config.run(&self.binaries)?;
        self.wait_until_it_serves()
    }
}

/// The sum of all series of `name` in a Prometheus text whose labels contain each of `labels`.
pub(crate) fn sum_of(text: &str, name: &str, labels: &[&str]) -> f64 {
    let series = text.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, set) = series.split_once('{').unwrap_or((series, ""));
        (found == name && labels.iter().all(|label| set.contains(label))).then(|| value.parse::<f64>().ok())?
    });
    series.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_one_metric_add_up_by_label() {
        let text = "# TYPE a_total counter\na_total{signal=\"logs\",x=\"1\"} 3\na_total{signal=\"logs\"} 4\na_total{signal=\"traces\"} 5\na_total_bytes 9\nb 1\n";
        assert_eq!(sum_of(text, "a_total", &["signal=\"logs\""]), 7.0);
        assert_eq!(sum_of(text, "a_total", &[]), 12.0);
        assert_eq!(sum_of(text, "b", &[]), 1.0);
    }
}
