//! Spans to `traces_raw`, by the rules of [`traces`](crate::convert::traces).

use super::values::Pairs;
use super::wire::Fields;
use super::{LOOK_BYTES, Shared, Stop, Unusual, id, is_id, nanos};
use crate::batch::columns::Data;
use crate::convert::traces::{named, weight};
use crate::convert::{Outcome, Sink};
use ollystack_schema::names::{SPAN_KINDS, STATUS_CODES};
use ollystack_schema::rows::SpanRow;

#[derive(Default)]
struct Span<'a> {
    trace_id: &'a [u8],
    span_id: &'a [u8],
    trace_state: &'a [u8],
    parent_span_id: &'a [u8],
    name: &'a [u8],
    kind: i32,
    start: u64,
    end: u64,
    status: Option<&'a [u8]>,
    flags: u32,
}

/// The columns of what a span has several of.
struct Lists<'c> {
    event_timestamps: &'c mut Data,
    event_names: &'c mut Data,
    event_attributes: &'c mut Data,
    link_trace_ids: &'c mut Data,
    link_span_ids: &'c mut Data,
    link_trace_states: &'c mut Data,
    link_attributes: &'c mut Data,
}

impl<'a> Span<'a> {
    /// Events and links go to their columns at once.
    #[inline]
    fn read(
        span: &'a [u8],
        attributes: &mut Pairs<'a>,
        inner: &mut Pairs<'a>,
        lists: &mut Lists<'_>,
    ) -> Result<Span<'a>, Unusual> {
        let mut of = Span::default();
        let (mut events, mut links) = (0, 0);
        let mut fields = Fields::of(span);
        while let Some((number, content)) = fields.next()? {
            match number {
                1 => of.trace_id = content.bytes()?,
                2 => of.span_id = content.bytes()?,
                3 => of.trace_state = content.text()?,
                4 => of.parent_span_id = content.bytes()?,
                5 => of.name = content.text()?,
                6 => of.kind = content.varint()? as i32,
                7 => of.start = content.fixed64()?,
                8 => of.end = content.fixed64()?,
                9 => attributes.add(content.bytes()?)?,
                11 => {
                    lists.event(content.bytes()?, inner)?;
                    events += 1;
                }
                13 => {
                    lists.link(content.bytes()?, inner)?;
                    links += 1;
                }
                10 | 12 | 14 => _ = content.varint()?,
                15 => content.once(&mut of.status)?,
                16 => of.flags = content.fixed32()?,
                _ => {}
            }
        }
        lists.end(events, links);
        attributes.sort()?;
        Ok(of)
    }
}

impl Lists<'_> {
    fn event<'a>(&mut self, event: &'a [u8], attributes: &mut Pairs<'a>) -> Result<(), Unusual> {
        attributes.clear();
        let (mut time, mut name): (_, &[u8]) = (0, b"");
        let mut fields = Fields::of(event);
        while let Some((number, content)) = fields.next()? {
            match number {
                1 => time = content.fixed64()?,
                2 => name = content.text()?,
                3 => attributes.add(content.bytes()?)?,
                4 => _ = content.varint()?,
                _ => {}
            }
        }
        attributes.sort()?;
        self.event_timestamps.number(&nanos(time)?.to_le_bytes());
        self.event_names.word(name);
        attributes.write(self.event_attributes);
        Ok(())
    }

    fn link<'a>(&mut self, link: &'a [u8], attributes: &mut Pairs<'a>) -> Result<(), Unusual> {
        attributes.clear();
        let (mut trace_id, mut span_id, mut trace_state): (&[u8], &[u8], &[u8]) = (&[], &[], &[]);
        let mut fields = Fields::of(link);
        while let Some((number, content)) = fields.next()? {
            match number {
                1 => trace_id = content.bytes()?,
                2 => span_id = content.bytes()?,
                3 => trace_state = content.text()?,
                4 => attributes.add(content.bytes()?)?,
                5 => _ = content.varint()?,
                6 => _ = content.fixed32()?,
                _ => {}
            }
        }
        attributes.sort()?;
        id(self.link_trace_ids, trace_id, 16);
        id(self.link_span_ids, span_id, 8);
        self.link_trace_states.text(trace_state);
        attributes.write(self.link_attributes);
        Ok(())
    }

    fn end(&mut self, events: usize, links: usize) {
        let Lists { event_timestamps, event_names, event_attributes, .. } = self;
        [event_timestamps, event_names, event_attributes].into_iter().for_each(|column| column.end_list(events));
        let Lists { link_trace_ids, link_span_ids, link_trace_states, link_attributes, .. } = self;
        let links_of = [link_trace_ids, link_span_ids, link_trace_states, link_attributes];
        links_of.into_iter().for_each(|column| column.end_list(links));
    }
}

/// Message and code.
fn status(status: &[u8]) -> Result<(&[u8], i32), Unusual> {
    let (mut message, mut code): (&[u8], _) = (b"", 0);
    let mut fields = Fields::of(status);
    while let Some((number, content)) = fields.next()? {
        match number {
            2 => message = content.text()?,
            3 => code = content.varint()? as i32,
            _ => {}
        }
    }
    Ok((message, code))
}

/// The spans of one scope.
pub(super) fn convert<'a>(
    mut spans: Fields<'a>,
    shared: &Shared<'_>,
    outcome: &mut Outcome,
    sink: &mut Sink,
) -> Result<(), Stop> {
    let shared_bytes = shared.bytes();
    let (mut attributes, mut inner): (Pairs<'a>, Pairs<'a>) = Default::default();
    loop {
        let columns = sink.open::<SpanRow>();
        let [
            tenant,
            timestamp,
            trace_id,
            span_id,
            parent_span_id,
            trace_state,
            trace_flags,
            span_name,
            span_kind,
            service_name,
            resource_schema_url,
            resource_attributes,
            scope_schema_url,
            scope_name,
            scope_version,
            scope_attributes,
            span_attributes,
            duration,
            status_code,
            status_message,
            sample_weight,
            event_timestamps,
            event_names,
            event_attributes,
            link_trace_ids,
            link_span_ids,
            link_trace_states,
            link_attributes,
            agent,
            sequence,
            ingested_at,
            expires_at,
        ] = columns.all().ok_or(Unusual)?;
        let mut lists = Lists {
            event_timestamps,
            event_names,
            event_attributes,
            link_trace_ids,
            link_span_ids,
            link_trace_states,
            link_attributes,
        };
        let (mut rows, mut bytes) = (0, 0);
        while bytes < LOOK_BYTES
            && let Some(span) = spans.next_of(2)?
        {
            attributes.clear();
            let of = Span::read(span, &mut attributes, &mut inner, &mut lists)?;
            if of.start == 0 || !is_id(of.trace_id, 16) || !is_id(of.span_id, 8) {
                return Err(Stop::Unusual);
            }
            timestamp.number(&nanos(of.start)?.to_le_bytes());
            trace_id.hex(of.trace_id);
            span_id.hex(of.span_id);
            id(parent_span_id, of.parent_span_id, 8);
            trace_state.text(of.trace_state);
            trace_flags.number(&of.flags.to_le_bytes());
            span_name.word(of.name);
            span_kind.word(named(&SPAN_KINDS, of.kind).as_bytes());
            attributes.write(span_attributes);
            nanos(of.end)?;
            duration.number(&of.end.saturating_sub(of.start).to_le_bytes());
            let (message, code) = status(of.status.unwrap_or_default())?;
            status_code.word(named(&STATUS_CODES, code).as_bytes());
            status_message.text(message);
            let state = std::str::from_utf8(of.trace_state).map_err(|_| Unusual)?;
            sample_weight.number(&weight(state).to_le_bytes());
            rows += 1;
            bytes += span.len() + size_of::<SpanRow>() + shared_bytes;
        }
        shared.fill(
            rows,
            [
                tenant,
                service_name,
                resource_schema_url,
                resource_attributes,
                scope_schema_url,
                scope_name,
                scope_version,
                scope_attributes,
                agent,
                sequence,
                ingested_at,
                expires_at,
            ],
        );
        columns.end_rows(rows);
        outcome.accepted += u64::from(rows);
        sink.look::<SpanRow>()?;
        if bytes < LOOK_BYTES {
            return Ok(());
        }
    }
}
