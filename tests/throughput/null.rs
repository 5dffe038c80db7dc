//! A ClickHouse that keeps nothing: every statement and every insert is read to its end and answered with an empty success.
//!
//! What a gateway costs beside it is the gateway's own. It runs in this process, on the core of the senders.

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::net::TcpListener;

/// A running one; it ends with its runtime.
#[derive(Debug)]
pub(crate) struct Null {
    pub(crate) address: SocketAddr,
    bytes: Arc<AtomicU64>,
}

impl Null {
    pub(crate) async fn start() -> Result<Null> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, bytes) = (listener.local_addr()?, Arc::new(AtomicU64::new(0)));
        let counted = Arc::clone(&bytes);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                let service = service_fn(move |request| swallow(request, Arc::clone(&counted)));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Ok(Null { address, bytes })
    }

    /// Of all bodies so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}

async fn swallow(request: Request<Incoming>, counted: Arc<AtomicU64>) -> Result<Response<Empty<Bytes>>, hyper::Error> {
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        counted.fetch_add(frame?.data_ref().map_or(0, Bytes::len) as u64, Relaxed);
    }
    Ok(Response::new(Empty::new()))
}
