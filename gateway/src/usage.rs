//! What each tenant uses: counted here by hour and signal, shared through ClickHouse by [`report`], held to by [`crate::admit`].
//!
//! A gateway knows its own use at once, and that of the others, its own earlier starts among them, as of their last reports.
//! Invariant: what is counted never goes down, so that of two reports of one line the larger is the later.

pub(crate) mod charge;
pub(crate) mod report;

use crate::tenants::Plan;
use hashbrown::HashMap;
use ollystack_receive::Signal;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECONDS_PER_HOUR: u64 = 3_600;
const SECONDS_PER_DAY: u64 = 24 * SECONDS_PER_HOUR;

/// The accounts of all tenants, by name. Clones share them. They are those of the key file, so few.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accounts(Arc<Mutex<HashMap<Arc<str>, Arc<Account>>>>);

/// What one tenant uses.
#[derive(Debug, Default)]
pub(crate) struct Account(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    period: Period,
    /// Of this process, in the period.
    own: Spent,
    others: Others,
    lines: BTreeMap<Line, Counts>,
    /// Of those, what was reported.
    reported: BTreeMap<Line, Counts>,
}

/// What counts are kept by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Line {
    /// Its begin, in seconds since the epoch.
    pub(crate) hour: u64,
    pub(crate) signal: &'static str,
    /// Empty for none.
    pub(crate) plan: &'static str,
}

/// Records by what became of them, refused requests that nobody looked into, and the bytes of those that were taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) received: u64,
    pub(crate) rejected: u64,
    pub(crate) refused: u64,
    pub(crate) requests_refused: u64,
    /// After decompression.
    pub(crate) bytes: u64,
    pub(crate) wire_bytes: u64,
}

/// The day and the month (UTC) that it is, in seconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Period {
    pub(crate) day: u64,
    pub(crate) month: u64,
    month_end: u64,
}

/// Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spent {
    pub(crate) day: u64,
    pub(crate) month: u64,
}

/// What other gateways, and earlier starts of this one, reported.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Others {
    /// What `spent` is of.
    pub(crate) period: Period,
    pub(crate) spent: Spent,
    /// Records that were taken, in the month.
    pub(crate) records: u64,
    /// By `records` of two reports.
    pub(crate) records_per_second: f64,
    /// How many of them take requests of the tenant at present.
    pub(crate) gateways: u64,
}

/// A quota of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota {
    /// `day` or `month`.
    pub(crate) period: &'static str,
    pub(crate) bytes_max: u64,
    pub(crate) spent: u64,
    /// When it began, in seconds since the epoch.
    pub(crate) begin: u64,
    /// When the next begins, likewise.
    pub(crate) until: u64,
}

impl Accounts {
    /// The account of a tenant.
    pub(crate) fn of(&self, tenant: &Arc<str>) -> Arc<Account> {
        let mut accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(accounts.entry(Arc::clone(tenant)).or_default())
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<(Arc<str>, Arc<Account>)> {
        let accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.iter().map(|(tenant, account)| (Arc::clone(tenant), Arc::clone(account))).collect()
    }
}

impl Account {
    /// Enter what came at `now`, in seconds since the epoch.
    pub(crate) fn add(&self, now: u64, signal: Signal, plan: Option<Plan>, counts: Counts) {
        let mut state = self.at(now);
        state.own.day = state.own.day.saturating_add(counts.bytes);
        state.own.month = state.own.month.saturating_add(counts.bytes);
        let hour = now - now % SECONDS_PER_HOUR;
        let line = Line { hour, signal: signal.name(), plan: plan.map_or("", Plan::name) };
        state.lines.entry(line).or_default().add(counts);
    }

    /// Bytes of this day and this month, through all gateways.
    pub(crate) fn spent(&self, now: u64) -> Spent {
        self.at(now).spent()
    }

    /// The quotas of bytes a day and a month as they stand, the longer first; 0: no quota.
    pub(crate) fn quotas(&self, now: u64, per_day: u64, per_month: u64) -> impl Iterator<Item = Quota> + use<> {
        let (period, spent) = match (per_day, per_month) {
            (0, 0) => Default::default(),
            _ => {
                let state = self.at(now);
                (state.period, state.spent())
            }
        };
        let (begin, until) = (period.month, period.month_end);
        let month = Quota { period: "month", bytes_max: per_month, spent: spent.month, begin, until };
        let (begin, until) = (period.day, period.day + SECONDS_PER_DAY);
        let day = Quota { period: "day", bytes_max: per_day, spent: spent.day, begin, until };
        [month, day].into_iter().filter(|quota| quota.bytes_max > 0)
    }

    /// Which of them leaves nothing. The month goes first: the day's end would be a promise that is not kept.
    pub(crate) fn over(&self, now: u64, per_day: u64, per_month: u64) -> Option<Quota> {
        self.quotas(now, per_day, per_month).find(|quota| quota.spent >= quota.bytes_max)
    }

    /// Of so many records a second through all gateways, how many may pass this one: what the others leave, but no less than an
    /// equal share.
    pub(crate) fn share(&self, records_per_second: u64) -> f64 {
        let others = self.lock().others;
        let all = records_per_second as f64;
        (all - others.records_per_second).clamp(all / (others.gateways + 1) as f64, all)
    }

    /// Enter what others use.
    pub(crate) fn set_others(&self, others: Others) {
        self.lock().others = others;
    }

    /// What others used when they were last heard of.
    pub(crate) fn others(&self) -> Others {
        self.lock().others
    }

    /// What was not reported as it stands.
    pub(crate) fn unreported(&self) -> Vec<(Line, Counts)> {
        let state = self.lock();
        let news = state.lines.iter().filter(|(line, counts)| state.reported.get(*line) != Some(*counts));
        news.map(|(line, counts)| (*line, *counts)).collect()
    }

    /// These arrived. Hours that are over and reported are forgotten.
    pub(crate) fn reported(&self, now: u64, lines: &[(Line, Counts)]) {
        let mut state = self.lock();
        state.reported.extend(lines.iter().copied());
        let State { lines, reported, .. } = &mut *state;
        // An hour longer than it lasts: a request that came at its very end may be entered after it.
        let over = |line: &Line| line.hour + 2 * SECONDS_PER_HOUR <= now;
        lines.retain(|line, counts| !over(line) || reported.get(line) != Some(&*counts));
        reported.retain(|line, _| lines.contains_key(line));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In the day that it is.
    fn at(&self, now: u64) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if !state.period.is_at(now) {
            let (before, period) = (state.period, Period::at(now));
            let month = if before.month == period.month { state.own.month } else { 0 };
            (state.period, state.own) = (period, Spent { day: 0, month });
        }
        state
    }
}

impl State {
    fn spent(&self) -> Spent {
        let Others { period, spent, .. } = self.others;
        let day = if period.day == self.period.day { spent.day } else { 0 };
        let month = if period.month == self.period.month { spent.month } else { 0 };
        Spent { day: self.own.day.saturating_add(day), month: self.own.month.saturating_add(month) }
    }
}

impl Counts {
    fn add(&mut self, more: Counts) {
        self.received += more.received;
        self.rejected += more.rejected;
        self.refused += more.refused;
        self.requests_refused += more.requests_refused;
        self.bytes += more.bytes;
        self.wire_bytes += more.wire_bytes;
    }
}

impl Period {
    /// Of a time in seconds since the epoch.
    pub(crate) fn at(now: u64) -> Period {
        let day = now - now % SECONDS_PER_DAY;
        let begin = month_of(day);
        // Some day of the month after.
        let month_end = month_of(begin + 32 * SECONDS_PER_DAY);
        Period { day, month: begin, month_end }
    }

    fn is_at(&self, now: u64) -> bool {
        self.day <= now && now < self.day + SECONDS_PER_DAY && self.month_end > 0
    }
}

/// Seconds since the epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The begin of the month of a time: the calendar is that of the library, which writes dates.
fn month_of(seconds: u64) -> u64 {
    let date = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
    let first = format!("{}-01T00:00:00Z", date.get(..7).unwrap_or_default());
    let begin = humantime::parse_rfc3339(&first).ok().and_then(|begin| begin.duration_since(UNIX_EPOCH).ok());
    begin.map_or(seconds, |begin| begin.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-02-28T23:00:00Z, in a month of 29 days.
    const NOW: u64 = 1_709_161_200;
    const HOUR: u64 = SECONDS_PER_HOUR;

    fn bytes(bytes: u64) -> Counts {
        Counts { received: 1, bytes, ..Counts::default() }
    }

    fn enter(account: &Account, now: u64, counts: Counts) {
        account.add(now, Signal::Logs, Some(Plan::Free), counts);
    }

    #[test]
    fn a_quota_is_of_a_day_and_of_a_month_and_says_when_the_next_begins() {
        let account = Account::default();
        enter(&account, NOW, bytes(10));
        assert_eq!(account.over(NOW, 11, 0), None);
        let over = Quota { period: "day", bytes_max: 10, spent: 10, begin: NOW - 23 * HOUR, until: NOW + HOUR };
        assert_eq!(account.over(NOW, 10, 0), Some(over));
        assert_eq!(account.over(NOW + HOUR, 10, 0), None, "the next day");
        let (begin, until) = (NOW - (27 * 24 + 23) * HOUR, NOW + 25 * HOUR);
        let over = Quota { period: "month", bytes_max: 10, spent: 10, begin, until };
        assert_eq!(account.over(NOW + HOUR, 10, 10), Some(over), "the next day is of the same month");
        assert_eq!(account.over(NOW + 25 * HOUR, 10, 10), None, "the next month");
        assert_eq!(account.over(NOW, 0, 0), None);
    }

    #[test]
    fn what_others_used_counts_in_the_period_that_it_is_of() {
        let account = Account::default();
        enter(&account, NOW, bytes(10));
        let others = Others { period: Period::at(NOW), spent: Spent { day: 5, month: 100 }, ..Others::default() };
        account.set_others(others);
        assert_eq!(account.spent(NOW), Spent { day: 15, month: 110 });
        assert_eq!(account.spent(NOW + HOUR), Spent { day: 0, month: 110 });
        assert_eq!(account.spent(NOW + 25 * HOUR), Spent::default());
    }

    #[test]
    fn the_rate_is_what_others_leave_and_at_least_an_equal_share() {
        let account = Account::default();
        assert_eq!(account.share(100), 100.0);
        for (records_per_second, gateways, left) in
            [(30.0, 1, 70.0), (90.0, 1, 50.0), (300.0, 3, 25.0), (0.0, 3, 100.0)]
        {
            account.set_others(Others { records_per_second, gateways, ..Others::default() });
            assert_eq!(account.share(100), left);
        }
        assert_eq!(account.share(0), 0.0);
    }

    #[test]
    fn a_line_is_reported_until_it_arrived_as_it_stands_and_kept_while_its_hour_lasts() {
        let account = Account::default();
        enter(&account, NOW, bytes(10));
        let first = account.unreported();
        assert_eq!(first, [(Line { hour: NOW, signal: "logs", plan: "free" }, bytes(10))]);
        enter(&account, NOW + 1, bytes(5));
        account.reported(NOW + 1, &first);
        let second = account.unreported();
        assert_eq!(
            second[0].1,
            Counts { received: 2, bytes: 15, ..Counts::default() },
            "as it stands, not the increase"
        );
        account.reported(NOW + 2, &second);
        assert_eq!(account.unreported(), []);
        enter(&account, NOW + HOUR, bytes(1));
        let third = account.unreported();
        assert_eq!(third.len(), 1);
        account.reported(NOW + 2 * HOUR, &third);
        assert_eq!(account.lock().lines.len(), 1, "the first hour is forgotten");
    }
}
