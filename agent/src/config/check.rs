//! Whether a configuration that reads well can also run: values out of range, what sending needs, and what should not stay so.
//!
//! Asked by `run`, `config check` and `doctor`, so that all three say the same. Invariant: a message names the key, the
//! value, what is allowed and the next step, and never a secret.

use super::{Buffer, Config, DEFAULT_FILE, Secret};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Why a configuration that reads well still cannot run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    #[error(
        "neither endpoint nor API key is set: OLLYSTACK_ENDPOINT=https://HOST:4317 OLLYSTACK_API_KEY=... suffice, as do `endpoint` and `api_key_file` in {DEFAULT_FILE}; `ollystack-gateway keys new` makes a key"
    )]
    Nothing,
    #[error(
        "endpoint {0} is this agent's own OTLP receiver (otlp.grpc_address, otlp.http_address): telemetry would go in circles; name the gateway's port, or move or disable the receiver"
    )]
    Circle(String),
    #[error(
        "no endpoint: set OLLYSTACK_ENDPOINT=https://HOST:4317, or `endpoint` in {DEFAULT_FILE}, or give --endpoint"
    )]
    NoEndpoint,
    #[error("endpoint `{0}` is not a URL: write http://HOST:PORT or https://HOST:PORT, for example https://{0}")]
    Endpoint(String),
    #[error(
        "no API key: set OLLYSTACK_API_KEY, or `api_key_file` in {DEFAULT_FILE} (`ollystack-gateway keys new` makes a key; an endpoint that asks for none takes any text)"
    )]
    NoKey,
    #[error("api_key_file {path}: {error}; check the path and that this user may read it")]
    KeyFile { path: String, error: std::io::Error },
    #[error("api_key_file {path}: {fault}")]
    KeyFileFault { path: String, fault: &'static str },
    #[error("{0}")]
    Stage(String),
    #[error("{key} is {value}, allowed is {allowed}")]
    Value { key: &'static str, value: String, allowed: &'static str },
}

impl Config {
    /// What is wrong with it apart from a missing endpoint or key, which only sending needs.
    pub(crate) fn faults(&self) -> Vec<Unfit> {
        let mut faults = Vec::new();
        if !self.endpoint.is_empty() && endpoint_host(&self.endpoint).is_none() {
            faults.push(Unfit::Endpoint(self.endpoint.clone()));
        }
        if self.sends_to_itself() {
            faults.push(Unfit::Circle(self.endpoint.clone()));
        }
        let mut at_least = |key, value: u64, least: u64, allowed| {
            if value < least {
                faults.push(Unfit::Value { key, value: value.to_string(), allowed });
            }
        };
        at_least("limits.queue_batches_max", self.limits.queue_batches_max as u64, 1, "at least 1");
        at_least("limits.queue_records_max", u64::from(self.limits.queue_records_max), 1, "at least 1");
        at_least("telemetry.interval_ms", self.telemetry.interval_ms, 1000, "at least 1000");
        let Buffer { bytes_max, segment_bytes_max } = self.buffer;
        at_least("buffer.bytes_max", bytes_max, 4 << 20, "at least 4194304");
        if !((256 << 10)..=bytes_max / 4).contains(&segment_bytes_max) {
            let allowed = "262144 to a quarter of buffer.bytes_max";
            faults.push(Unfit::Value {
                key: "buffer.segment_bytes_max",
                value: segment_bytes_max.to_string(),
                allowed,
            });
        }
        let cores = self.limits.cpu_cores_max;
        if !(cores == 0.0 || (0.01..=1024.0).contains(&cores)) {
            let allowed = "0, which is no limit, or 0.01 to 1024";
            faults.push(Unfit::Value { key: "limits.cpu_cores_max", value: cores.to_string(), allowed });
        }
        if !self.admin.listen.is_empty() && self.admin.listen.parse::<std::net::SocketAddr>().is_err() {
            let value = format!("`{}`", self.admin.listen);
            faults.push(Unfit::Value {
                key: "admin.listen",
                value,
                allowed: "ADDRESS:PORT, for example 127.0.0.1:8889, or empty for none",
            });
        }
        let limits = self.otlp.limits.check().map_err(|error| format!("otlp.limits: {error}"));
        let process = self.process().check().map_err(|error| error.to_string());
        let stages = [
            self.host.check().map_err(|e| e.to_string()),
            self.logs.check().map_err(|e| e.to_string()),
            self.journald.check().map_err(|e| e.to_string()),
            limits,
            process,
            self.sockets.check().map_err(|e| e.to_string()),
            self.ebpf.check().map_err(|e| e.to_string()),
            self.sending().check().map_err(|e| e.to_string()),
        ];
        faults.extend(stages.into_iter().filter_map(Result::err).map(Unfit::Stage));
        if tracing_subscriber::EnvFilter::try_new(&self.log.level).is_err() {
            let value = format!("`{}`", self.log.level);
            faults.push(Unfit::Value {
                key: "log.level",
                value,
                allowed: "error, warn, info, debug or trace, or a tracing filter",
            });
        }
        faults
    }

    /// The exporter's section, with the endpoint that is set once, at the top.
    pub(crate) fn sending(&self) -> ollystack_export::Config {
        let mut export = self.export.clone();
        if !self.endpoint.is_empty() {
            export.endpoint = self.endpoint.clone();
        }
        export
    }

    /// The sections of the process stage, which has several.
    pub(crate) fn process(&self) -> ollystack_process::Config {
        ollystack_process::Config {
            redact: self.redact.clone(),
            metrics: self.metrics.clone(),
            red: self.red.clone(),
            traces: self.traces.clone(),
            patterns: self.patterns.clone(),
        }
    }

    fn sends_to_itself(&self) -> bool {
        let Ok(uri) = self.endpoint.parse::<http::Uri>() else { return false };
        let own = [self.otlp.grpc_address.port(), self.otlp.http_address.port()];
        self.otlp.enabled
            && uri.host().is_some_and(is_loopback)
            && uri.port_u16().is_some_and(|port| own.contains(&port))
    }

    /// What sending needs and is not there, both at once for those who start from nothing.
    pub(crate) fn require(&self) -> Result<(&str, Secret), Unfit> {
        match (self.require_endpoint(), self.require_key()) {
            (Err(Unfit::NoEndpoint), Err(Unfit::NoKey)) => Err(Unfit::Nothing),
            (endpoint, key) => Ok((endpoint?, key?)),
        }
    }

    /// The endpoint, which must be there to send.
    pub(crate) fn require_endpoint(&self) -> Result<&str, Unfit> {
        if self.endpoint.is_empty() { Err(Unfit::NoEndpoint) } else { Ok(&self.endpoint) }
    }

    /// The key, from the key itself or its file, which must be there to send.
    pub(crate) fn require_key(&self) -> Result<Secret, Unfit> {
        if !self.api_key.is_empty() {
            return Ok(self.api_key.clone());
        }
        let path = self.api_key_file.clone();
        if path.is_empty() {
            return Err(Unfit::NoKey);
        }
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => return Err(Unfit::KeyFile { path, error }),
        };
        match Secret::parse(&text) {
            Ok(key) if key.is_empty() => Err(Unfit::KeyFileFault { path, fault: "the file is empty" }),
            Ok(key) => Ok(key),
            Err(fault) => Err(Unfit::KeyFileFault { path, fault }),
        }
    }

    /// Whether the key goes over a network for everybody to read. When sending, the exporter says so itself.
    pub(crate) fn clear_text_warning(&self) -> Option<String> {
        let host = self.endpoint.strip_prefix("http://").and_then(|_| endpoint_host(&self.endpoint))?;
        let warning =
            format!("the API key and all telemetry go to {host} in clear: use https:// unless the network is yours");
        (!is_loopback(&host)).then_some(warning)
    }

    /// What works but should not stay so.
    pub(crate) fn warnings(&self, file: Option<&Path>) -> Vec<String> {
        let mut warnings = Vec::new();
        let key_file = Path::new(&self.api_key_file);
        let holders = [file.filter(|path| file_sets_key(path)), (!self.api_key_file.is_empty()).then_some(key_file)];
        for path in holders.into_iter().flatten() {
            if let Ok(metadata) = path.metadata()
                && metadata.permissions().mode() & 0o077 != 0
            {
                let (path, mode) = (path.display(), metadata.permissions().mode() & 0o777);
                warnings.push(format!(
                    "{path} holds the API key and others may read it (mode {mode:04o}): chmod 600 {path}"
                ));
            }
        }
        if let Ok(address) = self.admin.listen.parse::<std::net::SocketAddr>()
            && !address.ip().is_loopback()
        {
            warnings
                .push(format!("admin.listen {address} is open to other hosts: /metrics and /status ask for no key"));
        }
        warnings
    }
}

fn file_sets_key(path: &Path) -> bool {
    let table = std::fs::read_to_string(path).ok().and_then(|text| text.parse::<toml::Table>().ok());
    table.is_some_and(|table| table.contains_key("api_key"))
}

/// The host of an `http://` or `https://` URL.
fn endpoint_host(endpoint: &str) -> Option<String> {
    let uri: http::Uri = endpoint.parse().ok()?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    uri.host().filter(|host| known && !host.is_empty()).map(str::to_owned)
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_have_no_fault_and_no_warning() {
        assert_eq!(
            Config::default().faults().iter().map(ToString::to_string).collect::<Vec<_>>(),
            Vec::<String>::new()
        );
        assert!(Config::default().warnings(None).is_empty());
    }

    #[test]
    fn an_endpoint_without_a_scheme_is_refused_with_the_right_spelling() {
        let config = Config { endpoint: "gateway:4317".into(), ..Config::default() };
        assert!(config.faults()[0].to_string().contains("for example https://gateway:4317"));
    }

    #[test]
    fn a_key_in_clear_to_another_host_is_a_warning() {
        let warned =
            |endpoint: &str| Config { endpoint: endpoint.into(), ..Config::default() }.clear_text_warning().is_some();
        assert!(warned("http://gateway.example:4317"));
        for fine in
            ["https://gateway.example:4317", "http://127.0.0.1:4317", "http://[::1]:4317", "http://localhost:4317"]
        {
            assert!(!warned(fine), "{fine}");
        }
    }

    #[test]
    fn an_agent_that_would_send_to_itself_is_refused() {
        let faults = |endpoint: &str, enabled| {
            let otlp = ollystack_input_otlp::Config { enabled, ..Default::default() };
            Config { endpoint: endpoint.into(), otlp, ..Config::default() }.faults().len()
        };
        assert_eq!([faults("http://localhost:4317", true), faults("http://127.0.0.1:4318", true)], [1, 1]);
        assert_eq!([faults("http://localhost:4317", false), faults("http://gateway:4317", true)], [0, 0]);
    }

    #[test]
    fn values_out_of_range_are_named_whichever_stage_they_belong_to() {
        let expect = |expected: &str, change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            let found = config.faults().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            assert!(found.starts_with(expected), "{found}");
        };
        expect("buffer.segment_bytes_max is 7", |config| config.buffer.segment_bytes_max = 7);
        expect("limits.cpu_cores_max is -1", |config| config.limits.cpu_cores_max = -1.0);
        expect("limits.cpu_cores_max is NaN", |config| config.limits.cpu_cores_max = f64::NAN);
        expect("telemetry.interval_ms is 0", |config| config.telemetry.interval_ms = 0);
        expect("admin.listen is `here`", |config| config.admin.listen = "here".into());
        expect("ebpf.head_bytes is 1", |config| config.ebpf.head_bytes = 1);
        expect("traces.baseline_ratio is 2", |config| config.traces.baseline_ratio = 2.0);
        expect("export.in_flight_max is 0", |config| config.export.in_flight_max = 0);
    }

    #[test]
    fn the_key_file_is_read_and_an_open_one_warned_about() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "olly_k\n").unwrap();
        let config = Config { api_key_file: file.path().display().to_string(), ..Config::default() };
        assert_eq!(config.require_key().unwrap().expose(), "olly_k");
        assert!(config.warnings(None).is_empty());
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(config.warnings(None)[0].contains("(mode 0644): chmod 600"));
    }

    #[test]
    fn without_key_or_endpoint_the_next_step_is_named() {
        let config = Config::default();
        assert!(config.require_endpoint().unwrap_err().to_string().contains("OLLYSTACK_ENDPOINT"));
        assert!(config.require_key().unwrap_err().to_string().contains("OLLYSTACK_API_KEY"));
        assert!(config.require().unwrap_err().to_string().starts_with("neither endpoint nor API key is set"));
        let gone = Config { api_key_file: "/nowhere/key".into(), ..Config::default() };
        assert!(gone.require_key().unwrap_err().to_string().starts_with("api_key_file /nowhere/key: "));
    }
}
