//! What the enrich stage may be told.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Section `[enrich]` of the agent's configuration.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the host's root is mounted: its /etc and /proc are looked for below it. `/` unless in a container.
    pub root_path: PathBuf,
    /// Attributes added to every resource of this host, for example `deployment.environment.name = "production"`.
    pub attributes: BTreeMap<String, String>,
}

impl Default for Config {
    fn default() -> Config {
        Config { root_path: PathBuf::from("/"), attributes: BTreeMap::new() }
    }
}
