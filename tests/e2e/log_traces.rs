//! A line that a server logs as it serves has the trace and the span of the very request, though neither knows of any: in a file, and
//! through a pipe in a container runtime's.

use crate::ebpf::{alone, impossible, watching};
use anyhow::{Context, Result};
use ollystack_tests::{Agent, Outcome, Process, World, free_port, get, until};
use std::process::Command;

const REQUESTS: u64 = 20;

pub(crate) fn are_those_of_the_requests_that_the_lines_are_about(world: &World) -> Result<Outcome> {
    if let Some(reason) = impossible()? {
        return Ok(Outcome::Skipped(reason.to_owned()));
    }
    let gateway = world.gateway_with_tables()?;
    let folder = world.folder().join("logs");
    std::fs::create_dir(&folder)?;
    let glob = format!("[{:?}]", folder.join("*.log").display().to_string());
    let _alone = alone();
    let config = watching(world, &gateway)?.set("ebpf.process", "false");
    // Whatever else the host does stays out of the way.
    let config = config.set("ebpf.protocols", "[\"http1\"]").set("traces.baseline_ratio", "0.0");
    let served = r#"[{ name = "served", attribute = "url.path", matches = "^/in/", keep = "always" }]"#;
    let config = config.set("traces.rules", served);
    let config = config.set("logs.enabled", "true").set("logs.include", &glob).set("logs.start_at", "\"beginning\"");
    // Lines that fold into one row have no trace of their own.
    let agent = config.set("patterns.enabled", "false").start(world.binaries())?;
    let port = free_port()?;
    let mut server = Command::new("python3");
    server.args(["-c", SERVER, &port.to_string()]).arg(&folder);
    let mut server = Process::start("server", server, &world.folder().join("server.log"))?;
    until("the server listens", || {
        server.must_run()?;
        Ok(std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop))
    })?;
    // Until it is known how the server works.
    until("lines have traces", || {
        get(&format!("http://127.0.0.1:{port}/warm-up"))?;
        Ok((world.count("SELECT count() FROM {db}.logs_raw WHERE TraceId != ''")? > 0).then_some(()))
    })?;
    for number in 0..REQUESTS {
        get(&format!("http://127.0.0.1:{port}/in/{number}"))?;
    }
    let lines = |which: &str| {
        world.count(&format!(
            "SELECT count() FROM {{db}}.logs_raw AS line {which} extract(line.Body, '/in/[0-9]+') != ''"
        ))
    };
    until("every line is there, in the file and in the container's", || {
        Ok((lines("WHERE")? == 2 * REQUESTS).then_some(()))
    })?;
    let of_their_requests = || {
        lines(
            "INNER JOIN (SELECT TraceId, SpanId, SpanAttributes['url.path'] AS path FROM {db}.traces_raw \
             WHERE SpanKind = 'Server') AS span ON line.TraceId = span.TraceId AND line.SpanId = span.SpanId \
             WHERE extract(line.Body, '/in/[0-9]+') = span.path AND",
        )
    };
    until("every line has its request's trace and span", || Ok((of_their_requests()? == 2 * REQUESTS).then_some(())))
        .with_context(|| what_was_seen(world, &agent))?;
    agent.ledger_closes()?;
    Ok(Outcome::Held)
}

/// Of a failure: each line with the span that it has and the one that it should have, and what the agent counted of lines.
fn what_was_seen(world: &World, agent: &Agent) -> String {
    let lines = world.sql(
        "SELECT line.Timestamp, line.ObservedTimestamp, line.Body, line.SpanId, span.Timestamp, span.Duration, span.SpanId \
         FROM (SELECT *, extract(Body, '/in/[0-9]+') AS path FROM {db}.logs_raw) AS line \
         LEFT JOIN (SELECT *, SpanAttributes['url.path'] AS path FROM {db}.traces_raw WHERE SpanKind = 'Server') AS span \
         ON line.path = span.path WHERE line.path != '' ORDER BY line.Timestamp",
    );
    let counted = agent.status().map(|status| {
        let ebpf = &status["stages"]["ebpf"];
        let of_lines = ["lines", "lines_served", "lines_missed", "lines_alike", "lines_late"];
        let counters = of_lines.iter().chain(&["drains_put_off", "ring_failures", "unpaired"]);
        counters.map(|name| format!("{name}: {}", ebpf[name])).collect::<Vec<_>>().join(", ")
    });
    let told = |text: Result<String>| text.unwrap_or_else(|error| format!("{error:#}"));
    format!("lines and spans:\n{}\nebpf: {}", told(lines), told(counted))
}

/// A thread a connection; what it logs goes to a file, and by a pipe to who frames it as container runtimes do. Between the two the agent
/// looks into the ring: the pause is longer than `ebpf.drain_interval_ms`.
const SERVER: &str = r#"
import http.server, logging, os, subprocess, sys, time
RUNTIME = '''
import datetime, sys
with open(sys.argv[1], "a", buffering=1) as log:
    for line in sys.stdin:
        log.write(datetime.datetime.now(datetime.timezone.utc).isoformat() + " stderr F " + line)
'''
folder = sys.argv[2]
runtime = subprocess.Popen([sys.executable, "-c", RUNTIME, folder + "/container.log"], stdin=subprocess.PIPE)
os.dup2(runtime.stdin.fileno(), 2)
form = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
class Pause(logging.Handler):
    def emit(self, record):
        time.sleep(0.06)
for handler in (logging.FileHandler(folder + "/app.log"), Pause(), logging.StreamHandler()):
    handler.setFormatter(form)
    logging.getLogger().addHandler(handler)
logging.getLogger().setLevel(logging.INFO)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        logging.info("serving %s", self.path)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;
