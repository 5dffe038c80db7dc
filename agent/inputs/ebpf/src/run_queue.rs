//! Waits for a CPU, by control group.
//!
//! In: the kernel's histograms, read each interval. Out: delta exponential histograms, under the container, pod or service that
//! a group is. Invariant: what the kernel could not tell apart is told as overflow, not left out.

use crate::cgroup;
use crate::histograms::Histograms;
use crate::refusal::Refusal;
use crate::scope;
use aya::Ebpf;
use hashbrown::HashMap;
use ollystack_ebpf::run_queue::{Group, OTHERS};
use ollystack_record::value::{bool, string};
use ollystack_record::{Ack, Batch, Kind, Metric, Records, Resource, Sample, Series, Source, Value};
use ollystack_schema::names::{self, semconv};
use std::sync::Arc;

/// What the kernel counts, and the programs that count it.
pub(crate) struct RunQueue {
    histograms: Histograms<{ size_of::<Group>() }, Arc<Resource>>,
    /// With and without what marks overflow.
    series: [Arc<Series>; 2],
    read_ns: u64,
    /// Dropping them detaches.
    _programs: Ebpf,
}

impl RunQueue {
    /// `now_ns` is time since the epoch.
    pub(crate) fn new(mut programs: Ebpf, now_ns: u64) -> Result<RunQueue, Refusal> {
        let map = programs.take_map("GROUPS").ok_or_else(|| Refusal::damaged("GROUPS"))?;
        let metric = Arc::new(Metric {
            name: names::RUN_QUEUE_LATENCY.into(),
            unit: "s".into(),
            description: "How long threads that could run waited for a CPU".into(),
            kind: Kind::ExponentialHistogram { delta: true },
            ..Metric::default()
        });
        let series = |attributes| Arc::new(Series::new(scope(), Arc::clone(&metric), attributes));
        Ok(RunQueue {
            histograms: Histograms::new(map)?,
            series: [series(Vec::new()), series(vec![bool(names::OVERFLOW, true)])],
            read_ns: now_ns,
            _programs: programs,
        })
    }

    /// What was waited since the last reading, one batch a resource.
    pub(crate) fn read(&mut self, now_ns: u64, host: &Arc<Resource>) -> Vec<Batch> {
        let start = std::mem::replace(&mut self.read_ns, now_ns);
        let mut samples: HashMap<Arc<Resource>, Vec<Sample>> = HashMap::new();
        let [plain, overflow] = &self.series;
        self.histograms.read(
            |key, value| match ollystack_ebpf::read::<Group>(value) {
                Some(group) if key != OTHERS => resource(&cgroup::path(&group.names), host),
                _ => Arc::clone(host),
            },
            |resource, point| {
                let series = if Arc::ptr_eq(resource, host) { overflow } else { plain };
                let value = Value::ExponentialHistogram(Box::new(point));
                let sample = Sample::number(series, start, now_ns, value);
                samples.entry(Arc::clone(resource)).or_default().push(sample);
            },
        );
        let batch = |(resource, samples)| Batch {
            source: Source::Ebpf,
            resource,
            records: Records::Metrics(samples),
            ack: Ack::none(),
        };
        samples.into_iter().map(batch).collect()
    }
}

/// Of a container by its id, as the host input has it; of anything else by the service it is.
fn resource(path: &str, host: &Resource) -> Arc<Resource> {
    let mut attributes = host.attributes().to_vec();
    let told = cgroup::attributes(path);
    let service = cgroup::service(path, "");
    if !told.iter().any(|attribute| attribute.key == semconv::CONTAINER_ID) && !service.is_empty() {
        attributes.push(string(semconv::SERVICE_NAME, service));
    }
    attributes.extend(told);
    Arc::new(Resource::new(attributes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::tests::CONTAINER;

    #[test]
    fn a_container_has_its_id_a_service_its_name_and_anything_else_its_path() {
        let host = Resource::new(vec![string(semconv::HOST_NAME, "h1"), string(semconv::SERVICE_NAME, "host")]);
        let container = resource(&format!("/system.slice/docker-{CONTAINER}.scope"), &host);
        assert_eq!((container.get(semconv::CONTAINER_ID), container.service_name()), (Some(CONTAINER), "host"));
        let service = resource("/system.slice/shop.service", &host);
        assert_eq!((service.get(semconv::CONTAINER_ID), service.service_name()), (None, "shop"));
        let slice = resource("/user.slice", &host);
        assert_eq!(slice.get(semconv::PROCESS_LINUX_CGROUP), Some("/user.slice"));
        assert_eq!((slice.get(semconv::HOST_NAME), slice.service_name()), (Some("h1"), "host"));
    }
}
