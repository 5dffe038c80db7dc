//! The tortures: what RELIABILITY promises, done to the real programs until it breaks or holds.
//!
//! One file a torture, each a line in [`TORTURES`]. Everything random comes from a seed that is printed, so that a failing cycle
//! is one command away. Without a name all run, as briefly as the gate does; `cargo xtask torture` runs them in release.

mod bombs;
mod brokers;
mod cardinality;
mod client;
mod clock;
mod connections;
mod corrupt;
mod disk;
mod duplicates;
mod evil;
mod frames;
mod full;
mod io;
mod junk;
mod kill;
mod oracle;
#[path = "../e2e/otlp.rs"]
#[allow(dead_code, reason = "the end-to-end tests use the rest of it")]
mod otlp;
mod outage;
mod power;
mod report;
mod rotation;
mod run;
#[path = "../overload/sink.rs"]
mod sink;
mod strace;
mod subject;
mod tenancy;
mod workload;

use anyhow::{Context, Result, bail, ensure};
use report::Report;
use run::Run;
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// One of them.
struct Torture {
    name: &'static str,
    shows: &'static str,
    /// Cycles in the gate: a quarter of a minute at most, or one where that is not to be had.
    short: u64,
    /// Cycles of the published figure.
    full: u64,
    run: fn(&Run) -> Result<Report>,
}

/// In the order in which they run when none is named.
const TORTURES: &[Torture] = &[
    Torture {
        name: "power",
        shows: "the buffer after every loss of power that its calls to the disk allow",
        short: 200,
        full: 10_000,
        run: power::run,
    },
    Torture {
        name: "power-agent",
        shows: "the whole agent after any loss of power: what it answered and the lines of a file are there once",
        short: 1,
        full: 50,
        run: power::agent::run,
    },
    Torture {
        name: "io",
        shows: "the buffer after each write and each sync has failed in turn, and the power went then",
        short: 15,
        full: 1_000,
        run: io::run,
    },
    Torture {
        name: "io-answers",
        shows: "each sync of a few puts failed in turn: no answer before its names, its ids and its commit are durable",
        short: 1,
        full: 100,
        run: io::answers::run,
    },
    Torture {
        name: "io-programs",
        shows: "agent and gateway after a write or a sync has failed",
        short: 1,
        full: 100,
        run: io::programs::run,
    },
    Torture {
        name: "full",
        shows: "agent and gateway on a disk without a byte left, and with room again",
        short: 2,
        full: 100,
        run: full::run,
    },
    Torture {
        name: "corrupt",
        shows: "the buffer after any damage to any of its files",
        short: 100,
        full: 10_000,
        run: corrupt::run,
    },
    Torture {
        name: "corrupt-agent",
        shows: "the whole agent after damage to any of its files",
        short: 2,
        full: 200,
        run: corrupt::agent::run,
    },
    Torture {
        name: "cardinality",
        shows: "memory within its grant, whatever grows with what others send, and with a full backlog",
        short: 1,
        full: 50,
        run: cardinality::run,
    },
    Torture {
        name: "duplicates",
        shows: "answers lost at every place between ClickHouse and the agent: nothing shows twice, in tables and in views",
        short: 2,
        // Some eight answers of each are cut after commit.
        full: 160,
        run: duplicates::run,
    },
    Torture {
        name: "bombs",
        shows: "what is small on the wire and large behind it, and endpoints that answer without end",
        short: 1,
        full: 50,
        run: bombs::run,
    },
    Torture {
        name: "junk",
        shows: "a million mutated requests to gateway and agent: each its exact answer, and what is stored is what was said",
        short: 4,
        full: 10_000,
        run: junk::run,
    },
    Torture {
        name: "connections",
        shows: "a thousand slow, broken and flooding connections from one address, and honest senders at another",
        short: 1,
        full: 60,
        run: connections::run,
    },
    Torture {
        name: "tenancy",
        shows: "one tenant that says in every way it is another",
        short: 3,
        full: 100,
        run: tenancy::run,
    },
    Torture {
        name: "clock",
        shows: "the clock of agent and gateway jumps by hours and years, and records claim the first and the last nanosecond",
        short: 2,
        full: 200,
        run: clock::run,
    },
    Torture {
        name: "kill",
        shows: "agent and gateway, killed at any moment under load: what was acknowledged is there once, in tables and views",
        short: 3,
        full: 1_000,
        run: kill::run,
    },
    Torture {
        name: "brokers",
        shows: "Kafka's brokers killed and stopped one after the other, under load: what was acknowledged is there once, in tables and views",
        // 31 to 44 s under a load of 3 to 7, a third of it before the fault: three brokers start in 5 to 12 s, then what needs them. After it
        // the session of a broker that is gone takes 3 s (and a controller's election before), that of a consumer which leaves one that stands still
        // 6 s (the least that brokers allow), and one that was killed is back after 3 to 8 s. Shorter phases would be other faults.
        short: 1,
        full: 60,
        run: brokers::run,
    },
    Torture {
        name: "outage",
        shows: "the gateway or ClickHouse away until the agent's buffer evicts, ends in the middle of it: its cap, its memory, its count",
        short: 1,
        full: 40,
        run: outage::run,
    },
    Torture {
        name: "rotation",
        shows: "log files renamed, compressed, recreated, linked and truncated under a reader: each line there once",
        short: 1,
        full: 40,
        run: rotation::run,
    },
];

/// What may stand on the command line.
#[derive(Debug, Default)]
struct Flags {
    name: Option<String>,
    cycles: Option<u64>,
    seed: Option<u64>,
    only: Option<u64>,
    full: bool,
    json: bool,
    list: bool,
}

fn main() -> Result<ExitCode> {
    if let Some(done) = workload::asked() {
        return done;
    }
    let flags = parse(std::env::args().skip(1))?;
    let chosen: Vec<&Torture> = match &flags.name {
        None => TORTURES.iter().collect(),
        Some(name) => TORTURES.iter().filter(|torture| torture.name == name).collect(),
    };
    if flags.list {
        for torture in TORTURES {
            println!("{:<12} {}", torture.name, torture.shows);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let (Some(name), true) = (&flags.name, chosen.is_empty()) {
        let names: Vec<&str> = TORTURES.iter().map(|torture| torture.name).collect();
        bail!("no torture is called {name}; there are: {}", names.join(", "));
    }
    let seed = flags.seed.unwrap_or_else(seed_of_the_moment);
    let store = run::SharedStore::default();
    let (mut held, mut all) = (true, serde_json::Map::new());
    for torture in chosen {
        let cycles = flags.cycles.unwrap_or(if flags.full { torture.full } else { torture.short });
        let run = Run::new(torture.name, seed, cycles, flags.only, &store)?;
        eprintln!("{}: {}; {cycles} cycles, seed {seed}", torture.name, torture.shows);
        let begin = Instant::now();
        let mut report = (torture.run)(&run).unwrap_or_else(|error| {
            // The others go on.
            let mut report = Report::default();
            report.violation(format!("it broke off: {error:#}"));
            report
        });
        ollystack_tests::keys_shown().into_iter().for_each(|shown| report.violation(shown));
        report.figure("cycles", cycles);
        report.figure("seconds", begin.elapsed().as_secs());
        held &= report.held();
        if flags.json {
            all.insert(torture.name.to_owned(), report.json(seed));
        } else {
            println!("{}", report.render(torture.name, &run.replay()));
        }
    }
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn seed_of_the_moment() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Flags> {
    let (mut flags, mut arguments) = (Flags::default(), arguments);
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<Option<u64>> {
            let value = arguments.next().with_context(|| format!("{argument} needs a number"))?;
            Ok(Some(value.parse().with_context(|| format!("{argument} {value}: not a number"))?))
        };
        match argument.as_str() {
            "--cycles" => flags.cycles = number()?,
            "--seed" => flags.seed = number()?,
            "--only" => flags.only = number()?,
            "--full" => flags.full = true,
            "--json" => flags.json = true,
            "--list" => flags.list = true,
            // What the test runner of cargo hands to every target.
            "--nocapture" | "--quiet" | "-q" => {}
            name => {
                ensure!(!name.starts_with('-') && flags.name.is_none(), "unknown argument {name}");
                flags.name = Some(name.to_owned());
            }
        }
    }
    Ok(flags)
}
