//! What requests in progress hold: bytes and a place each, of what all may hold and of what their caller may.
//!
//! A server has one [`Allowance`] for all; a service may give each caller one of its own, so that nobody takes what others need.
//! Invariant: a [`Share`], and the [`Held`] parted from it, give back exactly what they took when they are dropped, whatever became of
//! their request.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// So many bytes and requests may be in progress at a time. Clones are the same allowance.
#[derive(Clone, Debug)]
pub struct Allowance(Arc<Gauges>);

#[derive(Debug)]
struct Gauges {
    bytes: Gauge,
    requests: Gauge,
}

#[derive(Debug)]
struct Gauge {
    used: AtomicUsize,
    max: usize,
}

impl Gauge {
    fn new(max: usize) -> Gauge {
        Gauge { used: AtomicUsize::new(0), max }
    }

    fn take(&self, amount: usize) -> bool {
        let add = |used: usize| used.checked_add(amount).filter(|sum| *sum <= self.max);
        self.used.fetch_update(Relaxed, Relaxed, add).is_ok()
    }

    fn give_back(&self, amount: usize) {
        self.used.fetch_sub(amount, Relaxed);
    }
}

impl Allowance {
    /// All of it free.
    pub fn new(bytes_max: usize, requests_max: usize) -> Allowance {
        Allowance(Arc::new(Gauges { bytes: Gauge::new(bytes_max), requests: Gauge::new(requests_max) }))
    }

    /// Bytes and requests that are held now.
    pub fn used(&self) -> (usize, usize) {
        (self.0.bytes.used.load(Relaxed), self.0.requests.used.load(Relaxed))
    }
}

/// Why a share did not grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// Others hold it now.
    Now(Busy),
    /// More than there is at all.
    Ever,
}

/// Which allowance is used up for the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// The bytes that all requests share.
    Bytes,
    /// The places that all requests share.
    Requests,
    /// The bytes of this caller.
    CallerBytes,
    /// The places of this caller.
    CallerRequests,
}

impl Busy {
    /// Snake-case name for counters.
    pub fn name(self) -> &'static str {
        match self {
            Busy::Bytes => "bytes_in_flight",
            Busy::Requests => "requests_in_flight",
            Busy::CallerBytes => "caller_bytes_in_flight",
            Busy::CallerRequests => "caller_requests_in_flight",
        }
    }

    /// What the sender is told. Of others it learns nothing but that there are some.
    pub(crate) fn message(self) -> &'static str {
        match self {
            Busy::Bytes => "too many bytes of requests are in progress here; try again",
            Busy::Requests => "too many requests are in progress here; try again",
            Busy::CallerBytes => "too many bytes of your requests are in progress; try again, or send less at a time",
            Busy::CallerRequests => "too many of your requests are in progress; try again, or send fewer at a time",
        }
    }
}

/// A place of one request, and what it holds.
#[derive(Debug)]
pub(crate) struct Share(Held);

/// Bytes that are held, given back when this is dropped. The default holds none, of nobody.
#[derive(Debug, Default)]
pub struct Held {
    /// The caller's own, and that of all.
    own: Option<Allowance>,
    all: Option<Allowance>,
    bytes: usize,
}

impl Share {
    /// A place for one request, without bytes yet.
    pub(crate) fn new(all: &Allowance, own: Option<&Allowance>) -> Result<Share, NoRoom> {
        if own.is_some_and(|own| !own.0.requests.take(1)) {
            return Err(NoRoom::Now(Busy::CallerRequests));
        }
        if !all.0.requests.take(1) {
            own.inspect(|own| own.0.requests.give_back(1));
            return Err(NoRoom::Now(Busy::Requests));
        }
        Ok(Share(Held { own: own.cloned(), all: Some(all.clone()), bytes: 0 }))
    }

    /// Leave all but `bytes` to whoever has the message now. The place stays here, with the request.
    pub(crate) fn part(&mut self, bytes: usize) -> Held {
        let rest = self.0.bytes.saturating_sub(bytes);
        self.0.bytes -= rest;
        Held { own: self.0.own.clone(), all: self.0.all.clone(), bytes: rest }
    }
}

impl Deref for Share {
    type Target = Held;
    fn deref(&self) -> &Held {
        &self.0
    }
}

impl DerefMut for Share {
    fn deref_mut(&mut self) -> &mut Held {
        &mut self.0
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.allowances().for_each(|allowance| allowance.0.requests.give_back(1));
    }
}

impl Held {
    /// Hold `bytes` more.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let sum = self.bytes.saturating_add(bytes);
        if self.allowances().any(|allowance| sum > allowance.0.bytes.max) {
            return Err(NoRoom::Ever);
        }
        if self.own.as_ref().is_some_and(|own| !own.0.bytes.take(bytes)) {
            return Err(NoRoom::Now(Busy::CallerBytes));
        }
        if self.all.as_ref().is_some_and(|all| !all.0.bytes.take(bytes)) {
            self.own.iter().for_each(|own| own.0.bytes.give_back(bytes));
            return Err(NoRoom::Now(Busy::Bytes));
        }
        self.bytes = sum;
        Ok(())
    }

    /// Give a vector more room. While it moves, the old room and the new one are both held, as both are there.
    pub(crate) fn enlarge(&mut self, vector: &mut Vec<u8>, capacity: usize) -> Result<(), NoRoom> {
        let old = vector.capacity();
        self.grow(capacity)?;
        vector.reserve_exact(capacity - vector.len());
        self.shrink(old);
        Ok(())
    }

    /// Hold `bytes` less.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.allowances().for_each(|allowance| allowance.0.bytes.give_back(bytes));
    }

    fn allowances(&self) -> impl Iterator<Item = &Allowance> {
        self.own.iter().chain(&self.all)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.allowances().for_each(|allowance| allowance.0.bytes.give_back(self.bytes));
    }
}

#[cfg(test)]
impl Share {
    /// Of an allowance of its own.
    pub(crate) fn of(bytes_max: usize) -> Share {
        Share::new(&Allowance::new(bytes_max, 1), None).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_held_is_free_once_it_is_gone() {
        let all = Allowance::new(10, 2);
        let mut one = Share::new(&all, None).unwrap();
        let mut two = Share::new(&all, None).unwrap();
        assert_eq!(Share::new(&all, None).unwrap_err(), NoRoom::Now(Busy::Requests));
        assert_eq!(one.grow(7), Ok(()));
        assert_eq!(two.grow(4), Err(NoRoom::Now(Busy::Bytes)));
        assert_eq!(two.grow(11), Err(NoRoom::Ever));
        one.shrink(2);
        assert_eq!(two.grow(4), Ok(()));
        drop(one);
        assert_eq!(two.grow(6), Ok(()));
        drop(two);
        assert_eq!(all.used(), (0, 0));
    }

    #[test]
    fn what_a_message_holds_outlives_its_request_or_is_given_back_before_it() {
        let (all, own) = (Allowance::new(10, 2), Allowance::new(10, 2));
        let [mut one, mut two] = [(); 2].map(|()| Share::new(&all, Some(&own)).unwrap());
        assert_eq!((one.grow(6), two.grow(4)), (Ok(()), Ok(())));
        drop(one.part(1));
        assert_eq!((all.used(), own.used()), ((5, 2), (5, 2)), "the place is kept, and a byte");
        let held = two.part(1);
        drop((one, two));
        assert_eq!((all.used(), own.used()), ((3, 0), (3, 0)));
        drop(held);
        assert_eq!((all.used(), own.used()), ((0, 0), (0, 0)));
    }

    #[test]
    fn a_caller_that_has_its_fill_leaves_the_rest_to_others() {
        let (all, own, other) = (Allowance::new(100, 10), Allowance::new(40, 2), Allowance::new(40, 2));
        let mut one = Share::new(&all, Some(&own)).unwrap();
        let mut two = Share::new(&all, Some(&own)).unwrap();
        assert_eq!(Share::new(&all, Some(&own)).unwrap_err(), NoRoom::Now(Busy::CallerRequests));
        assert_eq!(one.grow(30), Ok(()));
        assert_eq!(two.grow(20), Err(NoRoom::Now(Busy::CallerBytes)));
        assert_eq!(two.grow(41), Err(NoRoom::Ever), "more than its caller may ever hold");
        assert_eq!(Share::new(&all, Some(&other)).unwrap().grow(40), Ok(()));
        drop((one, two));
        assert_eq!((all.used(), own.used(), other.used()), ((0, 0), (0, 0), (0, 0)));
    }

    #[test]
    fn a_refusal_by_all_gives_back_what_the_caller_had_given() {
        let (all, own) = (Allowance::new(10, 1), Allowance::new(10, 10));
        let mut one = Share::new(&all, None).unwrap();
        assert_eq!(one.grow(6), Ok(()));
        assert_eq!(Share::new(&all, Some(&own)).unwrap_err(), NoRoom::Now(Busy::Requests));
        assert_eq!(own.used(), (0, 0));
        let all = Allowance::new(10, 2);
        let (mut one, mut two) = (Share::new(&all, None).unwrap(), Share::new(&all, Some(&own)).unwrap());
        assert_eq!((one.grow(6), two.grow(5)), (Ok(()), Err(NoRoom::Now(Busy::Bytes))));
        assert_eq!(own.used(), (0, 1));
    }
}
