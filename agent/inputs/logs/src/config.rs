//! What the log file input may be told, with the defaults that suit an unconfigured Linux host.

use crate::Error;
use crate::rules::Rules;
use serde::{Deserialize, Serialize};

/// Section `[logs]` of the agent's configuration.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether log files are read at all.
    pub enabled: bool,
    /// Globs of the files to read: absolute, `*` within a name, `**` over folders, `?`, `[ab]`, `{a,b}`.
    pub include: Vec<String>,
    /// Globs of files not to read; they win over `include`.
    pub exclude: Vec<String>,
    /// Where to start in files that are there when the agent first runs: `end` or `beginning`. Files that appear later
    /// are read from their beginning.
    pub start_at: StartAt,
    /// Whether symbolic links below a glob's fixed part are followed. Off, as a link may lead to what the link's owner
    /// cannot read but the agent can.
    pub follow_symlinks: bool,
    /// The longest line kept whole, in bytes: 1,024 to 1,048,576. The rest of a longer one is cut off and counted.
    pub line_bytes_max: usize,
    /// How long an unfinished last line waits for its end, in milliseconds.
    pub line_wait_ms: u64,
    /// Whether a stack trace, and any line that is indented, is one record with the line above it.
    pub multiline: MultilineMode,
    /// Where records begin in files that `auto` does not suit; the first rule that fits a file counts.
    pub multiline_rules: Vec<MultilineRule>,
    /// How many lines one record has at most; more are another record.
    pub multiline_lines_max: u32,
    /// How long the last record of a file waits for lines that continue it, in milliseconds. One that keeps growing waits five
    /// times as long at most.
    pub multiline_wait_ms: u64,
    /// How often everything is looked at again in case the kernel's notices fail, in milliseconds.
    pub poll_interval_ms: u64,
    /// How many files are followed at most.
    pub files_max: usize,
    /// How many files are held open at most.
    pub files_open_max: usize,
    /// How many bytes are read each second at most, over all files.
    pub bytes_per_second_max: u64,
    /// How many records one batch holds at most.
    pub batch_records_max: usize,
    /// How many batches may be on their way to processing.
    pub batches_in_flight_max: usize,
}

/// Which lines are one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MultilineMode {
    /// By how they look, see the crate ollystack-multiline.
    Auto,
    /// Each is one.
    Off,
}

/// `[[logs.multiline_rules]]`: where records begin in some files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MultilineRule {
    /// Glob of the files, as in `include`.
    pub include: String,
    /// Regular expression of a line that begins a record; lines that do not match continue it.
    pub start: String,
}

/// Where to start in a file that was there before the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StartAt {
    /// Only what is written from now on.
    End,
    /// All of it.
    Beginning,
}

impl Default for Config {
    fn default() -> Config {
        let globs = |list: &[&str]| list.iter().map(|glob| (*glob).to_owned()).collect();
        Config {
            enabled: true,
            include: globs(&[
                "/var/log/**/*.log",
                "/var/log/syslog",
                "/var/log/messages",
                "/var/log/secure",
                "/var/log/maillog",
                "/var/log/cron",
                "/var/lib/docker/containers/*/*-json.log",
                "/var/lib/containers/storage/overlay-containers/*/userdata/ctr.log",
            ]),
            // What is in /var/log/containers are links to what is in /var/log/pods or of Docker.
            exclude: globs(&[
                "**/*.{gz,xz,bz2,zst,lz4,zip}",
                "/var/log/journal/**",
                "/var/log/ollystack/**",
                "/var/log/containers/**",
            ]),
            start_at: StartAt::End,
            follow_symlinks: false,
            line_bytes_max: 262_144,
            line_wait_ms: 5_000,
            multiline: MultilineMode::Auto,
            multiline_rules: Vec::new(),
            multiline_lines_max: 500,
            multiline_wait_ms: 1_000,
            poll_interval_ms: 10_000,
            files_max: 2_000,
            files_open_max: 256,
            bytes_per_second_max: 16_777_216,
            batch_records_max: 1_000,
            batches_in_flight_max: 8,
        }
    }
}

impl Config {
    /// Refuse what cannot work, naming the key.
    pub fn check(&self) -> Result<(), Error> {
        let range = |key, found: u64, allowed: std::ops::RangeInclusive<u64>, text| {
            let error = || Error::Config { key, found: found.to_string(), allowed: text };
            allowed.contains(&found).then_some(()).ok_or_else(error)
        };
        range("line_bytes_max", self.line_bytes_max as u64, 1_024..=1_048_576, "1024 to 1048576")?;
        range("line_wait_ms", self.line_wait_ms, 100..=600_000, "100 to 600000")?;
        range("multiline_lines_max", u64::from(self.multiline_lines_max), 2..=10_000, "2 to 10000")?;
        range("multiline_wait_ms", self.multiline_wait_ms, 50..=60_000, "50 to 60000")?;
        Rules::new(self)?;
        range("poll_interval_ms", self.poll_interval_ms, 100..=600_000, "100 to 600000")?;
        range("files_max", self.files_max as u64, 1..=100_000, "1 to 100000")?;
        range("files_open_max", self.files_open_max as u64, 1..=100_000, "1 to 100000")?;
        range("bytes_per_second_max", self.bytes_per_second_max, 65_536..=1 << 40, "65536 or more")?;
        range("batch_records_max", self.batch_records_max as u64, 1..=10_000, "1 to 10000")?;
        range("batches_in_flight_max", self.batches_in_flight_max as u64, 1..=256, "1 to 256")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_an_error_names_key_value_and_what_is_allowed() {
        assert!(Config::default().check().is_ok());
        let config = Config { line_bytes_max: 5, ..Config::default() };
        let message = config.check().unwrap_err().to_string();
        assert!(message.starts_with("logs.line_bytes_max is 5: allowed is 1024 to 1048576"), "{message}");
        let rule = MultilineRule { include: "/a.log".into(), start: "(".into() };
        let message = Config { multiline_rules: vec![rule], ..Config::default() }.check().unwrap_err().to_string();
        assert!(message.starts_with("logs.multiline_rules.start is \"(\": allowed is"), "{message}");
    }
}
