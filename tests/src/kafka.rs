//! Brokers of Kafka that are their own controllers, from the libraries that `cargo xtask setup` keeps, and the consumer role of a gateway.

mod cluster;
mod rights;
mod security;
mod wire;

pub use cluster::Cluster;
pub use rights::Right;
pub use security::{Mechanism, PASSWORD, Security, USER};

use crate::port::free_port;
use crate::process::{Binaries, Process};
use crate::{GatewayConfig, cache, get, until};
use anyhow::{Context, Result, bail, ensure};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// A broker that its controller has not heard of for so long leads nothing any more.
const SESSION: Duration = Duration::from_secs(3);

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

/// A place for a broker and its controller.
#[derive(Clone, Copy, Debug)]
struct Node {
    address: SocketAddr,
    controller: SocketAddr,
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

    /// One alone, on free ports, formatted; settings and log lie in a folder.
    pub fn new(folder: &Path, topics: Topics) -> Result<Self> {
        Self::one(folder, topics, None)
    }

    /// One that lets in whom `security` lets in, at [`Security::address`].
    pub fn secured(folder: &Path, topics: Topics, security: &Security) -> Result<Self> {
        Self::one(folder, topics, Some(security))
    }

    fn one(folder: &Path, topics: Topics, security: Option<&Security>) -> Result<Self> {
        let nodes = [Node::new()?];
        Self::node(folder, &nodes, 0, topics, security)
    }

    /// One of the nodes of a cluster, in which a record is on up to three of them.
    fn node(folder: &Path, nodes: &[Node], of: usize, topics: Topics, security: Option<&Security>) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let data = Arc::new(
            tempfile::Builder::new().prefix("ollystack-test-kafka-").tempdir().context("no temporary folder")?,
        );
        let Node { address, controller } = nodes[of];
        let config = Self { folder: folder.to_owned(), data, address, libraries: cache::kafka()?.join("*") };
        let topics = match topics {
            Topics::OnRequest => "auto.create.topics.enable=false".to_owned(),
            Topics::ByThemselves(partitions) => format!("auto.create.topics.enable=true\nnum.partitions={partitions}"),
        };
        let voters: Vec<String> =
            nodes.iter().zip(1..).map(|(node, number)| format!("{number}@{}", node.controller)).collect();
        let (replicas, in_sync) = (nodes.len().min(3), nodes.len().min(2));
        let (further, secured) =
            security.map(|security| (security.listener(), security.settings())).unwrap_or_default();
        let text = format!(
            "process.roles=broker,controller\nnode.id={}\ncontroller.quorum.voters={}\n\
             listeners=PLAINTEXT://{address},CONTROLLER://{controller}{further}\nadvertised.listeners=PLAINTEXT://{address}{further}\n\
             controller.listener.names=CONTROLLER\nlog.dirs={}\n{topics}\n\
             default.replication.factor={replicas}\nmin.insync.replicas={in_sync}\nunclean.leader.election.enable=false\n\
             offsets.topic.replication.factor={replicas}\noffsets.topic.num.partitions=1\ngroup.initial.rebalance.delay.ms=0\n\
             transaction.state.log.replication.factor={replicas}\ntransaction.state.log.min.isr={in_sync}\n\
             broker.session.timeout.ms={}\nbroker.heartbeat.interval.ms=500\n{secured}",
            of + 1,
            voters.join(","),
            config.data.path().join("data").display(),
            SESSION.as_millis()
        );
        std::fs::write(config.settings(), text)?;
        let mut format = config.java("kafka.tools.StorageTool");
        format.args(["format", "--cluster-id", "AAAAAAAAAAAAAAAAAAAAAQ", "--config"]).arg(config.settings());
        format.args(security.map(Security::users).unwrap_or_default());
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
        let mut broker = self.spawn()?;
        broker.wait()?;
        Ok(broker)
    }

    fn spawn(&self) -> Result<Broker> {
        Ok(Broker { config: self.clone(), process: self.run()? })
    }

    fn run(&self) -> Result<Process> {
        Process::start("kafka", self.command(), &self.folder.join("kafka.log"))
    }

    fn settings(&self) -> PathBuf {
        self.folder.join("settings")
    }

    fn java(&self, class: &str) -> Command {
        let mut java = Command::new("java");
        // It lives too short to be worth compiling well.
        java.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"])
            .arg(&self.libraries)
            .arg(class)
            .stdin(Stdio::null());
        java
    }
}

impl Broker {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.config.address
    }

    fn wait(&mut self) -> Result<()> {
        until("the broker listens", || {
            self.process.must_run()?;
            Ok(TcpStream::connect(self.config.address).is_ok().then_some(()))
        })
    }

    /// Gives rights to [`USER`], where [`Security::without_rights`] left it none.
    pub fn give(&self, rights: &[Right<'_>]) -> Result<()> {
        rights::give(self.address(), USER, rights)
    }

    /// Takes from it a right that it was given.
    pub fn take(&self, right: Right<'_>) -> Result<()> {
        rights::take(self.address(), USER, right)
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
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
        self.process = self.config.run()?;
        self.wait()
    }
}

impl Node {
    fn new() -> Result<Node> {
        let [address, controller] =
            [free_port()?, free_port()?].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Ok(Node { address, controller })
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
