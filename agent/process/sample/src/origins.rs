//! Whose spans wait: resource and scope, held once for all their spans.
//!
//! A batch names resource and scope for many spans, and the next batch of the same application the same ones again. Invariant: an
//! origin is held as long as a span refers to it, and what all of them take is counted.

use hashbrown::HashMap;
use ollystack_record::otlp::common::v1::InstrumentationScope;
use ollystack_record::otlp::trace::v1::Span;
use ollystack_record::value::{attributes_hash, attributes_heap_bytes};
use ollystack_record::{Resource, Template};
use prost::{DecodeError, Message};
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

/// A resource and a scope.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) resource: Arc<Resource>,
    pub(crate) scope: Option<InstrumentationScope>,
    pub(crate) schema_url: String,
    /// What its spans have in common, with the number of the same origin without: a span that waits is then its own part.
    pub(crate) template: Option<(Arc<Template>, u32)>,
}

#[derive(Debug)]
struct Held {
    origin: Origin,
    key: u64,
    spans: u32,
    bytes: usize,
}

/// An origin's slot, its place among the free ones and in the table, each with as much room unused.
const PLACE_BYTES: usize = 2 * (size_of::<Option<Held>>() + 2 * size_of::<u32>() + size_of::<(u64, u32)>() + 1);

/// Makes neighbouring numbers differ in all bits (2^64 by the golden ratio).
const NUMBERS_APART: u64 = 0x9E37_79B9_7F4A_7C15;

/// All of them, by number.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    slots: Vec<Option<Held>>,
    free: Vec<u32>,
    table: HashMap<u64, u32>,
    bytes: usize,
}

impl Origins {
    /// What all of them take, as if nobody else held them.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What one of them takes.
    pub(crate) fn bytes_of(&self, number: u32) -> usize {
        self.slots.get(number as usize).and_then(Option::as_ref).map_or(0, |held| held.bytes)
    }

    /// The number of an origin, to be let go once.
    pub(crate) fn hold(&mut self, origin: Origin) -> u32 {
        let key = key(&origin);
        if let Some(&number) = self.table.get(&key)
            && let Some(Some(held)) = self.slots.get_mut(number as usize)
            && held.origin.template.is_none()
            && held.origin.scope == origin.scope
            && held.origin.schema_url == origin.schema_url
            && (Arc::ptr_eq(&held.origin.resource, &origin.resource) || held.origin.resource == origin.resource)
        {
            held.spans += 1;
            return number;
        }
        self.insert(key, origin)
    }

    /// The number of an origin whose spans have so much in common, to be let go once.
    pub(crate) fn hold_template(&mut self, resource: &Arc<Resource>, template: &Arc<Template>) -> u32 {
        let key = resource.hash() ^ template.number().wrapping_mul(NUMBERS_APART);
        if let Some(&number) = self.table.get(&key)
            && let Some(Some(held)) = self.slots.get_mut(number as usize)
            && held.origin.template.as_ref().is_some_and(|(known, _)| Arc::ptr_eq(known, template))
            && held.origin.resource == *resource
        {
            held.spans += 1;
            return number;
        }
        let (scope, schema_url) = (Some(template.scope().proto.clone()), template.scope().schema_url.clone());
        let base = self.hold(Origin { resource: Arc::clone(resource), scope, schema_url, template: None });
        let (scope, schema_url, template) = (None, String::new(), Some((Arc::clone(template), base)));
        self.insert(key, Origin { resource: Arc::clone(resource), scope, schema_url, template })
    }

    fn insert(&mut self, key: u64, origin: Origin) -> u32 {
        let scope = origin.scope.as_ref().map_or(0, |scope| {
            scope.name.capacity() + scope.version.capacity() + attributes_heap_bytes(&scope.attributes)
        });
        let resource = size_of::<Resource>() + attributes_heap_bytes(origin.resource.attributes());
        let template = origin.template.as_ref().map_or(0, |(template, _)| template.heap_bytes());
        let bytes = PLACE_BYTES + resource + scope + origin.schema_url.capacity() + template;
        let held = Some(Held { origin, key, spans: 1, bytes });
        self.bytes += bytes;
        let number = match self.free.pop() {
            Some(number) => {
                self.slots[number as usize] = held;
                number
            }
            None => {
                self.slots.push(held);
                (self.slots.len() - 1) as u32
            }
        };
        self.table.insert(key, number);
        number
    }

    /// One more span refers to it.
    pub(crate) fn hold_again(&mut self, number: u32) {
        if let Some(Some(held)) = self.slots.get_mut(number as usize) {
            held.spans += 1;
        }
    }

    /// A span less refers to it.
    pub(crate) fn let_go(&mut self, number: u32) {
        let Some(place) = self.slots.get_mut(number as usize) else { return };
        let Some(held) = place else { return };
        held.spans -= 1;
        if held.spans > 0 {
            return;
        }
        self.bytes -= held.bytes;
        if self.table.get(&held.key) == Some(&number) {
            self.table.remove(&held.key);
        }
        let base = held.origin.template.as_ref().map(|(_, base)| *base);
        *place = None;
        self.free.push(number);
        if let Some(base) = base {
            self.let_go(base);
        }
    }

    /// The origin under which a span goes out: the same without what it has in common with others.
    pub(crate) fn base(&self, number: u32) -> u32 {
        self.get(number).and_then(|origin| origin.template.as_ref()).map_or(number, |(_, base)| *base)
    }

    /// The whole span of which these bytes wait.
    pub(crate) fn whole(&self, number: u32, encoded: &[u8]) -> Result<Span, DecodeError> {
        match self.get(number).and_then(|origin| origin.template.as_ref()) {
            Some((template, _)) => template.whole(encoded),
            None => Span::decode(encoded),
        }
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Origin> {
        self.slots.get(number as usize)?.as_ref().map(|held| &held.origin)
    }
}

fn key(origin: &Origin) -> u64 {
    let mut hasher = Xxh3::with_seed(origin.resource.hash());
    if let Some(scope) = &origin.scope {
        hasher.update(scope.name.as_bytes());
        hasher.update(&[0]);
        hasher.update(scope.version.as_bytes());
        hasher.update(&attributes_hash(&scope.attributes).to_le_bytes());
    }
    hasher.update(origin.schema_url.as_bytes());
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::value::string;

    fn origin(service: &str, scope: &str) -> Origin {
        Origin {
            resource: Arc::new(Resource::new(vec![string("service.name", service)])),
            scope: Some(InstrumentationScope { name: scope.into(), ..InstrumentationScope::default() }),
            schema_url: String::new(),
            template: None,
        }
    }

    #[test]
    fn equal_origins_are_held_once_and_until_the_last_span() {
        let mut origins = Origins::default();
        let first = origins.hold(origin("a", "x"));
        let bytes = origins.bytes();
        assert_eq!(origins.hold(origin("a", "x")), first);
        assert_eq!(origins.bytes(), bytes);
        assert_ne!(origins.hold(origin("a", "y")), first);
        assert_ne!(origins.hold(origin("b", "x")), first);
        origins.let_go(first);
        assert!(origins.get(first).is_some());
        origins.let_go(first);
        assert!(origins.get(first).is_none());
        assert_eq!(origins.hold(origin("c", "z")), first, "numbers are used again");
    }

    #[test]
    fn spans_of_a_template_go_out_under_the_origin_that_they_would_have_without() {
        let (mut origins, plain) = (Origins::default(), origin("a", "x"));
        let scope = ollystack_record::Scope { proto: plain.scope.clone().unwrap(), schema_url: String::new() };
        let span = Span { name: "GET /".into(), ..Span::default() };
        let template = || Arc::new(Template::new(Arc::new(scope.clone()), span.clone()));
        let (one, other) = (template(), template());
        let [first, again, second] =
            [&one, &one, &other].map(|template| origins.hold_template(&plain.resource, template));
        let base = origins.hold(plain);
        assert_eq!((again, origins.base(first), origins.base(second), origins.base(base)), (first, base, base, base));
        assert_ne!(first, second);
        let own = Span { flags: 7, ..Span::default() }.encode_to_vec();
        assert_eq!(origins.whole(first, &own), Ok(Span { flags: 7, ..span.clone() }));
        assert_eq!(origins.whole(base, &own), Ok(Span { flags: 7, ..Span::default() }));
        [first, again, second, base].into_iter().for_each(|number| origins.let_go(number));
        assert_eq!((origins.bytes(), origins.table.len()), (0, 0));
    }

    #[test]
    fn nothing_held_takes_nothing() {
        let mut origins = Origins::default();
        let number = origins.hold(origin("a", "x"));
        origins.hold_again(number);
        (0..2).for_each(|_| origins.let_go(number));
        assert_eq!((origins.bytes(), origins.table.len()), (0, 0));
    }
}
