//! Rules that look at lines: openings, lengths, words that must not stay.

use super::Tree;

/// Lines of code, without tests, comments and blanks, after which a file must be split or listed in [`LONG_FILES`].
const CODE_LINES_MAX: usize = 500;

/// Longer files, each with the reason why it is one idea.
const LONG_FILES: &[(&str, &str)] = &[];

/// Where `unsafe` may be: the kernel programs and their loader, the engine's foreign functions, the settings of malloc.
const UNSAFE_FOLDERS: &[&str] =
    &["agent-ebpf/", "agent/inputs/ebpf/", "gateway/store/", "agent/src/runtime.rs", "gateway/src/runtime.rs"];

/// Words that say that something is unfinished. In pieces, so that this file does not break its own rule.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
    concat!("unimple", "mented!"),
    concat!("to", "do!("),
];

/// Folders of a developer's or a build machine.
const MACHINE: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];

/// Hosts of package registries: packages are named, and come by their ordinary clients.
const REGISTRIES: &[&str] = &[
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("npmjs", "."),
    concat!("deb.debian", ".org"),
    concat!("proxy.golang", ".org"),
    concat!("repo.maven", "."),
];

pub(super) fn opens_with_a_description(tree: &Tree) -> Vec<String> {
    let silent = tree.rust().filter(|(_, text)| !text.starts_with("//!"));
    silent
        .map(|(path, _)| format!("{path}:1: opens without `//!`: say what the file does, from where to where"))
        .collect()
}

pub(super) fn is_short(tree: &Tree) -> Vec<String> {
    let listed = |path: &str| LONG_FILES.iter().any(|(long, _)| *long == path);
    let sized = tree.rust().filter(|(path, _)| !is_test(path)).map(|(path, text)| (path, code_lines(text)));
    let mut broken = Vec::new();
    for (path, lines) in sized {
        if lines > CODE_LINES_MAX && !listed(path) {
            broken
                .push(format!("{path}: {lines} lines of code, allowed are {CODE_LINES_MAX}: split it along its ideas"));
        }
        if lines <= CODE_LINES_MAX && listed(path) {
            broken.push(format!("{path}: {lines} lines of code: take it off the list of long files"));
        }
    }
    broken
}

pub(super) fn nothing_left_to_do(tree: &Tree) -> Vec<String> {
    find(tree, |path| !is_lock(path), UNFINISHED, "do it, or say in LIMITS.md that it is not done")
}

pub(super) fn unsafe_where_allowed(tree: &Tree) -> Vec<String> {
    let checked = |path: &str| path.ends_with(".rs") && !UNSAFE_FOLDERS.iter().any(|f| path.starts_with(f));
    let words = [concat!("allow(un", "safe_code"), concat!("expect(un", "safe_code")];
    find(tree, checked, &words, "find a safe way, or list the folder with its reason")
}

pub(super) fn no_machine_paths(tree: &Tree) -> Vec<String> {
    let mut broken = find(tree, |path| !is_lock(path), MACHINE, "take the folder from the environment");
    let product = |path: &str| path.ends_with(".rs") && !is_test(path) && !path.starts_with("xtask/");
    let scratch = concat!("\"/tm", "p/");
    for (path, text) in tree.rust().filter(|(path, _)| product(path)) {
        for (number, line) in without_tests(text) {
            if line.contains(scratch) {
                broken.push(format!("{path}:{number}: a fixed scratch path: take it from the configuration"));
            }
        }
    }
    broken
}

pub(super) fn no_registry_hosts(tree: &Tree) -> Vec<String> {
    find(tree, |path| !is_lock(path), REGISTRIES, "name the package and let its client find it")
}

fn find(tree: &Tree, which: impl Fn(&str) -> bool, words: &[&str], advice: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (path, number, line) in tree.lines(which) {
        for word in words.iter().filter(|word| line.contains(**word)) {
            found.push(format!("{path}:{number}: `{word}`: {advice}"));
        }
    }
    found
}

/// Written by tools, not by hand.
fn is_lock(path: &str) -> bool {
    path.ends_with(".lock")
}

/// A file that is nothing but tests.
fn is_test(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
}

/// The numbered lines before the test module.
fn without_tests(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("\n#[cfg(test)]\nmod ").unwrap_or(text.len());
    text[..end].lines().enumerate().map(|(i, line)| (i + 1, line))
}

fn code_lines(text: &str) -> usize {
    without_tests(text).filter(|(_, line)| !line.trim().is_empty() && !line.trim_start().starts_with("//")).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(rule: super::super::Rule, path: &str, text: &str) -> usize {
        rule(&Tree::of(&[(path, text)])).len()
    }

    #[test]
    fn a_file_that_opens_with_code_is_found() {
        assert_eq!(broken(opens_with_a_description, "agent/src/a.rs", "use std::fs;\n"), 1);
        assert_eq!(broken(opens_with_a_description, "agent/src/a.rs", "//! Reads.\n"), 0);
    }

    #[test]
    fn only_code_counts_towards_the_length() {
        let code = "let a = 1;\n".repeat(CODE_LINES_MAX);
        let long = format!("//! Doc.\n\n// why\n{code}");
        assert_eq!(broken(is_short, "agent/src/a.rs", &long), 0);
        assert_eq!(broken(is_short, "agent/src/a.rs", &format!("{long}let b = 2;\n")), 1);
        let tested = format!("{long}\n#[cfg(test)]\nmod tests {{\n{code}}}\n");
        assert_eq!(broken(is_short, "agent/src/a.rs", &tested), 0);
        assert_eq!(broken(is_short, "tests/e2e/a.rs", &format!("{long}{code}")), 0);
    }

    #[test]
    fn unfinished_work_is_found_in_any_text() {
        for word in UNFINISHED {
            assert_eq!(broken(nothing_left_to_do, "README.md", &format!("a\n{word} b\n")), 1, "{word}");
        }
        assert_eq!(broken(nothing_left_to_do, "Cargo.lock", UNFINISHED[0]), 0);
    }

    #[test]
    fn unsafe_code_is_found_outside_its_folders() {
        let text = concat!("#![allow(un", "safe_code)]\n");
        assert_eq!(broken(unsafe_where_allowed, "agent/process/src/lib.rs", text), 1);
        assert_eq!(broken(unsafe_where_allowed, "agent/inputs/ebpf/src/ring.rs", text), 0);
    }

    #[test]
    fn paths_of_machines_are_found() {
        for folder in MACHINE {
            assert_eq!(broken(no_machine_paths, "packaging/a.sh", &format!("cd {folder}x\n")), 1, "{folder}");
        }
        let scratch = concat!("let p = \"/tm", "p/x\";\n");
        assert_eq!(broken(no_machine_paths, "agent/src/a.rs", scratch), 1);
        assert_eq!(
            broken(no_machine_paths, "agent/src/a.rs", &format!("\n#[cfg(test)]\nmod tests {{\n{scratch}}}")),
            0
        );
    }

    #[test]
    fn hosts_of_registries_are_found() {
        for host in REGISTRIES {
            assert_eq!(broken(no_registry_hosts, "README.md", &format!("see {host}\n")), 1, "{host}");
        }
    }
}
