//! Enrich: completes each batch's resource with who and where this host is.
//!
//! Inputs that speak about this host start from [`Enricher::host_resource`]; what applications send is completed here on its
//! way to `process`. Invariant: what the application said stands; only what is missing is added, and nothing at all to
//! telemetry that says it comes from another host.

mod config;
mod host;

pub use config::Config;

use hashbrown::HashMap;
use ollystack_record::{Batch, Resource, Source};
use ollystack_schema::names::semconv;
use std::sync::Arc;

/// Applications on one host that are remembered; each takes its resource twice, some kilobytes.
const REMEMBERED_MAX: usize = 512;

/// Knows this host, and remembers resources it has completed.
#[derive(Debug)]
pub struct Enricher {
    host: Arc<Resource>,
    /// By hash: the resource as it came, and completed.
    remembered: HashMap<u64, (Arc<Resource>, Arc<Resource>)>,
}

impl Enricher {
    /// Look at the host once.
    pub fn new(config: &Config) -> Enricher {
        Enricher::of(host::detect(config, |variable| std::env::var(variable).ok()))
    }

    fn of(host: Resource) -> Enricher {
        Enricher { host: Arc::new(host), remembered: HashMap::new() }
    }

    /// This host, for the inputs that speak about it.
    pub fn host_resource(&self) -> Arc<Resource> {
        Arc::clone(&self.host)
    }

    /// Complete the batch's resource; what the application said stands. The agent's own inputs have done so already.
    pub fn enrich(&mut self, batch: &mut Batch) {
        if batch.source != Source::Otlp {
            return;
        }
        let hash = batch.resource.hash();
        if let Some((came, completed)) = self.remembered.get(&hash)
            && *came == batch.resource
        {
            batch.resource = Arc::clone(completed);
            return;
        }
        let completed = Arc::new(self.completed(&batch.resource));
        if self.remembered.len() >= REMEMBERED_MAX {
            self.remembered.clear();
        }
        let came = std::mem::replace(&mut batch.resource, Arc::clone(&completed));
        self.remembered.insert(hash, (came, completed));
    }

    fn completed(&self, resource: &Resource) -> Resource {
        let is_elsewhere = [semconv::HOST_NAME, semconv::HOST_ID].into_iter().any(|key| {
            let (said, ours) = (resource.get(key), self.host.get(key));
            said.is_some() && ours.is_some() && said != ours
        });
        if is_elsewhere {
            return resource.clone();
        }
        // Of equal keys the last one stands: the application's come last. What service the agent is, is its own matter.
        let ours = self.host.attributes().iter().filter(|attribute| !attribute.key.starts_with("service."));
        let attributes = ours.chain(resource.attributes()).cloned().collect();
        let mut completed = Resource::new(attributes);
        completed.dropped_attributes_count = resource.dropped_attributes_count;
        completed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::{Ack, Records, value};

    fn resource(attributes: &[(&str, &str)]) -> Resource {
        Resource::new(attributes.iter().map(|(key, text)| value::string(*key, *text)).collect())
    }

    fn enricher() -> Enricher {
        Enricher::of(resource(&[
            ("host.name", "here"),
            ("host.id", "1"),
            ("os.type", "linux"),
            ("service.name", "agent"),
        ]))
    }

    fn enriched(enricher: &mut Enricher, source: Source, resource: Resource) -> Arc<Resource> {
        let records = Records::Logs(vec![]);
        let mut batch = Batch { source, resource: Arc::new(resource), records, ack: Ack::none() };
        enricher.enrich(&mut batch);
        batch.resource
    }

    #[test]
    fn what_is_missing_is_added_and_what_was_said_stands() {
        let came = resource(&[("service.name", "shop"), ("os.type", "other")]);
        let got = enriched(&mut enricher(), Source::Otlp, came);
        let expected =
            resource(&[("service.name", "shop"), ("os.type", "other"), ("host.name", "here"), ("host.id", "1")]);
        assert_eq!(*got, expected);
    }

    #[test]
    fn the_agent_s_own_service_is_nobody_else_s() {
        assert_eq!(enriched(&mut enricher(), Source::Otlp, resource(&[])).service_name(), "");
    }

    #[test]
    fn telemetry_of_another_host_is_left_alone() {
        for elsewhere in [[("host.name", "there")], [("host.id", "2")]] {
            let got = enriched(&mut enricher(), Source::Otlp, resource(&elsewhere));
            assert_eq!(*got, resource(&elsewhere));
        }
        let got = enriched(&mut enricher(), Source::Otlp, resource(&[("host.name", "here")]));
        assert_eq!(got.get("host.id"), Some("1"));
    }

    #[test]
    fn the_agent_s_own_inputs_are_left_alone() {
        assert_eq!(*enriched(&mut enricher(), Source::Logs, resource(&[])), resource(&[]));
    }

    #[test]
    fn a_resource_is_completed_once_and_what_is_remembered_is_bounded() {
        let mut enricher = enricher();
        let first = enriched(&mut enricher, Source::Otlp, resource(&[("service.name", "shop")]));
        let again = enriched(&mut enricher, Source::Otlp, resource(&[("service.name", "shop")]));
        assert!(Arc::ptr_eq(&first, &again));
        for number in 0..2 * REMEMBERED_MAX {
            enriched(&mut enricher, Source::Otlp, resource(&[("service.name", &number.to_string())]));
            assert!(enricher.remembered.len() <= REMEMBERED_MAX);
        }
    }
}
