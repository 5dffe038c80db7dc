//! Decides who a sender is and how much it may send, before its body is read and after it is decoded.
//!
//! The key file becomes a [`Ring`] of tenants by key; [`Admission::watch`] loads it again when it changes. Invariants: the tenant
//! comes from the key alone; a key file that cannot be read never makes a key look invalid, because senders drop data for that.

mod pace;
mod quota;

use crate::batch::budget::Waiting;
use crate::keys::file::{self, KeyFile};
use crate::keys::{Key, KeyHash};
use crate::tenants::Limits;
use crate::treat::fields::Fields;
use crate::treat::{Sampling, Treatment};
use crate::usage::{self, Account, Accounts, Quota};
use hashbrown::HashMap;
use http::HeaderMap;
use ollystack_receive::{Allowance, Refusal, Signal};
use pace::Standing;
use quota::Bucket;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, UNIX_EPOCH};
use tokio_util::sync::CancellationToken;

/// How often the key file is looked at. One `stat` each time.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// When a sender should try again while the key file cannot be read.
const KEYS_RETRY_AFTER: Duration = Duration::from_secs(5);

/// The longest that a sender is told to wait for a quota of bytes.
const BUDGET_RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// A tenant: its name and what holds for it.
#[derive(Debug)]
pub(crate) struct Tenant {
    /// As in every row.
    pub(crate) name: Arc<str>,
    /// Days until its rows expire.
    pub(crate) retention_days: u32,
    limits: Limits,
    /// Its rows that wait to be written.
    pub(crate) waiting: Waiting,
    bucket: Bucket,
    /// What it used, through all gateways.
    pub(crate) account: Arc<Account>,
    allowance: Allowance,
    sampling: Option<Sampling>,
    fields: Arc<Fields>,
}

/// Who may come in.
#[derive(Debug)]
pub(crate) struct Admission {
    path: PathBuf,
    defaults: Limits,
    accounts: Accounts,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last key file that could be read.
    ring: Option<Arc<Ring>>,
    /// Why the key file that is there now could not be.
    problem: Option<String>,
    seen: Option<Signature>,
}

/// Keys and tenants of one reading of the file.
#[derive(Debug, Default)]
struct Ring {
    keys: HashMap<String, Known>,
    tenants: HashMap<Arc<str>, Arc<Tenant>>,
}

/// A key that was not revoked.
#[derive(Debug)]
struct Known {
    hash: KeyHash,
    /// In seconds since the epoch.
    expires: Option<u64>,
    tenant: Arc<Tenant>,
}

/// What changes when a file is replaced or written to.
type Signature = (i64, i64, u64, u64);

impl Tenant {
    /// Count `records` against the quota.
    pub(crate) fn take(&self, records: u64) -> Result<(), Refusal> {
        let rate = self.account.share(self.limits.records_per_second);
        self.bucket.take(records, rate, Instant::now()).map_err(|retry_after| Refusal::Exhausted {
            retry_after,
            message: format!(
                "tenant {} may send {} records per second on average; send less or later",
                self.name, self.limits.records_per_second
            ),
        })
    }

    /// Whether its bytes of the day and the month leave anything: known before a body is read.
    pub(crate) fn within_budget(&self, now: u64) -> Result<(), Refusal> {
        let Limits { bytes_per_day, bytes_per_month, .. } = self.limits;
        let Some(Quota { period, bytes_max, until, .. }) = self.account.over(now, bytes_per_day, bytes_per_month)
        else {
            return Ok(());
        };
        let left = Duration::from_secs(until.saturating_sub(now));
        let until = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(until));
        let name = &self.name;
        Err(Refusal::Exhausted {
            // Sooner than the quota is there again: it may be raised.
            retry_after: left.clamp(Duration::from_secs(1), BUDGET_RETRY_AFTER_MAX),
            message: format!(
                "tenant {name} has used the {bytes_max} bytes that it may send a {period}; again after {until}, or with a \
                 larger bytes_per_{period}"
            ),
        })
    }

    /// What every answer says of its quotas as they stand, and of sampling if it goes to an agent.
    pub(crate) fn headers(&self, now: u64, to_agent: bool) -> HeaderMap {
        let Limits { bytes_per_day, bytes_per_month, burst_seconds: window, sampling_ratio, .. } = self.limits;
        let bytes = self.account.quotas(now, bytes_per_day, bytes_per_month).map(|quota| Standing {
            name: quota.period,
            unit: "content-bytes",
            quota: quota.bytes_max,
            left: quota.bytes_max.saturating_sub(quota.spent),
            window: quota.until - quota.begin,
            reset: quota.until.saturating_sub(now) as f64,
        });
        let rate = self.bucket.level(Instant::now()).map(|(left, full)| {
            let reset = (full - left) / self.account.share(self.limits.records_per_second);
            Standing { name: "rate", unit: "records", quota: full as u64, left: left.max(0.0) as u64, window, reset }
        });
        let quotas: Vec<Standing> = bytes.chain(rate).collect();
        pace::headers(&quotas, to_agent.then_some(sampling_ratio))
    }

    /// What holds for it.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether it may send this signal at all; otherwise what it is told.
    pub(crate) fn may_send(&self, signal: Signal) -> Result<(), String> {
        let signals = self.limits.signals;
        match signals.has(signal) {
            true => Ok(()),
            false => Err(format!("tenant {} may not send {}, only {signals}", self.name, signal.name())),
        }
    }

    /// What is done to its requests before they become rows. Agents sample by themselves.
    pub(crate) fn treatment(&self, of_agent: bool) -> Treatment {
        Treatment { sampling: self.sampling.filter(|_| !of_agent), fields: Arc::clone(&self.fields) }
    }

    /// What its requests in progress may hold.
    pub(crate) fn allowance(&self) -> &Allowance {
        &self.allowance
    }

    /// Undo [`take`](Tenant::take) for a request that was refused after all.
    pub(crate) fn give_back(&self, records: u64) {
        self.bucket.give_back(records, Instant::now());
    }
}

impl Admission {
    /// Read the key file. A missing or broken one is no error: senders are told to try later until it is there.
    pub(crate) fn new(path: PathBuf, defaults: Limits) -> Admission {
        let admission = Admission { path, defaults, accounts: Accounts::default(), state: RwLock::default() };
        admission.refresh();
        admission
    }

    /// The tenant of a request, from its headers.
    pub(crate) fn tenant(&self, headers: &HeaderMap) -> Result<Arc<Tenant>, Refusal> {
        let mut shown = headers.get_all(http::header::AUTHORIZATION).iter();
        let first = shown.next().and_then(|value| value.to_str().ok());
        if shown.next().is_some() {
            // Whoever stands between may have looked at the other one.
            return Err(Refusal::Unauthenticated("more than one authorization header: send one".to_owned()));
        }
        let bearer =
            first.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let Some((_, text)) = bearer else {
            let message = "no API key: send the header `authorization: Bearer <key>`";
            return Err(Refusal::Unauthenticated(message.to_owned()));
        };
        let unknown = || Refusal::Unauthenticated("this API key is not known here, or was revoked".to_owned());
        let key = Key::parse(text.trim()).ok_or_else(unknown)?;
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let found = state.ring.as_ref().and_then(|ring| ring.keys.get(key.id()));
        match found {
            Some(known) if known.hash.matches(&key.hash()) => match known.is_expired(usage::now()) {
                true => {
                    Err(Refusal::Unauthenticated("this API key expired: put its successor in its place".to_owned()))
                }
                false => Ok(Arc::clone(&known.tenant)),
            },
            // Perhaps the file that cannot be read knows it.
            _ if state.ring.is_none() || state.problem.is_some() => Err(Refusal::Unavailable {
                retry_after: KEYS_RETRY_AFTER,
                message: "the gateway cannot read its keys at the moment; try again later".to_owned(),
            }),
            _ => Err(unknown()),
        }
    }

    /// What tenants use.
    pub(crate) fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Every tenant that has a key.
    pub(crate) fn tenants(&self) -> Vec<Arc<Tenant>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.ring.iter().flat_map(|ring| ring.tenants.values().cloned()).collect()
    }

    /// How many keys are valid; the problem with the key file, if there is one.
    pub(crate) fn status(&self) -> (usize, Option<String>) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let now = usage::now();
        let valid = |ring: &Arc<Ring>| ring.keys.values().filter(|key| !key.is_expired(now)).count();
        (state.ring.as_ref().map_or(0, valid), state.problem.clone())
    }

    /// Load the key file whenever it changes, until `stop`.
    pub(crate) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_some() {
            let this = Arc::clone(&self);
            if let Err(error) = tokio::task::spawn_blocking(move || this.refresh()).await {
                tracing::error!(%error, "looking at the key file failed; trying again");
            }
        }
    }

    fn signature(&self) -> Option<Signature> {
        let found = std::fs::metadata(&self.path).ok()?;
        Some((found.mtime(), found.mtime_nsec(), found.size(), found.ino()))
    }

    pub(crate) fn refresh(&self) {
        let signature = self.signature();
        let first = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            if signature.is_some() && signature == state.seen {
                return;
            }
            state.ring.is_none() && state.problem.is_none()
        };
        let read = KeyFile::read(&self.path);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        // Taken before reading: a change in between is seen the next time. An unreadable file is read again each time.
        state.seen = if read.is_ok() { signature } else { None };
        match read {
            Ok(file) => {
                let ring = Ring::new(&file, self.defaults, &self.accounts, state.ring.as_deref());
                match (ring.keys.len(), first) {
                    (0, _) => tracing::warn!(
                        path = %self.path.display(),
                        "no valid API key: every sender is refused; make one with `ollystack-gateway keys new --tenant NAME`"
                    ),
                    (keys, true) => tracing::info!(keys, "keys loaded"),
                    (keys, false) => tracing::info!(keys, "key file changed: keys loaded again"),
                }
                state.ring = Some(Arc::new(ring));
                state.problem = None;
            }
            Err(error) => {
                let problem = error.to_string();
                if state.problem.as_ref() != Some(&problem) {
                    match error {
                        file::Error::Missing(_) if first => tracing::warn!("{problem}"),
                        _ => tracing::error!(
                            "{problem}; keys loaded before stay valid, senders with other keys are told to try later"
                        ),
                    }
                }
                state.problem = Some(problem);
            }
        }
    }
}

impl Known {
    fn is_expired(&self, now: u64) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

impl Ring {
    /// Tenants whose limits did not change keep their bucket, so that reloading the file gives nobody a new burst. What waits waits on.
    fn new(file: &KeyFile, defaults: Limits, accounts: &Accounts, previous: Option<&Ring>) -> Ring {
        let mut ring = Ring::default();
        for entry in file.keys.iter().filter(|entry| entry.revoked.is_none()) {
            let Some(hash) = KeyHash::parse(&entry.sha256) else { continue };
            let tenant = match ring.tenants.get(entry.tenant.as_str()) {
                Some(tenant) => Arc::clone(tenant),
                None => {
                    let section = file.tenants.get(&entry.tenant);
                    let limits = section.map_or(defaults, |entry| defaults.with(entry));
                    let fields = section.map(|entry| entry.fields()).unwrap_or_default();
                    let before = previous.and_then(|ring| ring.tenants.get(entry.tenant.as_str()));
                    let tenant = match before.filter(|tenant| tenant.limits == limits && *tenant.fields == fields) {
                        Some(tenant) => Arc::clone(tenant),
                        None => {
                            let waiting = before.map(|tenant| tenant.waiting.clone()).unwrap_or_default();
                            let name: Arc<str> = entry.tenant.as_str().into();
                            let account = accounts.of(&name);
                            Arc::new(Tenant { waiting, ..Tenant::new(name, limits, account, fields) })
                        }
                    };
                    ring.tenants.insert(Arc::clone(&tenant.name), Arc::clone(&tenant));
                    tenant
                }
            };
            ring.keys.insert(entry.id.clone(), Known { hash, expires: entry.expires_at(), tenant });
        }
        ring
    }
}

impl Tenant {
    fn new(name: Arc<str>, limits: Limits, account: Arc<Account>, fields: Fields) -> Tenant {
        Tenant {
            name,
            retention_days: limits.retention_days,
            limits,
            waiting: Waiting::default(),
            account,
            allowance: Allowance::new(limits.in_flight_bytes_max, limits.requests_in_flight_max),
            sampling: Sampling::new(limits.sampling_ratio, limits.sampling_slow_ms),
            fields: Arc::new(fields),
            bucket: Bucket::new(limits.records_per_second, limits.burst_seconds, Instant::now()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenants::tests::SMALL as DEFAULTS;
    use crate::usage::Counts;
    use std::path::Path;
    use std::time::SystemTime;

    fn bearer(key: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {key}").parse().unwrap());
        headers
    }

    fn new_key(path: &Path, tenant: &str) -> Key {
        file::add(path, tenant, "", None, SystemTime::now()).unwrap()
    }

    #[test]
    fn a_known_key_gives_its_tenant_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        let key = new_key(&path, "acme");
        let admission = Admission::new(path, DEFAULTS);
        assert_eq!(&*admission.tenant(&bearer(key.expose())).unwrap().name, "acme");
        // The right id with another secret.
        let forged = format!("olly_{}_{}", key.id(), "0".repeat(64));
        for headers in [HeaderMap::new(), bearer("hunter2"), bearer(&forged), bearer(Key::random().unwrap().expose())] {
            assert_eq!(admission.tenant(&headers).unwrap_err().reason(), "unauthenticated");
        }
        let mut basic = HeaderMap::new();
        basic.insert("authorization", format!("Basic {}", key.expose()).parse().unwrap());
        assert_eq!(admission.tenant(&basic).unwrap_err().reason(), "unauthenticated");
        let mut two = bearer(key.expose());
        two.append("authorization", two["authorization"].clone());
        assert_eq!(admission.tenant(&two).unwrap_err().reason(), "unauthenticated");
    }

    #[test]
    fn a_key_file_out_of_reach_is_no_invalid_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        let admission = Admission::new(path.clone(), DEFAULTS);
        let stranger = bearer(Key::random().unwrap().expose());
        assert_eq!(admission.tenant(&stranger).unwrap_err().reason(), "unavailable", "missing");

        let key = new_key(&path, "acme");
        admission.refresh();
        assert_eq!(admission.tenant(&stranger).unwrap_err().reason(), "unauthenticated");

        std::fs::write(&path, "[[keys]]\nid = ").unwrap();
        admission.refresh();
        assert!(admission.tenant(&bearer(key.expose())).is_ok(), "known before");
        assert_eq!(admission.tenant(&stranger).unwrap_err().reason(), "unavailable", "the broken file may know it");
        assert!(admission.status().1.unwrap().contains("keys.toml"));
    }

    #[test]
    fn a_change_of_the_file_takes_effect() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        let one = new_key(&path, "acme");
        let admission = Admission::new(path.clone(), DEFAULTS);
        let two = new_key(&path, "umbrella");
        file::revoke(&path, one.id(), SystemTime::now()).unwrap();
        admission.refresh();
        assert_eq!(admission.tenant(&bearer(one.expose())).unwrap_err().reason(), "unauthenticated");
        assert_eq!(&*admission.tenant(&bearer(two.expose())).unwrap().name, "umbrella");
    }

    #[test]
    fn a_quota_of_bytes_outlives_a_reload_and_can_be_raised() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        let key = new_key(&path, "acme");
        let field = |text: &str| [crate::administer::field(text).unwrap()];
        file::set_tenant(&path, "acme", &field("bytes_per_day=1000")).unwrap();
        let admission = Admission::new(path.clone(), DEFAULTS);
        let tenant = || admission.tenant(&bearer(key.expose())).unwrap();
        // 2024-02-28T23:00:00Z.
        let now = 1_709_161_200;
        tenant().account.add(now, Signal::Logs, None, Counts { bytes: 1_000, ..Counts::default() });
        file::set_tenant(&path, "acme", &field("retention_days=3")).unwrap();
        admission.refresh();
        let refusal = tenant().within_budget(now).unwrap_err();
        assert_eq!(refusal.retry_after(), Some(BUDGET_RETRY_AFTER_MAX));
        let message = "tenant acme has used the 1000 bytes that it may send a day; again after 2024-02-29T00:00:00Z";
        assert!(refusal.message().starts_with(message), "{}", refusal.message());
        assert_eq!(tenant().within_budget(now + 3_590).unwrap_err().retry_after(), Some(Duration::from_secs(10)));
        assert_eq!(tenant().within_budget(now + 3_600), Ok(()), "the next day");
        file::set_tenant(&path, "acme", &field("bytes_per_day=1001")).unwrap();
        admission.refresh();
        assert_eq!(tenant().within_budget(now + 1), Ok(()));
    }

    #[test]
    fn a_reload_gives_no_new_burst_and_changed_limits_hold() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        let key = new_key(&path, "acme");
        let admission = Admission::new(path.clone(), DEFAULTS);
        let tenant = || admission.tenant(&bearer(key.expose())).unwrap();
        assert_eq!(tenant().retention_days, 7);
        // Far into debt, so that no passing of time during the test fills it.
        assert!(tenant().take(1_000_000).is_ok());
        new_key(&path, "acme");
        admission.refresh();
        let refusal = tenant().take(1).unwrap_err();
        assert_eq!(refusal.reason(), "exhausted");
        assert!(refusal.retry_after().is_some());

        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}\n[tenants.acme]\nrecords_per_second = 0\nretention_days = 90\n"))
            .unwrap();
        admission.refresh();
        assert!(tenant().take(1_000_000).is_ok());
        assert_eq!(tenant().retention_days, 90);
    }
}
