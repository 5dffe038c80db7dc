//! The follower: reads what journalctl prints, hands batches in, and starts it again when it ends.
//!
//! Entries gather until there are enough or none comes for a moment; while memory or CPU press they stay in the journal. Invariant: no more than `batches_in_flight_max` batches are
//! on their way to processing; what is not handed in stays in the journal.

use crate::commit::Commits;
use crate::cursor::{Place, Store};
use crate::entry::Entry;
use crate::gather::{Gathered, Resources};
use crate::journalctl::{From, Journalctl, Line};
use crate::stats::Stats;
use crate::{Config, Error, StartAt};
use ollystack_record::otlp::common::v1::InstrumentationScope;
use ollystack_record::otlp::logs::v1::{LogRecord, ScopeLogs};
use ollystack_record::{Afterwork, Batch, DropReason, Intake, Records, Resource, Signal, Source};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A batch is handed in when nothing came for so long, or so long after its first entry.
const QUIET: Duration = Duration::from_millis(100);
const GATHER_MAX: Duration = Duration::from_secs(1);

/// The cursor is written, and synced, no more often than this.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// First pause before journalctl is started again; doubles up to the longest while it gives nothing.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

pub(crate) struct Follower {
    config: Config,
    intake: Intake,
    stats: Arc<Stats>,
    commits: Commits,
    resources: Resources,
    gathered: Gathered,
    from: From,
    /// The last entry that was handed in.
    place: Option<Place>,
    save: Instant,
}

/// Why journalctl is read no more.
enum Ended {
    Stop,
    /// It ended, after so many entries.
    Itself {
        complaint: String,
        entries: u64,
    },
}

impl Follower {
    /// Find the place to go on from.
    pub(crate) async fn new(
        config: Config,
        state_dir: &Path,
        host: Arc<Resource>,
        intake: Intake,
        stats: Arc<Stats>,
    ) -> Result<Follower, Error> {
        let state = |source| Error::State { path: state_dir.to_owned(), source };
        let store = Store::new(state_dir).map_err(state)?;
        let mut place = store.load().map_err(state)?;
        let mut commits = Commits::new(store, Arc::clone(&stats));
        if place.is_none() && config.start_at == StartAt::End {
            place = last_place(&config).await?;
        }
        if let Some(place) = &place {
            commits.handed_in(place.clone());
            commits.save().await;
        }
        Ok(Follower {
            intake: intake.limited(config.batches_in_flight_max),
            config,
            stats,
            commits,
            resources: Resources::new(host),
            gathered: Gathered::default(),
            from: place.clone().map_or(From::Beginning, From::At),
            place,
            save: Instant::now(),
        })
    }

    /// Until `stop`. What was handed in by then is still to be settled.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<Commits, Error> {
        let mut pause = PAUSE;
        loop {
            let (complaint, entries) = match self.read(&stop).await? {
                Ended::Stop => return Ok(self.commits),
                Ended::Itself { complaint, entries } => (complaint, entries),
            };
            if entries > 0 {
                pause = PAUSE;
            }
            let is_news = self.stats.read().last_error != complaint;
            self.stats.update(|stats| {
                stats.restarts += 1;
                stats.last_error.clone_from(&complaint);
            });
            if is_news {
                tracing::warn!(complaint, "journalctl ended and is started again, from where it was");
            }
            self.from = match (&self.place, &self.from) {
                (Some(place), From::At(_)) if entries == 0 && complaint.contains("cursor") => {
                    self.stats.update(|stats| stats.places_lost += 1);
                    tracing::warn!("the journal does not know its cursor any more: it is read from that second on");
                    From::Around(place.clone())
                }
                // Its cursor was refused, and nothing came since.
                (Some(place), From::Around(_)) if entries == 0 => From::Around(place.clone()),
                (Some(place), _) => From::At(place.clone()),
                (None, _) => From::Beginning,
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(self.commits),
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One life of journalctl.
    async fn read(&mut self, stop: &CancellationToken) -> Result<Ended, Error> {
        let mut journalctl =
            Journalctl::start(&self.config, &self.from).map_err(|source| Error::start(&self.config, source))?;
        let (mut entries, mut is_first) = (0, true);
        loop {
            let pause = self.intake.pressure().pause();
            let mut due = self.due();
            if !pause.is_zero() {
                due = due.min(Instant::now() + pause);
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(Ended::Stop),
                verdict = self.commits.next() => self.commits.settle(verdict, false),
                () = tokio::time::sleep_until(due) => {}
                line = journalctl.next(), if pause.is_zero() => match line {
                    Ok(Some(Line::Entry(entry))) => {
                        entries += u64::from(self.take(*entry, std::mem::take(&mut is_first)));
                    }
                    Ok(Some(Line::Junk)) => self.malformed(),
                    Ok(None) => break,
                    Err(_) => break,
                },
            }
            if !self.on_time(stop).await {
                return Ok(Ended::Stop);
            }
        }
        if !self.hand_in(stop).await {
            return Ok(Ended::Stop);
        }
        Ok(Ended::Itself { complaint: journalctl.complaint().await, entries })
    }

    /// False if it was read before.
    fn take(&mut self, mut entry: Entry, is_first: bool) -> bool {
        let place = Place { cursor: std::mem::take(&mut entry.cursor.0), time_unix_nano: entry.time_unix_nano() };
        match &self.from {
            From::At(known) if is_first && known.cursor == place.cursor => return false,
            From::At(_) if is_first => {
                self.stats.update(|stats| stats.places_lost += 1);
                tracing::warn!(
                    "the entry to go on from is not in the journal any more: it goes on with the next one there is"
                );
            }
            // Only what leads up to it: entries of a clock that was set back since are news.
            From::Around(known) if place.time_unix_nano < known.time_unix_nano || place.cursor == known.cursor => {
                return false;
            }
            From::Around(known) if place.time_unix_nano > known.time_unix_nano => self.from = From::At(place.clone()),
            _ => {}
        }
        self.stats.update(|stats| stats.entries += 1);
        self.gathered.note(place, Instant::now());
        if entry.message.0.is_empty() || self.config.exclude_units.contains(&entry.unit.0) {
            self.stats.update(|stats| stats.passed_over += 1);
            return true;
        }
        let bytes_max = self.config.message_bytes_max;
        if entry.is_cut {
            // The beginning is handed in as a record; the end is one more, and lost.
            self.lost();
            self.stats.update(|stats| stats.messages_cut += 1);
        }
        let resource = self.resources.of(&entry);
        self.gathered.take(entry, resource, unix_nanos(), bytes_max);
        true
    }

    fn malformed(&mut self) {
        self.lost();
        self.stats.update(|stats| stats.malformed += 1);
    }

    fn lost(&self) {
        self.intake.ledger().seen(Signal::Logs, 1);
        self.intake.ledger().dropped(Signal::Logs, DropReason::Malformed, 1);
    }

    fn due(&self) -> Instant {
        let far = Instant::now() + PAUSE_MAX;
        let gathered = self.gathered.since.map_or(far, |(first, last)| (last + QUIET).min(first + GATHER_MAX));
        if self.commits.is_unsaved { gathered.min(self.save) } else { gathered }
    }

    /// False if it is to stop.
    async fn on_time(&mut self, stop: &CancellationToken) -> bool {
        let now = Instant::now();
        let is_due = self.gathered.since.is_some_and(|(first, last)| now >= (last + QUIET).min(first + GATHER_MAX));
        if (is_due || self.gathered.is_full(self.config.batch_records_max)) && !self.hand_in(stop).await {
            return false;
        }
        if self.commits.is_unsaved && now >= self.save {
            self.save = now + COMMIT_EVERY;
            self.commits.end_group();
            self.commits.save().await;
        }
        true
    }

    /// False if it is to stop; what was not handed in by then is read again.
    async fn hand_in(&mut self, stop: &CancellationToken) -> bool {
        let mut gathered = std::mem::take(&mut self.gathered);
        let Some(place) = gathered.place.take() else { return true };
        for (resource, log_records) in gathered.into_batches() {
            let slot = tokio::select! {
                biased;
                slot = self.intake.reserve(log_records.len() as u64) => slot,
                () = stop.cancelled() => return false,
            };
            let Ok(slot) = slot else { return false };
            self.stats.update(|stats| stats.records += log_records.len() as u64);
            let records = Records::Logs(vec![scope(log_records)]);
            slot.send(Batch { source: Source::Logs, resource, records, ack: self.commits.ack() });
        }
        self.commits.handed_in(place.clone());
        self.place = Some(place);
        true
    }
}

/// Save the cursor as the last verdicts arrive; what is not settled when they are given up is read again after the restart.
pub(crate) async fn settle(mut commits: Commits, after: Afterwork) {
    commits.end();
    while !commits.is_settled() {
        tokio::select! {
            biased;
            verdict = commits.next() => commits.settle(verdict, true),
            () = after.given_up() => {
                tracing::warn!("stopped before all journal entries were settled: they are read again");
                break;
            }
        }
    }
    commits.save().await;
}

/// Of the last entry there is.
async fn last_place(config: &Config) -> Result<Option<Place>, Error> {
    let start = |source| Error::start(config, source);
    let mut journalctl = Journalctl::start(config, &From::Last).map_err(start)?;
    let mut place = None;
    while let Some(line) = journalctl.next().await.map_err(start)? {
        if let Line::Entry(entry) = line {
            place = Some(Place { time_unix_nano: entry.time_unix_nano(), cursor: entry.cursor.0 });
        }
    }
    Ok(place)
}

fn scope(log_records: Vec<LogRecord>) -> ScopeLogs {
    let scope = InstrumentationScope {
        name: env!("CARGO_PKG_NAME").to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    ScopeLogs { scope: Some(scope), log_records, ..ScopeLogs::default() }
}

fn unix_nanos() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
