//! The texts of a column of few values: each once, in the order in which they came.
//!
//! Invariant: an index that was given out stands for its text for as long as the dictionary lives.

use super::{put_text, take_text};
use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

/// What an entry takes beside its text: a place in each list and one in the table.
const ENTRY_BYTES: usize = 20;

#[derive(Debug, Default)]
pub(super) struct Dictionary {
    /// One after another, each behind its length.
    texts: Vec<u8>,
    /// Where each begins.
    starts: Vec<u32>,
    /// Indexes by text.
    table: HashTable<u32>,
    /// Which was asked for last, and for each which was asked for after it the last time: rows are alike, so that it mostly is again.
    last: u32,
    after: Vec<u32>,
}

impl Dictionary {
    /// The number of a text, which gets one if it has none.
    #[inline]
    pub(super) fn index(&mut self, text: &[u8]) -> u32 {
        let likely = self.after.get(self.last as usize).copied().unwrap_or_default();
        if self.text(likely) != Some(text) {
            let index = self.look_up(text);
            if let Some(after) = self.after.get_mut(self.last as usize) {
                *after = index;
            }
            self.last = index;
            return index;
        }
        self.last = likely;
        likely
    }

    #[inline]
    fn text(&self, index: u32) -> Option<&[u8]> {
        let start = *self.starts.get(index as usize)? as usize;
        let (length, rest) = self.texts.get(start..)?.split_first()?;
        // Longer ones have a longer length.
        if *length < 0x80 {
            rest.get(..usize::from(*length))
        } else {
            take_text(self.texts.get(start..)?).map(|(text, _)| text)
        }
    }

    fn look_up(&mut self, text: &[u8]) -> u32 {
        let hash = xxh3_64(text);
        if let Some(index) = self.table.find(hash, |index| self.text(*index) == Some(text)) {
            return *index;
        }
        // Chunks of rows are cut at some MiB: neither number comes near its end.
        let index = self.starts.len() as u32;
        self.starts.push(self.texts.len() as u32);
        put_text(&mut self.texts, text);
        self.after.push(index);
        let (texts, starts) = (&self.texts, &self.starts);
        let known =
            |index: &u32| starts.get(*index as usize).and_then(|start| take_text(texts.get(*start as usize..)?));
        self.table.insert_unique(hash, index, |index| known(index).map_or(0, |(text, _)| xxh3_64(text)));
        index
    }

    /// All, in order.
    pub(super) fn texts(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.texts.as_slice();
        std::iter::from_fn(move || {
            let (text, left) = take_text(rest)?;
            rest = left;
            Some(text)
        })
    }

    /// As they are written.
    pub(super) fn written(&self) -> &[u8] {
        &self.texts
    }

    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    /// Bytes that it takes.
    pub(super) fn size(&self) -> usize {
        self.texts.len() + self.len() * ENTRY_BYTES
    }
}
