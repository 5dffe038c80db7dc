//! When the reader of a ring is woken.
//!
//! It comes by itself every few milliseconds, and waking it costs several times what a record costs (an interrupt to the own processor, for
//! which a virtual machine is left): so it is woken when a quarter of the ring waits for it, and, should it not have come, at each
//! sixteenth more. Not at every record beyond: a reader that is at work needs no waking. Invariant: nothing is kept from one record to the
//! next, so processors that write at once may both take a step's end for the other's; the next step makes up for it.

/// Submit without waking (`BPF_RB_NO_WAKEUP`).
pub const NO_WAKEUP: u64 = 1;
/// Submit and wake (`BPF_RB_FORCE_WAKEUP`).
pub const FORCE_WAKEUP: u64 = 2;

/// What the ring puts before each record (`struct bpf_ringbuf_hdr`).
const RECORD_HEAD_BYTES: u64 = 8;

/// With which flags to submit a record of `bytes`, where so many waited before it.
#[inline(always)]
pub fn wakeup(waiting: u64, bytes: usize, ring_bytes: u64) -> u64 {
    let then = waiting + RECORD_HEAD_BYTES + bytes as u64;
    // The step is a power of two, as the ring is: what differs in a higher bit is of another step.
    let is_step = (waiting ^ then) >= ring_bytes / 16;
    if then > ring_bytes / 4 && is_step { FORCE_WAKEUP } else { NO_WAKEUP }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const RING_BYTES: u64 = 1 << 20;
    const STEP: u64 = RING_BYTES / 16;

    /// A ring that fills from there on with records of this size: at how many whole sixteenths the reader was woken.
    fn woken_at(mut waiting: u64, bytes: usize) -> Vec<u64> {
        let mut steps = Vec::new();
        while waiting + RECORD_HEAD_BYTES + bytes as u64 <= RING_BYTES {
            let flags = wakeup(waiting, bytes, RING_BYTES);
            waiting += RECORD_HEAD_BYTES + bytes as u64;
            match flags {
                FORCE_WAKEUP => steps.push(waiting / STEP),
                flags => assert_eq!(flags, NO_WAKEUP),
            }
        }
        steps
    }

    #[test]
    fn a_ring_that_nobody_reads_wakes_its_reader_at_a_quarter_and_at_each_sixteenth_more() {
        // As records are: with their heads multiples of 8, of which none ends just where a step does.
        for bytes in [144, 256, 1136] {
            assert_eq!(woken_at(0, bytes), (4..16).collect::<Vec<_>>(), "{bytes}");
        }
    }

    #[test]
    fn below_a_quarter_and_within_a_step_nobody_is_woken() {
        for waiting in (0..RING_BYTES / 4 - 264).step_by(8) {
            assert_eq!(wakeup(waiting, 256, RING_BYTES), NO_WAKEUP, "{waiting}");
        }
        for waiting in (5 * STEP..6 * STEP - 264).step_by(8) {
            assert_eq!(wakeup(waiting, 256, RING_BYTES), NO_WAKEUP, "{waiting}");
        }
    }

    #[test]
    fn who_has_read_all_is_woken_again_at_the_next_quarter_and_who_has_not_at_the_next_step() {
        assert_eq!(woken_at(0, 256).first(), Some(&4));
        assert_eq!(woken_at(9 * STEP + 8, 256).first(), Some(&10));
    }

    #[test]
    fn the_smallest_ring_has_steps_that_no_record_passes_unseen() {
        let ring_bytes = 64 * 1024;
        for waiting in (ring_bytes / 4..ring_bytes - 2_048).step_by(8) {
            let then = waiting + RECORD_HEAD_BYTES + 1_136;
            let is_woken = wakeup(waiting, 1_136, ring_bytes) == FORCE_WAKEUP;
            assert_eq!(is_woken, waiting / (ring_bytes / 16) != then / (ring_bytes / 16), "{waiting}");
        }
    }
}
