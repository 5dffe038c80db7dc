//! What ran when the clock ticked, as the kernel side counts it.

/// Ticks a second and CPU: odd, so that it does not keep step with timers.
pub const TICKS_PER_SECOND: u64 = 19;
/// Stacks between two readings: 2 MiB with 127 frames each.
pub const STACKS_MAX: u32 = 2_048;
/// Distinct samples between two readings.
pub const SAMPLES_MAX: u32 = 4_096;
/// Instead of the number of a stack: there is none.
pub const NO_STACK: u32 = u32::MAX;
/// Instead of the number of a stack: its place was taken by another.
pub const LOST_STACK: u32 = u32::MAX - 1;

/// What is counted: process, command name in four words, stack in the program, stack in the kernel.
pub type Key = [u32; 7];

/// Slots of the per-CPU loss counters.
pub mod loss {
    /// A sample did not fit.
    pub const SAMPLE: u32 = 0;
    /// How many there are.
    pub const COUNT: u32 = 1;
}
