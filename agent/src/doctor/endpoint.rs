//! Whether the endpoint can be reached and takes the key: name, TCP, then TLS and HTTP/2, then the answer to an
//! empty export.
//!
//! Invariant: nothing is sent but the key and a request without records, and every step has a deadline.

use crate::config::{Config, Secret};
use ollystack_record::Availability;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// For each step: a person waits.
const PATIENCE: Duration = Duration::from_secs(5);

const NAME: &str = "endpoint";

/// Try it.
pub(super) fn probe(config: &Config) -> Availability {
    let endpoint = match config.require_endpoint() {
        Ok(endpoint) => endpoint,
        Err(error) => return Availability::off(NAME, error.to_string(), ""),
    };
    if let Err((why, remedy)) = reach(endpoint) {
        return Availability::off(NAME, why, remedy);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return Availability::partial(
                NAME,
                format!("{endpoint} accepts connections, not tried further: {error}"),
                "",
            );
        }
    };
    match runtime.block_on(converse(config, endpoint)) {
        Ok(status) => verdict(endpoint, &status),
        Err(error) => Availability::off(
            NAME,
            format!("{endpoint} accepts connections but no TLS or HTTP/2: {error}"),
            "check the scheme (http or https), the port (OTLP/gRPC is 4317), export.ca_file and export.cert_file",
        ),
    }
}

/// Name and TCP, with std: its errors name the step that failed.
fn reach(endpoint: &str) -> Result<(), (String, &'static str)> {
    let uri: http::Uri =
        endpoint.parse().map_err(|_| (format!("{endpoint} is not a URL"), "write https://HOST:4317"))?;
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let addresses: Vec<_> = (host, port)
        .to_socket_addrs()
        .map_err(|error| {
            (format!("the name {host} cannot be resolved: {error}"), "check the name and this host's DNS")
        })?
        .collect();
    let mut last = format!("{host} has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => return Ok(()),
            Err(error) => last = format!("{address} does not accept connections: {error}"),
        }
    }
    Err((last, "check that the gateway runs and no firewall is between; until then the agent buffers on disk"))
}

async fn converse(config: &Config, endpoint: &str) -> Result<Status, String> {
    let words = |error: tonic::transport::Error| {
        // The outermost says only "transport error"; the cause is what helps.
        let mut cause: &dyn std::error::Error = &error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        cause.to_string()
    };
    let mut builder =
        Endpoint::from_shared(endpoint.to_owned()).map_err(words)?.connect_timeout(PATIENCE).timeout(PATIENCE);
    if endpoint.starts_with("https://") {
        let tls = config.export.tls().map_err(|error| error.to_string())?;
        builder = builder.tls_config(tls).map_err(words)?;
    }
    let channel = tokio::time::timeout(PATIENCE, builder.connect())
        .await
        .map_err(|_| "no answer in 5 s".to_owned())?
        .map_err(words)?;
    Ok(export_nothing(channel, config.require_key().ok()).await)
}

/// One empty trace export; its status.
async fn export_nothing(channel: Channel, key: Option<Secret>) -> Status {
    let mut client = tonic::client::Grpc::new(channel);
    if let Err(error) = client.ready().await {
        return Status::unavailable(error.to_string());
    }
    let path = http::uri::PathAndQuery::from_static("/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    let mut request = tonic::Request::new(());
    if let Some(Ok(mut bearer)) = key.map(|key| AsciiMetadataValue::try_from(format!("Bearer {}", key.expose()))) {
        bearer.set_sensitive(true);
        request.metadata_mut().insert("authorization", bearer);
    }
    match client.unary(request, path, Nothing).await {
        Ok(_) => Status::ok(""),
        Err(status) => status,
    }
}

fn verdict(endpoint: &str, status: &Status) -> Availability {
    let said = || match status.message() {
        "" => format!("{:?}", status.code()),
        message => format!("{:?}: {message}", status.code()),
    };
    match status.code() {
        Code::Ok => Availability::on(NAME, format!("{endpoint} answers OTLP and takes the key")),
        Code::Unauthenticated | Code::PermissionDenied => Availability::off(
            NAME,
            format!("{endpoint} answers OTLP but refuses the key ({})", said()),
            "check the API key: `ollystack-gateway keys list` shows which are valid",
        ),
        Code::Unimplemented => Availability::off(
            NAME,
            format!("{endpoint} speaks gRPC but not OTLP ({})", said()),
            "check host and port: the gateway's gRPC port is 4317",
        ),
        _ => Availability::partial(
            NAME,
            format!("{endpoint} answers, but not well now ({})", said()),
            "see the gateway's log",
        ),
    }
}

/// An empty protobuf message both ways: every OTLP request and answer may be one.
struct Nothing;

impl Codec for Nothing {
    type Encode = ();
    type Decode = ();
    type Encoder = Nothing;
    type Decoder = Nothing;

    fn encoder(&mut self) -> Nothing {
        Nothing
    }

    fn decoder(&mut self) -> Nothing {
        Nothing
    }
}

impl Encoder for Nothing {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for Nothing {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, answer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        use bytes::Buf;
        answer.advance(answer.remaining());
        Ok(Some(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ollystack_record::State;
    use std::net::TcpListener;

    fn config(endpoint: String) -> Config {
        Config { endpoint, ..Config::default() }
    }

    #[test]
    fn a_closed_port_and_a_name_without_address_are_told_apart() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(probe(&config(format!("http://{address}"))).why.contains("does not accept connections"));
        assert!(probe(&config("http://no-such-name.invalid:4317".into())).why.contains("cannot be resolved"));
    }

    #[test]
    fn a_server_that_hangs_up_is_said_to_speak_no_http2() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            for _ in 0..2 {
                drop(listener.accept());
            }
        });
        let finding = probe(&config(format!("https://{address}")));
        server.join().unwrap();
        assert_eq!(finding.state, State::Off);
        assert!(finding.why.contains("accepts connections but no TLS or HTTP/2"), "{}", finding.why);
    }

    #[test]
    fn each_answer_has_its_verdict() {
        for (status, state) in [
            (Status::ok(""), State::On),
            (Status::unauthenticated("key"), State::Off),
            (Status::unimplemented("no"), State::Off),
            (Status::unavailable("later"), State::Partial),
        ] {
            assert_eq!(verdict("http://e", &status).state, state, "{status}");
        }
    }
}
