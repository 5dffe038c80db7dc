//! One series and its open windows.
//!
//! Usually one window is open, and it has its place in the entry; at the turn of a window, and when samples come late, there are
//! more, aside. Invariant: every window that was opened is sent, or joins a run, exactly once.

use super::increase::Previous;
use super::run::Run;
use super::state::{Exemplars, MEASURED_BYTES, Measurement, Number, State, is_level};
use ollystack_record::otlp::metrics::v1::Exemplar;
use ollystack_record::{Series, Source};
use std::sync::Arc;

/// Windows of one series open at once: the current, the next, and some for late samples or changed histogram bounds. What comes
/// from yet another time goes into the nearest of them.
const WINDOWS_MAX: usize = 8;

/// What one window more takes, beside its state.
const ASIDE_BYTES: usize = size_of::<More>() + size_of::<(Window, Exemplars)>();

/// A series with what is open of it.
#[derive(Debug)]
pub(super) struct Entry {
    /// As it goes out.
    pub(super) series: Arc<Series>,
    /// Of cumulative series.
    pub(super) previous: Option<Previous>,
    pub(super) window: Option<Window>,
    pub(super) run: Run,
    pub(super) more: Option<Box<More>>,
    /// Their places in the table.
    pub(super) resource: u32,
    pub(super) metric: u32,
    /// When a sample last came, seconds by the agent's clock.
    pub(super) touched: u32,
    pub(super) source: Source,
    /// Takes the samples of series there is no room for.
    pub(super) overflow: bool,
}

/// An open window, [start, end).
#[derive(Debug)]
pub(super) struct Window {
    pub(super) start_unix_nano: u64,
    pub(super) end_unix_nano: u64,
    pub(super) state: State,
}

/// What few series have.
#[derive(Debug, Default)]
pub(super) struct More {
    /// Of the window in the entry.
    pub(super) exemplars: Exemplars,
    /// Further windows.
    pub(super) aside: Vec<(Window, Exemplars)>,
}

impl More {
    fn heap_bytes(&self) -> usize {
        let aside = self.aside.iter().map(|(window, exemplars)| window.state.heap_bytes() + exemplars.heap_bytes());
        size_of::<More>()
            + self.exemplars.heap_bytes()
            + self.aside.capacity() * size_of::<(Window, Exemplars)>()
            + aside.sum::<usize>()
    }
}

/// A window on its way out.
#[derive(Debug)]
pub(super) struct Closed {
    /// The places of its series, and of what it belongs to, in the table.
    pub(super) entry: u32,
    pub(super) resource: u32,
    pub(super) metric: u32,
    pub(super) window: Window,
    pub(super) exemplars: Exemplars,
}

impl Closed {
    /// What it takes aside.
    pub(super) fn heap_bytes(&self) -> usize {
        self.window.state.heap_bytes() + self.exemplars.heap_bytes()
    }
}

/// What became of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It opened a window: one more point waits.
    Opened,
    /// It was merged into one.
    Folded,
    /// There is no room for it, or the series has too many windows open, and none of them can take it.
    Refused,
    /// It is no measurement: bounds that do not ascend, counts that do not match them.
    Malformed,
}

/// One closing of windows.
#[derive(Debug)]
pub(super) struct Closing {
    pub(super) now: u64,
    /// How long a constant may be silent; 0: never.
    pub(super) constant: u64,
    pub(super) closed: Vec<Closed>,
    /// Windows that joined a run.
    pub(super) suppressed: u64,
}

impl Entry {
    pub(super) fn new(source: Source, resource: u32, metric: u32, series: Arc<Series>) -> Entry {
        Entry {
            series,
            previous: None,
            window: None,
            run: Run::default(),
            more: None,
            resource,
            metric,
            touched: 0,
            source,
            overflow: false,
        }
    }

    /// Points that will come of what is held.
    pub(super) fn waiting(&self) -> u64 {
        let aside = self.more.as_ref().map_or(0, |more| more.aside.len());
        u64::from(self.window.is_some()) + aside as u64 + u64::from(self.run.is_held())
    }

    /// What it holds aside: histograms, exemplars, further windows, a last total.
    pub(super) fn heap_bytes(&self) -> usize {
        let own = self.window.as_ref().map_or(0, |window| window.state.heap_bytes());
        let previous = self.previous.as_ref().map_or(0, Previous::heap_bytes);
        own + previous + self.more.as_ref().map_or(0, |more| more.heap_bytes())
    }

    /// Whether a window that ends then is open.
    pub(super) fn has_window(&self, end: u64) -> bool {
        let aside = self.more.iter().flat_map(|more| &more.aside).map(|(window, _)| window);
        self.window.iter().chain(aside).any(|window| window.end_unix_nano == end)
    }

    /// Fold a number into the window in the entry, if its time lies there: what nearly every sample does.
    #[inline]
    pub(super) fn fold_number(&mut self, value: Number, time_unix_nano: u64, level: bool) -> bool {
        let Some(window) = &mut self.window else { return false };
        if !(window.start_unix_nano..window.end_unix_nano).contains(&time_unix_nano) {
            return false;
        }
        match &mut window.state {
            State::Level(mine) if level => mine.add(value, time_unix_nano),
            State::Sum(mine) if !level => *mine = mine.plus(value),
            _ => return false,
        }
        true
    }

    /// Record a measurement in the exponential histogram of the window [start, end), taking no more than `room` for it.
    pub(super) fn measure(
        &mut self,
        start: u64,
        end: u64,
        scale: i32,
        measurement: &Measurement<'_>,
        room: usize,
    ) -> Taken {
        if let Some(Window { end_unix_nano, state: State::Exponential(histogram), .. }) = &mut self.window
            && *end_unix_nano == end
        {
            let before = histogram.heap_bytes();
            histogram.record(measurement.value, room);
            let left = room.saturating_sub(histogram.heap_bytes() - before);
            self.note(None, measurement, left);
            return Taken::Folded;
        }
        let mut histogram = super::exponential::Exponential::new(scale);
        histogram.record(measurement.value, usize::MAX);
        let before = self.heap_bytes();
        let (taken, place) = self.merge(start, end, State::Exponential(Box::new(histogram)), room);
        if taken != Taken::Refused {
            let left = (room + before).saturating_sub(self.heap_bytes());
            self.note(place, measurement, left);
        }
        taken
    }

    fn note(&mut self, place: Option<usize>, measurement: &Measurement<'_>, room: usize) {
        if self.more.is_some() || room >= size_of::<More>() + MEASURED_BYTES {
            self.exemplars(place).note(measurement, room);
        }
    }

    /// Fold a state into the window [start, end), taking no more than `room` for it.
    pub(super) fn fold(&mut self, start: u64, end: u64, state: State, exemplars: Vec<Exemplar>, room: usize) -> Taken {
        let before = self.heap_bytes();
        let (taken, place) = self.merge(start, end, state, room);
        if exemplars.is_empty() || taken == Taken::Refused {
            return taken;
        }
        let left = (room + before).saturating_sub(self.heap_bytes() + size_of::<More>());
        if self.more.is_some() || left > 0 {
            let kept = self.exemplars(place);
            exemplars.into_iter().for_each(|exemplar| kept.add(exemplar, left));
        }
        taken
    }

    /// Of a window aside, or of the entry's own.
    fn exemplars(&mut self, place: Option<usize>) -> &mut Exemplars {
        let More { exemplars, aside } = self.more.get_or_insert_default().as_mut();
        place.and_then(|at| aside.get_mut(at)).map_or(exemplars, |(_, exemplars)| exemplars)
    }

    /// What became of the state, and in which window aside it is, if it is not in the entry's own.
    fn merge(&mut self, start: u64, end: u64, state: State, room: usize) -> (Taken, Option<usize>) {
        let Some(window) = &mut self.window else {
            if state.heap_bytes() > room {
                return (Taken::Refused, None);
            }
            self.window = Some(Window { start_unix_nano: start, end_unix_nano: end, state });
            return (Taken::Opened, None);
        };
        let mut state = state;
        if window.end_unix_nano == end {
            state = match window.state.merge(state, room) {
                Ok(()) => return (Taken::Folded, None),
                Err(unlike) => unlike,
            };
        }
        let mut aside = self.more.as_mut().map(|more| &mut more.aside);
        let of_then = aside.iter_mut().flat_map(|aside| aside.iter_mut().enumerate());
        for (at, (window, _)) in of_then.filter(|(_, (window, _))| window.end_unix_nano == end) {
            state = match window.state.merge(state, room) {
                Ok(()) => return (Taken::Folded, Some(at)),
                Err(unlike) => unlike,
            };
        }
        let open = aside.map_or(0, |aside| aside.len());
        if open + 1 >= WINDOWS_MAX || ASIDE_BYTES + state.heap_bytes() > room {
            return self.merge_nearest(end, state, room);
        }
        let aside = &mut self.more.get_or_insert_default().aside;
        // Almost always the only one: no room for more is kept.
        aside.reserve_exact(1);
        aside.push((Window { start_unix_nano: start, end_unix_nano: end, state }, Exemplars::default()));
        (Taken::Opened, Some(aside.len() - 1))
    }

    /// Into the window whose end is nearest of those that can take the state: rather at another time than not at all.
    fn merge_nearest(&mut self, end: u64, mut state: State, room: usize) -> (Taken, Option<usize>) {
        let own = self.window.iter_mut().map(|window| (window, None));
        let aside = self.more.iter_mut().flat_map(|more| more.aside.iter_mut().enumerate());
        let mut all: Vec<_> = own.chain(aside.map(|(at, (window, _))| (window, Some(at)))).collect();
        all.sort_by_key(|(window, _)| window.end_unix_nano.abs_diff(end));
        for (window, place) in all {
            state = match window.state.merge(state, room) {
                Ok(()) => return (Taken::Folded, place),
                Err(unlike) => unlike,
            };
        }
        (Taken::Refused, None)
    }

    /// Close the windows whose end is `due`, the earliest first, and then the run if its end is `silent`.
    pub(super) fn close(
        &mut self,
        number: u32,
        due: impl Fn(u64) -> bool,
        silent: impl Fn(u64) -> bool,
        closing: &mut Closing,
    ) {
        let due = |window: &Window| due(window.end_unix_nano);
        if self.window.as_ref().is_some_and(&due)
            && let Some(window) = self.window.take()
        {
            let exemplars = self.more.as_mut().map(|more| std::mem::take(&mut more.exemplars)).unwrap_or_default();
            if self.more.as_ref().is_none_or(|more| more.aside.is_empty()) {
                self.settle(number, window, exemplars, closing);
            } else {
                let mut all = vec![(window, exemplars)];
                let aside = self.more.as_mut().map(|more| &mut more.aside);
                all.extend(aside.into_iter().flat_map(|aside| aside.extract_if(.., |(window, _)| due(window))));
                all.sort_by_key(|(window, _)| window.end_unix_nano);
                all.into_iter().for_each(|(window, exemplars)| self.settle(number, window, exemplars, closing));
            }
        } else if let Some(more) = &mut self.more {
            let aside: Vec<_> = more.aside.extract_if(.., |(window, _)| due(window)).collect();
            aside.into_iter().for_each(|(window, exemplars)| self.settle(number, window, exemplars, closing));
        }
        self.move_in();
        if self.run.is_held() && silent(self.run.end_unix_nano) {
            self.end_run(number, closing);
        }
    }

    /// Give the entry's own place to a window aside, and memory back that nothing needs.
    fn move_in(&mut self) {
        let Some(more) = &mut self.more else { return };
        if self.window.is_none() && !more.aside.is_empty() {
            let (window, exemplars) = more.aside.swap_remove(0);
            (self.window, more.exemplars) = (Some(window), exemplars);
        }
        if more.aside.is_empty() && more.exemplars.is_empty() {
            self.more = None;
        } else {
            more.aside.shrink_to_fit();
        }
    }

    /// A closed window goes out or joins the run.
    fn settle(&mut self, number: u32, mut window: Window, exemplars: Exemplars, closing: &mut Closing) {
        let start = window.start_unix_nano;
        window.end_unix_nano = window.end_unix_nano.min(closing.now.max(start.saturating_add(1)));
        let late = start < self.run.end_unix_nano;
        if closing.constant == 0 || late {
            self.send(number, window, exemplars, closing);
            return;
        }
        if !exemplars.is_empty() || !self.run.goes_on_with(&window, self.previous.as_ref()) {
            self.end_run(number, closing);
            self.run.sent(&window);
            self.send(number, window, exemplars, closing);
            return;
        }
        closing.suppressed += u64::from(self.run.is_held());
        self.run.hold(&window);
        if self.run.end_unix_nano - self.run.start_unix_nano >= closing.constant {
            self.end_run(number, closing);
        }
    }

    fn send(&self, entry: u32, window: Window, exemplars: Exemplars, closing: &mut Closing) {
        closing.closed.push(Closed { entry, resource: self.resource, metric: self.metric, window, exemplars });
    }

    fn end_run(&mut self, number: u32, closing: &mut Closing) {
        if let Some(window) = self.run.take(self.previous.as_ref(), is_level(self.series.metric.kind)) {
            self.send(number, window, Exemplars::default(), closing);
        }
    }
}

const _: () = assert!(
    size_of::<Option<Entry>>() <= 176,
    "20,000 series in 256 bytes each: the entry, its place in the index, and a last total beside it"
);
