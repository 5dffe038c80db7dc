//! What holds for a tenant: the [`Limits`] that come of its [`Entry`] in the key file, of the entry's [`Plan`], and of the gateway's
//! configuration, in this order.
//!
//! [`crate::keys::file`] reads entries, [`crate::admit`] carries limits out. Invariant: every field of an entry is read by
//! [`Entry::set`] alone, so that the file and the command `tenants set` take the same and say the same of what they do not take.

use crate::keys::unhex;
use crate::treat::fields::{Fields, Keys};
use ollystack_receive::Signal;
use serde::Deserialize;
use std::fmt;
use toml::{Table, Value};

/// What a tenant may send, and how long it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    /// The one that the entry names.
    #[serde(skip)]
    pub(crate) plan: Option<Plan>,
    /// 0: no limit.
    pub(crate) records_per_second: u64,
    pub(crate) burst_seconds: u64,
    /// Of requests after decompression, by days of UTC. 0: no limit.
    pub(crate) bytes_per_day: u64,
    /// Likewise, by calendar months.
    pub(crate) bytes_per_month: u64,
    pub(crate) retention_days: u32,
    /// The most that is kept of ordinary traces, 0 to 1.
    pub(crate) sampling_ratio: f64,
    /// A request that took so long is not ordinary.
    pub(crate) sampling_slow_ms: u64,
    #[serde(skip)]
    pub(crate) signals: Signals,
    pub(crate) in_flight_bytes_max: usize,
    pub(crate) requests_in_flight_max: usize,
}

/// Where a tenant differs from the gateway's configuration: `[tenants.NAME]` in the key file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Entry {
    plan: Option<Plan>,
    records_per_second: Option<u64>,
    burst_seconds: Option<u64>,
    bytes_per_day: Option<u64>,
    bytes_per_month: Option<u64>,
    retention_days: Option<u32>,
    sampling_ratio: Option<f64>,
    sampling_slow_ms: Option<u64>,
    signals: Option<Signals>,
    in_flight_bytes_max: Option<usize>,
    requests_in_flight_max: Option<usize>,
    attributes_drop: Option<Keys>,
    attributes_mask: Option<Keys>,
    attributes_hash: Option<Keys>,
    hash_key: Option<HashKey>,
}

/// What a tenant's hashes are made under. It never prints itself.
#[derive(Clone, Copy, PartialEq, Eq)]
struct HashKey([u8; 32]);

impl fmt::Debug for HashKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

/// The field of a secret: made by `tenants set` when it is needed, shown nowhere.
pub(crate) const HASH_KEY: &str = "hash_key";
/// The field that needs it.
pub(crate) const ATTRIBUTES_HASH: &str = "attributes_hash";

/// What lists of attributes take.
const KEYS: &str = "a list of at most 64 keys of 1 to 256 bytes, with a * at the end for any rest,";

/// Fields of an entry, and what each takes.
pub(crate) const FIELDS: [(&str, &str); 15] = [
    ("plan", "\"free\", \"startup\", \"growth\" or \"enterprise\""),
    ("records_per_second", "a whole number, 0 for no limit"),
    ("burst_seconds", "a whole number from 1"),
    ("bytes_per_day", "a whole number, 0 for no limit"),
    ("bytes_per_month", "a whole number, 0 for no limit"),
    ("retention_days", "a whole number from 1 to 36500"),
    ("sampling_ratio", "a number from 0 to 1"),
    ("sampling_slow_ms", "a whole number from 1"),
    ("signals", "a list of \"metrics\", \"logs\" and \"traces\" with at least one of them"),
    ("in_flight_bytes_max", "a whole number from 1"),
    ("requests_in_flight_max", "a whole number from 1"),
    ("attributes_drop", KEYS),
    ("attributes_mask", KEYS),
    (ATTRIBUTES_HASH, KEYS),
    (HASH_KEY, "64 lower-case hex digits"),
];

/// Presets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    Free,
    Startup,
    Growth,
    Enterprise,
}

const GB: u64 = 1_000_000_000;

/// What a plan presets.
struct Preset {
    records_per_second: u64,
    bytes_per_day: u64,
    retention_days: u32,
    sampling_ratio: f64,
}

impl Plan {
    const ALL: [Plan; 4] = [Plan::Free, Plan::Startup, Plan::Growth, Plan::Enterprise];

    /// As the key file has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Plan::Free => "free",
            Plan::Startup => "startup",
            Plan::Growth => "growth",
            Plan::Enterprise => "enterprise",
        }
    }

    fn parse(text: &str) -> Option<Plan> {
        Plan::ALL.into_iter().find(|plan| plan.name() == text)
    }

    fn preset(self) -> Preset {
        let (records_per_second, bytes_per_day, retention_days, sampling_ratio) = match self {
            Plan::Free => (100, GB, 1, 0.01),
            Plan::Startup => (1_000, 10 * GB, 7, 0.1),
            Plan::Growth => (100_000, 1_000 * GB, 30, 0.5),
            Plan::Enterprise => (1_000_000, 10_000 * GB, 90, 1.0),
        };
        Preset { records_per_second, bytes_per_day, retention_days, sampling_ratio }
    }
}

/// Which signals may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signals([bool; 3]);

impl Default for Signals {
    fn default() -> Signals {
        Signals([true; 3])
    }
}

impl Signals {
    const ALL: [Signal; 3] = [Signal::Metrics, Signal::Logs, Signal::Traces];

    /// Whether this one may be.
    pub(crate) fn has(self, signal: Signal) -> bool {
        self.0[signal as usize]
    }

    fn parse(value: &Value) -> Option<Signals> {
        let mut signals = Signals([false; 3]);
        for name in value.as_array()? {
            let signal = Signals::ALL.into_iter().find(|signal| Some(signal.name()) == name.as_str())?;
            signals.0[signal as usize] = true;
        }
        (signals != Signals([false; 3])).then_some(signals)
    }
}

impl fmt::Display for Signals {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Signals::ALL.into_iter().filter(|signal| self.has(*signal)).map(Signal::name).collect();
        formatter.write_str(&names.join(", "))
    }
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("{0} is no field of a tenant; {names} are", names = FIELDS.map(|(name, _)| name).join(", "))]
    Field(String),
    #[error("{field} is {found}; {allowed} is allowed")]
    Value { field: &'static str, found: String, allowed: &'static str },
}

impl Entry {
    /// From a section of the key file.
    pub(crate) fn read(section: &Table) -> Result<Entry, Unfit> {
        let mut entry = Entry::default();
        section.iter().try_for_each(|(field, value)| entry.set(field, value))?;
        if entry.hash_key.is_none() && entry.attributes_hash.as_ref().is_some_and(|keys| !keys.is_empty()) {
            let found = section.get(ATTRIBUTES_HASH).map(Value::to_string).unwrap_or_default();
            let allowed = "a list beside a hash_key, which the command makes,";
            return Err(Unfit::Value { field: ATTRIBUTES_HASH, found, allowed });
        }
        Ok(entry)
    }

    fn set(&mut self, field: &str, value: &Value) -> Result<(), Unfit> {
        let unknown = || Unfit::Field(field.to_owned());
        let (field, allowed) = FIELDS.into_iter().find(|(name, _)| *name == field).ok_or_else(unknown)?;
        let fits = match field {
            "plan" => put(&mut self.plan, value.as_str().and_then(Plan::parse)),
            "records_per_second" => put(&mut self.records_per_second, whole(value, 0)),
            "burst_seconds" => put(&mut self.burst_seconds, whole(value, 1)),
            "bytes_per_day" => put(&mut self.bytes_per_day, whole(value, 0)),
            "bytes_per_month" => put(&mut self.bytes_per_month, whole(value, 0)),
            "retention_days" => {
                put(&mut self.retention_days, whole(value, 1).filter(|days| *days <= RETENTION_DAYS_MAX))
            }
            "sampling_ratio" => put(&mut self.sampling_ratio, share(value)),
            "sampling_slow_ms" => put(&mut self.sampling_slow_ms, whole(value, 1)),
            "signals" => put(&mut self.signals, Signals::parse(value)),
            "in_flight_bytes_max" => put(&mut self.in_flight_bytes_max, whole(value, 1)),
            "requests_in_flight_max" => put(&mut self.requests_in_flight_max, whole(value, 1)),
            "attributes_drop" => put(&mut self.attributes_drop, keys(value)),
            "attributes_mask" => put(&mut self.attributes_mask, keys(value)),
            ATTRIBUTES_HASH => put(&mut self.attributes_hash, keys(value)),
            _ => put(&mut self.hash_key, value.as_str().and_then(unhex).map(HashKey)),
        };
        let found = || if field == HASH_KEY { "***".to_owned() } else { value.to_string() };
        if fits { Ok(()) } else { Err(Unfit::Value { field, found: found(), allowed }) }
    }

    /// What becomes of attributes.
    pub(crate) fn fields(&self) -> Fields {
        let keys = |keys: &Option<Keys>| keys.clone().unwrap_or_default();
        Fields {
            drop: keys(&self.attributes_drop),
            mask: keys(&self.attributes_mask),
            hash: keys(&self.attributes_hash),
            hash_key: self.hash_key.map_or([0; 32], |HashKey(key)| key),
        }
    }
}

/// A century: what is kept for ever needs no other word.
pub(crate) const RETENTION_DAYS_MAX: u32 = 36_500;

fn put<T>(slot: &mut Option<T>, value: Option<T>) -> bool {
    *slot = value;
    slot.is_some()
}

fn keys(value: &Value) -> Option<Keys> {
    let texts = value.as_array()?.iter().map(|key| key.as_str().map(str::to_owned));
    Keys::new(texts.collect::<Option<_>>()?)
}

/// TOML tells 1 from 1.0; people do not.
fn share(value: &Value) -> Option<f64> {
    let number = value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64))?;
    (0.0..=1.0).contains(&number).then_some(number)
}

fn whole<T: TryFrom<i64> + PartialOrd>(value: &Value, least: T) -> Option<T> {
    T::try_from(value.as_integer()?).ok().filter(|number| *number >= least)
}

impl Limits {
    /// What an entry says; then what its plan does; then `self`, the gateway's configuration.
    pub(crate) fn with(self, entry: &Entry) -> Limits {
        let preset = entry.plan.map(Plan::preset);
        let of = |ours: Option<u64>, plan: fn(&Preset) -> u64, default: u64| {
            ours.or_else(|| preset.as_ref().map(plan)).unwrap_or(default)
        };
        let sampling_ratio = entry.sampling_ratio.or_else(|| preset.as_ref().map(|preset| preset.sampling_ratio));
        let retention_days = entry.retention_days.or_else(|| preset.as_ref().map(|preset| preset.retention_days));
        Limits {
            plan: entry.plan.or(self.plan),
            records_per_second: of(entry.records_per_second, |plan| plan.records_per_second, self.records_per_second),
            burst_seconds: entry.burst_seconds.unwrap_or(self.burst_seconds),
            bytes_per_day: of(entry.bytes_per_day, |plan| plan.bytes_per_day, self.bytes_per_day),
            bytes_per_month: entry.bytes_per_month.unwrap_or(self.bytes_per_month),
            retention_days: retention_days.unwrap_or(self.retention_days),
            sampling_ratio: sampling_ratio.unwrap_or(self.sampling_ratio),
            sampling_slow_ms: entry.sampling_slow_ms.unwrap_or(self.sampling_slow_ms),
            signals: entry.signals.unwrap_or(self.signals),
            in_flight_bytes_max: entry.in_flight_bytes_max.unwrap_or(self.in_flight_bytes_max),
            requests_in_flight_max: entry.requests_in_flight_max.unwrap_or(self.requests_in_flight_max),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Small, so that tests reach them.
    pub(crate) const SMALL: Limits = Limits {
        plan: None,
        records_per_second: 10,
        burst_seconds: 1,
        bytes_per_day: 0,
        bytes_per_month: 0,
        retention_days: 7,
        sampling_ratio: 1.0,
        sampling_slow_ms: 1_000,
        signals: Signals([true; 3]),
        in_flight_bytes_max: 1 << 20,
        requests_in_flight_max: 1,
    };

    fn limits(section: &str) -> Result<Limits, String> {
        let entry = Entry::read(&section.parse().unwrap()).map_err(|unfit| unfit.to_string())?;
        Ok(SMALL.with(&entry))
    }

    #[test]
    fn a_field_beats_the_plan_and_the_plan_beats_the_configuration() {
        assert_eq!(limits("").unwrap(), SMALL);
        for (plan, records_per_second, bytes_per_day, retention_days, sampling_ratio) in [
            ("free", 100, GB, 1, 0.01),
            ("startup", 1_000, 10 * GB, 7, 0.1),
            ("growth", 100_000, 1_000 * GB, 30, 0.5),
            ("enterprise", 1_000_000, 10_000 * GB, 90, 1.0),
        ] {
            let found = limits(&format!("plan = {plan:?}")).unwrap();
            let plan = Plan::parse(plan);
            let expected = Limits { plan, records_per_second, bytes_per_day, retention_days, sampling_ratio, ..SMALL };
            assert_eq!(found, expected);
        }
        let found = limits("plan = \"free\"\nrecords_per_second = 0\nsignals = [\"logs\", \"traces\"]").unwrap();
        assert_eq!((found.records_per_second, found.retention_days), (0, 1));
        assert_eq!(found.signals.to_string(), "logs, traces");
        assert!(!found.signals.has(Signal::Metrics) && found.signals.has(Signal::Logs));
    }

    #[test]
    fn what_is_unfit_is_named_with_what_was_found_and_what_is_allowed() {
        for (section, expected) in [
            (
                "records_per_second = \"many\"",
                "records_per_second is \"many\"; a whole number, 0 for no limit is allowed",
            ),
            ("records_per_second = -1", "records_per_second is -1; "),
            ("burst_seconds = 0", "burst_seconds is 0; a whole number from 1 is allowed"),
            ("retention_days = 36501", "retention_days is 36501; "),
            ("sampling_ratio = 1.5", "sampling_ratio is 1.5; a number from 0 to 1 is allowed"),
            ("sampling_ratio = nan", "sampling_ratio is nan; "),
            ("attributes_drop = \"a\"", "attributes_drop is \"a\"; a list of at most 64 keys "),
            ("attributes_mask = [\"a*b\"]", "attributes_mask is [\"a*b\"]; "),
            (
                "attributes_hash = [\"a\"]",
                "attributes_hash is [\"a\"]; a list beside a hash_key, which the command makes, is",
            ),
            ("hash_key = \"c4n4ry\"", "hash_key is ***; 64 lower-case hex digits is allowed"),
            ("plan = \"gold\"", "plan is \"gold\"; \"free\", "),
            ("signals = []", "signals is []; a list of "),
            ("signals = [\"smells\"]", "signals is [\"smells\"]; "),
            ("in_flight_bytes_max = 0", "in_flight_bytes_max is 0; "),
            ("requests_in_flight_max = 0", "requests_in_flight_max is 0; "),
            ("records_per_sec = 1", "records_per_sec is no field of a tenant; plan, records_per_second, "),
        ] {
            let found = limits(section).unwrap_err();
            assert!(found.starts_with(expected), "{found}");
        }
    }

    #[test]
    fn every_field_that_is_listed_is_read() {
        for (field, value) in FIELDS.map(|(field, _)| {
            (
                field,
                match field {
                    "plan" => "\"free\"",
                    "signals" => "[\"logs\"]",
                    "attributes_drop" | "attributes_mask" => "[\"a\"]",
                    ATTRIBUTES_HASH => "[]",
                    HASH_KEY => "\"0707070707070707070707070707070707070707070707070707070707070707\"",
                    "sampling_ratio" => "1",
                    _ => "3",
                },
            )
        }) {
            assert_ne!(
                Entry::read(&format!("{field} = {value}").parse().unwrap()).unwrap(),
                Entry::default(),
                "{field}"
            );
        }
    }
}
