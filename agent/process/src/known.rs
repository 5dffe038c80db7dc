//! What follows from what requests have in common, worked out once: which series count them, what sampling makes of them.
//!
//! Asked with each request, by its template and its resource. An answer is believed for [`FRESH_NANOS`], so that series count as used and
//! limits that have room again are noticed. Invariant: what is remembered takes at most [`BYTES_MAX`]; past it all is worked out anew.

use hashbrown::HashMap;
use ollystack_record::{Resource, Series, Template};
use ollystack_sample::Alike as Sampled;
use std::sync::Arc;

/// What is remembered of what requests have in common takes no more: some 300 templates of HTTP of 1.5 KiB.
pub const BYTES_MAX: usize = 512 << 10;

/// As often as RED metrics and edges look for series that are not used.
const FRESH_NANOS: u64 = 60_000_000_000;

/// Of requests that are alike.
#[derive(Debug)]
pub(crate) struct Alike {
    /// Redacted.
    pub(crate) template: Arc<Template>,
    /// What counts them; none if nothing does.
    pub(crate) red: Option<Arc<Series>>,
    /// Likewise, as calls of one service by another.
    pub(crate) edge: Option<Arc<Series>>,
    /// They look names up, each its own.
    pub(crate) is_lookup: bool,
    /// For the sampler.
    pub(crate) sample: Sampled,
}

#[derive(Debug)]
struct Entry {
    resource: Arc<Resource>,
    alike: Alike,
    bytes: usize,
    asked_unix_nano: u64,
}

/// Remembers.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// By the template's number and the resource's hash.
    entries: HashMap<(u64, u64), Entry>,
    bytes: usize,
}

impl Known {
    /// What is known of requests of this template and resource, from `work_out` if it is not or was long ago.
    pub(crate) fn of(
        &mut self,
        template: &Arc<Template>,
        resource: &Arc<Resource>,
        now: u64,
        work_out: impl FnOnce(&Arc<Template>) -> Alike,
    ) -> &Alike {
        let key = (template.number(), resource.hash());
        let is_fresh = |entry: &&Entry| {
            now.abs_diff(entry.asked_unix_nano) < FRESH_NANOS
                && (Arc::ptr_eq(&entry.resource, resource) || entry.resource == *resource)
        };
        if self.entries.get(&key).filter(is_fresh).is_none() {
            let alike = work_out(template);
            self.insert(key, alike, Arc::clone(resource), now);
        }
        &self.entries[&key].alike
    }

    #[cold]
    fn insert(&mut self, key: (u64, u64), alike: Alike, resource: Arc<Resource>, now: u64) {
        // With room unused in the table.
        let bytes = 2 * size_of::<((u64, u64), Entry)>() + alike.template.heap_bytes();
        if let Some(before) = self.entries.remove(&key) {
            self.bytes -= before.bytes;
        }
        if self.bytes + bytes > BYTES_MAX {
            self.forget();
        }
        self.bytes += bytes;
        self.entries.insert(key, Entry { resource, alike, bytes, asked_unix_nano: now });
    }

    /// Forget everything: it is worked out anew.
    pub(crate) fn forget(&mut self) {
        *self = Known::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::otlp::trace::v1::Span;
    use ollystack_record::{Ledger, value};
    use ollystack_sample::{Config, Sampler};

    fn template(name: &str) -> Arc<Template> {
        Arc::new(Template::new(Arc::default(), Span { name: name.into(), ..Span::default() }))
    }

    fn resource(service: &str) -> Arc<Resource> {
        Arc::new(Resource::new(vec![value::string("service.name", service)]))
    }

    /// Whether it had to be worked out.
    fn is_new(known: &mut Known, template: &Arc<Template>, resource: &Arc<Resource>, now: u64) -> bool {
        let (mut is_new, sampler) = (false, Sampler::new(Config::default(), Arc::new(Ledger::default())));
        known.of(template, resource, now, |template| {
            is_new = true;
            let template = Arc::clone(template);
            Alike { sample: sampler.alike(resource, &template), template, red: None, edge: None, is_lookup: false }
        });
        is_new
    }

    #[test]
    fn it_is_worked_out_once_for_each_resource_and_again_when_it_is_old() {
        let (mut known, one, other) = (Known::default(), template("a"), template("a"));
        let (shop, same, front) = (resource("shop"), resource("shop"), resource("front"));
        let mut ask = |template, resource, now| is_new(&mut known, template, resource, now);
        assert_eq!([ask(&one, &shop, 1), ask(&one, &shop, 2), ask(&one, &same, 3)], [true, false, false]);
        assert_eq!([ask(&other, &shop, 3), ask(&one, &front, 3), ask(&one, &shop, 3)], [true, true, false]);
        assert_eq!([ask(&one, &shop, 1 + FRESH_NANOS), ask(&one, &shop, 2 + FRESH_NANOS)], [true, false]);
    }

    #[test]
    fn templates_without_number_take_no_more_than_their_share() {
        let (mut known, shop) = (Known::default(), resource("shop"));
        for number in 0..5_000 {
            is_new(&mut known, &template(&number.to_string()), &shop, 1);
            assert!(known.bytes <= BYTES_MAX);
        }
        assert!(known.bytes > BYTES_MAX / 4);
        assert_eq!(known.bytes, known.entries.values().map(|entry| entry.bytes).sum::<usize>());
    }
}
