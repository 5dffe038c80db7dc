//! Requests that were valid and then were mutated, to the gateway and to the agent, by every way: each gets the answer that follows
//! from its bytes, and what is stored is what the answers say.
//!
//! Which answer follows is worked out here, with the libraries' own decoders. A cycle is [`REQUESTS`] requests; ten thousand
//! cycles are a million. Invariant: a cycle's requests follow from its seed alone.

use crate::client::{Answer, Call, Client, Verdict, Way};
use crate::otlp::Signal;
use crate::report::Report;
use crate::run::{Cycle, Run};
use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use flate2::read::MultiGzDecoder;
use ollystack_tests::{Gateway, World, within};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogram, ExponentialHistogramDataPoint, Metric, ResourceMetrics, ScopeMetrics,
    exponential_histogram_data_point::Buckets, metric::Data,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, span::Event};
use prost::Message;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;
use zstd::zstd_safe;

/// Of one cycle.
const REQUESTS: usize = 100;
/// Of one cycle, on their way at once.
const LANES: usize = 50;
/// Cycles that are sent together, so that ClickHouse gets blocks of more than a handful of rows.
const TOGETHER: usize = 8;
/// Until gateway and agent have delivered what they took: windows of a minute have to close, and a million requests leave a backlog,
/// in the spill of a gateway whose ClickHouse has fallen behind as in the agent's buffer.
const SENT: Duration = Duration::from_secs(900);
/// Decompressed, no mutation makes more of a payload of a few hundred bytes than this; it is below every limit.
const PLAIN_BYTES_MAX: u64 = 3 << 20;
/// RFC 8878 has decoders take 8 MiB; a larger window, which a mutated frame may ask for, is refused by both faces.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// How deep a value of a payload may be nested: within what is kept, beyond it, and beyond what prost takes.
const JSON_LEVELS_MAX: usize = 100_000;
/// Of a body whose answer is wrong.
const SHOWN_BYTES: usize = 1_000;
const DEPTHS: [usize; 6] = [0, 1, 10, 24, 64, 100];

/// A request, and what must come of it.
struct Junk {
    call: Call,
    signal: Signal,
    expected: Expected,
}

/// One tenant for what is counted here, another for the rest.
#[derive(Clone, Copy)]
struct Keys<'a> {
    counted: &'a str,
    other: &'a str,
}

/// What must come of a request.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// This many records, as many as the answer says less.
    Taken(u64),
    Refused(Verdict),
    /// Either: the bytes are JSON, but whether they are OTLP is for the face to say.
    TakenOr(Verdict),
}

pub(crate) fn run(run: &Run) -> Result<Report> {
    let mut report = Report::default();
    let world = run.world("junk")?;
    let config = world.gateway()?.set("tenants.records_per_second", "0").set("server.header_timeout_ms", "60000");
    let mut gateway = config.start(world.binaries())?;
    gateway.wait_until_the_schema_is_there()?;
    let [counted, other, forward] = ["counted", "other", "agent"].map(|tenant| gateway.new_key(tenant));
    let (counted, other, forward) = (counted?, other?, forward?);
    let agent = world.agent_to(&format!("http://{}", gateway.grpc()), &forward.secret)?;
    let mut agent = agent.set("otlp.enabled", "true").set("traces.baseline_ratio", "1.0").start(world.binaries())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let faces: [SocketAddr; 2] = [gateway.grpc().parse()?, agent.grpc().parse()?];

    let keys = Keys { counted: &counted.secret, other: &other.secret };
    let mut sure = [0u64; 3];
    for (face, address) in [("gateway", faces[0]), ("agent", faces[1])] {
        let taken = runtime.block_on(depths(address, &counted.secret, &mut report, face))?;
        sure[index(Signal::Logs)] += if face == "gateway" { taken } else { 0 };
    }
    let mut cycles = run.cycles().peekable();
    while cycles.peek().is_some() {
        let sent = cycles.by_ref().take(TOGETHER).map(|mut cycle| {
            // One cycle in four goes through the agent, which waits for its disk with every answer.
            let to_agent = cycle.number % 4 == 3;
            let requests = requests(&mut cycle, keys, to_agent);
            (cycle.number, to_agent, runtime.spawn(send(faces[usize::from(to_agent)], requests)))
        });
        for (number, to_agent, answers) in sent.collect::<Vec<_>>() {
            for (junk, answer) in runtime.block_on(answers)?? {
                judge(&junk, answer, to_agent, &mut sure, &mut report, || run.replay_of(number));
            }
            run.progress(number, "junk");
        }
        gateway.process().must_run()?;
        agent.process().must_run()?;
    }
    let honest = runtime.block_on(crate::client::once(faces[0], &one(Way::Grpc, &counted.secret)))?;
    ensure!(honest.verdict == Verdict::Taken, "the gateway does not serve any more: {honest:?}");
    sure[index(Signal::Logs)] += 1;

    stored_as_said(&world, &gateway, sure, &mut report)?;
    through_the_agent(&world, &agent, &mut report)?;
    report.must(!agent.process().output().contains("panicked"), || "the agent panicked".to_owned());
    report.must(!gateway.process().output().contains("panicked"), || "the gateway panicked".to_owned());
    Ok(report)
}

fn one(way: Way, key: &str) -> Call {
    Call::new(way, Signal::Logs, key, "identity", &Signal::Logs.one("honest"))
}

/// Values nested as deeply as RELIABILITY says, in both encodings, by every way: what is too deep is left out, which the answer says,
/// and the record is kept. How many were taken.
async fn depths(face: SocketAddr, key: &str, report: &mut Report, name: &str) -> Result<u64> {
    let mut taken = 0;
    for levels in [10, 64, 100, 200_000] {
        for way in [Way::Grpc, Way::Http { json: false }, Way::Http { json: true }, Way::Http2 { json: true }] {
            let json = matches!(way, Way::Http { json: true } | Way::Http2 { json: true });
            // Brackets cost more: beyond this, a message is too large for the agent whatever is in it.
            let levels = if json { levels.min(JSON_LEVELS_MAX) } else { levels };
            let message = if json { deep_json(levels) } else { deep_protobuf(levels) };
            let answer = crate::client::once(face, &Call::new(way, Signal::Logs, key, "identity", &message)).await?;
            let warned = answer.message.contains("left out");
            report.must(answer.verdict == Verdict::Taken && answer.rejected == 0 && warned == (levels > 24), || {
                format!("{name}: {levels} levels by {way:?}: {answer:?}")
            });
            taken += u64::from(answer.verdict == Verdict::Taken);
        }
    }
    Ok(taken)
}

fn deep_json(levels: usize) -> Vec<u8> {
    let (begin, end) = (r#"{"arrayValue":{"values":["#, "]}}");
    let body = format!("{}{}{}", begin.repeat(levels), r#"{"intValue":7}"#, end.repeat(levels));
    format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"body":{body}}}]}}]}}]}}"#).into_bytes()
}

/// By hand: the library's encoder would recurse as often. Written from the inside outwards, so backwards.
fn deep_protobuf(levels: usize) -> Vec<u8> {
    // An AnyValue with the integer 7.
    let mut reversed = vec![7, 3 << 3];
    let wrap = |reversed: &mut Vec<u8>, field: u8| {
        let mut length = reversed.len();
        let mut varint = Vec::new();
        while length >= 0x80 {
            varint.push(length as u8 | 0x80);
            length >>= 7;
        }
        varint.push(length as u8);
        reversed.extend(varint.iter().rev());
        reversed.push(field << 3 | 2);
    };
    for _ in 0..levels {
        // ArrayValue.values, then AnyValue.array_value.
        wrap(&mut reversed, 1);
        wrap(&mut reversed, 5);
    }
    // LogRecord.body, ScopeLogs.log_records, ResourceLogs.scope_logs, the request's resource_logs.
    for field in [5, 2, 2, 1] {
        wrap(&mut reversed, field);
    }
    reversed.reverse();
    reversed
}

/// All requests of a cycle.
fn requests(cycle: &mut Cycle, keys: Keys<'_>, to_agent: bool) -> Vec<Junk> {
    (0..REQUESTS).map(|_| junk(&mut cycle.random, keys, to_agent)).collect()
}

/// Over a few connections at once, in any order.
async fn send(face: SocketAddr, requests: Vec<Junk>) -> Result<Vec<(Junk, Result<Answer>)>> {
    let mut lanes: Vec<Vec<Junk>> = (0..LANES).map(|_| Vec::new()).collect();
    for (number, junk) in requests.into_iter().enumerate() {
        lanes[number % LANES].push(junk);
    }
    let lanes = lanes.into_iter().map(|lane| tokio::spawn(send_in_turn(face, lane)));
    let mut answers = Vec::with_capacity(REQUESTS);
    for lane in lanes.collect::<Vec<_>>() {
        answers.extend(lane.await?);
    }
    Ok(answers)
}

async fn send_in_turn(face: SocketAddr, lane: Vec<Junk>) -> Vec<(Junk, Result<Answer>)> {
    let mut answers = Vec::with_capacity(lane.len());
    let mut two: Option<Client> = None;
    for junk in lane {
        let answer = match junk.call.way {
            // A refusal may end a connection of HTTP/1.1.
            Way::Http { .. } => patiently(face, &junk.call, &mut None).await,
            _ => patiently(face, &junk.call, &mut two).await,
        };
        answers.push((junk, answer));
    }
    answers
}

/// Again as long as it is told to come back, as senders do.
async fn patiently(face: SocketAddr, call: &Call, client: &mut Option<Client>) -> Result<Answer> {
    loop {
        let connected = match client.take() {
            Some(connected) => connected,
            None => Client::connect(call.way, face, [127, 0, 0, 1]).await?,
        };
        let answer = client.insert(connected).send(call).await?;
        if !matches!(answer.verdict, Verdict::Busy | Verdict::Unavailable) {
            return Ok(answer);
        }
        if matches!(call.way, Way::Http { .. }) {
            *client = None;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn judge(
    junk: &Junk,
    answer: Result<Answer>,
    to_agent: bool,
    sure: &mut [u64; 3],
    report: &mut Report,
    again: impl Fn() -> String,
) {
    report.add("requests", 1);
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            return report.violation(format!(
                "{:?} {} got no answer: {error:#}; {}",
                junk.call.way,
                junk.call.path,
                again()
            ));
        }
    };
    let taken = answer.verdict == Verdict::Taken;
    // What is nested too deeply is left out, with whatever is wrong in it.
    let left_out = taken && answer.message.contains("left out");
    let fits = match junk.expected {
        Expected::Taken(_) => taken,
        Expected::Refused(Verdict::Invalid) if left_out => true,
        Expected::Refused(verdict) => answer.verdict == verdict,
        Expected::TakenOr(verdict) => taken || answer.verdict == verdict,
    };
    report.must(fits, || {
        let Call { way, path, body, .. } = &junk.call;
        let bytes: String = body.iter().take(SHOWN_BYTES).map(|byte| format!("{byte:02x}")).collect();
        format!("{way:?} {path}: {answer:?} instead of {:?}: {bytes}; {}", junk.expected, again())
    });
    report.add(if taken { "taken" } else { "refused" }, 1);
    if taken
        && !to_agent
        && let Expected::Taken(records) = junk.expected
    {
        sure[index(junk.signal)] += records - answer.rejected.min(records);
    }
}

/// What is stored is what was said to be taken: by the answers where the records were counted here, by the gateway's own count for
/// all.
fn stored_as_said(world: &World<'_>, gateway: &Gateway, sure: [u64; 3], report: &mut Report) -> Result<()> {
    within(SENT, "the gateway's spill is delivered", || {
        Ok((gateway.metric("ollystack_spill_entries", &[])? == 0.0).then_some(()))
    })?;
    for (signal, name) in [(Signal::Metrics, "metrics"), (Signal::Logs, "logs"), (Signal::Traces, "traces")] {
        for tenant in ["counted", "other"] {
            let labels = [format!("tenant=\"{tenant}\""), format!("signal=\"{name}\"")];
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            let said = match tenant {
                "counted" => sure[index(signal)],
                _ => gateway.metric("ollystack_ingestion_data_points_total", &labels)? as u64,
            };
            let table = signal.table();
            let rows = || world.count(&format!("SELECT count() FROM {{db}}.{table} WHERE TenantId = '{tenant}'"));
            let _ = within(Duration::from_secs(20), "the rows are there", || Ok((rows()? >= said).then_some(())));
            let found = rows()?;
            report.must(found == said, || format!("{table}, {tenant}: {found} rows, the answers said {said}"));
            report.add("rows", found);
        }
    }
    Ok(())
}

/// What the agent took of it, it got rid of: the gateway refused none of what it made of it.
fn through_the_agent(world: &World<'_>, agent: &ollystack_tests::Agent, report: &mut Report) -> Result<()> {
    agent.ledger_closes()?;
    within(SENT, "the agent has sent everything", || {
        let waiting = |signal| -> Result<u64> {
            let waiting = agent.account(signal)?["waiting"].clone();
            Ok(waiting.as_object().context("no waiting")?.values().filter_map(serde_json::Value::as_u64).sum())
        };
        Ok((waiting("logs")? + waiting("traces")? == 0).then_some(()))
    })?;
    let refused = agent.account("logs")?["dropped"]["refused"].as_u64().unwrap_or(0)
        + agent.account("traces")?["dropped"]["refused"].as_u64().unwrap_or(0)
        + agent.account("metrics")?["dropped"]["refused"].as_u64().unwrap_or(0);
    report.must(refused == 0, || format!("the gateway refused {refused} records that the agent had taken"));
    let strangers = world
        .count("SELECT uniqExact(TenantId) FROM {db}.logs_raw WHERE TenantId NOT IN ('counted', 'other', 'agent')")?;
    report.must(strangers == 0, || format!("rows of {strangers} tenants that nobody is"));
    Ok(())
}

fn index(signal: Signal) -> usize {
    match signal {
        Signal::Metrics => 0,
        Signal::Logs => 1,
        Signal::Traces => 2,
    }
}

/// One request: a valid message, mutated as message, as compressed bytes, or in its head, or not at all.
fn junk(random: &mut Rng, keys: Keys<'_>, to_agent: bool) -> Junk {
    let signal = Signal::ALL[random.usize(..3)];
    let json = random.u8(..4) == 0;
    let way = match (json, random.u8(..3)) {
        (_, 0) => Way::Http { json },
        (true, _) | (false, 1) => Way::Http2 { json },
        (false, _) => Way::Grpc,
    };
    let mut message = message(random, signal, json);
    if random.u8(..4) > 0 {
        let other = self::message(random, signal, json);
        mutate(random, &mut message, &other);
    }
    let encoding = ["identity", "identity", "gzip", "zstd"][random.usize(..4)];
    let mut sent = compress(encoding, &message);
    if encoding != "identity" && random.u8(..4) == 0 {
        let other = compress(encoding, b"another");
        mutate(random, &mut sent, &other);
    }
    let plain = plain(encoding, &sent);
    let expected = match (&plain, json) {
        (None, _) if encoding == "zstd" => Expected::TakenOr(Verdict::Invalid),
        (None, _) => Expected::Refused(Verdict::Invalid),
        // What is JSON need not be OTLP, and what is ignored is not looked at as closely as a parser of everything would.
        (Some(_), true) => Expected::TakenOr(Verdict::Invalid),
        (Some(plain), false) => of_protobuf(signal, plain),
    };
    let key = if matches!(expected, Expected::Taken(_)) { keys.counted } else { keys.other };
    let call = Call::new(way, signal, key, encoding, &sent);
    let junk = Junk { call, signal, expected };
    if random.u8(..16) == 0 { spoil(random, junk, to_agent) } else { junk }
}

/// A head that must not get through, whatever the body is.
fn spoil(random: &mut Rng, junk: Junk, to_agent: bool) -> Junk {
    let grpc = junk.call.way == Way::Grpc;
    let Junk { mut call, signal, .. } = junk;
    let (call, verdict) = match random.u8(if to_agent { 2 } else { 0 }..6) {
        // The agent asks for no key.
        0 => (call.set("authorization", None), Verdict::Unauthenticated),
        1 => (call.set("authorization", Some("Bearer olly_000000000000_0")), Verdict::Unauthenticated),
        2 => {
            let name = if grpc { "grpc-encoding" } else { "content-encoding" };
            (call.set(name, Some("br")), if grpc { Verdict::NoSuch } else { Verdict::Unsupported })
        }
        3 => (Call { path: format!("{}x", call.path), ..call }, Verdict::NoSuch),
        4 if !grpc => (Call { method: http::Method::PUT, ..call }, Verdict::NoSuch),
        5 if !grpc => (call.set("content-type", Some("text/plain")), Verdict::Unsupported),
        _ if grpc => {
            // The prefix begins with a flag that is none.
            call.body[0] = 7;
            (call, Verdict::Broken)
        }
        _ => (Call { method: http::Method::GET, ..call }, Verdict::NoSuch),
    };
    Junk { call, signal, expected: Expected::Refused(verdict) }
}

/// Bits, bytes, pieces, tags and lengths of `bytes` change; pieces may be those of `other`.
fn mutate(random: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..random.usize(1..3) {
        if bytes.is_empty() {
            return;
        }
        let at = random.usize(..bytes.len());
        match random.u8(..9) {
            0 => bytes[at] ^= 1 << random.u8(..8),
            1 => bytes[at] = random.u8(..),
            2 => bytes.truncate(at),
            3 => drop(bytes.remove(at)),
            4 => bytes.insert(at, random.u8(..)),
            // A varint without end, and the longest.
            5 => drop(bytes.splice(at..at, [0xff; 11])),
            6 => drop(bytes.splice(at..at, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01])),
            // What is no UTF-8.
            7 => drop(bytes.splice(at..at, [0xc3, 0x28, 0xed, 0xa0, 0x80])),
            _ => {
                let from = random.usize(..other.len());
                let to = random.usize(from..other.len());
                drop(bytes.splice(at..at, other[from..to].iter().copied()));
            }
        }
    }
}

fn of_protobuf(signal: Signal, bytes: &[u8]) -> Expected {
    let records = match signal {
        Signal::Logs => ExportLogsServiceRequest::decode(bytes).map(|request| {
            let scopes = request.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
            scopes.map(|scope| scope.log_records.len()).sum::<usize>()
        }),
        Signal::Traces => ExportTraceServiceRequest::decode(bytes).map(|request| {
            let scopes = request.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
            scopes.map(|scope| scope.spans.len()).sum()
        }),
        Signal::Metrics => ExportMetricsServiceRequest::decode(bytes).map(|request| {
            let scopes = request.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics);
            scopes.flat_map(|scope| &scope.metrics).map(points).sum()
        }),
    };
    match records {
        Ok(records) => Expected::Taken(records as u64),
        // The face leaves out what is nested so deeply, and looks at the rest.
        Err(error) if error.to_string().contains("recursion limit") => Expected::TakenOr(Verdict::Invalid),
        Err(_) => Expected::Refused(Verdict::Invalid),
    }
}

fn points(metric: &Metric) -> usize {
    match &metric.data {
        Some(Data::Gauge(data)) => data.data_points.len(),
        Some(Data::Sum(data)) => data.data_points.len(),
        Some(Data::Histogram(data)) => data.data_points.len(),
        Some(Data::ExponentialHistogram(data)) => data.data_points.len(),
        Some(Data::Summary(data)) => data.data_points.len(),
        None => 0,
    }
}

fn compress(encoding: &str, bytes: &[u8]) -> Vec<u8> {
    match encoding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
            written.unwrap_or_default()
        }
        "zstd" => zstd::encode_all(bytes, 1).unwrap_or_default(),
        _ => bytes.to_vec(),
    }
}

/// As it was before it was compressed; `None` when it is nothing that was.
fn plain(encoding: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    match encoding {
        "gzip" => _ = MultiGzDecoder::new(bytes).take(PLAIN_BYTES_MAX).read_to_end(&mut plain).ok()?,
        "zstd" => {
            let mut decoder = zstd::Decoder::new(bytes).ok()?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).ok()?;
            decoder.take(PLAIN_BYTES_MAX).read_to_end(&mut plain).ok()?;
            // The stream decoder does not always look whether as much came out as the frames say (RFC 8878, 3.1.1.1.4).
            if declared(bytes).is_some_and(|declared| declared != plain.len() as u64) {
                return None;
            }
        }
        _ => return Some(bytes.to_vec()),
    };
    Some(plain)
}

/// How much comes out, if all frames say it.
fn declared(mut frames: &[u8]) -> Option<u64> {
    let mut sum = 0u64;
    while !frames.is_empty() {
        let (frame, rest) = frames.split_at_checked(zstd_safe::find_frame_compressed_size(frames).ok()?)?;
        sum = sum.checked_add(zstd_safe::get_frame_content_size(frame).ok()??)?;
        frames = rest;
    }
    Some(sum)
}

/// A valid message of a few records with values of every kind.
fn message(random: &mut Rng, signal: Signal, json: bool) -> Vec<u8> {
    let resource = Some(Resource { attributes: attributes(random), ..Resource::default() });
    let now = crate::otlp::now();
    let count = random.usize(1..4);
    match signal {
        Signal::Logs => {
            let record = |random: &mut Rng| LogRecord {
                time_unix_nano: now,
                severity_number: random.i32(0..25),
                severity_text: "INFO".to_owned(),
                body: Some(value(random)),
                attributes: attributes(random),
                trace_id: id(random, 16),
                span_id: id(random, 8),
                ..LogRecord::default()
            };
            let log_records = (0..count).map(|_| record(random)).collect();
            let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
            let resource_logs = vec![ResourceLogs { resource, scope_logs, ..ResourceLogs::default() }];
            let request = ExportLogsServiceRequest { resource_logs };
            if json { serde_json::to_vec(&request).unwrap_or_default() } else { request.encode_to_vec() }
        }
        Signal::Traces => {
            let span = |random: &mut Rng| Span {
                trace_id: id(random, 16),
                span_id: id(random, 8),
                name: "junk".to_owned(),
                kind: random.i32(0..6),
                start_time_unix_nano: now - 1_000,
                end_time_unix_nano: now,
                attributes: attributes(random),
                events: vec![Event { name: "event".to_owned(), attributes: attributes(random), ..Event::default() }],
                ..Span::default()
            };
            let spans = (0..count).map(|_| span(random)).collect();
            let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
            let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
            let request = ExportTraceServiceRequest { resource_spans };
            if json { serde_json::to_vec(&request).unwrap_or_default() } else { request.encode_to_vec() }
        }
        Signal::Metrics => {
            let point = |random: &mut Rng| ExponentialHistogramDataPoint {
                attributes: attributes(random),
                start_time_unix_nano: now - 1_000,
                time_unix_nano: now,
                count: 3,
                sum: Some(4.5),
                scale: random.i32(-3..9),
                positive: Some(Buckets { offset: random.i32(-9..9), bucket_counts: vec![1, 2] }),
                ..ExponentialHistogramDataPoint::default()
            };
            let data_points = (0..count).map(|_| point(random)).collect();
            let data = ExponentialHistogram { data_points, aggregation_temporality: 1 };
            let data = Some(Data::ExponentialHistogram(data));
            let metrics = vec![Metric { name: "junk".to_owned(), data, ..Metric::default() }];
            let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
            let resource_metrics = vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }];
            let request = ExportMetricsServiceRequest { resource_metrics };
            if json { serde_json::to_vec(&request).unwrap_or_default() } else { request.encode_to_vec() }
        }
    }
}

fn attributes(random: &mut Rng) -> Vec<KeyValue> {
    let keys = ["service.name", "http.route", "TenantId", "é", ""];
    let one = |random: &mut Rng| KeyValue {
        key: keys[random.usize(..keys.len())].to_owned(),
        value: Some(value(random)),
        ..KeyValue::default()
    };
    (0..random.usize(..3)).map(|_| one(random)).collect()
}

/// Of any kind, most of them flat.
fn value(random: &mut Rng) -> AnyValue {
    let depth = if random.u8(..8) == 0 { DEPTHS[random.usize(..DEPTHS.len())] } else { 0 };
    let value = match random.u8(..6) {
        0 => Value::StringValue("a text, ü".to_owned()),
        1 => Value::BoolValue(true),
        2 => Value::IntValue(random.i64(..)),
        3 => Value::DoubleValue(random.f64()),
        4 => Value::BytesValue(vec![0, 255]),
        _ => Value::ArrayValue(ArrayValue::default()),
    };
    let mut value = AnyValue { value: Some(value) };
    for _ in 0..depth {
        value = AnyValue {
            value: Some(match random.bool() {
                true => Value::ArrayValue(ArrayValue { values: vec![value] }),
                false => Value::KvlistValue(KeyValueList {
                    values: vec![KeyValue { key: "k".to_owned(), value: Some(value), ..KeyValue::default() }],
                }),
            }),
        };
    }
    value
}

/// Of the right length mostly.
fn id(random: &mut Rng, length: usize) -> Vec<u8> {
    let length = if random.u8(..16) == 0 { random.usize(..20) } else { length };
    (0..length).map(|_| random.u8(..)).collect()
}
