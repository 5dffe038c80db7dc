//! HTTP as a plain client speaks it: a request, and whatever answer comes, with its status, headers and body.

use anyhow::{Context, Result};
use std::time::Duration;
use ureq::Agent;

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Names in lower case, values as text.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The first header of this (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn client(patience: Duration) -> Agent {
    let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(patience));
    config.proxy(None).build().into()
}

/// GET. An answer of any status is an answer; only no answer is an error.
pub fn get(url: &str) -> Result<Answer> {
    let response = client(PATIENCE).get(url).call().with_context(|| format!("GET {url}"))?;
    answer(response).with_context(|| format!("GET {url}"))
}

/// POST of a body with headers. An answer of any status is an answer; only no answer is an error.
pub fn post(url: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
    post_within(PATIENCE, url, headers, body)
}

/// POST to one that may take as long to answer.
pub(crate) fn post_within(patience: Duration, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
    let mut request = client(patience).post(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send(body).with_context(|| format!("POST {url}"))?;
    answer(response).with_context(|| format!("POST {url}"))
}

fn answer(mut response: ureq::http::Response<ureq::Body>) -> Result<Answer> {
    let headers = response.headers().iter();
    let headers = headers.map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect();
    let body = response.body_mut().with_config().limit(256 << 20).read_to_vec()?;
    Ok(Answer { status: response.status().as_u16(), headers, body })
}
