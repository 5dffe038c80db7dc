//! The open windows of all resources, and what they hold together.
//!
//! A window is taken out to put lines into it, and put back. Invariant: the sums are those of the windows that are in, so that
//! neither a batch nor a tick goes over the windows unless one of them is due.

use crate::window::{Terms, Window};
use hashbrown::HashMap;
use ollystack_record::Resource;
use std::sync::Arc;

/// Whose lines a window holds: of this resource, from sources that can wait for a whole window or from those that cannot.
pub(crate) type Of = (Arc<Resource>, bool);

/// Which windows close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// Those whose time has come.
    Due,
    /// Those of patient sources, too.
    Patient,
    All,
}

/// What windows hold.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    pub(crate) bytes: usize,
    /// Records that wait.
    pub(crate) waiting: u64,
    /// Batches whose acknowledgement waits with them, and those among them from patient sources.
    pub(crate) batches: usize,
    pub(crate) batches_patient: usize,
}

/// All windows.
#[derive(Debug)]
pub(crate) struct Windows {
    by_source: HashMap<Of, Window>,
    held: Held,
    /// When the next of them closes.
    due: u64,
    /// When it was last asked what is due.
    asked: u64,
    /// How long a window stays open, in nanoseconds: of patient sources, and of those that wait for an answer.
    open_for: [u64; 2],
}

impl Windows {
    pub(crate) fn new(patient: u64, answer: u64) -> Windows {
        let held = Held::default();
        Windows { by_source: HashMap::new(), held, due: u64::MAX, asked: 0, open_for: [patient, answer] }
    }

    /// The window of these lines, perhaps a new one. It does not count until it is put back.
    pub(crate) fn take_out(&mut self, of: &Of) -> Window {
        let Some(window) = self.by_source.remove(of) else { return Window::new(&of.0) };
        self.held.remove(of.1, &window);
        window
    }

    /// Put a window back, unless there is nothing in it.
    pub(crate) fn put_back(&mut self, of: Of, window: Window) {
        if window.is_empty() {
            return;
        }
        self.held.add(of.1, &window);
        self.due = self.due.min(self.closes(of.1, &window));
        self.by_source.insert(of, window);
    }

    /// Hand those that close to `close`, which empties them. A clock that was set back closes what was opened after it: it would
    /// stay open for that much longer.
    pub(crate) fn close(&mut self, now: u64, closing: Closing, mut close: impl FnMut(&Resource, &mut Window)) {
        let is_set_back = now < std::mem::replace(&mut self.asked, now);
        if closing == Closing::Due && now < self.due && !is_set_back {
            return;
        }
        (self.held, self.due) = (Held::default(), u64::MAX);
        let mut windows = std::mem::take(&mut self.by_source);
        for ((resource, is_patient), window) in &mut windows {
            let is_chosen = closing == Closing::All || (closing == Closing::Patient && *is_patient);
            let is_due = |opened| now >= self.closes(*is_patient, window) || now < opened;
            if window.opened().is_some_and(|opened| is_chosen || is_due(opened)) {
                close(resource, window);
            }
            self.held.add(*is_patient, window);
            self.due = self.due.min(self.closes(*is_patient, window));
        }
        self.by_source = windows;
    }

    /// Forget the patterns, and the windows, that were not seen in the period before.
    pub(crate) fn sweep(&mut self, now: u64, terms: Terms) {
        self.by_source.retain(|_, window| !window.sweep(now, terms));
        self.by_source.shrink_to_fit();
        self.held = Held::default();
        self.by_source.iter().for_each(|((_, is_patient), window)| self.held.add(*is_patient, window));
    }

    pub(crate) fn held(&self) -> Held {
        self.held
    }

    fn closes(&self, is_patient: bool, window: &Window) -> u64 {
        let [patient, answer] = self.open_for;
        let open_for = if is_patient { patient } else { answer };
        window.opened().map_or(u64::MAX, |opened| opened.saturating_add(open_for))
    }
}

impl Held {
    fn add(&mut self, is_patient: bool, window: &Window) {
        self.bytes += window.bytes();
        self.waiting += window.waiting();
        self.batches += window.batches();
        self.batches_patient += if is_patient { window.batches() } else { 0 };
    }

    fn remove(&mut self, is_patient: bool, window: &Window) {
        self.bytes -= window.bytes();
        self.waiting -= window.waiting();
        self.batches -= window.batches();
        self.batches_patient -= if is_patient { window.batches() } else { 0 };
    }
}
