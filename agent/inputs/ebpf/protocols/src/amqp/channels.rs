//! What is known of a connection's channels: which confirm, who consumes from what, which messages came back.
//!
//! Invariant: at most [`CHANNELS_MAX`] channels that confirm, [`CONSUMERS_MAX`] consumers and [`RETURNED_MAX`] returned messages are
//! kept; past it the oldest is forgotten, and what it would have told is unknown.

use super::parse::Destination;
use crate::WAITING_MAX;
use std::collections::VecDeque;
use std::ops::RangeInclusive;

const CHANNELS_MAX: usize = 64;
const CONSUMERS_MAX: usize = 16;
const RETURNED_MAX: usize = 16;

/// The channels of a connection.
#[derive(Debug, Default)]
pub(super) struct Channels {
    confirming: VecDeque<Confirming>,
    consumers: VecDeque<(u16, u64, Box<str>)>,
    returned: VecDeque<(u16, u16, u64)>,
}

/// Messages on a channel are counted from one, from the moment on that confirms were asked for.
#[derive(Debug)]
struct Confirming {
    channel: u16,
    /// Tags from `oldest` to before `next` wait.
    oldest: u64,
    next: u64,
}

impl Channels {
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn held_bytes(&self) -> usize {
        let queues: usize = self.consumers.iter().map(|(.., queue)| queue.len()).sum();
        let confirming = self.confirming.capacity() * size_of::<Confirming>();
        let consumers = self.consumers.capacity() * size_of::<(u16, u64, Box<str>)>();
        confirming + consumers + queues + self.returned.capacity() * size_of::<(u16, u16, u64)>()
    }

    /// Messages may have been missed: counts are not right any more.
    pub(super) fn lose(&mut self) {
        self.confirming.clear();
        self.returned.clear();
    }

    /// The channel is new, or at its end.
    pub(super) fn forget(&mut self, channel: u16) {
        self.confirming.retain(|it| it.channel != channel);
        self.consumers.retain(|(of, ..)| *of != channel);
        self.returned.retain(|(of, ..)| *of != channel);
    }

    /// From now on the broker confirms; asked again it goes on counting.
    pub(super) fn confirm(&mut self, channel: u16) {
        if self.confirming.iter().all(|it| it.channel != channel) {
            push(&mut self.confirming, Confirming { channel, oldest: 1, next: 1 }, CHANNELS_MAX);
        }
    }

    /// The tag of a message that is being published, if it will be confirmed.
    pub(super) fn next_tag(&mut self, channel: u16) -> Option<u64> {
        let confirming = self.confirming.iter_mut().find(|it| it.channel == channel)?;
        confirming.next += 1;
        Some(confirming.next - 1)
    }

    /// Messages that the broker speaks of: one, or all up to it; tag 0 means all there are.
    pub(super) fn settled(&mut self, channel: u16, tag: u64, is_multiple: bool) -> RangeInclusive<u64> {
        let none = RangeInclusive::new(1, 0);
        let Some(it) = self.confirming.iter_mut().find(|it| it.channel == channel) else { return none };
        let last = if tag == 0 { it.next - 1 } else { tag };
        if last >= it.next {
            return none;
        }
        let first = if is_multiple { it.oldest } else { last };
        if is_multiple {
            it.oldest = it.oldest.max(last + 1);
        }
        // No more than that can wait.
        first.max((last + 1).saturating_sub(WAITING_MAX as u64))..=last
    }

    /// A message came back; `false` if its channel does not confirm, so that nothing waits for it.
    pub(super) fn returned(&mut self, channel: u16, code: u16, destination: Option<&Destination>) -> bool {
        let Some(destination) = destination.filter(|_| self.confirming.iter().any(|it| it.channel == channel)) else {
            return false;
        };
        push(&mut self.returned, (channel, code, hash(destination.name.as_bytes())), RETURNED_MAX);
        true
    }

    /// Why a message to there came back, once for each.
    pub(super) fn take_returned(&mut self, channel: u16, destination: Option<&Destination>) -> Option<u16> {
        let name = hash(destination?.name.as_bytes());
        let place = self.returned.iter().position(|(of, _, to)| (*of, *to) == (channel, name))?;
        self.returned.remove(place).map(|(_, code, _)| code)
    }

    /// A consumer of a queue.
    pub(super) fn consume(&mut self, channel: u16, consumer: &[u8], queue: Option<Box<str>>) {
        if let Some(queue) = queue {
            push(&mut self.consumers, (channel, hash(consumer), queue), CONSUMERS_MAX);
        }
    }

    /// The queue of a consumer.
    pub(super) fn queue(&self, channel: u16, consumer: &[u8]) -> Option<&str> {
        let consumer = hash(consumer);
        self.consumers.iter().rev().find(|(of, it, _)| (*of, *it) == (channel, consumer)).map(|(.., queue)| &**queue)
    }
}

fn push<T>(queue: &mut VecDeque<T>, value: T, max: usize) {
    if queue.len() == max {
        queue.pop_front();
    }
    queue.push_back(value);
}

/// FNV-1a: a clash would at most name another queue of the same connection.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirms_speak_of_one_message_or_of_all_before() {
        let mut channels = Channels::default();
        assert_eq!(channels.next_tag(1), None, "nobody asked for confirms");
        channels.confirm(1);
        for tag in 1..=9 {
            assert_eq!(channels.next_tag(1), Some(tag));
        }
        channels.confirm(1);
        let mut settled = |tag, is_multiple| channels.settled(1, tag, is_multiple).collect::<Vec<_>>();
        assert_eq!(settled(2, false), [2]);
        assert_eq!(settled(3, true), [1, 2, 3]);
        assert_eq!(settled(5, true), [4, 5]);
        assert_eq!(settled(u64::MAX, true), [0; 0], "never published");
        assert_eq!(settled(0, true), [6, 7, 8, 9]);
    }

    #[test]
    fn a_broker_that_confirms_a_million_does_not_take_a_million_steps() {
        let mut channels = Channels::default();
        channels.confirm(1);
        for _ in 0..1_000 {
            channels.next_tag(1);
        }
        assert_eq!(channels.settled(1, 1_000, true).count(), WAITING_MAX);
    }

    #[test]
    fn tables_are_bounded_and_the_oldest_goes() {
        let mut channels = Channels::default();
        for channel in 0..500 {
            channels.confirm(channel);
            channels.consume(channel, b"tag", Some("queue".into()));
        }
        assert_eq!((channels.next_tag(0), channels.next_tag(499)), (None, Some(1)));
        assert_eq!((channels.queue(0, b"tag"), channels.queue(499, b"tag")), (None, Some("queue")));
        channels.forget(499);
        assert_eq!((channels.next_tag(499), channels.queue(499, b"tag")), (None, None));
    }
}
