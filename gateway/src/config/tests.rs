//! Configuration as sentences: layers, defaults, and what is refused.

use super::*;

fn layers(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Layers, Error> {
    let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let flags = Flags { file: None, keys: owned(flags) };
    Layers::new(Some((std::path::Path::new("gateway.toml"), file)), owned(environment).into_iter(), &flags)
}

fn error(file: &str) -> String {
    layers(file, &[], &[]).and_then(|layers| layers.config()).unwrap_err().to_string()
}

#[test]
fn the_defaults_are_a_valid_configuration() {
    let config = layers("", &[], &[]).unwrap().config().unwrap();
    assert_eq!(config.server.grpc_listen, "127.0.0.1:4317".parse().unwrap());
    assert_eq!(config.batch.rows_max, 10_000);
    assert_eq!(config.keys_file(), PathBuf::from("/var/lib/ollystack-gateway/keys.toml"));
}

#[test]
fn every_key_has_a_comment_or_stands_under_one() {
    let mut commented = false;
    for line in DEFAULTS.lines() {
        match line {
            "" => commented = false,
            line if line.starts_with('#') => commented = true,
            line if line.starts_with('[') => commented = line.contains("[clickhouse]") || commented,
            line => assert!(commented || line.starts_with("user"), "no comment above: {line}"),
        }
    }
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let file = "[batch]\nrows_max = 2\n[server]\nconnections_max = 2\n[spill]\ndir = \"/file\"";
    let environment = [("OLLYSTACK_GATEWAY_BATCH_ROWS_MAX", "3"), ("OLLYSTACK_GATEWAY_SERVER_CONNECTIONS_MAX", "3")];
    let config = layers(file, &environment, &[("batch.rows_max", "4")]).unwrap().config().unwrap();
    assert_eq!((config.batch.rows_max, config.server.connections_max), (4, 3));
    assert_eq!(config.spill_dir(), PathBuf::from("/file"));
    assert_eq!(config.batch.wait(), Duration::from_secs(1));
}

#[test]
fn clickhouse_has_its_own_environment_names() {
    let environment = [("OLLYSTACK_CLICKHOUSE_URL", "https://db:8443"), ("OLLYSTACK_CLICKHOUSE_PASSWORD", "hunter2")];
    let config = layers("", &environment, &[]).unwrap().config().unwrap();
    assert_eq!(config.clickhouse.url, "https://db:8443");
    assert_eq!(config.clickhouse.password.expose(), "hunter2");
}

#[test]
fn an_unknown_key_is_refused_by_its_name() {
    assert_eq!(
        error("[batch]\nrow_max = 1"),
        "gateway.toml: unknown key batch.row_max (is batch.rows_max meant?); `ollystack-gateway config print` lists every key"
    );
    assert!(error("[nonsense]\nx = 1").contains("unknown key nonsense"));
    let flags = layers("", &[], &[("batch.rowz", "1")]).unwrap_err().to_string();
    assert!(flags.contains("unknown key batch.rowz"), "{flags}");
}

#[test]
fn wrong_values_name_the_key_what_was_found_and_what_is_allowed() {
    for (file, expected) in [
        ("[batch]\nrows_max = \"many\"", "gateway.toml: batch.rows_max is \"many\", expected a whole number"),
        ("[batch]\nrows_max = 0", "batch.rows_max is 0: at least 1 is allowed"),
        (
            "[clickhouse]\nurl = \"db:8123\"",
            "clickhouse.url is db:8123: http://HOST:PORT or https://HOST:PORT is allowed",
        ),
        (
            "[clickhouse]\ndatabase = \"a`b\"",
            "clickhouse.database is a`b: 1 to 64 letters, digits and underscores are allowed",
        ),
        (
            "[clickhouse]\ncluster = \"a b\"",
            "clickhouse.cluster is a b: up to 64 letters, digits and _ - . are allowed",
        ),
        (
            "store.mode = \"embedded\"\nclickhouse.cluster = \"c\"",
            "clickhouse.cluster is c: with store.mode = \"embedded\" it must be empty",
        ),
        (
            "[clickhouse]\ninsert_quorum = \"1\"",
            "clickhouse.insert_quorum is 1: \"auto\", \"0\" and numbers of replicas",
        ),
        ("[clickhouse]\ninsert_quorum = \"auto\"", "clickhouse.insert_quorum is auto: only \"0\" is allowed where"),
        ("[tiers]\npolicy = \"a'b\"", "tiers.policy is a'b: up to 64 letters, digits and _ - . are allowed"),
        (
            "[tiers]\nwarm_after_days = 14",
            "tiers.cold_after_days is 14: 0, or more than tiers.warm_after_days, is allowed",
        ),
        ("[tiers]\ncold_after_days = 36501", "tiers.cold_after_days is 36501: 0 to 36500 is allowed"),
        (
            "[tiers]\npolicy = \"p\"\nwarm_after_days = 0\ncold_after_days = 0",
            "tiers.policy is p: set tiers.warm_after_days or tiers.cold_after_days",
        ),
        ("[kafka]\nbrokers = \"k1:9092, k2\"", "kafka.brokers is k2: HOST:PORT is allowed"),
        ("[kafka]\ngroup = \"a b\"", "kafka.group is a b: 1 to 200 of A-Z a-z 0-9 . _ - are allowed"),
        ("[kafka]\nproduce_timeout_ms = 21000", "kafka.produce_timeout_ms is 21000: 1000 to 20000 is allowed"),
        ("[kafka]\nsasl_mechanism = \"GSSAPI\"", "kafka.sasl_mechanism is GSSAPI: PLAIN, SCRAM-SHA-256 or"),
        ("[kafka]\nsasl_mechanism = \"PLAIN\"", "kafka.sasl_user is empty: with kafka.sasl_mechanism a user is needed"),
        ("[kafka]\ntls_cert_file = \"c.pem\"", "kafka.tls_cert_file is c.pem: set it together with kafka.tls_key_file"),
        (
            "[server]\ntls_cert_file = \"c.pem\"",
            "server.tls_cert_file is c.pem: set it together with server.tls_key_file",
        ),
    ] {
        let found = error(file);
        assert!(found.contains(expected), "{found}");
    }
    let listen = error("[server]\ngrpc_listen = \"localhost\"");
    assert!(listen.contains("grpc_listen") && listen.contains("socket address"), "{listen}");
    let mode = error("[store]\nmode = \"cloud\"");
    assert!(mode.contains("mode") && mode.contains("embedded"), "{mode}");
}

#[test]
fn on_a_cluster_an_attempt_is_over_when_the_shard_had_its_time_too() {
    let within = |file: &str| layers(file, &[], &[]).unwrap().config().unwrap().terms().insert_within;
    assert_eq!(within(""), Duration::from_secs(2 + 10));
    assert_eq!(within("[clickhouse]\ncluster = \"c\"\ninsert_quorum = \"auto\""), Duration::from_secs(2 + 2 * 10));
}

#[test]
#[cfg(feature = "kafka")]
fn kafka_needs_brokers_and_what_this_build_can_do() {
    assert!(error("sink = \"kafka\"").contains("kafka.brokers is empty: HOST:PORT is needed"));
    let config =
        layers("sink = \"kafka\"\n[kafka]\nbrokers = \"k1:9092,k2:9092\"", &[], &[]).unwrap().config().unwrap();
    assert_eq!(
        (config.sink, config.kafka_spill_dir()),
        (SinkMode::Kafka, "/var/lib/ollystack-gateway/spill-kafka".into())
    );
    assert_eq!(config.terms().insert_within, Duration::from_secs(10), "an attempt is over when its messages are");
    if !cfg!(feature = "kafka-tls") {
        assert!(
            error("[kafka]\ntls = true")
                .contains("kafka.tls is true: only false is allowed: this program was built without")
        );
    }
}

#[test]
fn a_password_of_kafka_never_shows_and_never_comes_by_flag() {
    let environment = [("OLLYSTACK_GATEWAY_KAFKA_SASL_PASSWORD", "hunter2")];
    let layers = layers("", &environment, &[]).unwrap();
    let config = layers.config().unwrap();
    assert_eq!(config.kafka.sasl_password.expose(), "hunter2");
    assert!(!format!("{config:?}").contains("hunter2") && !print(&layers).unwrap().contains("hunter2"));
    let flag = super::tests::layers("", &[], &[("kafka.sasl_password", "hunter2")]).unwrap_err().to_string();
    assert!(!flag.contains("hunter2") && flag.contains("OLLYSTACK_GATEWAY_KAFKA_SASL_PASSWORD"), "{flag}");
}

#[test]
fn a_password_never_shows_and_never_comes_by_flag() {
    let environment = [("OLLYSTACK_CLICKHOUSE_PASSWORD", "hunter2")];
    let layers = layers("", &environment, &[]).unwrap();
    let config = layers.config().unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    let printed = print(&layers).unwrap();
    assert!(!printed.contains("hunter2"));
    assert!(printed.contains("password = \"***\" # OLLYSTACK_CLICKHOUSE_PASSWORD; default \"\""), "{printed}");
    let flag = super::tests::layers("", &[], &[("clickhouse.password", "hunter2")]).unwrap_err().to_string();
    assert!(!flag.contains("hunter2") && flag.contains("OLLYSTACK_CLICKHOUSE_PASSWORD"), "{flag}");
    let url = error("[clickhouse]\nurl = \"http://me:hunter2@db:8123\"");
    assert!(!url.contains("hunter2"), "{url}");
}

#[test]
fn print_without_changes_is_the_annotated_default_and_can_be_read_back() {
    assert_eq!(print(&layers("", &[], &[]).unwrap()).unwrap(), DEFAULTS);
    let changed = print(&layers("[batch]\nrows_max = 7", &[], &[]).unwrap()).unwrap();
    assert!(changed.contains("rows_max = 7 # gateway.toml; default 10000"), "{changed}");
    assert_eq!(layers(&changed, &[], &[]).unwrap().config().unwrap().batch.rows_max, 7);
}
