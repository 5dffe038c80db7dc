//! Plain HTTP between programs that know nothing of OllyStack becomes spans and exact RED metrics, through eBPF: as many as there
//! were requests, with their method, path, status and service.

use anyhow::{Context, Result, ensure};
use ollystack_tests::{AgentConfig, Gateway, Outcome, Process, World, free_port, get, until};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

const FOUND: u64 = 30;
const MISSING: u64 = 7;

pub(crate) fn sees_each_http_request_once(world: &World) -> Result<Outcome> {
    if let Some(reason) = impossible()? {
        return Ok(Outcome::Skipped(reason.to_owned()));
    }
    let gateway = world.gateway_with_tables()?;
    let _alone = alone();
    // Every trace is kept, so that spans can be counted.
    let config = watching(world, &gateway)?;
    let config = config.set("traces.baseline_ratio", "1.0").set("traces.budget_spans_per_second", "0");
    let agent = config.start(world.binaries())?;
    let site = world.folder().join("site");
    std::fs::create_dir(&site)?;
    std::fs::write(site.join("found.txt"), "found")?;
    let port = free_port()?;
    let mut server = Command::new("python3");
    server.args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"]).arg(&site).arg(port.to_string());
    let mut server = Process::start("server", server, &world.folder().join("server.log"))?;
    until("the server listens", || {
        server.must_run()?;
        Ok(std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop))
    })?;
    let spans = |which: &str| {
        world.count(&format!(
            "SELECT count() FROM {{db}}.traces_raw WHERE SpanKind = 'Server' AND SpanAttributes['server.port'] = '{port}' {which}"
        ))
    };
    // The programs are attached when a request is seen.
    until("eBPF sees requests", || {
        get(&format!("http://127.0.0.1:{port}/warm-up"))?;
        Ok((spans("AND SpanAttributes['url.path'] = '/warm-up'")? > 0).then_some(()))
    })?;

    for _ in 0..FOUND {
        ensure!(curl(port, "/found.txt?secret=1")? == "200", "curl found nothing");
    }
    for _ in 0..MISSING {
        ensure!(curl(port, "/missing.txt")? == "404", "curl found something");
    }
    let of = |path: &str, status: u16| {
        spans(&format!(
            "AND SpanAttributes['url.path'] = '{path}' AND SpanAttributes['http.request.method'] = 'GET' \
             AND SpanAttributes['http.response.status_code'] = '{status}'"
        ))
    };
    until("a server span of each request is there", || {
        Ok((of("/found.txt", 200)? >= FOUND && of("/missing.txt", 404)? >= MISSING).then_some(()))
    })?;
    let (found, missing) = (of("/found.txt", 200)?, of("/missing.txt", 404)?);
    ensure!(found == FOUND && missing == MISSING, "{found} and {missing} spans of {FOUND} and {MISSING} requests");
    let durations = world.sql(&format!(
        "SELECT min(Duration) > 0 AND max(Duration) < 60e9, uniqExact(SpanId) FROM {{db}}.traces_raw \
         WHERE SpanKind = 'Server' AND SpanAttributes['server.port'] = '{port}' AND SpanAttributes['url.path'] = '/found.txt'"
    ))?;
    ensure!(durations == format!("1\t{FOUND}"), "durations are not possible, or ids not unique: {durations}");

    let service = world.sql(&format!(
        "SELECT DISTINCT ServiceName FROM {{db}}.traces_raw WHERE SpanKind = 'Server' AND SpanAttributes['server.port'] = '{port}'"
    ))?;
    ensure!(!service.is_empty() && !service.contains('\n'), "one server, and its spans are of: {service}");
    let counted = || {
        world.count(&format!(
            "SELECT sum(Count) FROM {{db}}.metrics_raw \
             WHERE MetricName = 'ollystack.span.duration' AND ServiceName = '{service}' AND lower(SpanKind) = 'server'"
        ))
    };
    let seen = world.count(&format!(
        "SELECT count() FROM {{db}}.traces_raw WHERE ServiceName = '{service}' AND SpanKind = 'Server'"
    ))?;
    ensure!(seen > FOUND + MISSING, "the warm-up is missing: {seen} spans");
    until("the RED metrics have counted every span", || Ok((counted()? >= seen).then_some(())))?;
    ensure!(counted()? == seen, "RED metrics count {} of {seen} spans", counted()?);
    agent.ledger_closes()?;
    Ok(Outcome::Held)
}

/// Until it is dropped no other test watches this host's requests: agents that do see each other's exports and what comes of them, and would
/// keep each other and ClickHouse busy with nothing else. To be taken before the agent starts.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static WATCHED: Mutex<()> = Mutex::new(());
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Configuration for an agent that watches this host's requests. What other tests do is among them, so its batches wait for company.
pub(crate) fn watching(world: &World, gateway: &Gateway) -> Result<AgentConfig> {
    let config = world.agent(gateway, "acme")?.set("ebpf.enabled", "true");
    Ok(config.set("export.batch_interval_ms", "500"))
}

/// Why kernel programs cannot be loaded from here at all, whatever the agent does.
pub(crate) fn impossible() -> Result<Option<&'static str>> {
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Ok(Some("this kernel has no BTF"));
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("no CapEff")?;
    let effective = u64::from_str_radix(effective.trim(), 16)?;
    // capabilities(7): CAP_SYS_ADMIN is 21, CAP_PERFMON 38, CAP_BPF 39.
    let has = |capability: u32| effective >> capability & 1 == 1;
    let may = has(21) || (has(38) && has(39));
    Ok((!may).then_some("eBPF needs root, or CAP_BPF and CAP_PERFMON"))
}

/// The status that curl sees.
fn curl(port: u16, path: &str) -> Result<String> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--noproxy", "*"]);
    let output =
        command.arg(format!("http://127.0.0.1:{port}{path}")).output().context("curl is missing: install curl")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
