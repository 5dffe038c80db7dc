//! The patterns held: found by signature, forgotten when there is no room.
//!
//! Tokens of new patterns come in, ids go out. What is used seldom goes first: a hand goes round over the patterns, takes one from
//! each one's credit of uses and forgets the one that has none left (CLOCK with counters, after Corbató). Invariants: each pattern
//! is in the table under its signature and in the bucket of its length; what is held stays within [`Config`].

use crate::scan::{BYTES_MAX, TOKENS_MAX, Token, signature};
use crate::{Config, PatternId};
use hashbrown::{HashMap, HashTable};
use std::collections::VecDeque;
use std::mem::size_of;

/// Credit that uses add up to: a pattern that was used as often outlasts as many rounds of the hand.
const USES_MAX: u8 = 3;

/// Sets of learned wildcards among patterns of one length: each costs a probe when a signature is new.
const MASKS_MAX: usize = 64;

/// Signatures seen lately take at most one of this many parts of the memory.
const RECENT_SHARE: usize = 16;

/// Slots are added by as many: doubling would overshoot the limit.
const SLOTS_STEP: usize = 64;

const WILDCARD: &str = "<*>";

/// Where a pattern is held.
pub(crate) type Slot = u32;

/// One pattern.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub(crate) id: PatternId,
    pub(crate) tokens: Box<[Token]>,
    /// The positions that became wildcards by evidence.
    pub(crate) learned: u128,
    pub(crate) sketch: Sketch,
    signature: u64,
    /// The template; the tokens' offsets are into it.
    text: Box<str>,
    /// Index within its bucket.
    place: u32,
    uses: u8,
}

impl Pattern {
    /// The template.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    fn vary(&mut self, mask: u128) {
        for position in positions(mask) {
            self.tokens[position] = self.tokens[position].varied();
        }
        self.learned |= mask;
        self.signature = signature(&self.tokens);
        self.sketch = Sketch::of(&self.tokens);
        (self.text, self.tokens) = render(&self.text, &self.tokens);
    }

    fn heap_bytes(&self) -> usize {
        size_of::<Token>() * self.tokens.len() + self.text.len()
    }
}

/// Eight bytes in place of a pattern's tokens: as many tokens differ at least as bytes of this do.
///
/// Values of keys are left out, as any number of them may differ.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sketch(u64);

impl Sketch {
    pub(crate) fn of(tokens: &[Token]) -> Sketch {
        let mut lanes = [0_u8; 8];
        for (position, token) in tokens.iter().enumerate().filter(|(_, token)| !token.is_value()) {
            let lane = &mut lanes[position % 8];
            *lane = lane.wrapping_mul(31).wrapping_add((token.hash >> 8) as u8);
        }
        Sketch(u64::from_ne_bytes(lanes))
    }

    /// In how many bytes two sketches differ, at most eight; counted in all bytes at once.
    #[inline]
    pub(crate) fn differing(self, other: Sketch) -> u64 {
        const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
        const ONES: u64 = 0x0101_0101_0101_0101;
        let different = self.0 ^ other.0;
        let high = (((different & LOW) + LOW) | different) & !LOW;
        (high >> 7).wrapping_mul(ONES) >> 56
    }
}

/// Patterns of one length.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    pub(crate) patterns: Vec<(Slot, Sketch)>,
    /// The sets of learned wildcards among them, and how many have each.
    masks: Vec<(u128, u32)>,
}

/// A signature seen lately, and the pattern that it is of.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    signature: u64,
    slot: Slot,
    /// The low half of the pattern's id, as the slot may be another's by now.
    id: u32,
}

#[derive(Debug)]
pub(crate) struct Store {
    config: Config,
    slots: Vec<Option<Pattern>>,
    free: Vec<Slot>,
    by_signature: HashTable<Slot>,
    by_id: HashMap<PatternId, Slot>,
    buckets: Vec<Bucket>,
    /// Direct-mapped by signature.
    recent: Box<[Recent]>,
    merged: HashMap<PatternId, PatternId>,
    /// The keys of `merged`, oldest first.
    merged_order: VecDeque<PatternId>,
    hand: usize,
    heap_bytes: usize,
    last_id: u64,
    forgotten: u64,
}

impl Store {
    pub(crate) fn new(config: Config) -> Store {
        let patterns_max = config.patterns_max.clamp(1, 1 << 24);
        let recent = (config.bytes_max / RECENT_SHARE / size_of::<Recent>()).clamp(1, patterns_max.next_power_of_two());
        let recent = 1 << recent.ilog2();
        Store {
            config: Config { patterns_max, ..config },
            slots: Vec::new(),
            free: Vec::new(),
            by_signature: HashTable::new(),
            by_id: HashMap::new(),
            buckets: (0..=TOKENS_MAX).map(|_| Bucket::default()).collect(),
            recent: vec![Recent::default(); recent].into_boxed_slice(),
            merged: HashMap::new(),
            merged_order: VecDeque::new(),
            hand: 0,
            heap_bytes: 0,
            last_id: 0,
            forgotten: 0,
        }
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&Pattern> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(crate) fn bucket(&self, length: usize) -> &Bucket {
        &self.buckets[length]
    }

    /// The pattern of a message whose signature was seen lately, or is a pattern's own.
    #[inline]
    pub(crate) fn recall(&mut self, signature: u64) -> Option<PatternId> {
        let Recent { signature: found, slot, id } = self.recent[signature as usize & (self.recent.len() - 1)];
        if found == signature
            && let Some(pattern) = self.slots.get_mut(slot as usize).and_then(Option::as_mut)
            && pattern.id.0 as u32 == id
        {
            pattern.uses = USES_MAX.min(pattern.uses + 1);
            return Some(pattern.id);
        }
        let slot = self.find(signature)?;
        self.used(signature, slot)
    }

    /// The pattern that these tokens are of by a wildcard that was learned.
    ///
    /// Each set of wildcards is tried by what the signature would be (tuple space search, after Srinivasan et al.).
    pub(crate) fn recognise(&mut self, tokens: &[Token], signature: u64) -> Option<PatternId> {
        let slot = self.buckets[tokens.len()].masks.iter().find_map(|&(mask, _)| {
            let masked = positions(mask).fold(signature, |sum, position| {
                let token = tokens[position];
                sum.wrapping_sub(token.share(position)).wrapping_add(token.varied().share(position))
            });
            self.find(masked).filter(|&slot| self.get(slot).is_some_and(|pattern| pattern.learned == mask))
        })?;
        self.used(signature, slot)
    }

    fn find(&self, signature: u64) -> Option<Slot> {
        let is = |&slot: &Slot| self.get(slot).is_some_and(|pattern| pattern.signature == signature);
        self.by_signature.find(signature, is).copied()
    }

    fn used(&mut self, signature: u64, slot: Slot) -> Option<PatternId> {
        let pattern = self.slots.get_mut(slot as usize)?.as_mut()?;
        pattern.uses = USES_MAX.min(pattern.uses + 1);
        let at = signature as usize & (self.recent.len() - 1);
        self.recent[at] = Recent { signature, slot, id: pattern.id.0 as u32 };
        Some(pattern.id)
    }

    /// Hold a new pattern, forgetting others if there is no room.
    pub(crate) fn insert(&mut self, message: &str, tokens: &[Token], signature: u64) -> PatternId {
        let (text, tokens) = render(message, tokens);
        let needed = text.len() + size_of::<Token>() * tokens.len();
        while self.len() >= self.config.patterns_max
            || self.bytes() + needed + self.growth(tokens.len()) > self.config.bytes_max
        {
            let Some(slot) = self.least_used() else { break };
            self.take(slot);
            self.forgotten += 1;
        }
        self.last_id += 1;
        let id = PatternId(self.last_id);
        let sketch = Sketch::of(&tokens);
        self.put(Pattern { id, tokens, learned: 0, sketch, signature, text, place: 0, uses: 1 });
        id
    }

    /// Make the positions of `mask` wildcards in these patterns, all of one length; those that are then the same become one.
    ///
    /// Returns those that changed. Nothing happens when there are too many sets of wildcards already.
    pub(crate) fn vary(&mut self, ids: &[PatternId], mask: u128) -> Vec<PatternId> {
        let mut changed = Vec::new();
        for id in ids {
            let Some(&slot) = self.by_id.get(id) else { continue };
            let length = self.get(slot).map_or(0, |pattern| pattern.tokens.len());
            if self.buckets[length].masks.len() >= MASKS_MAX {
                continue;
            }
            let Some(mut pattern) = self.take(slot) else { continue };
            let before = pattern.signature;
            pattern.vary(mask);
            let is_varied = pattern.signature != before;
            let same = self.find(pattern.signature).and_then(|slot| self.take(slot));
            let is_changed = is_varied || same.is_some();
            if let Some(other) = same {
                pattern = self.merge(pattern, other);
            }
            if is_changed {
                changed.push(pattern.id);
            }
            self.put(pattern);
        }
        changed
    }

    /// One of two patterns that have become the same: the older, under both ids.
    fn merge(&mut self, one: Pattern, other: Pattern) -> Pattern {
        let (mut kept, gone) = if one.id < other.id { (one, other) } else { (other, one) };
        kept.learned |= gone.learned;
        kept.uses = kept.uses.max(gone.uses);
        // Old enough names are forgotten, like patterns.
        let growth = 2 * table_growth(self.merged.len(), self.merged.capacity(), self.merged.allocation_size());
        if (self.merged.len() >= self.config.patterns_max || self.bytes() + growth > self.config.bytes_max)
            && let Some(oldest) = self.merged_order.pop_front()
        {
            self.merged.remove(&oldest);
        }
        self.merged.insert(gone.id, kept.id);
        self.merged_order.push_back(gone.id);
        kept
    }

    fn put(&mut self, mut pattern: Pattern) {
        self.heap_bytes += pattern.heap_bytes();
        let slot = self.free.pop().unwrap_or_else(|| {
            if self.slots.len() == self.slots.capacity() {
                self.slots.reserve_exact(SLOTS_STEP);
                self.free.reserve_exact(self.slots.capacity());
            }
            self.slots.push(None);
            (self.slots.len() - 1) as Slot
        });
        let bucket = &mut self.buckets[pattern.tokens.len()];
        pattern.place = bucket.patterns.len() as u32;
        bucket.patterns.push((slot, pattern.sketch));
        if pattern.learned != 0 {
            match bucket.masks.iter_mut().find(|(mask, _)| *mask == pattern.learned) {
                Some((_, patterns)) => *patterns += 1,
                None => bucket.masks.push((pattern.learned, 1)),
            }
        }
        self.by_id.insert(pattern.id, slot);
        let signature = pattern.signature;
        self.slots[slot as usize] = Some(pattern);
        let slots = &self.slots;
        self.by_signature.insert_unique(signature, slot, |&slot| signature_in(slots, slot));
    }

    fn take(&mut self, slot: Slot) -> Option<Pattern> {
        let pattern = self.slots.get_mut(slot as usize)?.take()?;
        if let Ok(entry) = self.by_signature.find_entry(pattern.signature, |&found| found == slot) {
            entry.remove();
        }
        let bucket = &mut self.buckets[pattern.tokens.len()];
        bucket.patterns.swap_remove(pattern.place as usize);
        if let Some(&(moved, _)) = bucket.patterns.get(pattern.place as usize)
            && let Some(moved) = self.slots[moved as usize].as_mut()
        {
            moved.place = pattern.place;
        }
        if let Some(at) = bucket.masks.iter().position(|(mask, _)| *mask == pattern.learned) {
            bucket.masks[at].1 -= 1;
            if bucket.masks[at].1 == 0 {
                bucket.masks.remove(at);
            }
        }
        self.by_id.remove(&pattern.id);
        self.free.push(slot);
        self.heap_bytes -= pattern.heap_bytes();
        Some(pattern)
    }

    /// Go round over the patterns, taking credit, until one has none.
    fn least_used(&mut self) -> Option<Slot> {
        for _ in 0..self.slots.len() * (1 + usize::from(USES_MAX)) {
            self.hand = (self.hand + 1) % self.slots.len();
            if let Some(pattern) = &mut self.slots[self.hand] {
                if pattern.uses == 0 {
                    return Some(self.hand as Slot);
                }
                pattern.uses -= 1;
            }
        }
        None
    }

    pub(crate) fn resolve(&self, mut id: PatternId) -> PatternId {
        // Each step leads to a smaller id.
        while let Some(&kept) = self.merged.get(&id) {
            id = kept;
        }
        id
    }

    pub(crate) fn by_id(&self, id: PatternId) -> Option<&Pattern> {
        self.get(*self.by_id.get(&self.resolve(id))?)
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Bytes by which tables may grow when one more pattern of this length is held.
    fn growth(&self, length: usize) -> usize {
        let step = SLOTS_STEP * (size_of::<Option<Pattern>>() + size_of::<Slot>());
        let slots = if self.free.is_empty() && self.slots.len() == self.slots.capacity() { step } else { 0 };
        let by_id = table_growth(self.by_id.len(), self.by_id.capacity(), self.by_id.allocation_size());
        let table = &self.by_signature;
        let by_signature = table_growth(table.len(), table.capacity(), table.allocation_size());
        let bucket = &self.buckets[length].patterns;
        let allocated = bucket.capacity() * size_of::<(Slot, Sketch)>();
        slots + by_id + by_signature + table_growth(bucket.len(), bucket.capacity(), allocated)
    }

    pub(crate) fn bytes(&self) -> usize {
        let tables = self.by_signature.allocation_size() + self.by_id.allocation_size() + self.merged.allocation_size();
        let slots = self.slots.capacity() * size_of::<Option<Pattern>>() + self.free.capacity() * size_of::<Slot>();
        let recent = self.recent.len() * size_of::<Recent>();
        let order = self.merged_order.capacity() * size_of::<PatternId>();
        let buckets = self.buckets.iter().map(Bucket::bytes).sum::<usize>();
        size_of::<Store>() + tables + slots + recent + order + buckets + self.heap_bytes
    }
}

impl Bucket {
    fn bytes(&self) -> usize {
        size_of::<Bucket>()
            + self.patterns.capacity() * size_of::<(Slot, Sketch)>()
            + self.masks.capacity() * size_of::<(u128, u32)>()
    }
}

/// Bytes that come on top when one more entry makes a table or a vector double.
fn table_growth(len: usize, capacity: usize, allocated: usize) -> usize {
    const FIRST: usize = 256;
    if len == capacity { allocated.max(FIRST) } else { 0 }
}

fn signature_in(slots: &[Option<Pattern>], slot: Slot) -> u64 {
    slots.get(slot as usize).and_then(Option::as_ref).map_or(0, |pattern| pattern.signature)
}

/// The positions in a set of them.
pub(crate) fn positions(mut mask: u128) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let position = (mask != 0).then_some(mask.trailing_zeros() as usize)?;
        mask &= mask - 1;
        Some(position)
    })
}

/// The template of a message, and the tokens as they are in it: one space for several, `<*>` for each wildcard.
fn render(message: &str, tokens: &[Token]) -> (Box<str>, Box<[Token]>) {
    let mut text = String::with_capacity(message.len().min(BYTES_MAX));
    let tokens = tokens.iter().map(|token| {
        if token.is_spaced() && !text.is_empty() {
            text.push(' ');
        }
        let start = text.len();
        text.push_str(if token.is_wildcard() { WILDCARD } else { token.text(message) });
        token.at(start, text.len())
    });
    let tokens = tokens.collect();
    (text.into_boxed_str(), tokens)
}
