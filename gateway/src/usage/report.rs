//! Shares what tenants use with the other gateways of one ClickHouse, every few seconds, by way of `tenant_usage_data`.
//!
//! Each start of a gateway has lines of its own, which it reports as they stand; it reads the sums of all others, its earlier starts among
//! them. What a kill takes is what came since the last report. Invariant: a failure changes nothing here: what was not confirmed is
//! reported again, and what others used is as it was last known.

use super::{Accounts, Counts, Line, Others, Period, Spent, now};
use crate::write::clickhouse::{ClickHouse, Error};
use serde_json::json;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long a gateway may know nothing of what another one took: so far quotas hold approximately.
const INTERVAL: Duration = Duration::from_secs(5);

/// A gateway whose last report is older takes no requests, or cannot tell: the others need leave it no share.
const ACTIVE: Duration = Duration::from_secs(30);

/// The last report, on stop, is worth no longer wait.
const LAST_TIMEOUT: Duration = Duration::from_secs(3);

/// Reports, and reads what others reported.
#[derive(Debug)]
pub(crate) struct Reporter {
    accounts: Accounts,
    clickhouse: ClickHouse,
    /// This start of this gateway: 16 hexadecimal digits.
    start: String,
    ready: watch::Receiver<bool>,
    /// When others were last read.
    read_at: Option<Instant>,
}

impl Reporter {
    /// `ready` says whether the tables are there. Fails when the kernel gives no random bytes.
    pub(crate) fn new(
        accounts: Accounts,
        clickhouse: ClickHouse,
        ready: watch::Receiver<bool>,
    ) -> Result<Reporter, getrandom::Error> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)?;
        let start = format!("{:016x}", u64::from_ne_bytes(random));
        Ok(Reporter { accounts, clickhouse, start, ready, read_at: None })
    }

    /// Until `end`, when everything that was taken is safe: a last time then.
    pub(crate) async fn run(mut self, end: CancellationToken) {
        let mut failed = false;
        // At once, so that a restart is soon held to what was used before it.
        let mut pause = Duration::ZERO;
        loop {
            let waiting = async {
                sleep(pause).await;
                // An error means that the gateway is ending.
                let _ = self.ready.wait_for(|ready| *ready).await;
            };
            if end.run_until_cancelled(waiting).await.is_none() {
                break;
            }
            let shared = self.share().await;
            match (&shared, failed) {
                (Err(error), false) => tracing::warn!(
                    %error,
                    "what tenants use cannot be shared with other gateways; quotas hold by what is known here until it can"
                ),
                (Ok(()), true) => tracing::info!("what tenants use is shared with other gateways again"),
                _ => {}
            }
            failed = shared.is_err();
            pause = INTERVAL;
        }
        let last = async { if *self.ready.borrow() { self.report().await } else { Ok(()) } };
        if let Ok(Err(error)) = timeout(LAST_TIMEOUT, last).await {
            tracing::warn!(%error, "what tenants used in the last seconds could not be reported; it is in no bill and no quota");
        }
    }

    async fn share(&mut self) -> Result<(), Error> {
        self.report().await?;
        self.read().await
    }

    /// Tell what changed here.
    async fn report(&self) -> Result<(), Error> {
        let now = now();
        let news: Vec<_> = self.accounts.all().into_iter().map(|(name, of)| (name, of.unreported(), of)).collect();
        let rows: String =
            news.iter().flat_map(|(name, lines, _)| lines.iter().map(|line| self.row(name, line, now))).collect();
        if rows.is_empty() {
            return Ok(());
        }
        self.clickhouse.insert_json("tenant_usage_data", rows).await?;
        for (_, lines, account) in &news {
            account.reported(now, lines);
        }
        Ok(())
    }

    fn row(&self, tenant: &str, (line, counts): &(Line, Counts), now: u64) -> String {
        let row = json!({
            "TenantId": tenant,
            "Hour": line.hour,
            "Signal": line.signal,
            "Gateway": self.start,
            "Plan": line.plan,
            "Received": counts.received,
            "Rejected": counts.rejected,
            "Refused": counts.refused,
            "RequestsRefused": counts.requests_refused,
            "Bytes": counts.bytes,
            "WireBytes": counts.wire_bytes,
            "ReportedAt": now,
        });
        format!("{row}\n")
    }

    /// Learn what others told.
    async fn read(&mut self) -> Result<(), Error> {
        let now = now();
        let period = Period::at(now);
        let lines = self.clickhouse.lines(&self.query(period, now)).await?;
        let begun = self.read_at.replace(Instant::now());
        let mut found: HashMap<String, Others> = lines.into_iter().filter_map(|line| others(line, period)).collect();
        for (name, account) in self.accounts.all() {
            let mut others = found.remove(&*name).unwrap_or(Others { period, ..Others::default() });
            let before = account.others();
            if let Some(begun) = begun.filter(|_| before.period.month == period.month) {
                let taken = others.records.saturating_sub(before.records);
                others.records_per_second = taken as f64 / begun.elapsed().max(Duration::from_secs(1)).as_secs_f64();
            }
            account.set_others(others);
        }
        Ok(())
    }

    /// By tenant: bytes of the day and of the month, records of the month, and how many report at present. Numbers and hexadecimal
    /// digits of this program are all that is put in: nothing needs quoting.
    fn query(&self, Period { day, month, .. }: Period, now: u64) -> String {
        let (start, active) = (&self.start, now.saturating_sub(ACTIVE.as_secs()));
        format!(
            "SELECT TenantId, sumIf(Most, Hour >= toDateTime({day}, 'UTC')), sum(Most), sum(Taken), \
             uniqExactIf(Gateway, LastAt >= toDateTime({active}, 'UTC')) FROM (SELECT TenantId, Hour, Gateway, \
             max(u.Bytes) AS Most, max(u.Received) - max(u.Rejected) - max(u.Refused) AS Taken, max(u.ReportedAt) AS LastAt \
             FROM tenant_usage_data AS u WHERE Hour >= toDateTime({month}, 'UTC') AND Gateway NOT IN ('', '{start}') \
             GROUP BY TenantId, Hour, Signal, Gateway, Plan) GROUP BY TenantId"
        )
    }
}

fn others(line: Vec<String>, period: Period) -> Option<(String, Others)> {
    let [tenant, day, month, records, gateways] = <[String; 5]>::try_from(line).ok()?;
    let spent = Spent { day: day.parse().ok()?, month: month.parse().ok()? };
    let records = records.parse::<i64>().ok()?.max(0).unsigned_abs();
    Some((tenant, Others { period, spent, records, records_per_second: 0.0, gateways: gateways.parse().ok()? }))
}
