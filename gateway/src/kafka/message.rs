//! One message: an OTLP request of one service, and what belongs to it, as headers of Kafka and as an entry of the spill.
//!
//! Headers are text, named like those of requests; numbers are decimal. A consumer of the topics that knows none of them still has valid OTLP.
//! Invariant: what comes back from the topic or the spill is what went in.

use bytes::Bytes;
use ollystack_buffer::Entry;
use ollystack_receive::Signal;
use ollystack_schema::names::kafka::{
    HEADER_EXPIRES_AT, HEADER_INGESTED_AT, HEADER_RECORDS, HEADER_RECORDS_BEFORE, HEADER_RETENTION, HEADER_ROW_BYTES,
    HEADER_SERVICE, HEADER_TENANT,
};
use ollystack_schema::names::{HEADER_AGENT, HEADER_REDELIVERED, HEADER_SEQUENCE};
use rdkafka::message::{Header, Headers, OwnedHeaders};
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use xxhash_rust::xxh3::xxh3_64;

/// What belongs to a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) tenant: String,
    /// `service.name` of the resource, as text; empty where there is none.
    pub(crate) service: String,
    /// The agent's UUID; empty when no agent sent it.
    pub(crate) agent: String,
    /// Of the agent's delivery; a random number when no agent sent it.
    pub(crate) sequence: u64,
    /// There may be a copy before this one.
    pub(crate) repeated: bool,
    /// Seconds since the epoch.
    pub(crate) ingested_at: u32,
    /// Seconds since the epoch.
    pub(crate) expires_at: u32,
    /// Data points, log records or spans.
    pub(crate) records: u64,
    /// Records of the same delivery and service in messages before this one.
    pub(crate) before: u64,
    /// What its rows will take, about.
    pub(crate) row_bytes: u64,
}

/// A message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) signal: Signal,
    pub(crate) head: Head,
    pub(crate) payload: Bytes,
}

/// A message that is none of ours, or is damaged.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("header {0} is missing or has no valid value")]
pub(crate) struct NotOurs(&'static str);

impl Head {
    /// By which the records of one service of one tenant come to one partition: XXH3 of 64 bits over tenant, a zero byte and service.
    pub(crate) fn key(&self) -> [u8; 8] {
        xxh3_64(&[self.tenant.as_bytes(), &[0], self.service.as_bytes()].concat()).to_be_bytes()
    }

    /// As Kafka takes them.
    pub(crate) fn headers(&self) -> OwnedHeaders {
        let number = |number: u64| number.to_string();
        let all = [
            (HEADER_TENANT, self.tenant.clone()),
            (HEADER_SERVICE, self.service.clone()),
            (HEADER_AGENT, self.agent.clone()),
            (HEADER_SEQUENCE, number(self.sequence)),
            (HEADER_REDELIVERED, number(self.repeated.into())),
            (HEADER_INGESTED_AT, number(self.ingested_at.into())),
            (HEADER_EXPIRES_AT, number(self.expires_at.into())),
            (HEADER_RETENTION, number(self.expires_at.saturating_sub(self.ingested_at).into())),
            (HEADER_RECORDS, number(self.records)),
            (HEADER_RECORDS_BEFORE, number(self.before)),
            (HEADER_ROW_BYTES, number(self.row_bytes)),
        ];
        let add = |headers: OwnedHeaders, (key, value): &(&str, String)| {
            headers.insert(Header { key, value: Some(value.as_str()) })
        };
        all.iter().fold(OwnedHeaders::new_with_capacity(all.len()), add)
    }

    /// As they came.
    pub(crate) fn read(headers: Option<&impl Headers>) -> Result<Head, NotOurs> {
        let text = |name: &'static str| {
            let value = headers?.iter().find(|header| header.key == name)?.value?;
            std::str::from_utf8(value).ok()
        };
        fn number<T: FromStr>(name: &'static str, text: Option<&str>) -> Result<T, NotOurs> {
            text.and_then(|text| text.parse().ok()).ok_or(NotOurs(name))
        }
        Ok(Head {
            tenant: text(HEADER_TENANT).filter(|tenant| !tenant.is_empty()).ok_or(NotOurs(HEADER_TENANT))?.to_owned(),
            service: text(HEADER_SERVICE).ok_or(NotOurs(HEADER_SERVICE))?.to_owned(),
            agent: text(HEADER_AGENT).ok_or(NotOurs(HEADER_AGENT))?.to_owned(),
            sequence: number(HEADER_SEQUENCE, text(HEADER_SEQUENCE))?,
            repeated: text(HEADER_REDELIVERED) == Some("1"),
            ingested_at: number(HEADER_INGESTED_AT, text(HEADER_INGESTED_AT))?,
            expires_at: number(HEADER_EXPIRES_AT, text(HEADER_EXPIRES_AT))?,
            records: number(HEADER_RECORDS, text(HEADER_RECORDS))?,
            before: number(HEADER_RECORDS_BEFORE, text(HEADER_RECORDS_BEFORE))?,
            row_bytes: number(HEADER_ROW_BYTES, text(HEADER_ROW_BYTES))?,
        })
    }
}

impl Message {
    /// As the spill stores it.
    pub(crate) fn to_entry(&self) -> Result<Entry, serde_json::Error> {
        Ok(Entry {
            class: 0,
            signal: self.signal as u8,
            records: u32::try_from(self.head.records).unwrap_or(u32::MAX),
            meta: serde_json::to_vec(&self.head)?.into(),
            payload: self.payload.clone(),
        })
    }

    /// As it was before [`to_entry`](Message::to_entry); none when that cannot be read.
    pub(crate) fn from_entry(entry: &Entry) -> Option<Message> {
        let signal = super::SIGNALS.into_iter().find(|signal| *signal as u8 == entry.signal)?;
        let head = serde_json::from_slice(&entry.meta).ok()?;
        Some(Message { signal, head, payload: entry.payload.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            tenant: "acme".into(),
            service: "größer".into(),
            agent: "a-1".into(),
            sequence: u64::MAX,
            repeated: true,
            ingested_at: 1,
            expires_at: 86_401,
            records: 7,
            before: 3,
            row_bytes: 900,
        }
    }

    #[test]
    fn a_message_is_the_same_behind_the_topic_and_the_spill() {
        let head = head();
        assert_eq!(Head::read(Some(&head.headers())), Ok(head.clone()));
        let message = Message { signal: Signal::Traces, head, payload: Bytes::from_static(b"otlp") };
        assert_eq!(Message::from_entry(&message.to_entry().unwrap()), Some(message));
    }

    #[test]
    fn a_message_of_others_is_told_by_the_header_that_it_lacks() {
        let none: Option<&OwnedHeaders> = None;
        assert_eq!(Head::read(none), Err(NotOurs(HEADER_TENANT)));
        let headers = OwnedHeaders::new().insert(Header { key: HEADER_TENANT, value: Some("acme") });
        assert_eq!(Head::read(Some(&headers)), Err(NotOurs(HEADER_SERVICE)));
    }

    #[test]
    fn the_key_is_of_tenant_and_service_alone() {
        let other = Head { sequence: 1, agent: String::new(), ..head() };
        assert_eq!(head().key(), other.key());
        let key = |tenant: &str, service: &str| {
            Head { tenant: tenant.into(), service: service.into(), ..Head::default() }.key()
        };
        assert_ne!(key("ab", "c"), key("a", "bc"));
        // What is documented cannot change: rows of a service would part.
        assert_eq!(key("acme", "shop"), 0x2fed_f440_14c2_2244_u64.to_be_bytes());
    }
}
