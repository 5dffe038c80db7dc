//! The fuzzer: libFuzzer around the target that `OLLYSTACK_FUZZ_TARGET` names. `cargo xtask fuzz` builds and starts it.
#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("OLLYSTACK_FUZZ_TARGET").unwrap_or_default();
    match ollystack_fuzz::TARGETS.iter().find(|target| target.name == name) {
        Some(target) => {
            eprintln!("{}: {}", target.name, target.shows);
            target.run
        }
        None => {
            eprintln!("no fuzz target is called {name:?}; start it by `cargo xtask fuzz TARGET`");
            std::process::exit(2);
        }
    }
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
