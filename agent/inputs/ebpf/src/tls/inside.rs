//! What of TLS a file has inside: a library in C by its functions' names, or Go's own, and where probes go to see into it.
//!
//! Invariant: probes come in the order in which they are to be put: returns before their entries, as a call is told of only if both are seen.

use super::elf::Elf;
use super::go;
use super::probes::{FUNCTIONS, GO_FUNCTIONS, Probe};
use std::fs::File;
use std::io;

/// What a file has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inside {
    /// None: there is no TLS in it, as far as can be told.
    pub(crate) library: Option<&'static str>,
    pub(crate) probes: Vec<Probe>,
    /// What it has and cannot be seen into.
    pub(crate) why_not: Option<&'static str>,
    /// In a Go program whose goroutines can be told apart: where they have their numbers.
    pub(crate) goroutines: Option<u32>,
}

/// Functions without which Go's TLS cannot be followed: the first three, and a handshake of either side.
const GO_NEEDED: usize = 3;
const GO_HANDSHAKES: std::ops::Range<usize> = 3..5;

impl Inside {
    /// Look into a file.
    pub(crate) fn of(file: &File) -> io::Result<Inside> {
        let Some(elf) = Elf::read(file)? else { return Ok(Inside::default()) };
        if elf.section(".go.buildinfo")?.is_some() {
            return of_go(&elf);
        }
        let found = elf.functions(&FUNCTIONS.map(|(name, ..)| name))?;
        let library = found.first().map(|(index, _)| match FUNCTIONS[*index].0 {
            name if name.starts_with("gnutls") => "GnuTLS",
            _ => "OpenSSL or BoringSSL",
        });
        let probes = found.iter().flat_map(|(index, offset)| {
            let (_, entry, after) = FUNCTIONS[*index];
            after.into_iter().chain([entry]).map(|program| Probe { program, offset: *offset })
        });
        Ok(Inside { library, probes: probes.collect(), ..Inside::default() })
    }
}

fn of_go(elf: &Elf<'_>) -> io::Result<Inside> {
    let goroutines = go::version(elf)?.and_then(go::number_offset);
    let wanted = GO_FUNCTIONS.map(|(name, _, after)| (name, after.is_some()));
    let found = match go::functions(elf, &wanted)? {
        Ok(found) => found,
        Err(why) => {
            let library = Some("Go crypto/tls");
            return Ok(Inside { library, why_not: Some(why), goroutines, ..Inside::default() });
        }
    };
    let has_tls = found[..GO_NEEDED].iter().all(Option::is_some) && found[GO_HANDSHAKES].iter().any(Option::is_some);
    if !has_tls {
        return Ok(Inside { goroutines, ..Inside::default() });
    }
    let mut probes = Vec::new();
    // What is at the start of a connection, and for whom, is seen before what moves on it.
    for (function, (_, entry, after)) in found.iter().zip(GO_FUNCTIONS).rev() {
        let Some(function) = function else { continue };
        let returns =
            after.map(|program| function.returns.iter().map(move |offset| Probe { program, offset: *offset }));
        probes.extend(returns.into_iter().flatten());
        probes.push(Probe { program: entry, offset: function.entry });
    }
    Ok(Inside { library: Some("Go crypto/tls"), probes, goroutines, ..Inside::default() })
}
