//! The command line: what can be asked of the agent, and the flags that set its configuration.
//!
//! Invariant: no flag takes the API key, because arguments can be read by every user of the host.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  OLLYSTACK_API_KEY=olly_... OLLYSTACK_ENDPOINT=https://gateway.example:4317 ollystack-agent run
  ollystack-agent doctor                     what works on this host, and what would turn on the rest
  ollystack-agent doctor --processes         whose requests are seen, and whose are not and why
  ollystack-agent status --watch             what became of every record, each second
  ollystack-agent config print > agent.toml  every key with its default, to edit
  ollystack-agent run --config agent.toml --set host.interval_ms=5000
  ollystack-agent patterns /var/log/syslog   what is in a log: its patterns and how often each occurs

The API key comes from OLLYSTACK_API_KEY, `api_key` in the file, or the file of --api-key-file.";

/// Collects this host's metrics, logs and traces, reduces them here, and sends what matters.
#[derive(Debug, Parser)]
#[command(name = "ollystack-agent", version, after_help = EXAMPLES, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) settings: Settings,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes: they win over environment and file.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Configuration (flag > environment > file > default)")]
pub(crate) struct Settings {
    /// Configuration file [default: /etc/ollystack/agent.toml if it is there]
    #[arg(long, global = true, value_name = "FILE", env = "OLLYSTACK_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Where to send: an OTLP/gRPC endpoint
    #[arg(long, global = true, value_name = "URL")]
    endpoint: Option<String>,
    /// File that holds the API key alone, mode 0600
    #[arg(long, global = true, value_name = "FILE")]
    api_key_file: Option<String>,
    /// Agent id, disk buffer and log offsets
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<String>,
    /// Address of /metrics, /healthz and /status
    #[arg(long, global = true, value_name = "ADDRESS:PORT")]
    admin_listen: Option<String>,
    /// error, warn, info, debug, trace or a filter
    #[arg(long, global = true, value_name = "LEVEL", env = "OLLYSTACK_LOG")]
    log_level: Option<String>,
    /// text or json
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Any key of the configuration; may be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Collect, reduce and send until stopped (SIGTERM or Ctrl-C; Ctrl-C twice: at once)
    Run,
    /// Show or check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// What works on this host, what does not and why, and what would turn it on
    Doctor {
        /// Instead, each process that serves or calls: whether its requests are seen, and why not
        #[arg(long)]
        processes: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// What the running agent has done with every record, and how it fares
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Refresh each second until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// The patterns of log lines in files: how often each occurs, or which one each line has
    Patterns(Patterns),
    /// Write what the inputs hand in to a file, redacted but not reduced, and send nothing
    Record(crate::record::Options),
    /// Print the version
    Version,
}

/// Finds the patterns of log lines as the running agent would, without one. Time, severity and the like are taken off each line
/// first. All files are one stream: their lines are counted together, and numbers go on from file to file, as of
/// `cat FILE... | ollystack-agent patterns`.
#[derive(Debug, Args)]
pub(crate) struct Patterns {
    /// Plain text, gzip or zstd, told apart by content; `-` or none: standard input
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Show the N most frequent patterns; 0: all
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) top: usize,
    /// Instead, `line number <tab> pattern id` for every line, empty ones too, from 1; written once all is read, because
    /// patterns may turn out to be one (takes one or two bytes of memory a line until then)
    #[arg(long, conflicts_with_all = ["top", "json"])]
    pub(crate) assignments: bool,
    /// Lines are bare messages: nothing is taken off them
    #[arg(long)]
    pub(crate) content: bool,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Every key with its default and what it means
    Print {
        /// Instead, the values in effect and where each comes from; secrets as ***
        #[arg(long)]
        effective: bool,
    },
    /// Say whether a file (with environment and flags) is right, and what is not
    Check {
        /// The file [default: the one `run` would read]
        file: Option<PathBuf>,
    },
}

impl Settings {
    /// The flags given, as dotted keys and text, weakest first.
    pub(crate) fn flags(&self) -> Vec<(String, String)> {
        let named = [
            ("endpoint", &self.endpoint),
            ("api_key_file", &self.api_key_file),
            ("state_dir", &self.state_dir),
            ("admin.listen", &self.admin_listen),
            ("log.level", &self.log_level),
            ("log.format", &self.log_format),
        ];
        let named = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
        named.chain(self.set.iter().cloned()).collect()
    }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, for example host.interval_ms=5000")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_assignment_splits_at_the_first_equals_sign() {
        assert_eq!(assignment("log.level=info,a=debug"), Ok(("log.level".into(), "info,a=debug".into())));
        assert!(assignment("host.interval_ms").is_err());
    }

    #[test]
    fn set_wins_over_the_named_flag() {
        let cli = Cli::parse_from(["a", "run", "--endpoint", "http://a", "--set", "endpoint=http://b"]);
        assert_eq!(cli.settings.flags().last().unwrap().1, "http://b");
    }
}
