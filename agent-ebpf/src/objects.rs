//! The built kernel objects for the architecture the agent is built for.

/// Aligned as the loader's ELF parser needs it.
#[repr(C, align(8))]
struct Aligned<const N: usize>([u8; N]);

macro_rules! object {
    ($(#[$doc:meta])* $name:ident, $file:literal) => {
        #[cfg(target_arch = "x86_64")]
        $(#[$doc])*
        pub static $name: &[u8] = {
            static BYTES: Aligned<{ include_bytes!(concat!("../objects/x86_64/", $file)).len() }> =
                Aligned(*include_bytes!(concat!("../objects/x86_64/", $file)));
            &BYTES.0
        };
        #[cfg(target_arch = "aarch64")]
        $(#[$doc])*
        pub static $name: &[u8] = {
            static BYTES: Aligned<{ include_bytes!(concat!("../objects/aarch64/", $file)).len() }> =
                Aligned(*include_bytes!(concat!("../objects/aarch64/", $file)));
            &BYTES.0
        };
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        $(#[$doc])*
        pub static $name: &[u8] = &[];
    };
}

object!(
    /// Process starts and ends. Empty where there is no build for the architecture.
    PROCESS, "process.o"
);
object!(
    /// TCP connections.
    TCP, "tcp.o"
);
object!(
    /// What calls move over sockets.
    FLOW, "flow.o"
);
object!(
    /// Kills for want of memory.
    OOM, "oom.o"
);
object!(
    /// Requests to block devices.
    BLOCK, "block.o"
);
object!(
    /// Waits for a CPU.
    RUN_QUEUE, "run_queue.o"
);
object!(
    /// What runs when the clock ticks.
    PROFILE, "profile.o"
);
