//! The input in this process, beside a server and its client: gather the spans of both.

use crate::case::Case;
use crate::judge::judge;
use libtest_mimic::Failed;
use ollystack_input_ebpf::{Config, Stats, run};
use ollystack_record::otlp::trace::v1::Span;
use ollystack_record::value::{int_attribute, string, string_attribute};
use ollystack_record::{Intake, Ledger, Received, Records, Resource, Signal};
use ollystack_schema::names::semconv;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Within this a client is to be done, and everything to have come.
const DEADLINE: Duration = Duration::from_secs(30);

/// A span and the service that it is of.
pub(crate) struct Seen {
    pub(crate) service: String,
    pub(crate) span: Span,
}

/// Start the server, then the input, then the client; stop when all that is expected has come, and judge all that came.
pub(crate) fn observe(start: fn(&Path) -> Result<Case, Failed>) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let mut case = start(folder.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let ledger = Arc::new(Ledger::default());
        let (intake, mut receiver) = Intake::new(1_024, 1_000_000, Arc::clone(&ledger));
        let (stop, stats) = (CancellationToken::new(), Arc::new(Stats::default()));
        let host = Arc::new(Resource::new(vec![string(semconv::HOST_NAME, "here")]));
        // Room for whatever else goes on on this host.
        let config =
            Config { process: false, tcp: false, ring_bytes: 4 << 20, drain_interval_ms: 10, ..Config::default() };
        let input = tokio::spawn(run(config, host, intake, stop.clone(), Arc::clone(&stats)));
        while stats.read().features.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut client = tokio::task::spawn_blocking({
            let mut client = std::mem::replace(&mut case.client, std::process::Command::new("true"));
            move || client.output()
        });
        let mut seen = Vec::new();
        let output = tokio::time::timeout(DEADLINE, async {
            loop {
                tokio::select! {
                    output = &mut client => return output,
                    received = receiver.recv() => gather(received, &ledger, case.address, &mut seen),
                }
            }
        });
        let output = output.await.map_err(|_| "the client does not end")???;
        let told = String::from_utf8_lossy(&output.stdout);
        let expected = case.expected(&told)?.len();
        let rest = tokio::time::timeout(DEADLINE / 6, async {
            while seen.len() < 2 * expected {
                gather(receiver.recv().await, &ledger, case.address, &mut seen);
            }
        });
        // What is missing then is told by name.
        let _ = rest.await;
        stop.cancel();
        input.await??;
        while !receiver.is_closed() || !receiver.is_empty() {
            gather(receiver.recv().await, &ledger, case.address, &mut seen);
        }
        let with = |failed: Failed| {
            let message = failed.message().unwrap_or_default();
            let errors = String::from_utf8_lossy(&output.stderr);
            Failed::from(format!("{message}\nclient ({}): {told}{errors}\n{:?}", output.status, stats.read()))
        };
        judge(&case, &seen, &told).map_err(with)?;
        for reading in ledger.read().signals {
            // Connections of other programs may be more than a ring holds when the machine is busy.
            let dropped = if reading.signal == Signal::Metrics { 0 } else { reading.dropped_total() };
            if (reading.waiting_total(), dropped) != (0, 0) {
                return Err(with(format!("{}: the ledger is not closed: {reading:?}", reading.signal.name()).into()));
            }
        }
        let counts = stats.read();
        if counts.heads_cut != 0 {
            return Err(with("heads were cut".into()));
        }
        let counted = ledger.read().signals[Signal::Traces as usize].seen;
        if counts.spans != counted {
            return Err(with(format!("{counted} spans in the ledger").into()));
        }
        Ok(())
    })
}

/// The spans that have to do with the server.
fn gather(received: Option<Received>, ledger: &Ledger, server: SocketAddr, seen: &mut Vec<Seen>) {
    let Some(received) = received else { return };
    let batch = received.take(ledger);
    let service = batch.resource.service_name().to_owned();
    if let Records::Traces(scopes) = batch.records.into_otlp() {
        let spans = scopes.into_iter().flat_map(|scope| scope.spans).filter(|span| is_of(span, server));
        seen.extend(spans.map(|span| Seen { service: service.clone(), span }));
    }
}

fn is_of(span: &Span, server: SocketAddr) -> bool {
    let ports = [semconv::SERVER_PORT, semconv::NETWORK_PEER_PORT];
    let addresses = [semconv::SERVER_ADDRESS, semconv::NETWORK_PEER_ADDRESS];
    let address = server.ip().to_string();
    ports.iter().any(|key| int_attribute(&span.attributes, key) == Some(server.port().into()))
        && addresses.iter().any(|key| string_attribute(&span.attributes, key) == Some(&address))
}
