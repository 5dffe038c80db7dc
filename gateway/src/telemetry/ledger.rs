//! The gateway's ledger: what became of every record that an admitted sender handed in, by tenant and signal.
//!
//! `received + carried = stored + produced + repeated + sampled_out + rejected(reason) + refused(reason) + doubtful + lost(reason) + waiting(place)`,
//! by signal.
//! Rejected records are in no table and will never be; refused ones are with their senders, who were told to keep them; repeated ones
//! were stored before; produced ones are in a topic, whose consumer has a ledger of its own. Doubtful ones may be stored: ClickHouse did not say, and the sender was told to come again. `carried` is what the
//! spill and the blocks set aside held when this process began; what waits there is measured by them.
//!
//! Stages move records by a [`Held`], which travels with the rows. Invariant: each record that was received ends in one outcome; a
//! [`Held`] that is forgotten is a refusal, or doubtful once it was on its way, since its sender is never told that it succeeded.

use ollystack_receive::Signal;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// In the order of every list of them.
const SIGNALS: [Signal; 3] = [Signal::Metrics, Signal::Logs, Signal::Traces];

/// Why records are refused whose request ended without an answer: its sender hung up, or it took too long.
const ABANDONED: &str = "abandoned";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct Line {
    tenant: Arc<str>,
    signal: &'static str,
    outcome: &'static str,
    /// Empty for outcomes that need none.
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct OfSignal {
    signal: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct Loss {
    signal: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct Waiting {
    signal: &'static str,
    place: &'static str,
}

/// All accounts. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger(Arc<Accounts>);

#[derive(Debug, Default)]
struct Accounts {
    lines: Family<Line, Counter>,
    carried: Family<OfSignal, Counter>,
    lost: Family<Loss, Counter>,
    /// Read when somebody asks.
    waiting: Family<Waiting, Gauge>,
    balance: Family<OfSignal, Gauge>,
    /// By signal.
    in_memory: [AtomicI64; 3],
    /// Every line that was ever used, for [`Ledger::read`]. Tenants are those of the key file, reasons are ours.
    known: Mutex<BTreeMap<Line, Counter>>,
}

/// Records on their way through this process.
#[derive(Debug)]
pub(crate) struct Held {
    accounts: Arc<Accounts>,
    tenant: Arc<str>,
    signal: Signal,
    records: u64,
    /// On the way to ClickHouse.
    under_way: bool,
}

impl Ledger {
    /// Register what `/metrics` shows of it.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let accounts = &self.0;
        let help =
            "Records by tenant, signal, outcome and reason; `received` came in, the others are what became of them";
        registry.register("ledger_records", help, accounts.lines.clone());
        let help = "Records that waited on disk when this process began, by signal";
        registry.register("ledger_carried", help, accounts.carried.clone());
        let help = "Records that were accepted and are gone, by signal and reason";
        registry.register("ledger_lost", help, accounts.lost.clone());
        registry.register(
            "ledger_waiting",
            "Records inside the gateway, by signal and place",
            accounts.waiting.clone(),
        );
        let help = "Records in minus records accounted for: 0 when nothing was lost uncounted";
        registry.register("ledger_balance", help, accounts.balance.clone());
    }

    /// Take records in. Whatever happens to what is returned is their outcome.
    pub(crate) fn receive(&self, tenant: &Arc<str>, signal: Signal, records: u64) -> Held {
        let held =
            Held { accounts: Arc::clone(&self.0), tenant: Arc::clone(tenant), signal, records, under_way: false };
        held.count("received", "");
        self.0.in_memory[signal as usize].fetch_add(records as i64, Relaxed);
        held
    }

    /// Rows of an earlier run, or that waited on disk, are in ClickHouse now.
    pub(crate) fn replayed(&self, tenant: &str, signal: Signal, records: u64) {
        self.0.add(tenant.into(), signal, "stored", "", records);
    }

    /// Rows of an earlier run, or that waited on disk, are in a topic now.
    #[cfg(feature = "kafka")]
    pub(crate) fn replayed_to_log(&self, tenant: &str, signal: Signal, records: u64) {
        self.0.add(tenant.into(), signal, "produced", "", records);
    }

    /// Records that were found on disk when this process began.
    pub(crate) fn carry(&self, signal: Signal, records: u64) {
        self.0.carried.get_or_create(&OfSignal { signal: signal.name() }).inc_by(records);
    }

    /// Records that were accepted and are gone.
    pub(crate) fn lose(&self, signal: Signal, reason: &'static str, records: u64) {
        self.0.lost.get_or_create(&Loss { signal: signal.name(), reason }).inc_by(records);
    }

    /// As [`lose`](Ledger::lose), by a signal's number.
    #[cfg(feature = "kafka")]
    pub(crate) fn lose_of(&self, signal: u8, reason: &'static str, records: u64) {
        if let Some(signal) = SIGNALS.into_iter().find(|of| *of as u8 == signal) {
            self.lose(signal, reason, records);
        }
    }

    /// Everything, where the spill and the blocks set aside hold so many records of each signal.
    pub(crate) fn read(&self, spill: [u64; 3], set_aside: [u64; 3]) -> Reading {
        let accounts = &self.0;
        let mut tenants: BTreeMap<String, BTreeMap<&'static str, Outcomes>> = BTreeMap::new();
        for (line, counter) in accounts.known.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let outcomes = tenants.entry(line.tenant.to_string()).or_default().entry(line.signal).or_default();
            outcomes.add(line.outcome, line.reason, counter.get());
        }
        let signals = SIGNALS.map(|signal| {
            let (index, name) = (signal as usize, signal.name());
            let mut outcomes = Outcomes::default();
            tenants.values().filter_map(|signals| signals.get(name)).for_each(|tenant| outcomes.merge(tenant));
            let mut lost = BTreeMap::new();
            for reason in LOSSES {
                let records = accounts.lost.get(&Loss { signal: name, reason }).map_or(0, |counter| counter.get());
                if records > 0 {
                    lost.insert(reason, records);
                }
            }
            let waiting = [
                ("memory", accounts.in_memory[index].load(Relaxed)),
                ("spill", spill[index] as i64),
                ("set_aside", set_aside[index] as i64),
            ];
            let carried = accounts.carried.get(&OfSignal { signal: name }).map_or(0, |counter| counter.get());
            let out = outcomes.out() + lost.values().sum::<u64>();
            let balance =
                (outcomes.received + carried) as i64 - out as i64 - waiting.iter().map(|(_, n)| n).sum::<i64>();
            for (place, records) in waiting {
                accounts.waiting.get_or_create(&Waiting { signal: name, place }).set(records);
            }
            accounts.balance.get_or_create(&OfSignal { signal: name }).set(balance);
            SignalReading { signal: name, carried, outcomes, lost, waiting: waiting.into(), balance }
        });
        Reading { signals, tenants }
    }
}

/// Why accepted rows are gone, as the buffer and the spill's reader say it.
pub(crate) const LOSSES: [&str; 2] = ["evicted", "corrupt"];

impl Accounts {
    fn add(&self, tenant: Arc<str>, signal: Signal, outcome: &'static str, reason: &'static str, records: u64) {
        if records == 0 {
            return;
        }
        let line = Line { tenant, signal: signal.name(), outcome, reason };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(line).or_insert_with_key(|line| self.lines.get_or_create(line).clone()).inc_by(records);
    }
}

impl Held {
    /// How many.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// Whose.
    pub(crate) fn tenant(&self) -> &Arc<str> {
        &self.tenant
    }

    /// Some of them, at most all.
    pub(crate) fn split(&mut self, records: u64) -> Held {
        let records = records.min(self.records);
        self.records -= records;
        let (accounts, tenant) = (Arc::clone(&self.accounts), Arc::clone(&self.tenant));
        Held { accounts, tenant, signal: self.signal, records, under_way: self.under_way }
    }

    /// On the way to ClickHouse: if it is forgotten from here on, nobody knows how far it came.
    pub(crate) fn set_out(mut self) -> Held {
        self.under_way = true;
        self
    }

    /// In ClickHouse.
    pub(crate) fn stored(self) {
        self.end("stored", "");
    }

    /// In a topic.
    #[cfg(feature = "kafka")]
    pub(crate) fn produced(self) {
        self.end("produced", "");
    }

    /// In ClickHouse since an earlier delivery.
    pub(crate) fn repeated(self) {
        self.end("repeated", "");
    }

    /// Nowhere: what was kept of the same traces stands for them.
    pub(crate) fn sampled_out(self) {
        self.end("sampled_out", "");
    }

    /// Nowhere, and the sender was told never to send them again.
    pub(crate) fn rejected(self, reason: &'static str) {
        self.end("rejected", reason);
    }

    /// Nowhere, and the sender was told so.
    pub(crate) fn refused(self, reason: &'static str) {
        self.end("refused", reason);
    }

    /// Perhaps in ClickHouse, and the sender was told to come again.
    pub(crate) fn doubtful(self) {
        self.end("doubtful", "");
    }

    /// On disk, where whoever holds them measures them.
    pub(crate) fn on_disk(mut self) {
        self.leave();
    }

    fn end(mut self, outcome: &'static str, reason: &'static str) {
        self.count(outcome, reason);
        self.leave();
    }

    fn count(&self, outcome: &'static str, reason: &'static str) {
        self.accounts.add(Arc::clone(&self.tenant), self.signal, outcome, reason, self.records);
    }

    fn leave(&mut self) {
        let records = std::mem::take(&mut self.records);
        self.accounts.in_memory[self.signal as usize].fetch_sub(records as i64, Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        match self.under_way {
            true => self.count("doubtful", ""),
            false => self.count("refused", ABANDONED),
        }
        self.leave();
    }
}

/// The ledger at one moment; off by what moved while it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Reading {
    pub(crate) signals: [SignalReading; 3],
    /// What became of each tenant's records, by signal.
    pub(crate) tenants: BTreeMap<String, BTreeMap<&'static str, Outcomes>>,
}

/// One signal, over all tenants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct SignalReading {
    pub(crate) signal: &'static str,
    pub(crate) carried: u64,
    #[serde(flatten)]
    pub(crate) outcomes: Outcomes,
    pub(crate) lost: BTreeMap<&'static str, u64>,
    pub(crate) waiting: BTreeMap<&'static str, i64>,
    /// Zero when every record is accounted for.
    pub(crate) balance: i64,
}

/// Records by what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Outcomes {
    pub(crate) received: u64,
    pub(crate) stored: u64,
    pub(crate) produced: u64,
    pub(crate) repeated: u64,
    pub(crate) sampled_out: u64,
    pub(crate) doubtful: u64,
    pub(crate) rejected: BTreeMap<&'static str, u64>,
    pub(crate) refused: BTreeMap<&'static str, u64>,
}

impl Outcomes {
    fn add(&mut self, outcome: &str, reason: &'static str, records: u64) {
        match outcome {
            "received" => self.received += records,
            "stored" => self.stored += records,
            "produced" => self.produced += records,
            "repeated" => self.repeated += records,
            "sampled_out" => self.sampled_out += records,
            "rejected" => *self.rejected.entry(reason).or_default() += records,
            "refused" => *self.refused.entry(reason).or_default() += records,
            _ => self.doubtful += records,
        }
    }

    fn merge(&mut self, other: &Outcomes) {
        self.received += other.received;
        self.stored += other.stored;
        self.produced += other.produced;
        self.repeated += other.repeated;
        self.sampled_out += other.sampled_out;
        self.doubtful += other.doubtful;
        other.rejected.iter().for_each(|(reason, records)| self.add("rejected", reason, *records));
        other.refused.iter().for_each(|(reason, records)| self.add("refused", reason, *records));
    }

    fn out(&self) -> u64 {
        let by_reason: u64 = self.rejected.values().chain(self.refused.values()).sum();
        self.stored + self.produced + self.repeated + self.sampled_out + self.doubtful + by_reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs(ledger: &Ledger, spill: u64, set_aside: u64) -> SignalReading {
        ledger.read([0, spill, 0], [0, set_aside, 0]).signals[Signal::Logs as usize].clone()
    }

    #[test]
    fn every_record_ends_in_one_outcome_and_until_then_it_waits() {
        let ledger = Ledger::default();
        ledger.carry(Signal::Logs, 7);
        let mut held = ledger.receive(&"acme".into(), Signal::Logs, 100);
        assert_eq!((logs(&ledger, 7, 0).waiting["memory"], logs(&ledger, 7, 0).balance), (100, 0));
        held.split(50).stored();
        held.split(5).repeated();
        held.split(2).sampled_out();
        held.split(10).rejected("timestamp");
        held.split(4).refused("quota");
        held.split(3).doubtful();
        held.split(20).on_disk();
        assert_eq!(logs(&ledger, 27, 0).balance, 0);
        // Of what was on disk some is stored, some is set aside, and some turns out to be damaged.
        ledger.replayed("acme", Signal::Logs, 9);
        ledger.lose(Signal::Logs, "corrupt", 6);
        let reading = logs(&ledger, 10, 2);
        let outcomes = &reading.outcomes;
        assert_eq!((outcomes.received, outcomes.stored, outcomes.repeated, outcomes.doubtful), (100, 59, 5, 3));
        assert_eq!(outcomes.sampled_out, 2);
        assert_eq!((outcomes.rejected["timestamp"], outcomes.refused["quota"], reading.lost["corrupt"]), (10, 4, 6));
        assert_eq!((held.records(), reading.waiting["memory"], reading.balance), (6, 6, 0));
    }

    #[test]
    fn records_of_which_nothing_more_is_said_are_refused_or_doubtful() {
        let ledger = Ledger::default();
        drop(ledger.receive(&"acme".into(), Signal::Logs, 3));
        drop(ledger.receive(&"acme".into(), Signal::Logs, 4).set_out());
        let reading = logs(&ledger, 0, 0);
        assert_eq!((reading.outcomes.refused[ABANDONED], reading.outcomes.doubtful), (3, 4));
        assert_eq!((reading.waiting["memory"], reading.balance), (0, 0));
    }

    #[test]
    fn tenants_and_signals_have_accounts_of_their_own_which_add_up() {
        let ledger = Ledger::default();
        for (tenant, signal, records) in [("a", Signal::Logs, 1), ("b", Signal::Logs, 20), ("b", Signal::Traces, 300)] {
            ledger.receive(&tenant.into(), signal, records).stored();
        }
        let reading = ledger.read([0; 3], [0; 3]);
        assert_eq!(reading.signals.each_ref().map(|signal| signal.outcomes.stored), [0, 21, 300]);
        assert_eq!((reading.tenants["a"]["logs"].stored, reading.tenants["b"]["logs"].stored), (1, 20));
        assert!(!reading.tenants["a"].contains_key("traces"));
    }

    #[test]
    fn what_is_shown_to_prometheus_is_what_is_read() {
        let (ledger, mut registry) = (Ledger::default(), Registry::default());
        ledger.register(&mut registry);
        ledger.receive(&"acme".into(), Signal::Traces, 5).rejected("trace_id");
        ledger.receive(&"acme".into(), Signal::Traces, 2).stored();
        ledger.read([0, 0, 4], [0; 3]);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "ledger_records_total{tenant=\"acme\",signal=\"traces\",outcome=\"received\",reason=\"\"} 7",
            "ledger_records_total{tenant=\"acme\",signal=\"traces\",outcome=\"rejected\",reason=\"trace_id\"} 5",
            "ledger_records_total{tenant=\"acme\",signal=\"traces\",outcome=\"stored\",reason=\"\"} 2",
            "ledger_waiting{signal=\"traces\",place=\"spill\"} 4",
            "ledger_balance{signal=\"traces\"} -4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
    }
}
