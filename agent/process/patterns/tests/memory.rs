//! What a miner says it holds, against a counting allocator.
//!
//! A test of its own, as nothing else may allocate beside it. Invariant: what is declared is what is taken.

use ollystack_patterns::{Config, Miner};
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Words without anything that varies by its looks, so that each line is a pattern.
fn novel(line: u64) -> String {
    let word = |n: u64| {
        let mut mixed = (line * 16 + n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^= mixed >> 32;
        (0..8).map(|at| char::from(b'g' + (mixed >> (4 * at) & 15) as u8)).collect::<String>()
    };
    (0..4 + line % 16).map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn memory_stays_within_the_limit_however_new_the_lines_are() {
    for config in [
        Config::default(),
        Config { patterns_max: 1 << 20, ..Config::default() },
        Config { patterns_max: 1 << 20, bytes_max: 64 << 10 },
    ] {
        let before = HEAP.current_usage();
        let mut miner = Miner::new(config);
        for line in 0..20_000 {
            miner.observe(&novel(line));
            let (held, said) = (HEAP.current_usage() - before, miner.bytes());
            assert!(held <= config.bytes_max, "{config:?} holds {held}, says {said}");
            assert!(held.abs_diff(said) < 16 << 10, "{config:?} holds {held}, says {said}");
        }
        assert!(miner.forgotten() > 10_000, "{config:?}: the limit was not reached");
        assert!(miner.bytes() > config.bytes_max / 2, "{config:?}: what may be used is used");
    }
}
