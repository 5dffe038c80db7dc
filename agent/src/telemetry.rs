//! The agent as a source of its own: its memory, CPU and ledger as metrics of the service `ollystack-agent`.
//!
//! Every interval the report becomes samples and enters the intake like any other input's. Invariant: the number of series
//! is fixed by the ledger's reasons and places; a reason or place that was never used makes none.

use crate::admin::{Account, Report, View};
use crate::config::Config;
use crate::supervise::Supervisor;
use ollystack_record::{
    Ack, Batch, Intake, Kind, Metric, Records, Resource, Sample, Scope, Series, Source, Value, value,
};
use ollystack_schema::names::semconv;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

const COUNTER: Kind = Kind::Sum { monotonic: true, delta: false };
const LEVEL: Kind = Kind::Gauge;

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
            () = stop.cancelled() => return Ok(()),
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
    series: HashMap<(&'static str, String, String), Arc<Series>>,
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
        let mut samples = Vec::with_capacity(64);
        let mut add = |name, unit, kind, signal: &str, detail: (&str, &str), number| {
            let series = self.series(name, unit, kind, signal, detail);
            let start = if kind == COUNTER { start } else { 0 };
            samples.push(Sample::number(&series, start, now, number));
        };
        let none = ("", "");
        add("process.memory.usage", "By", LEVEL, "", none, Value::Int(report.memory.rss_bytes as i64));
        add("process.cpu.time", "s", COUNTER, "", none, Value::Double(report.cpu_seconds));
        add("process.thread.count", "{thread}", LEVEL, "", none, Value::Int(report.threads as i64));
        add("ollystack.agent.map.usage", "By", LEVEL, "", none, Value::Int(report.memory.map_bytes as i64));
        add("ollystack.agent.buffer.usage", "By", LEVEL, "", none, Value::Int(report.buffer.disk_bytes as i64));
        add(
            "ollystack.agent.export.failures",
            "{attempt}",
            COUNTER,
            "",
            none,
            Value::Int(report.export.attempts_failed as i64),
        );
        for account in &report.signals {
            for (outcome, records) in outcomes(account) {
                let detail = ("ollystack.outcome", outcome);
                add(
                    "ollystack.agent.records",
                    "{record}",
                    COUNTER,
                    &account.signal,
                    detail,
                    Value::Int(records as i64),
                );
            }
            for (reason, records) in account.dropped.iter().filter(|(_, records)| **records > 0) {
                let detail = ("ollystack.reason", reason.as_str());
                add(
                    "ollystack.agent.records.dropped",
                    "{record}",
                    COUNTER,
                    &account.signal,
                    detail,
                    Value::Int(*records as i64),
                );
            }
            add(
                "ollystack.agent.records.waiting",
                "{record}",
                LEVEL,
                &account.signal,
                none,
                Value::Int(account.waiting_total()),
            );
            add("ollystack.agent.bytes.in", "By", COUNTER, &account.signal, none, Value::Int(account.bytes_in as i64));
            add(
                "ollystack.agent.bytes.out",
                "By",
                COUNTER,
                &account.signal,
                none,
                Value::Int(account.bytes_out as i64),
            );
        }
        samples
    }

    fn series(
        &mut self,
        name: &'static str,
        unit: &str,
        kind: Kind,
        signal: &str,
        detail: (&str, &str),
    ) -> Arc<Series> {
        let key = (name, signal.to_owned(), detail.1.to_owned());
        if let Some(series) = self.series.get(&key) {
            return Arc::clone(series);
        }
        let describe = || Arc::new(Metric { name: name.to_owned(), unit: unit.to_owned(), kind, ..Metric::default() });
        let metric = Arc::clone(self.metrics.entry(name).or_insert_with(describe));
        let pairs = [("ollystack.signal", signal), detail];
        let attributes =
            pairs.iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| value::string(*key, *text)).collect();
        let series = Arc::new(Series::new(Arc::clone(&self.scope), metric, attributes));
        self.series.insert(key, Arc::clone(&series));
        series
    }
}

fn outcomes(account: &Account) -> [(&'static str, u64); 5] {
    [
        ("seen", account.seen),
        ("sent", account.sent),
        ("folded", account.folded),
        ("sampled_out", account.sampled_out),
        ("suppressed", account.suppressed),
    ]
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
        assert!(first.len() < 64, "{} samples", first.len());
    }

    #[test]
    fn a_drop_is_a_counter_by_signal_and_reason_since_the_start() {
        let mut telemetry = Telemetry::new(resource(&Resource::default(), "id"));
        let samples = telemetry.samples(&example(), UNIX_EPOCH);
        let dropped: Vec<_> =
            samples.iter().filter(|s| s.series.metric.name == "ollystack.agent.records.dropped").collect();
        assert_eq!(dropped.len(), 1);
        assert_eq!((&dropped[0].value, dropped[0].start_unix_nano), (&Value::Int(7), 1_800_000_000_000_000_000));
        assert_eq!(value::string_attribute(dropped[0].series.attributes(), "ollystack.reason"), Some("series_limit"));
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
