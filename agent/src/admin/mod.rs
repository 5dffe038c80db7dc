//! The agent's own face on loopback: `/metrics` for Prometheus, `/healthz` for whoever restarts it, `/status` as JSON.
//!
//! Every page is rendered from one [`Report`], read when asked. Invariant: at most `CONNECTIONS_MAX` connections are
//! served at once, and each only for `CONNECTION_MAX`, so that no client can cost the agent memory.

mod metrics;
mod report;

#[cfg(test)]
pub(crate) use report::example;
pub(crate) use report::{Account, Buffer, Export, InAll, Memory, Report};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

const CONNECTIONS_MAX: usize = 16;
const CONNECTION_MAX: Duration = Duration::from_secs(10);

/// What the pages are made from.
pub(crate) trait View: Send + Sync + 'static {
    /// Everything, now.
    fn report(&self) -> Report;
    /// What ails the agent so that a restart is due, if anything.
    fn ailment(&self) -> Option<String>;
}

/// Listen on `address` and answer in the background until `stop`; an empty address means not at all. A port that is
/// taken costs the pages, not the agent.
pub(crate) async fn start(address: &str, view: Arc<dyn View>, stop: &CancellationToken) {
    if address.is_empty() {
        return;
    }
    match TcpListener::bind(address).await {
        Ok(listener) => {
            tokio::spawn(serve(listener, view, stop.clone()));
        }
        Err(error) => tracing::warn!(
            address,
            %error,
            "no /metrics, /healthz and /status: the address cannot be used; free it, or set admin.listen to another"
        ),
    }
}

async fn serve(listener: TcpListener, view: Arc<dyn View>, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, most likely: a pause lets others finish, where a tight loop would only burn CPU.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // Refusing by hanging up is an answer that costs nothing.
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let view = Arc::clone(&view);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&request, view.as_ref());
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            let connection = http
                .timer(TokioTimer::new())
                .header_read_timeout(CONNECTION_MAX / 2)
                .keep_alive(false)
                .max_buf_size(16 << 10)
                .serve_connection(TokioIo::new(stream), service);
            // A client that is slow or gone is its own trouble.
            let _ = tokio::time::timeout(CONNECTION_MAX, connection).await;
            drop(permit);
        });
    }
}

fn answer(request: &Request<Incoming>, view: &dyn View) -> Response<Full<Bytes>> {
    let (status, content_type, body) = page(request.method(), request.uri().path(), view);
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

const TEXT: &str = "text/plain; charset=utf-8";

fn page(method: &Method, path: &str, view: &dyn View) -> (StatusCode, &'static str, String) {
    if method != Method::GET && method != Method::HEAD {
        return (StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET is answered here\n".to_owned());
    }
    match path {
        "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics::render(&view.report())),
        "/healthz" => match view.ailment() {
            None => (StatusCode::OK, TEXT, "ok\n".to_owned()),
            Some(ailment) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{ailment}\n")),
        },
        "/status" => match serde_json::to_string(&view.report()) {
            Ok(json) => (StatusCode::OK, "application/json", json),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        },
        _ => (StatusCode::NOT_FOUND, TEXT, "here are /metrics, /healthz and /status\n".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    struct Fixed(Option<&'static str>);

    impl View for Fixed {
        fn report(&self) -> Report {
            report::example()
        }

        fn ailment(&self) -> Option<String> {
            self.0.map(str::to_owned)
        }
    }

    async fn ask(request: &str, view: Fixed) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, Arc::new(view), stop.clone()));
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{request}\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        stop.cancel();
        server.await.unwrap();
        text
    }

    #[tokio::test]
    async fn each_page_answers_and_the_rest_is_refused() {
        let cases = [
            ("GET /metrics HTTP/1.1", "200 OK", "ollystack_records_total"),
            ("GET /status HTTP/1.1", "200 OK", "\"signals\""),
            ("GET /healthz HTTP/1.1", "200 OK", "ok"),
            ("GET / HTTP/1.1", "404 Not Found", "/healthz"),
            ("POST /metrics HTTP/1.1", "405 Method Not Allowed", "only GET"),
        ];
        for (request, status, body) in cases {
            let answer = ask(request, Fixed(None)).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(body), "{request}: {answer}");
        }
    }

    #[tokio::test]
    async fn an_ailing_agent_says_so() {
        let answer = ask("GET /healthz HTTP/1.1", Fixed(Some("processing stands still"))).await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("stands still"), "{answer}");
    }
}
