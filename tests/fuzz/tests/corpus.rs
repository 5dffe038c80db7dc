//! Every committed input of every fuzz target, and some made from them by chance: what once broke stays mended.

use fastrand::Rng;
use ollystack_fuzz::TARGETS;
use std::path::Path;

/// Inputs made from each committed one.
const CHANGED: usize = 8;

#[test]
fn every_input_of_every_corpus_is_taken() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut random = Rng::with_seed(1);
    for target in TARGETS {
        let folder = corpora.join(target.name);
        let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        assert!(!paths.is_empty(), "{} has no corpus", target.name);
        for path in paths {
            let bytes = std::fs::read(&path).unwrap();
            (target.run)(&bytes);
            for _ in 0..CHANGED {
                (target.run)(&changed(&bytes, &mut random));
            }
        }
    }
}

/// A few bytes set, and the end cut off.
fn changed(bytes: &[u8], random: &mut Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..random.usize(1..4) {
        if let Some(byte) = random.choice(&mut bytes) {
            *byte = random.u8(..);
        }
    }
    bytes.truncate(random.usize(..=bytes.len()));
    bytes
}

#[test]
fn every_corpus_belongs_to_a_target() {
    for folder in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")).unwrap() {
        let name = folder.unwrap().file_name().into_string().unwrap();
        assert!(TARGETS.iter().any(|target| target.name == name), "no target is called {name}");
    }
}
