//! The inputs, each by name: what they can do here, starting them under supervision, and their figures.
//!
//! An input is a crate and one line in each of the three functions below. Invariant: an input never gets to know another.

use crate::config::Config;
use crate::supervise::{InputState, Phase, Supervisor};
use ollystack_input_ebpf as ebpf;
use ollystack_input_host as host;
use ollystack_input_journald as journald;
use ollystack_input_logs as logs;
use ollystack_input_otlp as otlp;
use ollystack_input_sockets as sockets;
use ollystack_record::{Availability, Intake, Lines, Peers, Resource};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What the inputs count about themselves, and what they tell whoever reads their records.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Which lines processes were seen to write under which requests.
    pub(crate) lines: Arc<Lines>,
    host: Arc<host::Stats>,
    logs: Arc<logs::Stats>,
    journald: Arc<journald::Stats>,
    otlp: Arc<otlp::Stats>,
    sockets: Arc<sockets::Stats>,
    ebpf: Arc<ebpf::Stats>,
}

/// What each can do on this host. Blocks while kernel programs are tried.
pub(crate) fn availability(config: &Config) -> Vec<Availability> {
    [
        host::availability(&config.host),
        logs::availability(&config.logs),
        journald::availability(&config.journald, config.logs.enabled),
        otlp::availability(&config.otlp),
        sockets::availability(&config.sockets),
        ebpf::availability(&config.ebpf),
    ]
    .concat()
}

/// After a crash: what the buffer got of each and none lived to note, by its highest ids by class. Before anything is put into it.
pub(crate) fn recover(state_dir: &Path, last_ids: &[u64]) {
    logs::recover(&state_dir.join("logs"), last_ids);
}

/// Start those that are enabled. `resource` is this host.
pub(crate) fn start(
    supervisor: &mut Supervisor,
    config: &Config,
    state_dir: &Path,
    resource: &Arc<Resource>,
    intake: &Intake,
    stop: &CancellationToken,
    figures: &Figures,
) {
    let common = || (Arc::clone(resource), intake.clone(), stop.clone());
    if enabled(supervisor, "host", config.host.enabled) {
        let (config, stats, (resource, intake, stop)) = (config.host.clone(), Arc::clone(&figures.host), common());
        supervisor.start("host", move || {
            host::run(config.clone(), Arc::clone(&resource), intake.clone(), stop.clone(), Arc::clone(&stats))
        });
    }
    if enabled(supervisor, "logs", config.logs.enabled) {
        let (config, stats, (resource, intake, stop)) = (config.logs.clone(), Arc::clone(&figures.logs), common());
        let (state_dir, after) = (state_dir.join("logs"), supervisor.after());
        supervisor.start("logs", move || {
            let (resource, after, stats) = (Arc::clone(&resource), after.clone(), Arc::clone(&stats));
            logs::run(config.clone(), state_dir.clone(), resource, intake.clone(), stop.clone(), after, stats)
        });
    }
    match journald::decide(&config.journald, config.logs.enabled) {
        journald::Decision::Off(why) => supervisor.off("journald", &why),
        journald::Decision::Run => {
            let (config, stats) = (config.journald.clone(), Arc::clone(&figures.journald));
            let (state_dir, after) = (state_dir.join("journald"), supervisor.after());
            let (resource, intake, stop) = common();
            supervisor.start("journald", move || {
                let (resource, after, stats) = (Arc::clone(&resource), after.clone(), Arc::clone(&stats));
                journald::run(config.clone(), state_dir.clone(), resource, intake.clone(), stop.clone(), after, stats)
            });
        }
    }
    if enabled(supervisor, "otlp", config.otlp.enabled) {
        let (config, stats, (_, intake, stop)) = (config.otlp.clone(), Arc::clone(&figures.otlp), common());
        supervisor.start("otlp", move || otlp::run(config.clone(), intake.clone(), stop.clone(), Arc::clone(&stats)));
    }
    // Who answers where on this host: one input finds out, the other asks.
    let peers = Arc::new(Peers::default());
    if enabled(supervisor, "sockets", config.sockets.enabled) {
        let (config, stats, (resource, intake, stop)) =
            (config.sockets.clone(), Arc::clone(&figures.sockets), common());
        let peers = Arc::clone(&peers);
        supervisor.start("sockets", move || {
            let (resource, peers, stats) = (Arc::clone(&resource), Arc::clone(&peers), Arc::clone(&stats));
            sockets::run(config.clone(), resource, intake.clone(), peers, stop.clone(), stats)
        });
    }
    if enabled(supervisor, "ebpf", config.ebpf.enabled) {
        let (config, stats, (resource, intake, stop)) = (config.ebpf.clone(), Arc::clone(&figures.ebpf), common());
        let around = ebpf::Around { peers, lines: Arc::clone(&figures.lines) };
        supervisor.start("ebpf", move || {
            let (resource, around, stats) = (Arc::clone(&resource), around.clone(), Arc::clone(&stats));
            ebpf::run_among(config.clone(), resource, intake.clone(), around, stop.clone(), stats)
        });
    }
}

fn enabled(supervisor: &Supervisor, name: &'static str, enabled: bool) -> bool {
    if !enabled {
        supervisor.off(name, &format!("{name}.enabled is false"));
    }
    enabled
}

impl Figures {
    /// Bytes that the kernel holds for the agent, which its resident memory does not show.
    pub(crate) fn map_bytes(&self) -> u64 {
        self.ebpf.map_bytes()
    }

    /// The board, with what inputs that run leave out.
    pub(crate) fn remark(&self, mut inputs: Vec<InputState>) -> Vec<InputState> {
        let features = self.ebpf.read().features;
        let off: Vec<&str> =
            features.iter().filter(|feature| feature.rung == "off").map(|feature| feature.name).collect();
        for input in inputs.iter_mut().filter(|input| input.name == "ebpf") {
            remark(input, &off, features.len());
        }
        inputs
    }

    /// Everything, by input, as each gives it.
    pub(crate) fn read(&self) -> BTreeMap<String, serde_json::Value> {
        BTreeMap::from([
            ("host".to_owned(), serde_json::json!(self.host.read())),
            ("logs".to_owned(), serde_json::json!(self.logs.read())),
            ("journald".to_owned(), serde_json::json!(self.journald.read())),
            ("otlp".to_owned(), serde_json::json!(self.otlp.read())),
            ("sockets".to_owned(), serde_json::json!(self.sockets.read())),
            ("ebpf".to_owned(), serde_json::json!(self.ebpf.read())),
        ])
    }
}

/// An input that runs without some of its features says so; one without any is off.
fn remark(input: &mut InputState, off: &[&str], features: usize) {
    if input.phase != Phase::Running || off.is_empty() {
        return;
    }
    if off.len() == features {
        input.phase = Phase::Off;
    }
    input.note = format!("not loaded: {}; `ollystack-agent doctor` says why", off.join(", "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_that_runs_without_features_says_so_and_one_without_any_is_off() {
        let running = || InputState { name: "ebpf".into(), phase: Phase::Running, restarts: 0, note: String::new() };
        let after = |off: &[&str]| {
            let mut input = running();
            remark(&mut input, off, 2);
            (input.phase, input.note.contains("ebpf.requests"))
        };
        assert_eq!(after(&[]), (Phase::Running, false));
        assert_eq!(after(&["ebpf.requests"]), (Phase::Running, true));
        assert_eq!(after(&["ebpf.requests", "ebpf.tcp"]), (Phase::Off, true));
        let mut failing = InputState { phase: Phase::Failing, note: "no thread".into(), ..running() };
        remark(&mut failing, &["ebpf.requests", "ebpf.tcp"], 2);
        assert_eq!((failing.phase, failing.note.as_str()), (Phase::Failing, "no thread"));
    }
}
