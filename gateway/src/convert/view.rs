//! From the bytes of a request straight to columns, without the messages in between: the short way that nearly all requests go.
//!
//! Protobuf is walked once, in place: texts go from the request's bytes to the columns, what a resource and a scope give to all of their rows is
//! made once. It knows requests in which nothing is odd: [`Unusual`] is what is malformed, what has to be rejected (times, ids, too many
//! attributes), what lies too deep, single messages in several pieces, fields that OTLP does not have. Such a request goes the long way from its
//! beginning (prost, then rows), which knows every rule and what to answer. Invariant: what this takes becomes the same columns as on the
//! long way, which a test holds for valid and for damaged requests.

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod beside;
mod logs;
mod metrics;
mod traces;
mod values;
pub(super) mod wire;

use super::series::Seen;
use super::{Delivery, Outcome, Overflow, Sink};
use crate::batch::columns::Data;
use ollystack_receive::{Signal, Wire};
use ollystack_schema::names::semconv::SERVICE_NAME;
use values::Pairs;
use wire::Fields;

/// Columns are looked at, whether they are enough for a chunk, when records of so many bytes were added: as they came, the row itself and
/// shared attributes.
const LOOK_BYTES: usize = 256 << 10;

/// A request that has to go the long way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unusual;

/// Why the short way ended early.
#[derive(Debug)]
pub(super) enum Stop {
    Unusual,
    Overflow(Overflow),
}

impl From<Unusual> for Stop {
    fn from(_: Unusual) -> Stop {
        Stop::Unusual
    }
}

impl From<Overflow> for Stop {
    fn from(overflow: Overflow) -> Stop {
        Stop::Overflow(overflow)
    }
}

/// How many records a request holds.
pub(super) fn count(signal: Signal, request: &[u8]) -> Result<u64, Unusual> {
    let mut records = 0;
    let mut resources = Fields::of(request);
    while let Some(resource) = resources.next_of(1)? {
        let mut scopes = Fields::of(resource);
        while let Some(scope) = scopes.next_of(2)? {
            let mut all = Fields::of(scope);
            while let Some(item) = all.next_of(2)? {
                records += if signal == Signal::Metrics { metrics::count(item)? } else { 1 };
            }
        }
    }
    Ok(records)
}

/// Turn a request into rows. What a sink has of one that is unusual is to be thrown away.
pub(super) fn convert(wire: &Wire, delivery: &Delivery, seen: &Seen, sink: &mut Sink) -> Result<Outcome, Stop> {
    let mut outcome = Outcome::default();
    let mut resources = Fields::of(wire.bytes());
    while let Some(resource) = resources.next_of(1)? {
        let resource_group = Group::of(resource)?;
        let resource = Origin::resource(&resource_group)?;
        let mut scopes = resource_group.items;
        while let Some(scope) = scopes.next_of(2)? {
            let scope_group = Group::of(scope)?;
            let scope = Origin::scope(&scope_group)?;
            let shared = Shared { delivery, resource: &resource, scope: &scope };
            match wire.signal() {
                Signal::Logs => logs::convert(scope_group.items, &shared, &mut outcome, sink)?,
                Signal::Traces => traces::convert(scope_group.items, &shared, &mut outcome, sink)?,
                Signal::Metrics => metrics::convert(scope_group.items, &shared, seen, &mut outcome, sink)?,
            }
        }
    }
    Ok(outcome)
}

/// The service of a message of what belongs to one resource, as its rows have it.
#[cfg(feature = "kafka")]
pub(super) fn service(resource: &[u8]) -> Result<String, Unusual> {
    let name = Origin::resource(&Group::of(resource)?)?.name;
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// A message of what belongs to one resource or scope, whatever the signal: they have the same three fields.
struct Group<'a> {
    /// The resource or the scope.
    of: &'a [u8],
    schema_url: &'a [u8],
    /// Where the items lie, in field 2.
    items: Fields<'a>,
}

impl<'a> Group<'a> {
    fn of(message: &'a [u8]) -> Result<Group<'a>, Unusual> {
        let items = Fields::of(message);
        let (mut of, mut schema_url, mut fields): (_, &[u8], _) = (None, b"", items);
        while let Some((number, content)) = fields.next()? {
            match number {
                1 => content.once(&mut of)?,
                3 => schema_url = content.text()?,
                _ => {}
            }
        }
        Ok(Group { of: of.unwrap_or_default(), schema_url, items })
    }
}

/// A resource or a scope.
struct Origin<'a> {
    name: Vec<u8>,
    version: &'a [u8],
    schema_url: &'a [u8],
    attributes: Pairs<'a>,
}

impl<'a> Origin<'a> {
    /// `name` is the service's.
    fn resource(group: &Group<'a>) -> Result<Origin<'a>, Unusual> {
        let mut attributes = Pairs::default();
        let mut fields = Fields::of(group.of);
        while let Some((number, content)) = fields.next()? {
            match number {
                1 => attributes.add(content.bytes()?)?,
                2 => _ = content.varint()?,
                3 => entity(content.bytes()?)?,
                _ => {}
            }
        }
        attributes.sort()?;
        let name = attributes.get(SERVICE_NAME).unwrap_or_default().to_vec();
        Ok(Origin { name, version: b"", schema_url: group.schema_url, attributes })
    }

    fn scope(group: &Group<'a>) -> Result<Origin<'a>, Unusual> {
        let (mut name, mut version, mut attributes): (&[u8], &[u8], _) = (b"", b"", Pairs::default());
        let mut fields = Fields::of(group.of);
        while let Some((number, content)) = fields.next()? {
            match number {
                1 => name = content.text()?,
                2 => version = content.text()?,
                3 => attributes.add(content.bytes()?)?,
                4 => _ = content.varint()?,
                _ => {}
            }
        }
        attributes.sort()?;
        Ok(Origin { name: name.into(), version, schema_url: group.schema_url, attributes })
    }
}

/// A reference to an entity, of which nothing is kept: it only has to be one.
fn entity(reference: &[u8]) -> Result<(), Unusual> {
    let mut fields = Fields::of(reference);
    while let Some((number, content)) = fields.next()? {
        if (1..=4).contains(&number) {
            content.text()?;
        }
    }
    Ok(())
}

/// What all rows of one scope have in common.
struct Shared<'a> {
    delivery: &'a Delivery,
    resource: &'a Origin<'a>,
    scope: &'a Origin<'a>,
}

impl Shared<'_> {
    /// What it adds to each row, about.
    fn bytes(&self) -> usize {
        self.resource.attributes.bytes() + self.scope.attributes.bytes()
    }

    /// Add it to the columns of so many rows: tenant, service; schema and attributes of the resource; schema, name, version and attributes of
    /// the scope; agent, sequence; times of arrival and expiry.
    fn fill(&self, rows: u32, columns: [&mut Data; 12]) {
        let Shared { delivery, resource, scope } = self;
        let [tenant, service, resource_schema, of_resource, columns @ ..] = columns;
        let [scope_schema, name, version, of_scope, agent, sequence, ingested_at, expires_at] = columns;
        for (column, word) in [
            (tenant, delivery.tenant.as_bytes()),
            (service, &resource.name),
            (resource_schema, resource.schema_url),
            (scope_schema, scope.schema_url),
            (name, &scope.name),
            (version, scope.version),
            (agent, delivery.agent.as_bytes()),
        ] {
            column.repeat(rows, |column| column.word(word));
        }
        of_resource.repeat(rows, |column| resource.attributes.write(column));
        of_scope.repeat(rows, |column| scope.attributes.write(column));
        sequence.repeat(rows, |column| column.number(&delivery.sequence.to_le_bytes()));
        ingested_at.repeat(rows, |column| column.number(&delivery.ingested_at.to_le_bytes()));
        expires_at.repeat(rows, |column| column.number(&delivery.expires_at.to_le_bytes()));
    }
}

/// An id of `length` bytes as lower-case hexadecimal; what is not a valid one is none.
fn id(column: &mut Data, id: &[u8], length: usize) {
    column.hex(if is_id(id, length) { id } else { &[] });
}

fn is_id(id: &[u8], length: usize) -> bool {
    id.len() == length && id.iter().any(|byte| *byte != 0)
}

/// Nanoseconds as ClickHouse's DateTime64(9) holds them.
fn nanos(unix_nano: u64) -> Result<i64, Unusual> {
    i64::try_from(unix_nano).map_err(|_| Unusual)
}

#[cfg(test)]
mod tests;
