//! What requests have in common, made once: from an exchange and its connection to the template that others like it have, too.
//!
//! Two exchanges are alike when nothing differs but what their protocol calls an exchange's own, and the port of who asked. Invariant:
//! templates and what they are found by take at most [`BYTES_MAX`]; past it all are forgotten and made again.

use super::span;
use crate::scope;
use hashbrown::{DefaultHashBuilder, HashTable};
use ollystack_ebpf::flow::{ENCRYPTED, Meta};
use ollystack_ebpf::{Ends, bytes_of};
use ollystack_protocols::{Exchange, Kind};
use ollystack_record::{Attribute, Peer, Template, attribute::Value};
use std::borrow::Cow;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
use std::sync::Arc;

/// Templates take no more: some 150 of HTTP, of 2.5 KiB with what they are found by.
pub const BYTES_MAX: usize = 384 << 10;

/// Finds templates.
#[derive(Default)]
pub(super) struct Templates {
    known: HashTable<Known>,
    hasher: DefaultHashBuilder,
    bytes: usize,
}

/// A template, and of what.
struct Known {
    hash: u64,
    connection: Connection,
    name: String,
    kind: Kind,
    error: Option<Cow<'static, str>>,
    is_fault_of_client: bool,
    attributes: Vec<Attribute>,
    peer: Option<Peer>,
    template: Arc<Template>,
}

/// What of a connection shows in its spans, the port of who asks left out.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Connection {
    ends: Ends,
    role: u8,
    protocol: u8,
    is_encrypted: bool,
}

impl Templates {
    /// The template of an exchange on the connection of `meta`, with `peer` at its other end.
    pub(super) fn of(&mut self, exchange: &Exchange, meta: &Meta, peer: Option<Peer>) -> Arc<Template> {
        let connection = Connection::of(meta);
        let hash = self.hash(exchange, &connection, peer.as_ref());
        let is = |known: &Known| known.hash == hash && known.is(exchange, &connection, peer.as_ref());
        match self.known.find(hash, is) {
            Some(known) => Arc::clone(&known.template),
            None => self.make(exchange, meta, connection, peer, hash),
        }
    }

    #[cold]
    fn make(
        &mut self,
        exchange: &Exchange,
        meta: &Meta,
        connection: Connection,
        peer: Option<Peer>,
        hash: u64,
    ) -> Arc<Template> {
        let template = Arc::new(Template::new(scope(), span::common(exchange, meta, peer.as_ref())));
        let known = Known {
            hash,
            connection,
            name: exchange.name.clone(),
            kind: exchange.kind,
            error: exchange.error.clone(),
            is_fault_of_client: exchange.is_fault_of_client,
            attributes: common(exchange).cloned().collect(),
            peer,
            template: Arc::clone(&template),
        };
        let bytes = known.bytes();
        if self.bytes + bytes > BYTES_MAX {
            self.known.clear();
            self.bytes = 0;
        }
        if bytes <= BYTES_MAX {
            self.bytes += bytes;
            self.known.insert_unique(hash, known, |known| known.hash);
        }
        template
    }

    fn hash(&self, exchange: &Exchange, connection: &Connection, peer: Option<&Peer>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(bytes_of(&connection.ends));
        hasher.write(&[connection.role, connection.protocol, u8::from(connection.is_encrypted)]);
        hasher.write(exchange.name.as_bytes());
        hasher.write(exchange.error.as_deref().unwrap_or_default().as_bytes());
        for Attribute { value, .. } in common(exchange) {
            match value {
                Value::Text(text) => hasher.write(text.as_bytes()),
                Value::Int(number) => hasher.write_i64(*number),
                Value::Bool(is) => hasher.write_u8(u8::from(*is)),
            }
        }
        if let Some(Peer::Service(name)) = peer {
            name.hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// What of an exchange's attributes goes into its template.
fn common(exchange: &Exchange) -> impl Iterator<Item = &Attribute> {
    exchange.attributes.iter().filter(|attribute| !attribute.is_own)
}

impl Connection {
    fn of(meta: &Meta) -> Connection {
        let mut ends = meta.ends;
        if span::varies(meta) {
            ends.remote_port = 0;
        } else {
            ends.local_port = 0;
        }
        let is_encrypted = meta.flags & ENCRYPTED != 0;
        Connection { ends, role: meta.role, protocol: meta.protocol, is_encrypted }
    }
}

impl Known {
    fn is(&self, exchange: &Exchange, connection: &Connection, peer: Option<&Peer>) -> bool {
        self.name == exchange.name
            && self.connection == *connection
            && self.kind == exchange.kind
            && self.error == exchange.error
            && self.is_fault_of_client == exchange.is_fault_of_client
            && self.peer.as_ref() == peer
            && self.attributes.iter().eq(common(exchange))
    }

    /// With its place in the table, and as much room unused.
    fn bytes(&self) -> usize {
        let text = |attribute: &Attribute| match &attribute.value {
            Value::Text(Cow::Owned(text)) => text.capacity(),
            _ => 0,
        };
        let texts: usize = self.attributes.iter().map(text).sum();
        2 * size_of::<Known>()
            + self.name.capacity()
            + self.attributes.capacity() * size_of::<Attribute>()
            + texts
            + self.template.heap_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_ebpf::FAMILY_V4;
    use ollystack_ebpf::flow::{CLIENT, SERVER};
    use ollystack_protocols::Moment;
    use ollystack_record::attribute::{own, string};

    fn exchange(name: &str, path: &str) -> Exchange {
        Exchange {
            name: name.into(),
            kind: Kind::Call,
            asked: Moment::default(),
            answered: Moment::default(),
            attributes: vec![own(string("url.path", path.to_owned())), string("http.request.method", "GET")],
            error: None,
            is_fault_of_client: false,
            context: None,
        }
    }

    fn meta(role: u8, local_port: u16, remote_port: u16) -> Meta {
        let ends = Ends { local_port, remote_port, family: FAMILY_V4, ..Ends::default() };
        Meta { role, ends, ..Meta::default() }
    }

    #[test]
    fn what_differs_in_nothing_but_its_own_and_who_asked_from_which_port_has_one_template() {
        let mut templates = Templates::default();
        let peer = |name: &str| Some(Peer::Service(name.into()));
        let mut of = |exchange: &Exchange, meta: &Meta, peer| templates.of(exchange, meta, peer).number();
        let server = of(&exchange("a", "/1"), &meta(SERVER, 80, 999), peer("front"));
        assert_eq!(of(&exchange("a", "/2"), &meta(SERVER, 80, 998), peer("front")), server);
        let client = of(&exchange("a", "/1"), &meta(CLIENT, 999, 80), peer("shop"));
        assert_eq!(of(&exchange("a", "/2"), &meta(CLIENT, 998, 80), peer("shop")), client);
        let failed = Exchange { error: Some("500".into()), ..exchange("a", "/1") };
        let forgiven = Exchange { is_fault_of_client: true, ..failed.clone() };
        let others = [
            client,
            of(&exchange("b", "/1"), &meta(SERVER, 80, 999), peer("front")),
            of(&exchange("a", "/1"), &meta(SERVER, 81, 999), peer("front")),
            of(&exchange("a", "/1"), &meta(SERVER, 80, 999), peer("back")),
            of(&exchange("a", "/1"), &meta(SERVER, 80, 999), None),
            of(&exchange("a", "/1"), &Meta { flags: ENCRYPTED, ..meta(SERVER, 80, 999) }, peer("front")),
            of(&failed, &meta(SERVER, 80, 999), peer("front")),
            of(&forgiven, &meta(SERVER, 80, 999), peer("front")),
        ];
        for (place, other) in others.iter().enumerate() {
            assert!(*other != server && !others[..place].contains(other), "{place}");
        }
    }

    #[test]
    fn names_without_number_take_no_more_than_their_share() {
        let mut templates = Templates::default();
        for number in 0..5_000 {
            templates.of(&exchange(&number.to_string(), "/"), &meta(SERVER, 80, 1), None);
            assert!(templates.bytes <= BYTES_MAX);
        }
        assert!(templates.bytes > BYTES_MAX / 2 && !templates.known.is_empty());
        let bytes: usize = templates.known.iter().map(Known::bytes).sum();
        assert_eq!(bytes, templates.bytes);
    }
}
