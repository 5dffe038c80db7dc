//! Whose spans wait: resource and scope, held once for all their spans.
//!
//! A batch names resource and scope for many spans, and the next batch of the same application the same ones again. Invariant: an
//! origin is held as long as a span refers to it, and what all of them take is counted.

use hashbrown::HashMap;
use ollystack_record::Resource;
use ollystack_record::otlp::common::v1::InstrumentationScope;
use ollystack_record::value::{attributes_hash, attributes_heap_bytes};
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

/// A resource and a scope.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) resource: Arc<Resource>,
    pub(crate) scope: Option<InstrumentationScope>,
    pub(crate) schema_url: String,
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
            && held.origin.scope == origin.scope
            && held.origin.schema_url == origin.schema_url
            && (Arc::ptr_eq(&held.origin.resource, &origin.resource) || held.origin.resource == origin.resource)
        {
            held.spans += 1;
            return number;
        }
        let scope = origin.scope.as_ref().map_or(0, |scope| {
            scope.name.capacity() + scope.version.capacity() + attributes_heap_bytes(&scope.attributes)
        });
        let resource = size_of::<Resource>() + attributes_heap_bytes(origin.resource.attributes());
        let bytes = PLACE_BYTES + resource + scope + origin.schema_url.capacity();
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
        *place = None;
        self.free.push(number);
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
    fn nothing_held_takes_nothing() {
        let mut origins = Origins::default();
        let number = origins.hold(origin("a", "x"));
        origins.hold_again(number);
        (0..2).for_each(|_| origins.let_go(number));
        assert_eq!((origins.bytes(), origins.table.len()), (0, 0));
    }
}
