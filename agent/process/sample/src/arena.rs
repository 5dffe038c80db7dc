//! Bytes of waiting spans: chains of equal blocks, taken from pages and given back to them.
//!
//! Traces grow and go in any order; blocks of one size leave no holes that a next trace could not fill, and no allocation is made
//! or freed for a span. Invariant: a block belongs to one chain or to the free ones, so what is held is blocks times
//! [`BLOCK_BYTES`].

/// What a block takes, its link included. A trace leaves half of its last block unused on average; the smaller the blocks, the more
/// pieces a span is in.
pub(crate) const BLOCK_BYTES: usize = PAYLOAD + size_of::<u32>();

const PAYLOAD: usize = 256;
const PAGE_BLOCKS: usize = 128;
const NONE: u32 = u32::MAX;

/// A page is 32 KiB: small enough for the allocator's own heap to take it back.
type Page = Box<[[u8; PAYLOAD]]>;

/// What a page takes with its links.
const PAGE_BYTES: usize = PAGE_BLOCKS * BLOCK_BYTES + size_of::<Page>();

/// All blocks.
#[derive(Debug)]
pub(crate) struct Arena {
    pages: Vec<Page>,
    /// Of each block the next of its chain.
    links: Vec<u32>,
    free: u32,
    taken: usize,
}

/// The blocks of one trace, in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    first: u32,
    last: u32,
    /// Bytes in the last block.
    used: u32,
}

impl Chain {
    /// Without a block.
    pub(crate) const EMPTY: Chain = Chain { first: NONE, last: NONE, used: PAYLOAD as u32 };
}

impl Arena {
    pub(crate) fn new() -> Arena {
        Arena { pages: Vec::new(), links: Vec::new(), free: NONE, taken: 0 }
    }

    /// What all pages take, be their blocks in use or not.
    pub(crate) fn bytes(&self) -> usize {
        self.pages.len() * PAGE_BYTES
    }

    /// By how much it grows at most if so many bytes are put in.
    pub(crate) fn growth(&self, bytes: usize) -> usize {
        let free = self.links.len() - self.taken;
        (bytes / PAYLOAD + 1).saturating_sub(free).div_ceil(PAGE_BLOCKS) * PAGE_BYTES
    }

    /// Put bytes at the end of a chain.
    pub(crate) fn append(&mut self, chain: &mut Chain, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut used = chain.used as usize;
            if used == PAYLOAD {
                let block = self.take();
                match chain.last {
                    NONE => chain.first = block,
                    last => self.links[last as usize] = block,
                }
                chain.last = block;
                used = 0;
            }
            let (now, later) = bytes.split_at(bytes.len().min(PAYLOAD - used));
            self.block(chain.last)[used..used + now.len()].copy_from_slice(now);
            chain.used = (used + now.len()) as u32;
            bytes = later;
        }
    }

    /// Copy a chain's bytes behind what `into` holds, and give its blocks back.
    pub(crate) fn read(&mut self, chain: Chain, into: &mut Vec<u8>) {
        let mut block = chain.first;
        while block != NONE {
            let used = if block == chain.last { chain.used as usize } else { PAYLOAD };
            let at = block as usize;
            into.extend_from_slice(&self.pages[at / PAGE_BLOCKS][at % PAGE_BLOCKS][..used]);
            block = self.links[at];
        }
        self.release(chain);
    }

    /// Give a chain's blocks back.
    pub(crate) fn release(&mut self, chain: Chain) {
        let mut block = chain.first;
        while block != NONE {
            self.taken -= 1;
            block = self.links[block as usize];
        }
        if chain.last != NONE {
            self.links[chain.last as usize] = self.free;
            self.free = chain.first;
        }
    }

    /// Give the pages back when nothing is held.
    pub(crate) fn trim(&mut self) {
        if self.taken == 0 {
            *self = Arena::new();
        }
    }

    fn take(&mut self) -> u32 {
        if self.free == NONE {
            let first = self.links.len() as u32;
            self.pages.push(vec![[0; PAYLOAD]; PAGE_BLOCKS].into_boxed_slice());
            self.links.reserve_exact(PAGE_BLOCKS);
            self.links.extend((1..PAGE_BLOCKS as u32).map(|next| first + next).chain([NONE]));
            self.free = first;
        }
        let block = self.free;
        self.free = std::mem::replace(&mut self.links[block as usize], NONE);
        self.taken += 1;
        block
    }

    fn block(&mut self, block: u32) -> &mut [u8; PAYLOAD] {
        let block = block as usize;
        &mut self.pages[block / PAGE_BLOCKS][block % PAGE_BLOCKS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chains_give_back_what_was_put_in_and_every_block(
            pieces in prop::collection::vec((0..8_usize, prop::collection::vec(any::<u8>(), 0..700)), 0..60),
            order in Just((0..8_usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut arena = Arena::new();
            for _ in 0..2 {
                let mut chains = [Chain::EMPTY; 8];
                let mut expected = vec![Vec::new(); 8];
                for (chain, bytes) in &pieces {
                    let most = arena.bytes() + arena.growth(bytes.len());
                    arena.append(&mut chains[*chain], bytes);
                    prop_assert!(arena.bytes() <= most);
                    expected[*chain].extend_from_slice(bytes);
                }
                for at in &order {
                    let mut found = Vec::new();
                    arena.read(chains[*at], &mut found);
                    prop_assert_eq!(&found, &expected[*at]);
                }
                prop_assert_eq!(arena.taken, 0);
            }
            let most = pieces.iter().map(|(_, bytes)| bytes.len() / PAYLOAD + 1).sum::<usize>();
            prop_assert!(arena.pages.len() <= most.div_ceil(PAGE_BLOCKS), "blocks that were given back are used again");
        }
    }

    #[test]
    fn nothing_held_takes_no_page() {
        let mut arena = Arena::new();
        let mut chain = Chain::EMPTY;
        arena.append(&mut chain, &[7; 1_000]);
        arena.trim();
        assert_eq!(arena.pages.len(), 1);
        arena.release(chain);
        arena.trim();
        assert_eq!(arena.pages.len(), 0);
    }
}
