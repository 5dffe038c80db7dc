//! Rules about the documents: what they point at exists, and what a reader must know is in them.

use super::Tree;
use crate::repository;

/// Where the reasons for loss are defined.
const LEDGER: &str = "agent/record/src/ledger.rs";

/// Endings of the words in backticks that are taken for paths of the repository.
const PATH_ENDINGS: &[&str] = &[".rs", ".toml", ".md", ".sql", ".py"];

pub(super) fn drop_reasons_explained(tree: &Tree) -> Vec<String> {
    let limits = tree.text("LIMITS.md").unwrap_or_default();
    let reasons = drop_reasons(tree.text(LEDGER).unwrap_or_default());
    if reasons.is_empty() {
        return vec![format!("{LEDGER}: no `DropReason::Name => \"name\"` found: this rule reads them there")];
    }
    let silent = reasons.into_iter().filter(|reason| !limits.contains(&format!("`{reason}`")));
    silent.map(|reason| format!("LIMITS.md: says nothing about the drop reason `{reason}`")).collect()
}

pub(super) fn paths_exist(tree: &Tree) -> Vec<String> {
    let mut broken = Vec::new();
    for (document, number, line) in tree.lines(|path| path.ends_with(".md")) {
        let folder = document.rsplit_once('/').map_or("", |(folder, _)| folder);
        for word in line.split('`').skip(1).step_by(2).filter(|word| is_path(word)) {
            let path = word.trim_start_matches("./");
            if !repository().join(path).exists() && !repository().join(folder).join(path).exists() {
                broken.push(format!("{document}:{number}: `{word}` does not exist"));
            }
        }
    }
    broken
}

/// A relative path with a folder, written out in full.
fn is_path(word: &str) -> bool {
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    plain && word.contains('/') && !word.starts_with('/') && PATH_ENDINGS.iter().any(|ending| word.ends_with(ending))
}

/// The names in lines like `DropReason::QueueFull => "queue_full",`.
fn drop_reasons(ledger: &str) -> Vec<String> {
    let arms = ledger.lines().filter_map(|line| line.trim().strip_prefix("DropReason::")?.split_once(" => \""));
    arms.filter_map(|(_, rest)| Some(rest.split_once('"')?.0.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_limits_does_not_name_is_found() {
        let ledger =
            "        DropReason::QueueFull => \"queue_full\",\n        DropReason::TooLarge => \"too_large\",\n";
        let tree = Tree::of(&[(LEDGER, ledger), ("LIMITS.md", "`queue_full`: the queue was full")]);
        assert_eq!(drop_reasons_explained(&tree), ["LIMITS.md: says nothing about the drop reason `too_large`"]);
    }

    #[test]
    fn a_ledger_that_cannot_be_read_is_no_proof() {
        assert_eq!(drop_reasons_explained(&Tree::default()).len(), 1);
    }

    #[test]
    fn a_document_that_points_nowhere_is_found() {
        let tree = Tree::of(&[("A.md", "`xtask/src/main.rs` and `xtask/src/gone.rs`, `run.rs`, `/etc/a.toml`")]);
        assert_eq!(paths_exist(&tree), ["A.md:1: `xtask/src/gone.rs` does not exist"]);
    }
}
