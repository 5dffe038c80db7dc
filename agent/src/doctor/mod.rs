//! `ollystack-agent doctor`: what works on this host, what does not and why, and what would turn it on.
//!
//! The agent's own preconditions are checked in `checks` and `endpoint`; what each input can do, the input says itself.
//! Invariant: looking changes nothing; what is off always comes with why.

mod checks;
mod encryption;
mod endpoint;
mod processes;

pub(crate) use processes::coverage;

use crate::config::{Config, ConfigError, Loaded};
use crate::table::{Align, Table};
use ollystack_record::{Availability, State};
use serde::Serialize;

/// What was found.
#[derive(Debug, Serialize)]
pub(crate) struct Findings {
    checks: Vec<Check>,
    inputs: Vec<Availability>,
}

/// A precondition of the agent as a whole.
#[derive(Debug, Serialize)]
struct Check {
    /// Whether the agent refuses to run without it.
    required: bool,
    #[serde(flatten)]
    finding: Availability,
}

impl Findings {
    /// Whether `run` would start.
    pub(crate) fn can_run(&self) -> bool {
        self.checks.iter().all(|check| !check.required || check.finding.state != State::Off)
    }
}

/// Look at everything.
pub(crate) fn examine(loaded: Result<Loaded, ConfigError>) -> Findings {
    let mut checks = Vec::new();
    let mut check = |required, finding| checks.push(Check { required, finding });
    let config = match loaded {
        Ok(loaded) => {
            check(true, checks::configuration(&loaded));
            loaded.config
        }
        Err(error) => {
            check(
                true,
                Availability::off("config", error.to_string(), "correct it; the rest of this page shows the defaults"),
            );
            Config::default()
        }
    };
    check(true, checks::api_key(&config));
    check(true, checks::state_dir(&config));
    check(true, checks::memory(&config));
    check(config.endpoint.is_empty(), endpoint::probe(&config));
    check(false, checks::clock());
    Findings { checks, inputs: crate::inputs::availability(&config) }
}

/// For machines.
pub(crate) fn as_json(findings: &Findings) -> String {
    let mut value = serde_json::json!(findings);
    value["can_run"] = findings.can_run().into();
    format!("{value:#}\n")
}

/// For people.
pub(crate) fn render(findings: &Findings, width: usize) -> String {
    let checks: Vec<&Availability> = findings.checks.iter().map(|check| &check.finding).collect();
    let inputs: Vec<&Availability> = findings.inputs.iter().collect();
    let verdict = match findings.can_run() {
        true => "The agent can run here: `ollystack-agent run`.",
        false => "The agent cannot run yet: see what is off in the first table.",
    };
    format!("{}\n{}\n{verdict}\n", table("check", &checks, width), table("input", &inputs, width))
}

fn table(title: &str, rows: &[&Availability], width: usize) -> String {
    let mut table =
        Table::new([(title, Align::Left), ("state", Align::Left), ("why, and what would turn it on", Align::Left)]);
    for row in rows {
        let state = match row.state {
            State::On => "on",
            State::Partial => "partial",
            State::Off => "off",
        };
        table.row([row.name.clone(), state.to_owned(), row.why.clone()]);
        if !row.remedy.is_empty() {
            table.row([String::new(), String::new(), format!("-> {}", row.remedy)]);
        }
    }
    table.render(width)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(required: bool, state: State) -> Findings {
        let finding =
            Availability { name: "state_dir".into(), state, why: "read-only".into(), remedy: "remount".into() };
        Findings {
            checks: vec![Check { required, finding }],
            inputs: vec![
                Availability::on("host.cpu", "/proc/stat"),
                Availability::off("ebpf.requests", "not root", "run as root"),
            ],
        }
    }

    #[test]
    fn only_a_required_check_that_is_off_keeps_the_agent_from_running() {
        assert!(!findings(true, State::Off).can_run());
        assert!(findings(true, State::Partial).can_run());
        assert!(findings(false, State::Off).can_run());
    }

    #[test]
    fn the_page_names_why_and_remedy_of_each_row() {
        let page = render(&findings(true, State::Off), 80);
        let expected = "\
check      state  why, and what would turn it on
state_dir  off    read-only
                  -> remount

input          state  why, and what would turn it on
host.cpu       on     /proc/stat
ebpf.requests  off    not root
                      -> run as root

The agent cannot run yet: see what is off in the first table.
";
        assert_eq!(page, expected);
    }

    #[test]
    fn the_json_holds_the_rows_and_the_verdict() {
        let json: serde_json::Value = serde_json::from_str(&as_json(&findings(false, State::Off))).unwrap();
        assert_eq!((&json["can_run"], &json["checks"][0]["state"]), (&true.into(), &"off".into()));
        assert_eq!(json["inputs"][1]["remedy"], "run as root");
    }
}
