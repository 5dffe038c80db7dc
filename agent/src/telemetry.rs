//! The agent as a source of its own: its memory, CPU and ledger as metrics of the service `ollystack-agent`.
//!
//! Every interval, and once more on stop, the report becomes samples and enters the intake like any other input's. The ledger goes out as
//! what it is in all, not as increases: a sample that is lost or comes twice changes nothing once another has come, and so does a
//! restart. ClickHouse makes `agent_ledger` of it. Invariant: the number of series is fixed by the ledger's reasons and places, and all
//! are there from the beginning, so that no limit on series can keep out the one that tells of it.

use crate::admin::{Account, Report, View};
use crate::config::Config;
use crate::supervise::Supervisor;
use ollystack_record::{
    Ack, Batch, Intake, Kind, Level, Metric, Records, Resource, Sample, Scope, Series, Source, Value, value,
};
use ollystack_schema::names::{AGENT_LEDGER, key, semconv};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

const COUNTER: Kind = Kind::Sum { monotonic: true, delta: false };
const LEVEL: Kind = Kind::Gauge;
/// A total that is told as it stands.
const STANDING: Kind = Kind::Sum { monotonic: false, delta: false };

/// Who speaks: this host's attributes and the agent as a service.
pub(crate) fn resource(host: &Resource, agent_id: &str) -> Arc<Resource> {
    let own = [
        value::string(semconv::SERVICE_NAME, "ollystack-agent"),
        value::string("service.version", env!("CARGO_PKG_VERSION")),
        value::string("service.instance.id", agent_id),
    ];
    Arc::new(Resource::new(host.attributes().iter().cloned().chain(own).collect()))
}

/// Start it as one more input, `agent`.
pub(crate) fn start(
    supervisor: &mut Supervisor,
    config: &Config,
    own: &Arc<Resource>,
    view: &Arc<impl View>,
    intake: &Intake,
    stop: &CancellationToken,
) {
    if !config.telemetry.enabled {
        return supervisor.off("agent", "telemetry.enabled is false");
    }
    let every = Duration::from_millis(config.telemetry.interval_ms);
    let (own, view, intake, stop) = (Arc::clone(own), Arc::clone(view), intake.clone(), stop.clone());
    supervisor.start("agent", move || {
        run(Telemetry::new(Arc::clone(&own)), every, Arc::clone(&view), intake.clone(), stop.clone())
    });
}

async fn run(
    mut telemetry: Telemetry,
    every: Duration,
    view: Arc<impl View>,
    intake: Intake,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => {
                // The last word of this run on what it did; what still moves is told by the next one.
                telemetry.report(&view.report(), &intake);
                return Ok(());
            }
            _ = ticks.tick() => telemetry.report(&view.report(), &intake),
        }
    }
}

/// Makes samples of reports, each series described once.
#[derive(Debug)]
pub(crate) struct Telemetry {
    resource: Arc<Resource>,
    scope: Arc<Scope>,
    metrics: HashMap<&'static str, Arc<Metric>>,
    series: HashMap<(&'static str, String), Arc<Series>>,
}

impl Telemetry {
    /// In the name of `resource`.
    pub(crate) fn new(resource: Arc<Resource>) -> Telemetry {
        let mut scope = Scope::default();
        scope.proto.name = "ollystack-agent".to_owned();
        scope.proto.version = env!("CARGO_PKG_VERSION").to_owned();
        Telemetry { resource, scope: Arc::new(scope), metrics: HashMap::new(), series: HashMap::new() }
    }

    /// Hand in one sample of everything; a full queue drops and counts them.
    pub(crate) fn report(&mut self, report: &Report, intake: &Intake) {
        let records = Records::Metrics(self.samples(report, SystemTime::now()));
        intake.offer(Batch { source: Source::Agent, resource: Arc::clone(&self.resource), records, ack: Ack::none() });
    }

    fn samples(&mut self, report: &Report, now: SystemTime) -> Vec<Sample> {
        let nanos = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let (start, now) = (report.start_unix_seconds * 1_000_000_000, nanos(now));
        let mut samples = Vec::with_capacity(128);
        let mut add = |name, unit, kind, attributes: &[(&'static str, &str)], number| {
            let series = self.series(name, unit, kind, attributes);
            let start = if kind == COUNTER { start } else { 0 };
            samples.push(Sample::number(&series, start, now, number));
        };
        let int = |number: u64| Value::Int(number as i64);
        add("process.memory.usage", "By", LEVEL, &[], int(report.memory.rss_bytes));
        add("process.cpu.time", "s", COUNTER, &[], Value::Double(report.cpu_seconds));
        add("process.thread.count", "{thread}", LEVEL, &[], int(report.threads));
        add("ollystack.agent.map.usage", "By", LEVEL, &[], int(report.memory.map_bytes));
        let guard = &report.guard;
        add("ollystack.agent.memory.usage", "By", LEVEL, &[], int(guard.used_bytes));
        add("ollystack.agent.memory.limit", "By", LEVEL, &[], int(guard.grant_bytes));
        add("ollystack.agent.memory.pressure", "{level}", LEVEL, &[], int(guard.level as u64));
        let pressed = guard.level_seconds.iter().filter(|(level, _)| *level != Level::Calm.name());
        let pressed = Value::Double(pressed.map(|(_, seconds)| seconds).sum());
        add("ollystack.agent.memory.pressure.time", "s", COUNTER, &[], pressed);
        add("ollystack.agent.cpu.rest.time", "s", COUNTER, &[], Value::Double(guard.cpu_rest_seconds));
        add("ollystack.agent.buffer.usage", "By", LEVEL, &[], int(report.buffer.disk_bytes));
        add("ollystack.agent.export.failures", "{attempt}", COUNTER, &[], int(report.export.attempts_failed));
        let account_id = report.in_all.begun_unix_seconds.to_string();
        for account in &report.in_all.signals {
            for (outcome, detail, records) in entries(account) {
                let attributes = [
                    (key::LEDGER_ACCOUNT, account_id.as_str()),
                    (key::SIGNAL, &account.signal),
                    (key::LEDGER_OUTCOME, outcome),
                    (key::LEDGER_DETAIL, detail),
                ];
                add(AGENT_LEDGER, "{record}", STANDING, &attributes, Value::Int(records));
            }
        }
        for account in &report.signals {
            let signal = [(key::SIGNAL, account.signal.as_str())];
            add("ollystack.agent.bytes.in", "By", COUNTER, &signal, int(account.bytes_in));
            add("ollystack.agent.bytes.out", "By", COUNTER, &signal, int(account.bytes_out));
        }
        samples
    }

    /// Attributes without a value are left out.
    fn series(
        &mut self,
        name: &'static str,
        unit: &str,
        kind: Kind,
        attributes: &[(&'static str, &str)],
    ) -> Arc<Series> {
        let key = (name, attributes.iter().map(|(_, text)| *text).collect::<Vec<_>>().join("/"));
        if let Some(series) = self.series.get(&key) {
            return Arc::clone(series);
        }
        let describe = || Arc::new(Metric { name: name.to_owned(), unit: unit.to_owned(), kind, ..Metric::default() });
        let metric = Arc::clone(self.metrics.entry(name).or_insert_with(describe));
        let given = attributes.iter().filter(|(_, text)| !text.is_empty());
        let attributes = given.map(|(key, text)| value::string(*key, *text)).collect();
        let series = Arc::new(Series::new(Arc::clone(&self.scope), metric, attributes));
        self.series.insert(key, Arc::clone(&series));
        series
    }
}

/// An account, line by line: outcome, reason or place, records.
fn entries(account: &Account) -> impl Iterator<Item = (&'static str, &str, i64)> {
    let outcomes = account.outcomes().map(|(outcome, records)| (outcome, "", records as i64));
    let corrected =
        [("corrected", "buffer", account.corrected.buffer), ("corrected", "memory", account.corrected.memory)];
    let dropped = account.dropped.iter().map(|(reason, records)| ("dropped", reason.as_str(), *records as i64));
    let waiting = account.waiting.iter().map(|(place, records)| ("waiting", place.as_str(), *records));
    outcomes.into_iter().chain(corrected).chain(dropped).chain(waiting)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::example;
    use std::collections::HashSet;

    #[test]
    fn each_series_is_made_once_and_told_apart() {
        let mut telemetry = Telemetry::new(resource(&Resource::default(), "id"));
        let first = telemetry.samples(&example(), UNIX_EPOCH);
        let second = telemetry.samples(&example(), UNIX_EPOCH);
        let distinct: HashSet<u64> = first.iter().map(|sample| sample.series.hash()).collect();
        assert_eq!(distinct.len(), first.len());
        assert!(first.iter().zip(&second).all(|(one, two)| Arc::ptr_eq(&one.series, &two.series)));
        assert!(first.len() < 128, "{} samples", first.len());
    }

    #[test]
    fn the_ledger_is_told_as_it_stands_in_all_by_signal_outcome_and_detail() {
        let mut telemetry = Telemetry::new(resource(&Resource::default(), "id"));
        let samples = telemetry.samples(&example(), UNIX_EPOCH);
        let told = |signal: &str, outcome: &str, detail: &str| {
            let is = |sample: &&Sample| {
                let of = |key| value::string_attribute(sample.series.attributes(), key).unwrap_or_default();
                sample.series.metric.name == AGENT_LEDGER
                    && of(key::LEDGER_ACCOUNT) == "1700000000"
                    && (of(key::SIGNAL), of(key::LEDGER_OUTCOME), of(key::LEDGER_DETAIL)) == (signal, outcome, detail)
            };
            let found: Vec<&Sample> = samples.iter().filter(is).collect();
            assert_eq!(found.len(), 1, "{signal} {outcome} {detail}");
            assert_eq!(found[0].series.metric.kind, STANDING);
            found[0].value.clone()
        };
        for (signal, outcome, detail, records) in [
            ("metrics", "seen", "", 161_010),
            ("metrics", "dropped", "crash", 3_400),
            ("metrics", "dropped", "series_limit", 7),
            ("metrics", "waiting", "window", 1_003),
            ("logs", "corrected", "memory", -5),
            // Not yet used, and there all the same.
            ("traces", "dropped", "queue_full", 0),
            ("traces", "waiting", "buffer", 0),
        ] {
            assert_eq!(told(signal, outcome, detail), Value::Int(records), "{signal} {outcome} {detail}");
        }
    }

    #[test]
    fn how_hard_memory_presses_and_for_how_long_is_told() {
        let mut report = example();
        report.guard.level = Level::Shrink;
        (report.guard.used_bytes, report.guard.grant_bytes) = (80, 100);
        report.guard.level_seconds =
            [("calm", 50.0), ("slow", 2.0), ("shrink", 3.5)].map(|(name, seconds)| (name.to_owned(), seconds)).into();
        let samples = Telemetry::new(resource(&Resource::default(), "id")).samples(&report, UNIX_EPOCH);
        let told = |name: &str| {
            let named = |sample: &&Sample| sample.series.metric.name == format!("ollystack.agent.memory.{name}");
            samples.iter().find(named).unwrap().value.clone()
        };
        assert_eq!([told("usage"), told("limit"), told("pressure")], [80, 100, 2].map(Value::Int));
        assert_eq!(told("pressure.time"), Value::Double(5.5));
    }

    #[test]
    fn the_resource_is_the_host_with_the_agent_as_its_service() {
        let host = Resource::new(vec![value::string("host.name", "web-1")]);
        let own = resource(&host, "6f1a");
        assert_eq!(
            (own.service_name(), own.get("host.name"), own.get("service.instance.id")),
            ("ollystack-agent", Some("web-1"), Some("6f1a"))
        );
    }
}
