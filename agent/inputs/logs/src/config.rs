//! What the log file input may be told, with the defaults that suit an unconfigured Linux host.

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
    /// How many batches may wait for their verdict; half of them may be of one file.
    pub batches_in_flight_max: usize,
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
            ]),
            exclude: globs(&["**/*.{gz,xz,bz2,zst,lz4,zip}", "/var/log/journal/**", "/var/log/ollystack/**"]),
            start_at: StartAt::End,
            follow_symlinks: false,
            line_bytes_max: 262_144,
            line_wait_ms: 5_000,
            poll_interval_ms: 10_000,
            files_max: 2_000,
            files_open_max: 256,
            bytes_per_second_max: 16_777_216,
            batch_records_max: 1_000,
            batches_in_flight_max: 16,
        }
    }
}
