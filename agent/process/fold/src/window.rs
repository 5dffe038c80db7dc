//! One series and its open windows.
//!
//! Usually one window is open; at the turn of a window, and when samples come late, several. Invariant: every window that was
//! opened is closed exactly once.

use super::increase::Previous;
use super::state::{Exemplars, State};
use ollystack_record::otlp::metrics::v1::Exemplar;
use ollystack_record::{Resource, Series, Source};
use std::sync::Arc;

/// Windows of one series open at once: the current, the next, and some for late samples or changed histogram bounds.
const WINDOWS_MAX: usize = 8;

/// A series with what is open of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) source: Source,
    pub(super) resource: Arc<Resource>,
    pub(super) series: Arc<Series>,
    /// Of cumulative series.
    pub(super) previous: Option<Box<Previous>>,
    pub(super) windows: Vec<Window>,
    /// Takes the samples of series there is no room for.
    pub(super) overflow: bool,
    /// When a sample last came, by the agent's clock.
    pub(super) touched_unix_nano: u64,
}

/// An open window, [start, end).
#[derive(Debug)]
pub(super) struct Window {
    pub(super) start_unix_nano: u64,
    pub(super) end_unix_nano: u64,
    pub(super) state: State,
    pub(super) exemplars: Exemplars,
}

/// A window on its way out.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) resource: Arc<Resource>,
    pub(super) series: Arc<Series>,
    pub(super) start_unix_nano: u64,
    pub(super) time_unix_nano: u64,
    pub(super) state: State,
    pub(super) exemplars: Vec<Exemplar>,
}

/// What became of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It opened a window: one more point waits.
    Opened,
    /// It was merged into one.
    Folded,
    /// The series has too many windows open.
    Refused,
}

impl Entry {
    pub(super) fn new(source: Source, resource: &Arc<Resource>, series: &Arc<Series>) -> Entry {
        Entry {
            source,
            resource: Arc::clone(resource),
            series: Arc::clone(series),
            previous: None,
            windows: Vec::new(),
            overflow: false,
            touched_unix_nano: 0,
        }
    }

    /// Fold a state into the window [start, end).
    pub(super) fn fold(&mut self, start: u64, end: u64, state: State, exemplars: Vec<Exemplar>) -> Taken {
        let mut state = Some(state);
        let mut place = None;
        for (at, window) in self.windows.iter_mut().enumerate().filter(|(_, w)| w.end_unix_nano == end) {
            let Some(coming) = state.take() else { break };
            match window.state.merge(coming) {
                Ok(()) => place = Some(at),
                Err(other) => state = Some(other),
            }
        }
        let taken = match (state, place) {
            (None, _) => Taken::Folded,
            (Some(_), _) if self.windows.len() >= WINDOWS_MAX => return Taken::Refused,
            (Some(state), _) => {
                place = Some(self.windows.len());
                // Almost always the only one: no room for more is kept.
                self.windows.reserve_exact(1);
                let exemplars = Exemplars::default();
                self.windows.push(Window { start_unix_nano: start, end_unix_nano: end, state, exemplars });
                Taken::Opened
            }
        };
        if let Some(window) = place.and_then(|at| self.windows.get_mut(at)) {
            exemplars.into_iter().for_each(|exemplar| window.exemplars.add(exemplar));
        }
        taken
    }

    /// Close the windows that `due` names; their points end no later than `now`.
    pub(super) fn close(&mut self, now: u64, due: impl Fn(&Window) -> bool, closed: &mut Vec<Closed>) {
        let mut at = 0;
        while at < self.windows.len() {
            if !due(&self.windows[at]) {
                at += 1;
                continue;
            }
            let window = self.windows.swap_remove(at);
            closed.push(Closed {
                resource: Arc::clone(&self.resource),
                series: Arc::clone(&self.series),
                start_unix_nano: window.start_unix_nano,
                time_unix_nano: window.end_unix_nano.min(now.max(window.start_unix_nano.saturating_add(1))),
                state: window.state,
                exemplars: window.exemplars.into_vec(),
            });
        }
    }
}
