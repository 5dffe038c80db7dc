//! What goes back: ClickHouse's headers, bodies and status codes.

use crate::error::Refusal;
use crate::library::{Output, Summary};
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;

use super::encoding;

/// A whole answer.
pub(crate) type Answer = Response<Full<Bytes>>;

/// What every answer says about the server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) display_name: String,
    pub(crate) version: String,
    pub(crate) timezone: String,
}

/// A line of text.
pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=UTF-8"));
    answer
}

impl Server {
    /// A statement's output.
    pub(crate) fn output(
        &self,
        output: Output,
        summary: Summary,
        query_id: &str,
        format: &str,
        blocks: bool,
        encoding: Option<&'static str>,
    ) -> Answer {
        let encoded = encoding.and_then(|name| encoding::encode(name, output.as_ref()).map(|body| (name, body)));
        let (encoding, body) = match encoded {
            Some((name, body)) => (Some(name), Bytes::from(body)),
            None if blocks => (None, Bytes::from(encoding::encode_blocks(output.as_ref()))),
            // The engine's own memory is sent, not a copy.
            None => (None, Bytes::from_owner(output)),
        };
        let mut answer = Response::new(Full::new(body));
        self.headers(&mut answer, query_id, &summary);
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type(format)));
        insert(headers, "x-clickhouse-format", format);
        if let Some(encoding) = encoding {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        answer
    }

    /// A refusal, with ClickHouse's status for its code.
    pub(crate) fn refusal(&self, refusal: &Refusal, query_id: &str) -> Answer {
        let Refusal { code, message } = refusal;
        let body = format!("Code: {code}. DB::Exception: {message} (version {})\n", self.version);
        let mut answer = Response::new(Full::new(Bytes::from(body)));
        *answer.status_mut() = status(*code);
        self.headers(&mut answer, query_id, &Summary::default());
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
        insert(headers, "x-clickhouse-exception-code", &code.to_string());
        if *code == 194 {
            insert(headers, "www-authenticate", "Basic realm=\"ClickHouse server HTTP API\"");
        }
        answer
    }

    fn headers(&self, answer: &mut Answer, query_id: &str, summary: &Summary) {
        let headers = answer.headers_mut();
        insert(headers, "x-clickhouse-server-display-name", &self.display_name);
        insert(headers, "x-clickhouse-query-id", query_id);
        insert(headers, "x-clickhouse-timezone", &self.timezone);
        // ClickHouse has its numbers in quotes.
        let summary = format!(
            "{{\"read_rows\":\"{}\",\"read_bytes\":\"{}\",\"written_rows\":\"{}\",\"written_bytes\":\"{}\",\
             \"total_rows_to_read\":\"0\",\"result_rows\":\"{}\",\"result_bytes\":\"{}\",\"elapsed_ns\":\"{}\"}}",
            summary.read_rows,
            summary.read_bytes,
            summary.written_rows,
            summary.written_bytes,
            summary.result_rows,
            summary.result_bytes,
            (summary.elapsed_seconds * 1e9) as u64,
        );
        insert(headers, "x-clickhouse-summary", &summary);
    }
}

/// What a client sent may not be fit for a header: then it is left out.
fn insert(headers: &mut http::HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

fn content_type(format: &str) -> &'static str {
    let starts = |prefix: &str| format.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix));
    if ["JSONEachRow", "JSONCompactEachRow", "JSONStringsEachRow", "JSONLines", "NDJSON"].into_iter().any(starts) {
        "application/x-ndjson; charset=UTF-8"
    } else if starts("JSON") {
        "application/json; charset=UTF-8"
    } else if starts("TabSeparated") || starts("TSV") {
        "text/tab-separated-values; charset=UTF-8"
    } else if starts("CSV") {
        "text/csv; charset=UTF-8; header=absent"
    } else if ["RowBinary", "Native", "Arrow", "Parquet", "ORC", "Avro", "MsgPack"].into_iter().any(starts) {
        "application/octet-stream"
    } else {
        "text/plain; charset=UTF-8"
    }
}

/// As ClickHouse's exceptionCodeToHTTPStatus, plus 503 for what passes by itself.
fn status(code: i32) -> StatusCode {
    match code {
        194 => StatusCode::UNAUTHORIZED,
        192 | 193 | 497 | 512 | 516 => StatusCode::FORBIDDEN,
        6 | 8 | 15 | 25 | 26 | 27 | 36 | 38 | 41 | 44 | 53 | 62 | 69 | 72 | 117 | 167 | 168 | 223 | 376 | 427 | 441 => {
            StatusCode::BAD_REQUEST
        }
        46 | 47 | 50 | 56 | 60 | 63 | 73 | 78 | 81 | 115 | 336 | 511 => StatusCode::NOT_FOUND,
        159 => StatusCode::REQUEST_TIMEOUT,
        307 => StatusCode::PAYLOAD_TOO_LARGE,
        48 => StatusCode::NOT_IMPLEMENTED,
        202 | 210 | 439 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
