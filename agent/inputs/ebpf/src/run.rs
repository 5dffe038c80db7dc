//! The loop of the input: drain the rings every few milliseconds, hand in every now and then.
//!
//! The kernel wakes it only when a ring is a quarter full: a wake-up costs the traced program more than the record itself.
//! Invariant: one round drains at most [`ROUND_MAX`] records a ring before others get their turn, however fast the kernel
//! writes.

use crate::config::Config;
use crate::host::{epoch_offset_ns, monotonic_ns};
use crate::http::Http;
use crate::load::{Features, Loaded};
use crate::process::ProcessEvents;
use crate::processes::Processes;
use crate::stats::{Stats, add};
use crate::tcp::Tcp;
use ollystack_ebpf::{http, process, tcp};
use ollystack_record::{DropReason, Intake, Level, Resource, Signal};
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};
use tokio_util::sync::CancellationToken;

/// Records of one ring in one round: a ring of 2 MB holds some 8,000 small ones.
const ROUND_MAX: usize = 8_192;
/// Spans and events wait no longer than this for company.
const HAND_IN: Duration = Duration::from_millis(250);

/// Everything that is kept between two rounds.
struct Input {
    features: Features,
    processes: Processes,
    http: Http,
    tcp: Tcp,
    process: ProcessEvents,
    intake: Intake,
    stats: Arc<Stats>,
}

/// Drain and hand in until `stop`.
pub(crate) async fn run(
    config: &Config,
    features: Features,
    resource: Arc<Resource>,
    intake: Intake,
    stop: CancellationToken,
    stats: Arc<Stats>,
) {
    let now_ns = monotonic_ns() + epoch_offset_ns();
    let mut input = Input {
        features,
        processes: Processes::new(Arc::clone(&resource), config.processes_max),
        http: Http::new(config.http_connections_max),
        tcp: Tcp::new(config.tcp_series_max, now_ns),
        process: ProcessEvents::new(resource, config.process_events_per_second_max, now_ns),
        intake,
        stats,
    };
    let rings = input.features.rings();
    let mut drain = interval(Duration::from_millis(config.drain_interval_ms));
    drain.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut hand_in = interval(HAND_IN);
    hand_in.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let metrics_every = Duration::from_millis(config.metrics_interval_ms);
    let mut metrics = interval_at(Instant::now() + metrics_every, metrics_every);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = drain.tick() => input.drain_all().await,
            () = filling(&rings), if input.may_drain() => input.drain_all().await,
            _ = hand_in.tick() => input.hand_in(),
            _ = metrics.tick() => input.measure(),
        }
    }
    while input.drain() {}
    input.hand_in();
    input.measure();
}

/// Wait until the kernel says that a ring is filling.
async fn filling(rings: &[AsyncFd<OwnedFd>]) {
    poll_fn(|context| {
        for ring in rings {
            if let Poll::Ready(Ok(mut guard)) = ring.poll_read_ready(context) {
                guard.clear_ready();
                return Poll::Ready(());
            }
        }
        Poll::Pending
    })
    .await;
}

impl Input {
    /// With so much CPU time used up that what can wait has long been waiting, the rings fill, and the kernel counts what does not fit.
    fn may_drain(&self) -> bool {
        !self.intake.pressure().is_overdrawn()
    }

    async fn drain_all(&mut self) {
        if !self.may_drain() {
            return add(&self.stats.drains_put_off, 1);
        }
        while self.drain() {
            tokio::task::yield_now().await;
        }
    }

    /// One round; whether a ring may still hold something.
    fn drain(&mut self) -> bool {
        let offset_ns = epoch_offset_ns();
        let Input { features, processes, http, tcp, process, stats, intake } = self;
        let heads = intake.pressure().level() < Level::Lean;
        // Starts first: a process that runs another program is then named anew.
        let processes_read = drain(features.process.as_mut(), |record| {
            if let Some(number) = process.take(record, offset_ns) {
                processes.changed(number);
            }
        });
        let tcp_read = drain(features.tcp.as_mut(), |record| tcp.take(record, processes));
        let http_read = drain(features.http.as_mut(), |record| http.take(record, heads, offset_ns, processes));
        add(&stats.process_events, processes_read as u64);
        add(&stats.tcp_events, tcp_read as u64);
        add(&stats.http_events, http_read as u64);
        if http.is_full() {
            http.hand_in(&self.intake, stats);
        }
        [processes_read, tcp_read, http_read].contains(&ROUND_MAX)
    }

    fn hand_in(&mut self) {
        self.http.hand_in(&self.intake, &self.stats);
        self.process.hand_in(&self.intake);
    }

    /// Counters, and the account of what was lost.
    fn measure(&mut self) {
        let now_ns = monotonic_ns();
        self.http.settle(now_ns, &self.intake, &self.stats);
        let epoch_ns = now_ns + epoch_offset_ns();
        for batch in self.tcp.read(epoch_ns).into_iter().chain(self.process.read(epoch_ns)) {
            self.intake.offer(batch);
        }
        let lose = |signal, records: u64| {
            add(&self.stats.ring_failures, records);
            self.intake.ledger().seen(signal, records);
            self.intake.ledger().dropped(signal, DropReason::KernelRingFull, records);
        };
        if let Some(loaded) = &mut self.features.process {
            let losses = loaded.losses();
            lose(Signal::Logs, losses[process::loss::EXEC as usize] + losses[process::loss::EXIT as usize]);
        }
        if let Some(loaded) = &mut self.features.tcp {
            lose(Signal::Metrics, loaded.losses()[tcp::loss::EVENT as usize]);
        }
        if let Some(loaded) = &mut self.features.http {
            let losses = loaded.losses();
            // A lost request is a lost span. A lost answer shows as a gap, and the request behind it is counted then.
            lose(Signal::Traces, losses[http::loss::REQUEST as usize]);
            let others = losses[http::loss::RESPONSE as usize] + losses[http::loss::CLOSE as usize];
            add(&self.stats.ring_failures, others);
            add(&self.stats.http_heads_cut, losses[http::loss::HEAD_CUT as usize]);
        }
    }
}

fn drain(feature: Option<&mut Loaded>, mut take: impl FnMut(&[u8])) -> usize {
    let Some(feature) = feature else { return 0 };
    let mut count = 0;
    while count < ROUND_MAX
        && let Some(record) = feature.records.next()
    {
        take(&record);
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::Pressure;

    #[tokio::test]
    async fn rings_are_left_alone_while_too_much_cpu_time_is_used_up() {
        let pressure = Arc::new(Pressure::default());
        let intake = Intake::new(8, 100, Arc::default()).0.under(Arc::clone(&pressure));
        let mut input = Input {
            features: Features::default(),
            processes: Processes::new(Arc::default(), 16),
            http: Http::new(16),
            tcp: Tcp::new(16, 0),
            process: ProcessEvents::new(Arc::default(), 1, 0),
            intake,
            stats: Arc::default(),
        };
        pressure.rest(Duration::from_millis(100));
        input.drain_all().await;
        assert_eq!(input.stats.read().drains_put_off, 0, "events cannot wait as long as the rest can");
        pressure.rest(Duration::from_secs(60));
        input.drain_all().await;
        assert_eq!(input.stats.read().drains_put_off, 1);
    }
}
