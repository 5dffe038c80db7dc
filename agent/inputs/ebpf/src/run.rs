//! The loop of the input: drain the rings every few milliseconds, hand in every now and then.
//!
//! The kernel wakes it only when a ring is a quarter full: a wake-up costs the traced program more than the record itself.
//! Invariant: one round drains at most [`ROUND_MAX`] records a ring before others get their turn, however fast the kernel
//! writes.

use crate::Around;
use crate::config::Config;
use crate::flow::Flows;
use crate::host::{epoch_offset_ns, monotonic_ns};
use crate::load::{Features, Loaded};
use crate::process::ProcessEvents;
use crate::processes::Processes;
use crate::profile;
use crate::stats::{Stats, add};
use crate::tcp::Tcp;
use crate::tls::{LOOK_EVERY, Tls};
use ollystack_ebpf::{flow, process, tcp};
use ollystack_record::{DropReason, Intake, Level, Lines, Resource, Signal};
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
    flows: Flows,
    tcp: Tcp,
    process: ProcessEvents,
    lines: Arc<Lines>,
    /// Whether lines are told of.
    is_following: bool,
    ring_bytes: usize,
    intake: Intake,
    stats: Arc<Stats>,
}

/// Drain and hand in until `stop`.
pub(crate) async fn run(
    config: &Config,
    features: Features,
    resource: Arc<Resource>,
    intake: Intake,
    around: Around,
    stop: CancellationToken,
    stats: Arc<Stats>,
) {
    let now_ns = monotonic_ns() + epoch_offset_ns();
    let mut input = Input {
        features,
        processes: Processes::new(Arc::clone(&resource), config.processes_max).among(around.peers),
        flows: Flows::new(config.connections_max).telling(Arc::clone(&around.lines)),
        tcp: Tcp::new(config.tcp_series_max, now_ns),
        process: ProcessEvents::new(resource, config.process_events_per_second_max, now_ns),
        lines: Arc::clone(&around.lines),
        is_following: false,
        ring_bytes: config.ring_bytes as usize,
        intake,
        stats,
    };
    let rings = input.features.rings();
    let tls = input.features.tls.take().map(|tls| tokio::spawn(follow(tls, stop.clone(), Arc::clone(&input.stats))));
    let profile = input.features.signals.take_profile().map(|profile| {
        let processes = Processes::new(Arc::clone(input.processes.host()), config.processes_max);
        tokio::spawn(profile::follow(profile, processes, input.intake.clone(), stop.clone()))
    });
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
            () = around.lines.asked() => input.drain_all().await,
            _ = hand_in.tick() => {
                input.hand_in();
                input.follow_lines().await;
            }
            _ = metrics.tick() => input.measure(),
        }
    }
    while input.drain() {}
    around.lines.rest();
    input.hand_in();
    input.measure();
    // What they have under way ends first.
    for task in tls.into_iter().chain(profile) {
        let _ = task.await;
    }
    if let Some(lines) = input.features.lines.take() {
        lines.end().await;
    }
    // The kernel makes sure of each probe of TLS that nobody is in it any more: seconds in all, for which nobody else waits.
    let _ = tokio::task::spawn_blocking(move || drop(input)).await;
}

/// Look for TLS every now and then, until `stop`.
async fn follow(mut tls: Tls, stop: CancellationToken, stats: Arc<Stats>) {
    let mut look = interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = look.tick() => {}
        }
        let looked = tokio::task::spawn_blocking(move || {
            let change = tls.look();
            (tls, change)
        });
        let Ok((back, change)) = looked.await else { return };
        tls = back;
        stats.set_tls(tls.probed(), tls.told());
        for file in change.probed {
            tracing::info!(file = %file.display(), "TLS of this file is seen into");
        }
        for file in change.left {
            tracing::info!(file = %file.display(), "nobody runs this file any more: its TLS is left alone");
        }
        for file in change.too_hot {
            tracing::warn!(
                file = %file.display(),
                "a process makes too many TLS calls to be watched: left alone for ten minutes; raise \
                 ebpf.tls_calls_per_second_max to see them at their cost"
            );
        }
    }
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
            // Nobody waits for what may take seconds.
            self.lines.rest();
            return add(&self.stats.drains_put_off, 1);
        }
        let begun = monotonic_ns() + epoch_offset_ns();
        while self.drain() {
            tokio::task::yield_now().await;
        }
        if self.is_following {
            self.lines.told_until(begun);
        }
    }

    /// Look at the lines of those who serve.
    async fn follow_lines(&mut self) {
        let Some(lines) = &mut self.features.lines else { return };
        let (loggers, is_any_believed) = self.flows.loggers(monotonic_ns(), &self.processes);
        let is_following = lines.follow(if is_any_believed { &loggers } else { &[] }).await;
        if self.is_following && !is_following {
            self.lines.rest();
        }
        self.is_following = is_following;
    }

    /// One round; whether a ring may still hold something.
    fn drain(&mut self) -> bool {
        let offset_ns = epoch_offset_ns();
        let Input { features, processes, flows, tcp, process, stats, intake, ring_bytes, .. } = self;
        let heads = intake.pressure().level() < Level::Lean;
        // Starts first: a process that runs another program is then named anew.
        let processes_read = drain(features.process.as_mut(), |record| {
            if let Some(number) = process.take(record, offset_ns) {
                processes.changed(number);
            }
        });
        let tcp_read = drain(features.tcp.as_mut(), |record| tcp.take(record, processes));
        let mut bytes_read = 0;
        let flows_read = drain(features.requests.as_mut(), |record| {
            bytes_read += record.len();
            flows.take(record, heads, offset_ns, processes);
        });
        // Lines are left out where more than half of the ring waits.
        if bytes_read * 2 > *ring_bytes {
            flows.missed_lines(monotonic_ns());
        }
        features.signals.drain(offset_ns, processes);
        add(&stats.process_events, processes_read as u64);
        add(&stats.tcp_events, tcp_read as u64);
        add(&stats.flow_events, flows_read as u64);
        if flows.is_full() {
            flows.hand_in(&self.intake, stats);
        }
        [processes_read, tcp_read, flows_read].contains(&ROUND_MAX)
    }

    fn hand_in(&mut self) {
        self.flows.hand_in(&self.intake, &self.stats);
        self.process.hand_in(&self.intake);
        self.features.signals.hand_in(&self.intake);
    }

    /// Counters, and the account of what was lost.
    fn measure(&mut self) {
        let now_ns = monotonic_ns();
        self.flows.settle(now_ns, epoch_offset_ns(), &mut self.processes, &self.intake, &self.stats);
        self.stats.set_processes(self.processes.seen());
        self.stats.set_doubts(self.lines.doubts());
        let epoch_ns = now_ns + epoch_offset_ns();
        for batch in self.tcp.read(epoch_ns).into_iter().chain(self.process.read(epoch_ns)) {
            self.intake.offer(batch);
        }
        let kills_lost = self.features.signals.read(epoch_ns, self.processes.host(), &self.intake);
        let lose = |signal, records: u64| {
            add(&self.stats.ring_failures, records);
            self.intake.ledger().seen(signal, records);
            self.intake.ledger().dropped(signal, DropReason::KernelRingFull, records);
        };
        lose(Signal::Logs, kills_lost);
        if let Some(loaded) = &mut self.features.process {
            let losses = loaded.losses();
            lose(Signal::Logs, losses[process::loss::EXEC as usize] + losses[process::loss::EXIT as usize]);
        }
        if let Some(loaded) = &mut self.features.tcp {
            lose(Signal::Metrics, loaded.losses()[tcp::loss::EVENT as usize]);
        }
        if let Some(loaded) = &mut self.features.requests {
            let losses = loaded.losses();
            // A lost request is a lost span. A lost answer shows as a gap, and the request before it is counted then.
            lose(Signal::Traces, losses[flow::loss::REQUEST as usize]);
            let others = [flow::loss::RESPONSE, flow::loss::CLOSE, flow::loss::GIVEN_UP];
            let others = others.iter().map(|loss| losses[*loss as usize]).sum();
            add(&self.stats.ring_failures, others);
            add(&self.stats.heads_cut, losses[flow::loss::HEAD_CUT as usize]);
            add(&self.stats.lines_missed, losses[flow::loss::LINE as usize]);
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
            flows: Flows::new(16),
            tcp: Tcp::new(16, 0),
            process: ProcessEvents::new(Arc::default(), 1, 0),
            lines: Arc::default(),
            is_following: false,
            ring_bytes: 1 << 20,
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
