//! An agent, or a gateway, whose way out can be cut, with the books of what it accepted.
//!
//! What both can be asked alike: take a request, say what waits on the disk, live. Invariant: a success answer is in the books before
//! the next request is sent.

use crate::oracle::Oracle;
use crate::otlp::{PROTOBUF, Signal};
use crate::report::Report;
use anyhow::{Context, Result, ensure};
use ollystack_tests::{Agent, AgentConfig, Answer, Gateway, GatewayConfig, Key, Link, Process, World};
use std::path::Path;

/// Which program, and what is only its own.
#[derive(Debug)]
enum Target {
    Gateway(Gateway),
    Agent(Agent),
}

/// One of them, and what surrounds it.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    target: Target,
    /// That an agent sends to; it runs as long.
    _gateway: Option<Gateway>,
    key: Key,
    world: &'a World<'a>,
    pub(crate) name: &'static str,
    pub(crate) link: Link,
    pub(crate) oracle: Oracle,
}

/// Records of a request.
const RECORDS: u64 = 500;

impl<'a> Subject<'a> {
    /// A gateway whose spill is in `disk`. `with` has the last word on its configuration.
    pub(crate) fn gateway(
        world: &'a World<'a>,
        disk: &Path,
        with: impl FnOnce(GatewayConfig) -> GatewayConfig,
    ) -> Result<Subject<'a>> {
        let link = world.link_to_store()?;
        let config = world.gateway_behind(&format!("http://127.0.0.1:{}", link.port()))?;
        let config = config.set("clickhouse.connect_timeout_ms", "500").set("spill.dir", &format!("{disk:?}"));
        let mut gateway = with(config).start(world.binaries())?;
        gateway.wait_until_the_schema_is_there()?;
        let key = gateway.new_key("acme")?;
        Ok(Subject {
            target: Target::Gateway(gateway),
            _gateway: None,
            key,
            world,
            name: "gateway",
            link,
            oracle: Oracle::new("gateway"),
        })
    }

    /// An agent whose state is in `disk`.
    pub(crate) fn agent(
        world: &'a World<'a>,
        disk: &Path,
        with: impl FnOnce(AgentConfig) -> AgentConfig,
    ) -> Result<Subject<'a>> {
        let mut gateway = world.gateway()?.start(world.binaries())?;
        gateway.wait_until_the_schema_is_there()?;
        let key = gateway.new_key("acme")?;
        let link = Link::to_port(gateway.grpc_port())?;
        let config = world.agent_to(&format!("http://127.0.0.1:{}", link.port()), &key.secret)?;
        let config = config.set("otlp.enabled", "true").set("state_dir", &format!("{disk:?}"));
        let agent = with(config).start(world.binaries())?;
        Ok(Subject {
            target: Target::Agent(agent),
            _gateway: Some(gateway),
            key,
            world,
            name: "agent",
            link,
            oracle: Oracle::new("agent"),
        })
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        match &mut self.target {
            Target::Gateway(gateway) => gateway.process(),
            Target::Agent(agent) => agent.process(),
        }
    }

    /// One request of log records; a success answer makes an obligation. Whoever is refused is told when to come back.
    pub(crate) fn send(&self) -> Result<Answer> {
        let ids = self.oracle.allot(Signal::Logs, RECORDS);
        let body = self.oracle.body(ids);
        let answer = match &self.target {
            Target::Gateway(gateway) => gateway.post(Signal::Logs.path(), Some(&self.key), &[PROTOBUF], &body)?,
            Target::Agent(agent) => agent.post(Signal::Logs.path(), &[PROTOBUF], &body)?,
        };
        if answer.status == 200 {
            self.oracle.acknowledged(ids);
            return Ok(answer);
        }
        ensure!(
            matches!(answer.status, 429 | 503) && answer.header("retry-after").is_some(),
            "refused by {} {} without a time to retry",
            answer.status,
            answer.text()
        );
        Ok(answer)
    }

    /// Blocks, or batches, on its disk.
    pub(crate) fn waiting(&self) -> Result<f64> {
        match &self.target {
            Target::Gateway(gateway) => gateway.metric("ollystack_spill_entries", &[]),
            Target::Agent(agent) => {
                let status = agent.status()?;
                status["buffer"]["entries"].as_f64().with_context(|| format!("/status has no buffer: {status}"))
            }
        }
    }

    /// Everything accepted is there once, and the ledger closes.
    pub(crate) fn judge(&mut self, report: &mut Report) -> Result<()> {
        self.process().must_run()?;
        self.oracle.judge(self.world, report)?;
        match &self.target {
            Target::Agent(agent) => agent.ledger_closes(),
            Target::Gateway(_) => Ok(()),
        }
    }

    /// For the report of a failure.
    pub(crate) fn logs(&self) -> String {
        self.world.logs()
    }
}
