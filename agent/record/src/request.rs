//! A span that the agent itself makes of a request it saw, in two parts: what many requests have in common, and what is its own.
//!
//! Requests of one operation over one connection differ in their names, their times and a few attributes; all else is a
//! [`Template`], made once and shared. What follows from the template alone (which series count the request, what must be redacted in
//! it, whether it failed) is worked out once for all of them. Invariant: a request is the span that [`Request::span`] gives, and
//! each stage comes to the same with either; so what an attribute of a request's own says decides nothing but whether the request is a
//! health check, and which name it looked up.

use crate::otlp::trace::v1::{ScopeSpans, Span, span::Link};
use crate::{Attribute, Scope, attribute::Value};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use prost::{DecodeError, Message};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What many requests have in common: name, kind, status and attributes of their spans, and who saw them.
#[derive(Debug)]
pub struct Template {
    scope: Arc<Scope>,
    span: Span,
    encoded_len: usize,
    number: u64,
}

impl Template {
    /// A span without identifiers, times and links is the template of all that add theirs.
    pub fn new(scope: Arc<Scope>, span: Span) -> Template {
        static MADE: AtomicU64 = AtomicU64::new(0);
        Template { scope, encoded_len: span.encoded_len(), span, number: MADE.fetch_add(1, Relaxed) }
    }

    /// Who saw the requests.
    pub fn scope(&self) -> &Arc<Scope> {
        &self.scope
    }

    /// What they have in common.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Bytes of it as OTLP.
    pub fn encoded_len(&self) -> usize {
        self.encoded_len
    }

    /// No other template of this process has or had it.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The span of a request from what [`Request::encode_own`] wrote of it.
    pub fn whole(&self, own: &[u8]) -> Result<Span, DecodeError> {
        let mut span = self.span.clone();
        span.merge(own)?;
        Ok(span)
    }

    /// Bytes that it takes, about: texts, and their places in lists.
    pub fn heap_bytes(&self) -> usize {
        size_of::<Template>() + crate::value::attributes_heap_bytes(&self.span.attributes) + self.span.name.capacity()
    }
}

/// A span's own names: of its trace, of itself.
pub type Names = ([u8; 16], [u8; 8]);

/// A request that was seen.
#[derive(Clone, Debug)]
pub struct Request {
    /// What it has in common with others.
    pub template: Arc<Template>,
    /// Trace and span, neither all zero.
    pub names: Names,
    /// The span that caused it, if that is known.
    pub parent: Option<[u8; 8]>,
    /// OTLP's flags of a span.
    pub flags: u32,
    /// Nanoseconds since the epoch.
    pub start_unix_nano: u64,
    /// Likewise, not before the start.
    pub end_unix_nano: u64,
    /// The span of the same request at the other end of its connection.
    pub link: Option<Names>,
    /// What hardly another one has.
    pub own: Vec<Attribute>,
}

/// Field numbers of `opentelemetry.proto.trace.v1.Span`, its `Link`, and `KeyValue` and `AnyValue` of its attributes.
mod field {
    pub(super) const TRACE_ID: u32 = 1;
    pub(super) const SPAN_ID: u32 = 2;
    pub(super) const PARENT_SPAN_ID: u32 = 4;
    pub(super) const START: u32 = 7;
    pub(super) const END: u32 = 8;
    pub(super) const ATTRIBUTES: u32 = 9;
    pub(super) const LINKS: u32 = 13;
    pub(super) const FLAGS: u32 = 16;
    pub(super) const KEY: u32 = 1;
    pub(super) const VALUE: u32 = 2;
    pub(super) const TEXT: u32 = 1;
    pub(super) const BOOL: u32 = 2;
    pub(super) const INT: u32 = 3;
    pub(super) const SPANS: u32 = 2;
}

/// Key, length and bytes of a trace's and of a span's identifier.
const NAMES_LEN: usize = 18 + 10;

impl Request {
    /// Bytes of its span as OTLP.
    pub fn encoded_len(&self) -> usize {
        self.template.encoded_len + self.own_len()
    }

    /// Bytes of what [`Request::encode_own`] writes.
    pub fn own_len(&self) -> usize {
        let fixed = |number: u64| if number == 0 { 0 } else { 9 };
        let attributes = self.own.iter().map(|attribute| {
            let length = attribute_len(attribute);
            key_len(field::ATTRIBUTES) + encoded_len_varint(length as u64) + length
        });
        NAMES_LEN
            + self.parent.map_or(0, |_| 10)
            + fixed(self.start_unix_nano)
            + fixed(self.end_unix_nano)
            + attributes.sum::<usize>()
            + self.link.map_or(0, |_| 2 + NAMES_LEN)
            + if self.flags == 0 { 0 } else { key_len(field::FLAGS) + 4 }
    }

    /// Append its own part, a span as OTLP has it; merged into the template's it makes the whole one.
    pub fn encode_own(&self, to: &mut Vec<u8>) {
        encode_names(self.names, to);
        if let Some(parent) = &self.parent {
            encode_bytes(field::PARENT_SPAN_ID, parent, to);
        }
        for (number, time) in [(field::START, self.start_unix_nano), (field::END, self.end_unix_nano)] {
            if time != 0 {
                encode_key(number, WireType::SixtyFourBit, to);
                to.extend_from_slice(&time.to_le_bytes());
            }
        }
        for attribute in &self.own {
            encode_key(field::ATTRIBUTES, WireType::LengthDelimited, to);
            encode_varint(attribute_len(attribute) as u64, to);
            encode_attribute(attribute, to);
        }
        if let Some(link) = self.link {
            encode_key(field::LINKS, WireType::LengthDelimited, to);
            encode_varint(NAMES_LEN as u64, to);
            encode_names(link, to);
        }
        if self.flags != 0 {
            encode_key(field::FLAGS, WireType::ThirtyTwoBit, to);
            to.extend_from_slice(&self.flags.to_le_bytes());
        }
    }

    /// The span that it is.
    pub fn span(&self) -> Span {
        let own = self.own.iter().map(Into::into);
        let common = self.template.span.clone();
        Span {
            trace_id: self.names.0.to_vec(),
            span_id: self.names.1.to_vec(),
            parent_span_id: self.parent.map(Vec::from).unwrap_or_default(),
            flags: self.flags,
            start_time_unix_nano: self.start_unix_nano,
            end_time_unix_nano: self.end_unix_nano,
            attributes: common.attributes.into_iter().chain(own).collect(),
            links: self.link.map(link).into_iter().collect(),
            ..common
        }
    }
}

/// Requests as the spans that they are, in their order.
pub fn scope_spans(requests: &[Request]) -> Vec<ScopeSpans> {
    let chunks = requests.chunk_by(|one, next| one.template.scope == next.template.scope);
    let scopes = chunks.filter_map(|requests| {
        let Scope { proto, schema_url } = &**requests.first()?.template.scope();
        let spans = requests.iter().map(Request::span).collect();
        Some(ScopeSpans { scope: Some(proto.clone()), spans, schema_url: schema_url.clone() })
    });
    scopes.collect()
}

/// Bytes of [`scope_spans`] as OTLP.
pub(crate) fn scope_spans_len(requests: &[Request]) -> usize {
    let chunks = requests.chunk_by(|one, next| one.template.scope == next.template.scope);
    let lengths = chunks.map(|requests| {
        let scope = requests.first().map_or(0, |request| {
            let Scope { proto, schema_url } = &**request.template.scope();
            let scope = ScopeSpans { scope: Some(proto.clone()), schema_url: schema_url.clone(), spans: Vec::new() };
            scope.encoded_len()
        });
        let spans = requests.iter().map(|request| {
            let length = request.encoded_len();
            key_len(field::SPANS) + encoded_len_varint(length as u64) + length
        });
        scope + spans.sum::<usize>()
    });
    lengths.sum()
}

fn link((trace, span): Names) -> Link {
    Link { trace_id: trace.to_vec(), span_id: span.to_vec(), ..Link::default() }
}

fn encode_names((trace, span): Names, to: &mut Vec<u8>) {
    encode_bytes(field::TRACE_ID, &trace, to);
    encode_bytes(field::SPAN_ID, &span, to);
}

fn encode_bytes(number: u32, bytes: &[u8], to: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, to);
    encode_varint(bytes.len() as u64, to);
    to.extend_from_slice(bytes);
}

/// Of the `AnyValue`. A set member of a `oneof` is written also when it is zero.
fn value_len(value: &Value) -> usize {
    match value {
        Value::Text(text) => key_len(field::TEXT) + encoded_len_varint(text.len() as u64) + text.len(),
        Value::Int(number) => key_len(field::INT) + encoded_len_varint(number.cast_unsigned()),
        Value::Bool(_) => key_len(field::BOOL) + 1,
    }
}

/// Of the `KeyValue`.
fn attribute_len(Attribute { key, value, .. }: &Attribute) -> usize {
    let length = value_len(value);
    let key = key_len(field::KEY) + encoded_len_varint(key.len() as u64) + key.len();
    key + key_len(field::VALUE) + encoded_len_varint(length as u64) + length
}

fn encode_attribute(Attribute { key, value, .. }: &Attribute, to: &mut Vec<u8>) {
    encode_bytes(field::KEY, key.as_bytes(), to);
    encode_key(field::VALUE, WireType::LengthDelimited, to);
    encode_varint(value_len(value) as u64, to);
    match value {
        Value::Text(text) => encode_bytes(field::TEXT, text.as_bytes(), to),
        Value::Int(number) => {
            encode_key(field::INT, WireType::Varint, to);
            encode_varint(number.cast_unsigned(), to);
        }
        Value::Bool(is) => {
            encode_key(field::BOOL, WireType::Varint, to);
            encode_varint(u64::from(*is), to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::{bool, int, string};
    use crate::otlp::trace::v1::{Status, span::SpanKind};
    use crate::{Records, value};

    fn requests() -> Vec<Request> {
        let scope = Arc::new(Scope::default());
        let span = Span {
            name: "GET /a".into(),
            kind: SpanKind::Server as i32,
            status: Some(Status { code: 2, ..Status::default() }),
            attributes: vec![value::string("http.route", "/a"), value::int("http.response.status_code", 503)],
            ..Span::default()
        };
        let template = Arc::new(Template::new(scope, span));
        let least = Request {
            template,
            names: ([1; 16], [2; 8]),
            parent: None,
            flags: 0,
            start_unix_nano: 0,
            end_unix_nano: 0,
            link: None,
            own: Vec::new(),
        };
        let most = Request {
            parent: Some([3; 8]),
            flags: 0x301,
            start_unix_nano: 1,
            end_unix_nano: u64::MAX,
            link: Some(([4; 16], [5; 8])),
            own: vec![
                string("url.path", "x".repeat(300)),
                int("a", -1),
                int("b", 0),
                bool("c", true),
                bool("d", false),
            ],
            ..least.clone()
        };
        vec![least, most]
    }

    #[test]
    fn a_request_s_own_part_merged_into_its_template_is_its_span_byte_for_byte() {
        for request in requests() {
            let mut own = Vec::new();
            request.encode_own(&mut own);
            let whole = request.template.whole(&own).unwrap();
            assert_eq!(whole, request.span());
            assert_eq!(request.encoded_len(), whole.encoded_len());
            assert_eq!(request.own_len(), own.len());
        }
    }

    #[test]
    fn requests_count_and_weigh_what_their_spans_do() {
        let (requests, scopes) = (requests(), scope_spans(&requests()));
        let (compact, spans) = (Records::Requests(requests), Records::Traces(scopes));
        assert_eq!((compact.count(), compact.wire_bytes()), (spans.count(), spans.wire_bytes()));
        assert_eq!(compact.signal(), spans.signal());
    }

    #[test]
    fn no_two_templates_have_a_number() {
        let made = [requests(), requests()].map(|requests| requests[0].template.number());
        assert_ne!(made[0], made[1]);
    }
}
