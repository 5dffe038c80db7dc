//! The entity that telemetry comes from: OTLP's resource, shared by every record of a batch.

use crate::otlp::{common::v1::KeyValue, resource::v1::Resource as Proto};
use crate::value::{attributes_hash, sort_attributes, string_attribute};

/// A resource with its attributes sorted by key and hashed once.
/// Invariant: `attributes` is sorted and free of duplicate keys, so equal resources have equal hashes.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    attributes: Vec<KeyValue>,
    hash: u64,
    /// `resource.dropped_attributes_count` as received.
    pub dropped_attributes_count: u32,
}

impl Resource {
    /// Sort, deduplicate (the last value of a key stands) and hash.
    pub fn new(mut attributes: Vec<KeyValue>) -> Resource {
        sort_attributes(&mut attributes);
        let hash = attributes_hash(&attributes);
        Resource { attributes, hash, dropped_attributes_count: 0 }
    }

    /// From OTLP; a missing resource is the empty one.
    pub fn from_proto(proto: Option<Proto>) -> Resource {
        let proto = proto.unwrap_or_default();
        Resource { dropped_attributes_count: proto.dropped_attributes_count, ..Resource::new(proto.attributes) }
    }

    /// As OTLP.
    pub fn to_proto(&self) -> Proto {
        Proto {
            attributes: self.attributes.clone(),
            dropped_attributes_count: self.dropped_attributes_count,
            ..Proto::default()
        }
    }

    /// Sorted by key.
    pub fn attributes(&self) -> &[KeyValue] {
        &self.attributes
    }

    /// Equal for equal attributes, stable across restarts.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// A string attribute by key.
    pub fn get(&self, key: &str) -> Option<&str> {
        string_attribute(&self.attributes, key)
    }

    /// `service.name`, or the empty string.
    pub fn service_name(&self) -> &str {
        self.get("service.name").unwrap_or_default()
    }
}

/// The empty one, as good as one that came empty.
impl Default for Resource {
    fn default() -> Resource {
        Resource::new(Vec::new())
    }
}

impl Eq for Resource {}

impl std::hash::Hash for Resource {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}
