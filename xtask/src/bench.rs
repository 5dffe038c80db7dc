//! `cargo xtask bench NAME`: measures the release build on this host and prints a table, or JSON.
//!
//! A bench is a line in [`BENCHES`]: a name, what it shows, and how it is run; each gives a [`Report`]. Figures are what the
//! kernel, the processes and the stages' own counters say, never estimates. Standard output carries nothing but the report.

mod cost;
mod example;
mod gateway;
mod idle;
mod overload;
mod report;
mod storage;

use anyhow::{Result, bail};
use clap::Args;
use report::Report;
use std::path::PathBuf;
use std::process::ExitCode;

/// Flags.
#[derive(Args)]
pub(crate) struct Options {
    /// Which; without it, all are listed
    name: Option<String>,
    /// Print the figures as JSON instead of a table
    #[arg(long)]
    json: bool,
    /// How long `idle`, and `overload`, `gateway` and `cost` each load, measure
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where `gateway` writes: `null`, which swallows everything, or `clickhouse`
    #[arg(long)]
    sink: Option<String>,
    /// What `gateway` is sent: `logs`, `traces` or `metrics`; without it, each in turn
    #[arg(long)]
    signal: Option<String>,
    /// Another endpoint that `gateway` sets beside ours: a command that takes OTLP/gRPC at $OTLP_ADDRESS and writes to $CLICKHOUSE_URL
    #[arg(long, value_name = "CMD")]
    peer: Option<String>,
    /// Rows of each signal that `storage` asks its questions of; 0 asks none [default: 10000000]
    #[arg(long)]
    rows: Option<u64>,
    /// Folder of other data than the repository's, for benches that read some
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Anything else for the bench itself
    #[arg(last = true, value_name = "ARGS")]
    arguments: Vec<String>,
}

struct Bench {
    name: &'static str,
    shows: &'static str,
    run: Run,
}

/// Where the figures come from.
enum Run {
    /// Whole programs, started and measured from outside.
    Whole(fn(&Options) -> Result<Report>),
    /// `examples/NAME.rs` of one crate, which prints its report as JSON.
    Example { package: &'static str, example: &'static str, features: &'static str },
}

const fn stage(package: &'static str, example: &'static str) -> Run {
    Run::Example { package, example, features: "" }
}

const BENCHES: &[Bench] = &[
    Bench {
        name: "idle",
        shows: "the agent's memory and CPU on a quiet host, every input on",
        run: Run::Whole(idle::run),
    },
    Bench {
        name: "overload",
        shows: "the agent under 0.5, 1, 2 and 4 times the load that one core sustains: taken, refused, memory, what got lost",
        run: Run::Whole(overload::run),
    },
    Bench {
        name: "gateway",
        shows: "records per core-second of the gateway, to acknowledgement, by signal: CPU, memory, time, bytes (-- --instructions: by callgrind; -- --formats: what ClickHouse takes for its blocks, and row-wise)",
        run: Run::Whole(gateway::run),
    },
    Bench {
        name: "storage",
        shows: "bytes in ClickHouse per sample, log line and span, the whole way, and how long ten typical questions take",
        run: Run::Whole(storage::run),
    },
    Bench {
        name: "cost",
        shows: "the whole system, agents to ClickHouse: cores and stored bytes per million events, reduction on and off, by signal",
        run: Run::Whole(cost::run),
    },
    Bench {
        name: "reduction",
        shows: "a recorded host through all of processing: points, lines, spans and bytes in and out, and what stayed exact",
        run: stage("ollystack-process", "reduction"),
    },
    Bench {
        name: "ebpf",
        shows: "what seeing requests costs who makes them, the kernel and the agent, and how many are seen",
        run: stage("ollystack-input-ebpf", "ebpf"),
    },
    Bench {
        name: "requests",
        shows: "what a request costs the agent from the kernel's ring to the bytes of what is kept, by stage",
        run: Run::Example { package: "ollystack-input-ebpf", example: "requests", features: "replay" },
    },
    Bench {
        name: "sockets",
        shows: "what a look at 100, 1,000 and 10,000 sockets costs",
        run: stage("ollystack-input-sockets", "sockets"),
    },
    Bench {
        name: "signals",
        shows: "what kills, block devices, waits for a CPU and profiles cost: ns a hook, maps, the agent's CPU",
        run: stage("ollystack-input-ebpf", "signals"),
    },
    Bench {
        name: "fold",
        shows: "samples per core-second and bytes per series, at 1k, 10k and 100k series",
        run: stage("ollystack-fold", "fold"),
    },
    Bench {
        name: "sampling",
        shows: "traces with known truth: errors and slow ones kept, bias of weighted estimates, budget, speed, memory",
        run: stage("ollystack-sample", "sampling"),
    },
    Bench {
        name: "patterns",
        shows: "log lines with known patterns: accuracy of grouping, lines per core-second, memory",
        run: stage("ollystack-patterns", "patterns"),
    },
    Bench {
        name: "logs",
        shows: "lines per core-second through parsing and folding by pattern, lines in and rows out",
        run: stage("ollystack-logs", "logs"),
    },
    Bench {
        name: "redaction",
        shows: "what redaction costs a line, a span and a series, and what it finds",
        run: stage("ollystack-redact", "redaction"),
    },
    Bench {
        name: "buffer",
        shows: "what the disk buffer stores, gives and forgets a second, beside what the disk can do; starts on a full backlog",
        run: stage("ollystack-buffer", "buffer"),
    },
];

/// Runs one bench, or lists all.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let Some(name) = &options.name else {
        for bench in BENCHES {
            println!("{:<10} {}", bench.name, bench.shows);
        }
        return Ok(ExitCode::SUCCESS);
    };
    let Some(bench) = BENCHES.iter().find(|bench| bench.name == name) else {
        let names: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
        bail!("no bench is called {name}; there are: {}", names.join(", "));
    };
    let report = match bench.run {
        Run::Whole(run) => run(options)?,
        Run::Example { package, example, features } => {
            example::run(package, example, features, example::arguments(options)?)?
        }
    };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report.figures)?);
    } else {
        print!("\n{}: {}\n\n{}", bench.name, bench.shows, report.render());
    }
    Ok(ExitCode::SUCCESS)
}
