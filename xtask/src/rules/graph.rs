//! Rules about the crate graph: ARCHITECTURE.md's code map says who may depend on whom, the manifests must agree.

use super::Tree;
use std::collections::{BTreeMap, BTreeSet};

/// One row of the code map.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    folder: String,
    name: String,
    /// `None` when the crate may use any other: it is no stage.
    allowed: Option<BTreeSet<String>>,
}

/// A manifest: folder, and the crates of ours that it depends on, in any section but dev-dependencies.
struct Manifest {
    folder: String,
    ours: BTreeSet<String>,
}

pub(super) fn stages_keep_apart(tree: &Tree) -> Vec<String> {
    let map = code_map(tree);
    let mut broken = Vec::new();
    for manifest in manifests(tree) {
        let Some(row) = map.iter().find(|row| row.folder == manifest.folder) else { continue };
        let Some(allowed) = &row.allowed else { continue };
        for name in manifest.ours.difference(allowed) {
            broken.push(format!(
                "{}/Cargo.toml: depends on {name}, which the code map in ARCHITECTURE.md does not allow {}",
                row.folder, row.name
            ));
        }
    }
    broken
}

pub(super) fn map_is_complete(tree: &Tree) -> Vec<String> {
    let map = code_map(tree);
    let missing = manifests(tree).into_iter().filter(|m| !map.iter().any(|row| row.folder == m.folder));
    missing.map(|m| format!("{}/Cargo.toml: not in the code map of ARCHITECTURE.md", m.folder)).collect()
}

/// The rows `| folder | crate | what it is | depends on |` of ARCHITECTURE.md.
fn code_map(tree: &Tree) -> Vec<Row> {
    let cells = |line: &str| -> Vec<String> { line.split('|').map(|cell| cell.trim().replace('`', "")).collect() };
    let text = tree.text("ARCHITECTURE.md").unwrap_or_default();
    let rows: Vec<_> = text.lines().map(cells).filter(|c| c.len() == 6 && is_crate(&c[2])).collect();
    // Crates are named in short by the last word of their folder or of their name: `record`, `agent-ebpf`.
    let mut short = BTreeMap::new();
    for row in &rows {
        short.insert(row[1].rsplit('/').next().unwrap_or_default().to_owned(), row[2].clone());
        short.insert(row[2].replace("ollystack-", ""), row[2].clone());
    }
    let all: BTreeSet<String> = rows.iter().map(|row| row[2].clone()).collect();
    let allowed = |cell: &str| match cell {
        "-" => None,
        "all of the above" => Some(all.clone()),
        _ => Some(cell.split([',', ' ']).filter_map(|word| short.get(word)).cloned().collect()),
    };
    rows.iter().map(|r| Row { folder: r[1].clone(), name: r[2].clone(), allowed: allowed(&r[4]) }).collect()
}

fn is_crate(name: &str) -> bool {
    name.starts_with("ollystack-") || name == "xtask"
}

fn manifests(tree: &Tree) -> Vec<Manifest> {
    let files = tree.files.iter().filter_map(|(path, text)| Some((path.strip_suffix("/Cargo.toml")?, text)));
    // The kernel programs are a workspace of their own, and part of agent-ebpf in the map.
    let ours = files.filter(|(folder, _)| !folder.starts_with("agent-ebpf/"));
    ours.map(|(folder, text)| Manifest { folder: folder.to_owned(), ours: dependencies(text) }).collect()
}

/// Names at the start of lines below `[dependencies]`, `[build-dependencies]` and their kind.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            inside = section.ends_with("dependencies") && !section.ends_with("dev-dependencies");
            // [dependencies.ollystack-record]
            if let Some((_, name)) = section.rsplit_once("dependencies.") {
                names.insert(name.to_owned());
            }
        } else if inside {
            names.insert(line.split(['.', ' ', '=']).next().unwrap_or_default().to_owned());
        }
    }
    names.retain(|name| name.starts_with("ollystack-"));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "\
| folder | crate | what it is | depends on |
|---|---|---|---|
| `agent/record` | ollystack-record | crosses stages | nothing of ours |
| `agent/inputs/logs` | ollystack-input-logs | log files | record |
| `agent-ebpf` | ollystack-ebpf | shared | nothing |
| `agent/inputs/ebpf` | ollystack-input-ebpf | kernel | record, agent-ebpf |
| `agent` | ollystack-agent | wiring | all of the above |
| `xtask` | xtask | commands | - |
";

    fn tree(folder: &str, manifest: &str) -> Tree {
        Tree::of(&[("ARCHITECTURE.md", MAP), (&format!("{folder}/Cargo.toml"), manifest)])
    }

    #[test]
    fn a_stage_that_depends_on_a_sibling_is_found() {
        let allowed = "[dependencies]\nollystack-record.workspace = true\nserde = \"1\"\n";
        assert!(stages_keep_apart(&tree("agent/inputs/logs", allowed)).is_empty());
        for sibling in [
            "[dependencies]\nollystack-input-ebpf.workspace = true\n",
            "[dependencies]\nollystack-input-ebpf = { path = \"../ebpf\" }\n",
            "[target.'cfg(unix)'.dependencies]\nollystack-input-ebpf = { workspace = true }\n",
            "[dependencies.ollystack-input-ebpf]\nworkspace = true\n",
        ] {
            assert_eq!(stages_keep_apart(&tree("agent/inputs/logs", sibling)).len(), 1, "{sibling}");
        }
    }

    #[test]
    fn short_names_wiring_and_tools_are_understood() {
        let ebpf = "[dependencies]\nollystack-ebpf.workspace = true\nollystack-record.workspace = true\n";
        assert!(stages_keep_apart(&tree("agent/inputs/ebpf", ebpf)).is_empty());
        assert!(stages_keep_apart(&tree("agent", ebpf)).is_empty());
        assert!(stages_keep_apart(&tree("xtask", ebpf)).is_empty());
        assert_eq!(stages_keep_apart(&tree("agent/inputs/logs", ebpf)).len(), 1);
    }

    #[test]
    fn a_test_may_use_what_the_stage_may_not() {
        let manifest = "[dev-dependencies]\nollystack-input-logs.workspace = true\n";
        assert!(stages_keep_apart(&tree("agent/record", manifest)).is_empty());
    }

    #[test]
    fn a_crate_without_a_row_is_found() {
        assert_eq!(map_is_complete(&tree("agent/tricks", "")).len(), 1);
        assert!(map_is_complete(&tree("agent/record", "")).is_empty());
    }
}
