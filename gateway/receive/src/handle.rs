//! One request, from its head to its answer.

use crate::answer::{self, Body};
use crate::server::Shared;
use crate::{OtlpService, Refusal, Transport};
use http::{Request, Response};
use std::net::SocketAddr;
use std::time::Duration;

pub(crate) async fn answer<S: OtlpService, B>(
    _shared: &Shared<S>,
    _peer: SocketAddr,
    _request: Request<B>,
) -> Response<Body> {
    let refusal = Refusal::Unavailable { retry_after: Duration::from_secs(1), message: "not yet".to_owned() };
    answer::refused(Some(Transport::Grpc), &refusal)
}
