//! Numbered places for values, in chunks.
//!
//! One `Vec` of all values would copy itself to twice its size when it is full; of chunks only the last one grows. Invariant: a
//! number stands for one value from its insertion until its removal, and is used again after that.

/// Values of one chunk.
const CHUNK: usize = 256;

/// The places.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
    len: usize,
    /// That the chunks have memory for.
    places: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { chunks: Vec::new(), free: Vec::new(), len: 0, places: 0 }
    }
}

impl<T> Slab<T> {
    /// Values held.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether half of the memory would do.
    pub(crate) fn is_sparse(&self) -> bool {
        self.len.div_ceil(CHUNK) * 2 < self.chunks.len()
    }

    /// Bytes of the places, without what the values point to.
    pub(crate) fn bytes(&self) -> usize {
        self.places * size_of::<Option<T>>()
            + self.free.capacity() * size_of::<u32>()
            + self.chunks.capacity() * size_of::<Vec<Option<T>>>()
    }

    /// Bytes by which the places grow at most when a value is inserted.
    pub(crate) fn growth(&self) -> usize {
        if self.free.is_empty() { CHUNK * size_of::<Option<T>>() } else { 0 }
    }

    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if let Some(number) = self.free.pop() {
            if let Some(place) = self.place(number) {
                *place = Some(value);
            }
            return number;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            // Grows as it fills: most metrics and resources are few.
            self.chunks.push(Vec::new());
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let Some(chunk) = self.chunks.last_mut() else { return 0 };
        self.places -= chunk.capacity();
        chunk.push(Some(value));
        self.places += chunk.capacity();
        (before + chunk.len() - 1) as u32
    }

    pub(crate) fn remove(&mut self, number: u32) -> Option<T> {
        let value = self.place(number)?.take()?;
        self.len -= 1;
        self.free.push(number);
        Some(value)
    }

    #[inline]
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        self.chunks.get(number as usize / CHUNK)?.get(number as usize % CHUNK)?.as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.place(number)?.as_mut()
    }

    #[inline]
    fn place(&mut self, number: u32) -> Option<&mut Option<T>> {
        self.chunks.get_mut(number as usize / CHUNK)?.get_mut(number as usize % CHUNK)
    }

    /// All values, in the order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let places = self.chunks.iter().flatten().enumerate();
        places.filter_map(|(number, place)| Some((number as u32, place.as_ref()?)))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        let places = self.chunks.iter_mut().flatten().enumerate();
        places.filter_map(|(number, place)| Some((number as u32, place.as_mut()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_given_back_is_used_again_and_no_other_moves() {
        let mut slab = Slab::default();
        let numbers: Vec<u32> = (0..600).map(|value| slab.insert(value)).collect();
        assert_eq!(slab.remove(numbers[300]), Some(300));
        assert_eq!(slab.remove(300), None);
        assert_eq!((slab.get(300), slab.len()), (None, 599));
        assert_eq!(slab.insert(7), 300);
        assert_eq!(
            (slab.get(299), slab.get(300), slab.get(599), slab.get(600)),
            (Some(&299), Some(&7), Some(&599), None)
        );
        assert_eq!((slab.iter().count(), slab.chunks.len(), slab.is_sparse()), (600, 3, false));
        numbers[100..].iter().for_each(|number| assert!(slab.remove(*number).is_some()));
        assert!(slab.is_sparse());
        let places: usize = slab.chunks.iter().map(Vec::capacity).sum();
        assert_eq!(slab.places, places);
    }
}
