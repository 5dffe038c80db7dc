//! A broker of Kafka that is its own controller, from the libraries that `cargo xtask setup` keeps, and the consumer role of a gateway.

use crate::port::free_port;
use crate::process::{Binaries, Process};
use crate::{GatewayConfig, cache, get, until};
use anyhow::{Context, Result, bail, ensure};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tempfile::TempDir;

/// Who makes topics.
#[derive(Clone, Copy, Debug)]
pub enum Topics {
    /// Whoever asks the broker to.
    OnRequest,
    /// The broker, when one is written to or read, of so many partitions.
    ByThemselves(u32),
}

/// What a broker is started with.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    folder: PathBuf,
    /// Apart from the folder: what it keeps has names of logs that nobody should read as such.
    data: Arc<TempDir>,
    address: SocketAddr,
    libraries: PathBuf,
}

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    config: BrokerConfig,
    process: Process,
}

impl BrokerConfig {
    /// Why there can be none here, if there can be none.
    pub fn missing() -> Option<String> {
        let java = Command::new("java").arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !java.is_ok_and(|status| status.success()) {
            return Some("no java: `apt-get install default-jre-headless`".to_owned());
        }
        let there = cache::kafka().is_ok_and(|folder| folder.is_dir());
        (!there).then(|| "no libraries of Kafka: `cargo xtask setup --servers`".to_owned())
    }

    /// On free ports, formatted; settings and log lie in a folder.
    pub fn new(folder: &Path, topics: Topics) -> Result<Self> {
        let [address, controller] =
            [free_port()?, free_port()?].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let data = Arc::new(
            tempfile::Builder::new().prefix("ollystack-test-kafka-").tempdir().context("no temporary folder")?,
        );
        let config = Self { folder: folder.to_owned(), data, address, libraries: cache::kafka()?.join("*") };
        let topics = match topics {
            Topics::OnRequest => "auto.create.topics.enable=false".to_owned(),
            Topics::ByThemselves(partitions) => format!("auto.create.topics.enable=true\nnum.partitions={partitions}"),
        };
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@{controller}\n\
             listeners=PLAINTEXT://{address},CONTROLLER://{controller}\nadvertised.listeners=PLAINTEXT://{address}\n\
             controller.listener.names=CONTROLLER\nlog.dirs={}\n{topics}\n\
             offsets.topic.replication.factor=1\noffsets.topic.num.partitions=1\ngroup.initial.rebalance.delay.ms=0\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n",
            config.data.path().join("data").display()
        );
        std::fs::write(config.settings(), text)?;
        let mut format = config.java("kafka.tools.StorageTool");
        format.args(["format", "--cluster-id", "AAAAAAAAAAAAAAAAAAAAAQ", "--config"]).arg(config.settings());
        let output = format.output()?;
        ensure!(output.status.success(), "{format:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(config)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The command that runs it.
    pub fn command(&self) -> Command {
        let mut command = self.java("kafka.Kafka");
        command.arg(self.settings());
        command
    }

    /// Starts it and waits until it accepts connections.
    pub fn start(&self) -> Result<Broker> {
        let mut process = Process::start("kafka", self.command(), &self.folder.join("kafka.log"))?;
        self.wait(&mut process)?;
        Ok(Broker { config: self.clone(), process })
    }

    fn wait(&self, process: &mut Process) -> Result<()> {
        until("the broker listens", || {
            process.must_run()?;
            Ok(TcpStream::connect(self.address).is_ok().then_some(()))
        })
    }

    fn settings(&self) -> PathBuf {
        self.folder.join("settings")
    }

    fn java(&self, class: &str) -> Command {
        let mut java = Command::new("java");
        // It lives too short to be worth compiling well.
        java.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp"]).arg(&self.libraries).arg(class).stdin(Stdio::null());
        java
    }
}

impl Broker {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.config.address
    }

    /// SIGKILL, and the end.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts again, with what it keeps, after it was killed.
    pub fn restart(&mut self) -> Result<()> {
        if self.process.try_wait()?.is_none() {
            bail!("the broker still runs: kill it before a restart");
        }
        self.process = Process::start("kafka", self.config.command(), &self.config.folder.join("kafka.log"))?;
        self.config.wait(&mut self.process)
    }
}

/// A gateway in the role of the consumer.
#[derive(Debug)]
pub struct Consumer {
    admin: u16,
    process: Process,
}

impl Consumer {
    /// Starts one and returns at once. Of the configuration's ports the last one counts.
    pub fn spawn(config: &GatewayConfig, binaries: &Binaries) -> Result<Self> {
        config.write()?;
        let command = config.command(binaries, &["consume"])?;
        let process = Process::start("consumer", command, &config.folder.join("consumer.log"))?;
        Ok(Self { admin: config.ports[2], process })
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until it has joined its group.
    pub fn wait_until_it_is_ready(&mut self) -> Result<()> {
        let url = format!("http://127.0.0.1:{}/readyz", self.admin);
        until("the consumer is ready", || {
            self.process.must_run()?;
            Ok(get(&url).is_ok_and(|answer| answer.status == 200).then_some(()))
        })
    }

    /// One sum of a Prometheus metric: all its series whose labels contain each of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let answer = get(&format!("http://127.0.0.1:{}/metrics", self.admin))?;
        Ok(crate::gateway::sum_of(&answer.text(), name, labels))
    }
}
