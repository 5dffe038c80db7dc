//! What a block of fields says of a request or an answer.
//!
//! In: fields as HPACK gives them, or a request that came as HTTP/1.1. Out: what an exchange is told by. Invariant: of a field
//! that comes twice the first counts, and whether one was unknown is never forgotten.

use super::hpack::{Field, Name, Value};
use crate::Context;
use crate::http::{Request, UNKNOWN, authority};
use std::sync::Arc;

/// What a block of fields says.
#[derive(Debug, Default)]
pub(super) struct Heads {
    /// The sender's last of its stream.
    pub(super) is_end: bool,
    /// A field was not known: what is missing below may have been it.
    pub(super) has_unknown: bool,
    pub(super) method: Option<&'static str>,
    pub(super) path: Option<Arc<str>>,
    pub(super) authority: Option<Arc<str>>,
    pub(super) user_agent: Option<Arc<str>>,
    pub(super) status: Option<u16>,
    pub(super) body_bytes: Option<u64>,
    pub(super) grpc_status: Option<u64>,
    pub(super) timeout_ns: Option<u64>,
    /// Whether the content is gRPC's; `None` if its type was not seen.
    pub(super) is_grpc: Option<bool>,
    pub(super) context: Option<Box<Context>>,
}

impl Heads {
    /// Without a field.
    pub(super) fn new(is_end: bool) -> Heads {
        Heads { is_end, ..Heads::default() }
    }

    /// Of a request that came as HTTP/1.1.
    pub(super) fn of(request: Request) -> Heads {
        let authority = request.host.map(|host| match request.port {
            Some(port) if host.contains(':') => format!("[{host}]:{port}"),
            Some(port) => format!("{host}:{port}"),
            None => host,
        });
        Heads {
            is_end: true,
            method: Some(request.method),
            path: request.path.map(Arc::from),
            authority: authority.map(Arc::from),
            user_agent: request.user_agent.map(Arc::from),
            body_bytes: request.body_bytes,
            context: request.context.map(Box::new),
            ..Heads::default()
        }
    }

    /// One more field. The first of a name counts.
    pub(super) fn add(&mut self, field: Field) {
        match (field.name, field.value) {
            (Name::Method, Value::Word(method)) => self.method = self.method.or(Some(method)),
            (Name::Path, Value::Text(path)) => self.path = self.path.take().or(Some(path)),
            (Name::Authority, Value::Text(host)) => self.authority = self.authority.take().or(Some(host)),
            (Name::UserAgent, Value::Text(agent)) => self.user_agent = self.user_agent.take().or(Some(agent)),
            (Name::Status, Value::Number(status)) => {
                self.status = self.status.or(u16::try_from(status).ok());
            }
            (Name::ContentLength, Value::Number(bytes)) => self.body_bytes = self.body_bytes.or(Some(bytes)),
            (Name::GrpcStatus, Value::Number(status)) => self.grpc_status = self.grpc_status.or(Some(status)),
            (Name::GrpcTimeout, Value::Number(ns)) => self.timeout_ns = self.timeout_ns.or(Some(ns)),
            (Name::ContentType, Value::IsGrpc(is_grpc)) => self.is_grpc = self.is_grpc.or(Some(is_grpc)),
            (Name::Traceparent, Value::Context(context)) => self.context = self.context.take().or(Some(context)),
            (Name::Unknown | Name::Method | Name::Path | Name::Status | Name::ContentType | Name::GrpcStatus, _) => {
                self.has_unknown = true;
            }
            _ => {}
        }
    }

    /// Whether the content is gRPC's, as far as that is certain.
    pub(super) fn is_grpc(&self) -> Option<bool> {
        self.is_grpc.or((!self.has_unknown).then_some(false))
    }

    pub(super) fn text_bytes(&self) -> usize {
        [&self.path, &self.authority, &self.user_agent].into_iter().flatten().map(|text| text.len()).sum()
    }
}

impl From<Heads> for Request {
    fn from(heads: Heads) -> Request {
        let (host, port) = heads.authority.as_deref().map_or((None, None), |text| authority(text.as_bytes()));
        Request {
            method: heads.method.unwrap_or(UNKNOWN),
            path: heads.path.map(|path| (*path).to_owned()).filter(|path| path.starts_with('/')),
            version: Some("2"),
            host,
            port,
            user_agent: heads.user_agent.map(|agent| (*agent).to_owned()),
            body_bytes: heads.body_bytes,
            context: heads.context.map(|context| *context),
        }
    }
}
