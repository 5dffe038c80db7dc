//! Which words of known patterns are values after all: shown by the number of other words in their place.
//!
//! From patterns of one length that differ in few positions to the positions that vary. How many distinct words it takes depends on
//! what is around them; a word where others have a wildcard needs no more than that one. What patterns share must outweigh
//! what they differ in, or unrelated short messages would become one. Invariant: what is looked at for one message is bounded.

use crate::PatternId;
use crate::scan::Token;
use crate::store::{Store, positions};

/// Distinct words in one place: fewer are verbs or states of a few related messages, each a pattern of its own.
const VALUES_MIN: usize = 5;

/// After "user", "host" and the like.
const VALUES_AFTER_ROLE_MIN: usize = 3;

/// With a wildcard among them: a number in the same place says that it is a value.
const VALUES_WITH_WILDCARD_MIN: usize = 2;

/// Among many combinations of values.
const VALUES_OF_COMBINATIONS_MIN: usize = 2;

/// At the beginning, where messages name what they are about, and little else is shared.
const SUBJECTS_MIN: usize = 12;

/// Shared words from which on the first word is as any other.
const SHARED_FOR_SUBJECT_MIN: usize = 3;

/// Patterns that differ in nothing but values of keys: more than these, and two values of a key suffice, as combinations of few
/// values would else be without end.
const COMBINATIONS_MAX: usize = 32;

/// Positions in which two patterns may differ and be instances of one; any number if all are values of keys.
const DIFFERENCES_MAX: usize = 4;

/// The latest patterns of one length that a new one is compared with.
const COMPARED_MAX: usize = 512;

/// The positions that turned out to vary, and the patterns that showed it.
pub(crate) fn weigh(store: &Store, id: PatternId) -> Option<(u128, Vec<PatternId>)> {
    let pattern = store.by_id(id)?;
    let tokens = &pattern.tokens;
    let mut differing: Vec<(u128, &[Token], PatternId)> = Vec::new();
    let known = &store.bucket(tokens.len()).patterns;
    for &(slot, sketch) in &known[known.len().saturating_sub(COMPARED_MAX)..] {
        if sketch.differing(pattern.sketch) > DIFFERENCES_MAX as u64 {
            continue;
        }
        let Some(other) = store.get(slot).filter(|other| other.id != id) else { continue };
        let Some((mask, values_only)) = differences(tokens, &other.tokens) else { continue };
        if values_only {
            // Keys are independent of each other.
            differing.extend(positions(mask).map(|position| (1 << position, &*other.tokens, other.id)));
        } else {
            differing.push((mask, &other.tokens, other.id));
        }
    }
    differing.sort_unstable_by_key(|(mask, _, id)| (*mask, *id));
    let groups = differing.chunk_by(|a, b| a.0 == b.0);
    let varying = groups.filter_map(|group| Some((evidence(tokens, group)?, group)));
    let (_, group) = varying.max_by_key(|(evidence, _)| *evidence)?;
    let mut ids: Vec<PatternId> = group.iter().map(|(_, _, id)| *id).collect();
    ids.push(id);
    Some((group[0].0, ids))
}

/// Where two patterns of one length differ, and whether all of that are values of keys; none if that is too much.
fn differences(one: &[Token], other: &[Token]) -> Option<(u128, bool)> {
    let (mut mask, mut count, mut words) = (0_u128, 0, 0);
    for (position, (a, b)) in one.iter().zip(other).enumerate() {
        if a.hash == b.hash {
            continue;
        }
        if !a.may_vary() || !b.may_vary() || a.is_spaced() != b.is_spaced() {
            return None;
        }
        mask |= 1 << position;
        count += 1;
        words += usize::from(!a.is_value());
        if words > 0 && count > DIFFERENCES_MAX {
            return None;
        }
    }
    (count > 0).then_some((mask, words == 0))
}

/// How many distinct words the patterns of `group` have in the positions in which they all differ from `tokens`; none if that
/// does not suffice.
fn evidence(tokens: &[Token], group: &[(u128, &[Token], PatternId)]) -> Option<usize> {
    let mask = group.first()?.0;
    let is_shared = |(position, token): &(usize, &Token)| mask >> position & 1 == 0 && token.is_constant_word();
    let shared = tokens.iter().enumerate().filter(is_shared).count();
    if shared + 1 < 2 * mask.count_ones() as usize {
        return None;
    }
    let mut total = 0;
    for position in positions(mask) {
        let mut words: Vec<Token> = group.iter().map(|(_, tokens, _)| tokens[position]).collect();
        words.push(tokens[position]);
        let with_wildcard = words.iter().any(|word| word.is_wildcard());
        words.sort_unstable_by_key(|word| word.hash);
        words.dedup_by_key(|word| word.hash);
        let needed = match tokens[position] {
            _ if with_wildcard && (position > 0 || shared >= 2) => VALUES_WITH_WILDCARD_MIN,
            _ if position == 0 && shared < SHARED_FOR_SUBJECT_MIN => SUBJECTS_MIN,
            token if token.is_value() && group.len() >= COMBINATIONS_MAX => VALUES_OF_COMBINATIONS_MIN,
            token if token.is_after_role() => VALUES_AFTER_ROLE_MIN,
            _ => VALUES_MIN,
        };
        if words.len() < needed {
            return None;
        }
        total += words.len();
    }
    Some(total)
}
