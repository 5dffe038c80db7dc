//! Series that found no room, and where their samples go.
//!
//! They come again and again, and to say as what one would go out (rules, redaction) takes far longer than to fold it. By hash, one
//! place each, so that series without end push each other out and nothing grows. Invariant: what is remembered is forgotten whenever
//! a series goes or room may have come.

/// A series, and where its samples go.
type Remembered = Option<(u64, Option<u32>)>;

/// The part of the folder's bytes that may be taken, and only once a limit was reached: at 6.75 MiB 4,608 series.
const SHARE: usize = 64;

/// All of them.
#[derive(Debug)]
pub(super) struct Past {
    places: Box<[Remembered]>,
    most: usize,
}

impl Past {
    /// Of a folder that may hold so many bytes.
    pub(super) fn new(bytes_max: usize) -> Past {
        Past { places: Box::default(), most: (bytes_max / SHARE / size_of::<Remembered>()).max(1) }
    }

    /// The series that takes the samples of this one, or none; if that is known.
    pub(super) fn get(&self, hash: u64) -> Option<Option<u32>> {
        let (found, entry) = (*self.places.get(hash as usize % self.most)?)?;
        (found == hash).then_some(entry)
    }

    pub(super) fn remember(&mut self, hash: u64, entry: Option<u32>) {
        if self.places.is_empty() {
            self.places = vec![None; self.most].into_boxed_slice();
        }
        self.places[hash as usize % self.most] = Some((hash, entry));
    }

    pub(super) fn forget(&mut self) {
        self.places = Box::default();
    }

    /// What it may take.
    pub(super) fn bytes_max(&self) -> usize {
        self.most * size_of::<Remembered>()
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.places[..])
    }
}
