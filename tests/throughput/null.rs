//! A ClickHouse that keeps nothing: every statement and every insert is read to its end and answered with an empty success.
//!
//! What a gateway costs beside it is the gateway's own. It runs in this process, on the core of the senders. Told to, it keeps the inserts.

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;

/// A running one; it ends with its runtime.
#[derive(Debug)]
pub(crate) struct Null {
    pub(crate) address: SocketAddr,
    bytes: Arc<AtomicU64>,
    kept: Arc<Kept>,
}

/// Requests with a body: path with query, and the body.
type Kept = Mutex<Vec<(String, Bytes)>>;

impl Null {
    pub(crate) async fn start(keeps: bool) -> Result<Null> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, bytes) = (listener.local_addr()?, Arc::new(AtomicU64::new(0)));
        let kept = Arc::new(Kept::default());
        let (counted, keep) = (Arc::clone(&bytes), keeps.then(|| Arc::clone(&kept)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (counted, keep) = (Arc::clone(&counted), keep.clone());
                let service = service_fn(move |request| swallow(request, Arc::clone(&counted), keep.clone()));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Ok(Null { address, bytes, kept })
    }

    /// What was kept so far.
    pub(crate) fn kept(&self) -> Vec<(String, Bytes)> {
        std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Of all bodies so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}

async fn swallow(
    request: Request<Incoming>,
    counted: Arc<AtomicU64>,
    keep: Option<Arc<Kept>>,
) -> Result<Response<Empty<Bytes>>, hyper::Error> {
    let path = request.uri().to_string();
    let (mut body, mut whole) = (request.into_body(), Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        let data = frame.data_ref().map_or(&[][..], |data| data);
        counted.fetch_add(data.len() as u64, Relaxed);
        if keep.is_some() {
            whole.extend_from_slice(data);
        }
    }
    if let Some(keep) = keep.filter(|_| !whole.is_empty()) {
        keep.lock().unwrap_or_else(PoisonError::into_inner).push((path, Bytes::from(whole)));
    }
    Ok(Response::new(Empty::new()))
}
