//! The input against real network namespaces: a service in one of its own, as a container's is, called by its address and by a translated one.
//!
//! The test makes two namespaces and runs itself in the first, which then is the host. It takes root and `ip`; the translated address takes
//! `iptables` as well. What is missing is said, and that part left out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's way to fail")]

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use ollystack_input_sockets::{Config, Stats, run, survey};
use ollystack_record::value::string_attribute;
use ollystack_record::{Intake, Peers, Records, Resource};
use ollystack_schema::names::{EDGE_CONNECTIONS, key};
use std::collections::BTreeSet;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Tells the program that it is on the inside, and the name of the other namespace.
const INSIDE: &str = "OLLYSTACK_TEST_POD";
const DEADLINE: Duration = Duration::from_secs(60);

/// Holds each connection that it takes.
const SERVER: &str = "
import socket
listener = socket.create_server(('0.0.0.0', 8080))
held = []
while True:
    held.append(listener.accept())
";

/// Connects as soon as it can, and holds on.
const CLIENT: &str = "
import socket, sys, time
while True:
    try:
        held = socket.create_connection((sys.argv[1], int(sys.argv[2])))
        break
    except OSError:
        time.sleep(0.05)
time.sleep(1000)
";

fn main() -> ExitCode {
    if let Some(pod) = std::env::var_os(INSIDE) {
        return inside(&pod.to_string_lossy());
    }
    let name = "a_service_in_a_namespace_of_its_own_is_found_by_its_address_and_behind_another";
    let trials = vec![Trial::ignorable_test(name, outside)];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A command that must succeed.
fn must(words: &str) -> Result<(), Failed> {
    let mut command = words.split(' ');
    let output = Command::new(command.next().unwrap_or_default()).args(command).output();
    let output = output.map_err(|error| format!("{words}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{words}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// Namespaces that go when the test does.
struct Namespaces([String; 2]);

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = must(&format!("ip netns del {name}"));
        }
    }
}

fn outside() -> Result<Completion, Failed> {
    let [home, pod] = ["home", "pod"].map(|end| format!("ollystack-{end}-{}", std::process::id()));
    if let Err(error) = must(&format!("ip netns add {home}")) {
        return Ok(Completion::ignored_with(format!("no network namespace: {}", error.message().unwrap_or_default())));
    }
    let namespaces = Namespaces([home, pod]);
    let [home, pod] = &namespaces.0;
    must(&format!("ip netns add {pod}"))?;
    must(&format!("ip -n {home} link add out type veth peer name eth0 netns {pod}"))?;
    for (namespace, link, address) in [(home, "out", "10.77.0.1/24"), (pod, "eth0", "10.77.0.2/24")] {
        must(&format!("ip -n {namespace} addr add {address} dev {link}"))?;
        must(&format!("ip -n {namespace} link set {link} up"))?;
        must(&format!("ip -n {namespace} link set lo up"))?;
    }
    must(&format!("ip -n {home} route add 10.96.0.0/16 via 10.77.0.2"))?;
    let own = std::env::current_exe()?;
    let output = Command::new("ip").args(["netns", "exec", home]).arg(own).env(INSIDE, pod).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    match output.status.success() {
        true if said.is_empty() => Ok(Completion::Completed),
        true => Ok(Completion::ignored_with(said)),
        false => Err(format!("{said}{}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(service: &str, command: &mut Command) -> Running {
    Running(command.env("OTEL_SERVICE_NAME", service).stdin(Stdio::null()).spawn().expect("a process"))
}

fn client(service: &str, address: &str, port: &str) -> Running {
    start(service, Command::new("python3").args(["-c", CLIENT, address, port]))
}

fn inside(pod: &str) -> ExitCode {
    let _server = start("web", Command::new("ip").args(["netns", "exec", pod, "python3", "-c", SERVER]));
    let _front = client("front", "10.77.0.2", "8080");
    let translate = "iptables -t nat -A OUTPUT -p tcp -d 10.96.0.10 --dport 80 -j DNAT --to-destination 10.77.0.2:8080";
    let translated = must(translate);
    let _back = translated.is_ok().then(|| client("back", "10.96.0.10", "80"));
    let mut wanted: BTreeSet<String> = ["front > web".to_owned()].into();
    wanted.extend(translated.is_ok().then(|| "back > web".to_owned()));

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let seen = runtime.block_on(edges(&wanted));
    assert!(wanted.is_subset(&seen), "wanted {wanted:?}, seen {seen:?}");
    let rows = survey(&Config::default()).expect("a survey");
    let web = rows.iter().find(|row| row.service == "web").expect("the server is listed");
    assert!(web.listens.contains("tcp 0.0.0.0:8080"), "{web:?}");
    let front = rows.iter().find(|row| row.service == "front").expect("the client is listed");
    assert_eq!(front.calls, ["web".to_owned()].into(), "{front:?}");
    if let Err(error) = translated {
        print!("without a translated address: {}", error.message().unwrap_or_default());
    }
    ExitCode::SUCCESS
}

/// `source > target`, until all that is wanted was seen, or it takes too long.
async fn edges(wanted: &BTreeSet<String>) -> BTreeSet<String> {
    let (stats, stop, ledger) = (Arc::new(Stats::default()), CancellationToken::new(), Arc::default());
    let (intake, mut received) = Intake::new(8, 100_000, Arc::clone(&ledger));
    let config = Config { interval_ms: 250, ..Config::default() };
    let peers = Arc::new(Peers::default());
    let input = tokio::spawn(run(config, Arc::new(Resource::default()), intake, peers, stop.clone(), stats));
    let mut seen = BTreeSet::new();
    let looking = async {
        while !wanted.is_subset(&seen) {
            let Some(batch) = received.recv().await else { break };
            let Records::Metrics(samples) = batch.take(&ledger).records else { continue };
            for sample in samples.iter().filter(|sample| sample.series.metric.name == EDGE_CONNECTIONS) {
                let end = |key| string_attribute(sample.series.attributes(), key).unwrap_or_default();
                seen.insert(format!("{} > {}", end(key::EDGE_SOURCE), end(key::EDGE_TARGET)));
            }
        }
    };
    let _ = tokio::time::timeout(DEADLINE, looking).await;
    stop.cancel();
    input.await.expect("the input").expect("runs");
    seen
}
