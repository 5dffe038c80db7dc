//! The command line. Invariant: no secret is taken as an argument; what may be set here may be set in file and environment too.

use crate::config::Flags;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// OTLP in, ClickHouse out.
#[derive(Debug, Parser)]
#[command(name = "ollystack-gateway", version, about, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Receive telemetry and write it to ClickHouse, or to Kafka, until SIGTERM or SIGINT
    Run(Configured),
    /// Read what gateways with sink = "kafka" wrote to Kafka, and write it to ClickHouse until SIGTERM or SIGINT
    #[cfg(feature = "kafka")]
    Consume(Configured),
    /// Bring the database's schema up to date
    Migrate {
        #[command(flatten)]
        configured: Configured,
        /// Print the statements that would be run, and run none
        #[arg(long, visible_alias = "list")]
        plan: bool,
    },
    /// Make, list, rotate and revoke API keys
    Keys {
        #[command(subcommand)]
        command: Keys,
    },
    /// Show and change what tenants may send
    Tenants {
        #[command(subcommand)]
        command: Tenants,
    },
    /// Serve the embedded ClickHouse engine on its own, through ClickHouse's HTTP interface
    Store {
        #[command(flatten)]
        options: Box<ollystack_store::Options>,
        /// End when standard input does: the gateway holds its other end
        #[arg(long, hide = true)]
        until_stdin_ends: bool,
    },
    /// Show or check the configuration
    Config {
        #[command(subcommand)]
        command: Config,
    },
}

/// `keys ...`
#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Make a key and print it on standard output, this once
    New {
        #[command(flatten)]
        configured: Configured,
        /// Whose data the key sends: 1 to 64 of A-Z a-z 0-9 . _ -
        #[arg(long, value_name = "NAME")]
        tenant: String,
        /// What the key is for, to tell it from others
        #[arg(long, value_name = "LABEL", default_value = "")]
        name: String,
        /// How long it is valid, for example 90d [default: until it is revoked]
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        valid_for: Option<Duration>,
    },
    /// Make the successor of a key and print it on standard output, this once; for a time both are valid
    Rotate {
        #[command(flatten)]
        configured: Configured,
        /// As `keys list` shows it
        id: String,
        /// How long the old one stays valid
        #[arg(long, value_name = "TIME", default_value = "7d", value_parser = humantime::parse_duration)]
        overlap: Duration,
    },
    /// Show all keys (never their text)
    List {
        #[command(flatten)]
        configured: Configured,
    },
    /// Make a key invalid; running gateways notice within a second
    Revoke {
        #[command(flatten)]
        configured: Configured,
        /// As `keys list` shows it
        id: String,
    },
    /// Show every change that a command made to the key file: when, who, what; fails when the log was tampered with
    Audit {
        #[command(flatten)]
        configured: Configured,
    },
}

/// `tenants ...`
#[derive(Debug, Subcommand)]
pub(crate) enum Tenants {
    /// Show every tenant that has a section in the key file or a key, and what holds for it
    List {
        #[command(flatten)]
        configured: Configured,
    },
    /// Give a tenant a plan, or other values than its plan and the configuration give; running gateways notice within a second
    #[command(after_help = TENANT_FIELDS)]
    Set {
        #[command(flatten)]
        configured: Configured,
        /// 1 to 64 of A-Z a-z 0-9 . _ -
        name: String,
        /// FIELD= takes a field out: the plan, or the configuration, holds for it again
        #[arg(required = true, value_name = "FIELD=VALUE", value_parser = crate::administer::field)]
        fields: Vec<(String, Option<toml_edit::Value>)>,
    },
    /// Take a tenant's section out of the key file; its keys stay valid
    Remove {
        #[command(flatten)]
        configured: Configured,
        /// As `tenants list` shows it
        name: String,
    },
}

/// What `tenants set` takes.
const TENANT_FIELDS: &str = "\
Fields:
  plan                    presets the others: free (100 records/s, 1 GB a day, kept 1 day,
                          1 % of ordinary traces), startup (1k/s, 10 GB, 7 days, 10 %),
                          growth (100k/s, 1 TB, 30 days, 50 %), enterprise (1M/s, 10 TB, 90 days, all)
  records_per_second      data points, log records and spans, on average; 0: no limit
  burst_seconds           how many seconds' worth of unused rate may be sent at once
  bytes_per_day           of requests, decompressed, by days of UTC; 0: no limit
  bytes_per_month         likewise by calendar months
  retention_days          days until a row expires
  sampling_ratio          the most that is kept of ordinary traces, 0 to 1: by agents, and by the gateway
                          for senders that are none
  sampling_slow_ms        from here on such a sender's request is slow, and kept
  signals                 which may be sent: metrics,logs,traces
  in_flight_bytes_max     bytes of requests in progress
  requests_in_flight_max  requests in progress
  attributes_drop         keys of attributes that are taken out: user.email,http.request.header.*
  attributes_mask         likewise, of which `***` takes the value's place
  attributes_hash         likewise, of which a keyed hash does: equal values stay equal";

/// `config ...`
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Print every key with its comment and the value that holds here
    Print {
        #[command(flatten)]
        configured: Configured,
    },
    /// Say whether the configuration is valid
    Check {
        #[command(flatten)]
        configured: Configured,
    },
}

/// What lays itself over file and environment.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Configured {
    /// Configuration file [default: /etc/ollystack/gateway.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set any key of the configuration, for example --set batch.rows_max=5000
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Where keys, spill and embedded store live (data_dir)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// OTLP/gRPC (server.grpc_listen)
    #[arg(long, value_name = "IP:PORT")]
    grpc_listen: Option<String>,
    /// OTLP/HTTP (server.http_listen)
    #[arg(long, value_name = "IP:PORT")]
    http_listen: Option<String>,
    /// Metrics and health (admin.listen)
    #[arg(long, value_name = "IP:PORT")]
    admin_listen: Option<String>,
    /// clickhouse or kafka (sink)
    #[arg(long, value_name = "SINK")]
    sink: Option<String>,
    /// HOST:PORT of Kafka's brokers, comma-separated (kafka.brokers)
    #[arg(long, value_name = "LIST")]
    kafka_brokers: Option<String>,
    /// external or embedded (store.mode)
    #[arg(long, value_name = "MODE")]
    store: Option<String>,
    /// Data of the embedded engine (store.dir)
    #[arg(long, value_name = "DIR")]
    store_dir: Option<String>,
    /// ClickHouse's HTTP interface (clickhouse.url)
    #[arg(long, value_name = "URL")]
    clickhouse_url: Option<String>,
    /// ClickHouse user (clickhouse.user); the password comes from OLLYSTACK_CLICKHOUSE_PASSWORD
    #[arg(long, value_name = "NAME")]
    clickhouse_user: Option<String>,
    /// ClickHouse database (clickhouse.database)
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// error, warn, info, debug, trace or a filter (log.level)
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// text or json (log.format)
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=VALUE is expected")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

impl Configured {
    /// As the configuration takes them; a short form beats `--set`.
    pub(crate) fn flags(&self) -> Flags {
        let short = [
            ("data_dir", &self.data_dir),
            ("server.grpc_listen", &self.grpc_listen),
            ("server.http_listen", &self.http_listen),
            ("admin.listen", &self.admin_listen),
            ("sink", &self.sink),
            ("kafka.brokers", &self.kafka_brokers),
            ("store.mode", &self.store),
            ("store.dir", &self.store_dir),
            ("clickhouse.url", &self.clickhouse_url),
            ("clickhouse.user", &self.clickhouse_user),
            ("clickhouse.database", &self.database),
            ("log.level", &self.log_level),
            ("log.format", &self.log_format),
        ];
        let short = short.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
        Flags { file: self.config.clone(), keys: self.set.iter().cloned().chain(short).collect() }
    }
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
    fn every_short_flag_sets_its_key() {
        let arguments = "x run --data-dir /d --grpc-listen 127.0.0.1:1 --http-listen 127.0.0.1:2 --admin-listen 127.0.0.1:3 \
                         --store embedded --store-dir /s --clickhouse-url http://c:1 --clickhouse-user u --database b \
                         --log-level debug --log-format json --sink clickhouse --kafka-brokers k:9092 --set batch.rows_max=5";
        let cli = Cli::try_parse_from(arguments.split_whitespace()).unwrap();
        let Command::Run(configured) = cli.command else { panic!("run was given") };
        let layers = crate::config::Layers::new(None, std::iter::empty(), &configured.flags()).unwrap();
        let config = layers.config().unwrap();
        assert_eq!(config.store_dir(), PathBuf::from("/s"));
        assert_eq!((config.batch.rows_max, config.clickhouse.database.as_str()), (5, "b"));
        for (key, _) in configured.flags().keys {
            assert!(layers.get(&key).unwrap().1.is_some(), "{key} was not set");
        }
    }
}
