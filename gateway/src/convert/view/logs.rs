//! Log records to `logs_raw`, by the rules of [`logs`](crate::convert::logs).

use super::values::{Pairs, Text};
use super::wire::Fields;
use super::{LOOK_BYTES, Shared, Stop, Unusual, id, nanos};
use crate::convert::logs::SEVERITY_MAX;
use crate::convert::{Outcome, Sink};
use ollystack_schema::names::LOG_COUNT;
use ollystack_schema::rows::LogRow;

#[derive(Default)]
struct Record<'a> {
    time: u64,
    observed_time: u64,
    severity_number: i32,
    severity_text: &'a [u8],
    body: Option<&'a [u8]>,
    flags: u32,
    trace_id: &'a [u8],
    span_id: &'a [u8],
    event_name: &'a [u8],
}

impl<'a> Record<'a> {
    #[inline]
    fn read(record: &'a [u8], attributes: &mut Pairs<'a>) -> Result<Record<'a>, Unusual> {
        let mut of = Record::default();
        let mut fields = Fields::of(record);
        while let Some((number, content)) = fields.next()? {
            match number {
                1 => of.time = content.fixed64()?,
                2 => of.severity_number = content.varint()? as i32,
                3 => of.severity_text = content.text()?,
                5 => content.once(&mut of.body)?,
                6 => attributes.add(content.bytes()?)?,
                7 => _ = content.varint()?,
                8 => of.flags = content.fixed32()?,
                9 => of.trace_id = content.bytes()?,
                10 => of.span_id = content.bytes()?,
                11 => of.observed_time = content.fixed64()?,
                12 => of.event_name = content.text()?,
                _ => {}
            }
        }
        attributes.sort()?;
        Ok(of)
    }
}

/// The records of one scope.
pub(super) fn convert<'a>(
    mut records: Fields<'a>,
    shared: &Shared<'_>,
    outcome: &mut Outcome,
    sink: &mut Sink,
) -> Result<(), Stop> {
    let arrived = i64::from(shared.delivery.ingested_at) * 1_000_000_000;
    let given = |time: u64, instead: i64| if time == 0 { Ok(instead) } else { nanos(time) };
    let shared_bytes = shared.bytes();
    let mut attributes: Pairs<'a> = Pairs::default();
    let mut made = Vec::new();
    loop {
        let columns = sink.open::<LogRow>();
        let [
            tenant,
            timestamp,
            observed_timestamp,
            trace_id,
            span_id,
            trace_flags,
            severity_text,
            severity_number,
            service_name,
            event_name,
            body,
            line_count,
            resource_schema_url,
            resource_attributes,
            scope_schema_url,
            scope_name,
            scope_version,
            scope_attributes,
            log_attributes,
            agent,
            sequence,
            ingested_at,
            expires_at,
        ] = columns.all().ok_or(Unusual)?;
        let (mut rows, mut bytes) = (0, 0);
        while bytes < LOOK_BYTES
            && let Some(record) = records.next_of(2)?
        {
            attributes.clear();
            made.clear();
            let of = Record::read(record, &mut attributes)?;
            let observed = given(of.observed_time, arrived)?;
            timestamp.number(&given(of.time, observed)?.to_le_bytes());
            observed_timestamp.number(&observed.to_le_bytes());
            id(trace_id, of.trace_id, 16);
            id(span_id, of.span_id, 8);
            // The lower eight bits are W3C's; the rest is reserved.
            trace_flags.number(&[of.flags as u8]);
            severity_text.word(of.severity_text);
            let severity = Some(of.severity_number).filter(|number| (0..=SEVERITY_MAX).contains(number)).unwrap_or(0);
            severity_number.number(&[severity as u8]);
            event_name.word(of.event_name);
            body.text(Text::of(of.body.unwrap_or_default(), &mut made)?.bytes(&made));
            let lines = attributes.get(LOG_COUNT).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
            line_count.number(&lines.unwrap_or(1u64).max(1).to_le_bytes());
            attributes.write(log_attributes);
            rows += 1;
            bytes += record.len() + size_of::<LogRow>() + shared_bytes;
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
        sink.look::<LogRow>()?;
        if bytes < LOOK_BYTES {
            return Ok(());
        }
    }
}
