//! Who sent a request and when, as its headers say: read before the body.
//!
//! Invariant: an agent's attempt that goes on from here has a deadline; one that cannot be dated is sent back with the clock to date it by.

use crate::admit::{Admission, Tenant};
use crate::delivered::Identity;
use crate::delivered::deadline::{Deadline, Terms};
use http::{HeaderMap, HeaderName, HeaderValue};
use ollystack_receive::{Refusal, Signal};
use ollystack_schema::names::{
    HEADER_AGENT, HEADER_ATTEMPT_AGE, HEADER_CLOCK, HEADER_REDELIVERED, HEADER_SENT, HEADER_SEQUENCE, HEADER_UNTOUCHED,
    UNTOUCHED_ALL, UNTOUCHED_THIS,
};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An agent's id is a UUID; this leaves room and keeps strangers from filling a LowCardinality column with novels.
const AGENT_BYTES_MAX: usize = 64;

/// When to try again with a clock.
const CLOCK_RETRY_AFTER: Duration = Duration::from_millis(50);

/// When to try again after an attempt that was too long on its way.
const LATE_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Taken for the age of an attempt of which none is given: nothing is left to wait for.
const AGE_UNKNOWN: Duration = Duration::from_secs(24 * 3600);

/// Who sent a request.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(super) tenant: Arc<Tenant>,
    pub(super) agent: Option<Agent>,
}

/// An agent, and what it says of its delivery.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) id: Arc<str>,
    pub(super) sequence: u64,
    /// Until when an insert of it may begin.
    pub(super) begin_by: Deadline,
    /// Set when an earlier attempt may have arrived: how long ago the last one was sent, at least.
    pub(super) age: Option<Duration>,
}

/// A refusal, and what the attempt did.
#[derive(Debug, PartialEq)]
pub(super) struct Denial {
    pub(super) refusal: Refusal,
    pub(super) effect: Effect,
}

/// What a refused attempt did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing, nor will it.
    None,
    /// Nothing either, and this delivery alone has to wait.
    NoneOfThis,
    /// It may have written rows, or may yet.
    Perhaps,
}

impl Caller {
    /// Read the headers.
    pub(super) fn new(headers: &HeaderMap, admission: &Admission, terms: Terms) -> Result<Caller, Denial> {
        let tenant = admission.tenant(headers)?;
        let id = text(headers, HEADER_AGENT)?.unwrap_or_default();
        let plain = |c: char| c.is_ascii_hexdigit() || c == '-';
        if id.len() > AGENT_BYTES_MAX || !id.chars().all(plain) {
            return Err(Refusal::Invalid(format!("header {HEADER_AGENT} must be a UUID")).into());
        }
        let sequence = number(headers, HEADER_SEQUENCE)?.unwrap_or(0);
        if id.is_empty() {
            return Ok(Caller { tenant, agent: None });
        }
        let now_ms = now_ms();
        // Agents from before there were dates have none: they are taken as sent when they came.
        let sent_ms = number(headers, HEADER_SENT)?.unwrap_or(now_ms);
        let begin_by = terms.begin_by(sent_ms, now_ms).ok_or_else(|| match sent_ms {
            0 => Denial::undated(),
            _ if sent_ms > now_ms => Denial::undated(),
            _ => Denial::late(),
        })?;
        let age = match text(headers, HEADER_REDELIVERED)? {
            Some("1") => Some(number(headers, HEADER_ATTEMPT_AGE)?.map_or(AGE_UNKNOWN, Duration::from_millis)),
            _ => None,
        };
        Ok(Caller { tenant, agent: Some(Agent { id: id.into(), sequence, begin_by, age }) })
    }

    /// Of an agent's delivery.
    pub(super) fn identity(&self, signal: Signal) -> Option<Identity> {
        let agent = self.agent.as_ref()?;
        let (tenant, sequence) = (Arc::clone(&self.tenant.name), agent.sequence);
        Some(Identity { tenant, agent: Arc::clone(&agent.id), sequence, signal })
    }
}

impl Denial {
    /// Of this delivery alone.
    pub(super) fn of_this(retry_after: Duration, why: &str) -> Denial {
        let refusal = Refusal::Unavailable { retry_after, message: format!("{why}; send again later") };
        Denial { refusal, effect: Effect::NoneOfThis }
    }

    /// Without a date by our clock.
    fn undated() -> Denial {
        let why = format!("header {HEADER_SENT} must be of the last moments by the clock in {HEADER_CLOCK}");
        Denial::of_this(CLOCK_RETRY_AFTER, &why)
    }

    /// Too long on its way, as those beside it will be: an agent sends one at a time then, which has the way for itself.
    pub(super) fn late() -> Denial {
        let message = "this attempt was too long on its way; send again later, fewer at a time".to_owned();
        Refusal::Unavailable { retry_after: LATE_RETRY_AFTER, message }.into()
    }

    /// As an agent is answered.
    pub(super) fn for_agent(self) -> Refusal {
        let mut headers = clock();
        let untouched = match self.effect {
            Effect::None => Some(UNTOUCHED_ALL),
            Effect::NoneOfThis => Some(UNTOUCHED_THIS),
            Effect::Perhaps => None,
        };
        if let Some(untouched) = untouched {
            headers.insert(HeaderName::from_static(HEADER_UNTOUCHED), HeaderValue::from_static(untouched));
        }
        self.refusal.marked(headers)
    }
}

/// A refusal before anything was done.
impl From<Refusal> for Denial {
    fn from(refusal: Refusal) -> Denial {
        Denial { refusal, effect: Effect::None }
    }
}

/// What every answer to an agent bears.
pub(super) fn clock() -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static(HEADER_CLOCK), HeaderValue::from(now_ms()))])
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let text = |value: &'a HeaderValue| {
        value.to_str().map_err(|_| Refusal::Invalid(format!("header {name} must be printable ASCII")))
    };
    let mut all = headers.get_all(name).iter();
    let first = all.next().map(text).transpose()?;
    match all.next() {
        // Whoever stands between may have looked at the other one.
        Some(_) => Err(Refusal::Invalid(format!("header {name} is there more than once; send it once"))),
        None => Ok(first),
    }
}

fn number(headers: &HeaderMap, name: &str) -> Result<Option<u64>, Refusal> {
    let invalid = |_| Refusal::Invalid(format!("header {name} must be a whole number below 2^64"));
    text(headers, name)?.map(|text| u64::from_str(text).map_err(invalid)).transpose()
}
