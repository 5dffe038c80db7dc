//! A tenant that says in every way it is another: by attributes, headers, paths, keys, and the identities of another's batches.
//!
//! The victim sends meanwhile. A cycle is [`ATTEMPTS`] attempts. Invariant: a row's tenant is that of the key it came with, and
//! an answer does not depend on what others have sent.

use crate::client::{Answer, Call, Verdict, Way, once};
use crate::oracle::Oracle;
use crate::otlp::{Signal, attribute, log, log_records};
use crate::report::Report;
use crate::run::Run;
use anyhow::{Result, ensure};
use fastrand::Rng;
use ollystack_tests::{Key, World, until};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use prost::Message;
use std::net::SocketAddr;
use std::sync::Arc;

/// Of one cycle.
const ATTEMPTS: u64 = 100;
/// On their way at once.
const LANES: usize = 20;

/// Names under which a tenant could be looked for.
const NAMES: [&str; 10] = [
    "TenantId",
    "tenant_id",
    "tenant.id",
    "tenant",
    "ollystack.tenant",
    "ollystack.tenant.id",
    "x-ollystack-tenant",
    "x-tenant-id",
    "x-scope-orgid",
    "x-prometheus-tenant",
];

/// An identity that the victim used, and one that nobody did.
const VICTIMS_AGENT: &str = "00000000-0000-4000-8000-00000000acce";
const NOBODYS_AGENT: &str = "00000000-0000-4000-8000-0000000000ff";

/// One attempt.
struct Attempt {
    call: Call,
    expected: Verdict,
}

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    let world = run.world("tenancy")?;
    let mut gateway = world.gateway()?.set("tenants.records_per_second", "0").start(world.binaries())?;
    gateway.wait_until_the_schema_is_there()?;
    let (victim, intruder) = (gateway.new_key("victim")?, gateway.new_key("intruder")?);
    let address: SocketAddr = gateway.grpc().parse()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let oracle = Oracle::new("victim");

    let mut taken = 0;
    for mut cycle in run.cycles() {
        // The victim's own, some of it as an agent's batch, before and after the intruder used its identity.
        let sequence = cycle.number + 1;
        let deliver = |redelivered: bool| -> Result<()> {
            let ids = oracle.allot(Signal::Logs, 3);
            let call = Call::new(Way::Grpc, Signal::Logs, &victim.secret, "identity", &oracle.body(ids));
            let call = if redelivered { call } else { as_agent(call, VICTIMS_AGENT, sequence) };
            let answer = runtime.block_on(once(address, &call))?;
            ensure!(answer.verdict == Verdict::Taken, "the victim is refused: {answer:?}");
            oracle.acknowledged(ids);
            Ok(())
        };
        deliver(false)?;
        let attempts: Vec<Attempt> =
            (0..ATTEMPTS).map(|_| attempt(&mut cycle.random, &victim, &intruder, sequence)).collect();
        taken += runtime.block_on(all(address, attempts, &mut report, &run.replay_of(cycle.number)))?;
        deliver(true)?;

        let (of_victim, of_nobody) = runtime.block_on(ask(address, &intruder, sequence))?;
        taken += 2;
        let told = |answer: &Answer| (answer.verdict, answer.rejected, answer.message.clone());
        report.must(told(&of_victim) == told(&of_nobody), || {
            format!(
                "the identity of another's batch is answered {of_victim:?}, that of none {of_nobody:?}; {}",
                run.replay_of(cycle.number)
            )
        });
        run.progress(cycle.number, "tenancy");
    }

    foreign_rows(&world, taken, &mut report)?;
    oracle.judge(&world, &mut report)?;
    gateway.process().must_run()?;
    Ok(report)
}

/// What every intruder's record says, so that its rows can be told.
const MARK: &str = "intruder";

async fn all(address: SocketAddr, attempts: Vec<Attempt>, report: &mut Report, again: &str) -> Result<u64> {
    let lanes = Arc::new(tokio::sync::Semaphore::new(LANES));
    let sent = attempts.into_iter().map(|attempt| {
        let lanes = Arc::clone(&lanes);
        tokio::spawn(async move {
            let _lane = lanes.acquire().await;
            let answer = once(address, &attempt.call).await;
            (attempt, answer)
        })
    });
    let mut taken = 0;
    for sent in sent.collect::<Vec<_>>() {
        let (Attempt { call, expected }, answer) = sent.await?;
        let answer = answer?;
        report.add("attempts", 1);
        report.must(answer.verdict == expected, || {
            let heads: Vec<_> = call.headers.iter().filter(|(name, _)| name != "authorization").collect();
            format!("{} {heads:?}: {answer:?} instead of {expected:?}; {again}", call.path)
        });
        report.must(!answer.message.contains("victim") || call.path.contains("victim"), || {
            format!("the intruder is told {:?}; {again}", answer.message)
        });
        taken += u64::from(answer.verdict == Verdict::Taken);
    }
    Ok(taken)
}

/// One that should not work, by chance.
fn attempt(random: &mut Rng, victim: &Key, intruder: &Key, sequence: u64) -> Attempt {
    let way = [Way::Grpc, Way::Http { json: false }, Way::Http2 { json: false }][random.usize(..3)];
    let name = NAMES[random.usize(..NAMES.len())];
    let call = Call::new(way, Signal::Logs, &intruder.secret, "identity", &record(name));
    let bearer = |key: &Key| format!("Bearer {}", key.secret);
    let (call, expected) = match random.u8(..10) {
        // Attributes alone, of resource, scope and record.
        0 => (call, Verdict::Taken),
        1 => (call.with(name.to_lowercase().as_str(), "victim"), Verdict::Taken),
        // Two keys, in either order.
        2 => (call.with("authorization", &bearer(victim)), Verdict::Unauthenticated),
        3 => (
            call.set("authorization", Some(&bearer(victim))).with("authorization", &bearer(intruder)),
            Verdict::Unauthenticated,
        ),
        // The victim's public id with another secret, its own secret, and less than the whole.
        4 => (call.set("authorization", Some(&forged(random, victim, intruder))), Verdict::Unauthenticated),
        // Paths and queries.
        5 => {
            let paths = ["/victim", "/../victim", "//", "/%2e%2e/", "/v1/victim"];
            (Call { path: format!("{}{}", paths[random.usize(..paths.len())], call.path), ..call }, Verdict::NoSuch)
        }
        6 => (Call { path: format!("{}?tenant=victim&TenantId=victim", call.path), ..call }, Verdict::Taken),
        // The identity of the victim's batch: as a first delivery and as one that is repeated.
        7 => (as_agent(call, VICTIMS_AGENT, fresh(random, sequence)), Verdict::Taken),
        // An agent's id that would be taken for another part of a token.
        8 => (as_agent(call, "victim/0", sequence), Verdict::Invalid),
        // JSON with every key twice.
        _ => {
            let json = br#"{"resourceLogs":[{"resource":{"attributes":[{"key":"TenantId","value":{"stringValue":"victim"}}]},
                "scopeLogs":[],"scopeLogs":[{"logRecords":[{"body":{"stringValue":"intruder"},"body":{"stringValue":"intruder"},
                "TenantId":"victim","tenantId":"victim"}]}]}],"TenantId":"victim","resourceLogs":[]}"#;
            (Call::new(Way::Http { json: true }, Signal::Logs, &intruder.secret, "identity", json), Verdict::Taken)
        }
    };
    Attempt { call, expected }
}

/// The victim's sequence plus a part that is the intruder's own, so that no two attempts are the same delivery.
fn fresh(random: &mut Rng, sequence: u64) -> u64 {
    sequence + (random.u64(1..1 << 40) << 20)
}

fn forged(random: &mut Rng, victim: &Key, intruder: &Key) -> String {
    let id = &victim.secret[..victim.secret.rfind('_').unwrap_or_default()];
    let secret = &intruder.secret[intruder.secret.rfind('_').unwrap_or_default()..];
    match random.u8(..4) {
        0 => format!("Bearer {id}{secret}"),
        1 => format!("Bearer {id}_"),
        2 => format!("Bearer {}", &victim.secret[..victim.secret.len() - 1]),
        _ => format!("Basic {}", victim.secret),
    }
}

fn as_agent(call: Call, agent: &str, sequence: u64) -> Call {
    call.with("x-ollystack-agent", agent).with("x-ollystack-sequence", &sequence.to_string())
}

/// One record that says everywhere that it is the victim's.
fn record(name: &str) -> Vec<u8> {
    let spoof = || vec![attribute(name, "victim"), attribute("TenantId", "victim")];
    let mut record = log(MARK);
    record.attributes = spoof();
    let bytes = log_records(MARK, vec![record]);
    let mut request = ExportLogsServiceRequest::decode(bytes.as_slice()).unwrap_or_default();
    for resource in &mut request.resource_logs {
        resource.resource.get_or_insert_default().attributes.extend(spoof());
        for scope in &mut resource.scope_logs {
            scope.scope =
                Some(InstrumentationScope { name: name.to_owned(), attributes: spoof(), ..Default::default() });
        }
    }
    request.encode_to_vec()
}

/// A repeated delivery under the victim's identity, which is there, and under one that never was.
async fn ask(address: SocketAddr, intruder: &Key, sequence: u64) -> Result<(Answer, Answer)> {
    let mut answers = Vec::new();
    for agent in [VICTIMS_AGENT, NOBODYS_AGENT] {
        let call = Call::new(Way::Grpc, Signal::Logs, &intruder.secret, "identity", &record("tenant"));
        let call = as_agent(call, agent, sequence).with("x-ollystack-redelivered", "1");
        answers.push(once(address, &call).await?);
    }
    let [of_victim, of_nobody] = <[Answer; 2]>::try_from(answers).map_err(|_| anyhow::anyhow!("two answers"))?;
    Ok((of_victim, of_nobody))
}

/// Every row of the intruder's is the intruder's, in every table that knows tenants.
fn foreign_rows(world: &World<'_>, taken: u64, report: &mut Report) -> Result<()> {
    until("what was taken of the intruder is there", || {
        let rows = world.count(&format!("SELECT count() FROM {{db}}.logs_raw WHERE Body = '{MARK}'"))?;
        Ok((rows >= taken).then_some(()))
    })?;
    let foreign = world
        .count(&format!("SELECT count() FROM {{db}}.logs_raw WHERE Body = '{MARK}' AND TenantId != 'intruder'"))?;
    report.must(foreign == 0, || format!("{foreign} rows of the intruder are another's"));
    let rows =
        world.count(&format!("SELECT count() FROM {{db}}.logs_raw WHERE Body = '{MARK}' AND TenantId = 'intruder'"))?;
    report.must(rows == taken, || format!("{rows} rows of the intruder, {taken} were taken"));
    report.figure("foreign_rows", foreign);
    let tables = world.sql(
        "SELECT DISTINCT table FROM system.columns WHERE database = '{db}' AND name = 'TenantId' AND table IN \
         (SELECT name FROM system.tables WHERE database = '{db}' AND engine LIKE '%MergeTree' AND name NOT LIKE '.tmp%')",
    )?;
    for table in tables.lines() {
        let strangers = world
            .count(&format!("SELECT count() FROM {{db}}.`{table}` WHERE TenantId NOT IN ('victim', 'intruder')"))?;
        report.must(strangers == 0, || format!("{strangers} rows of {table} have a tenant that nobody is"));
    }
    Ok(())
}
