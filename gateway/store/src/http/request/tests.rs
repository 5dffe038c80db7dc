//! Requests as curl, Grafana and the `clickhouse` crate send them, and hostile ones.

use super::*;
use std::io::Read;

fn head(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut builder = http::Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

fn request(method: &str, uri: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Request, Refusal> {
    let head = head(method, uri, headers);
    let query = query_of(&head);
    understand(&head, query, body, 1 << 20, "id".into())
}

fn sql(request: &Request) -> String {
    String::from_utf8(request.work.sql.clone()).unwrap()
}

fn data(request: &Request) -> Vec<u8> {
    use std::io::Seek;
    let mut file = File::from(request.work.data.as_ref().unwrap().try_clone().unwrap());
    file.rewind().unwrap();
    let mut data = Vec::new();
    file.read_to_end(&mut data).unwrap();
    data
}

#[test]
fn a_statement_comes_in_the_url_the_body_or_both() {
    assert_eq!(sql(&request("GET", "/?query=SELECT%201", &[], b"").unwrap()), "SELECT 1");
    assert_eq!(sql(&request("POST", "/", &[], b"SELECT 2").unwrap()), "SELECT 2");
    assert_eq!(sql(&request("POST", "/?query=SELECT", &[], b" 3").unwrap()), "SELECT\n 3");
    assert!(request("GET", "/?query=SELECT%201", &[], b"").unwrap().work.readonly);
    assert!(!request("POST", "/", &[], b"SELECT 2").unwrap().work.readonly);
}

#[test]
fn parameters_are_settings_unless_the_interface_knows_them() {
    let uri =
        "/?query=x&database=d&default_format=JSON&max_threads=2&param_a=1&user=u&wait_end_of_query=1&max_threads=3";
    let work = request("POST", uri, &[], b"").unwrap().work;
    assert_eq!(work.database.as_deref(), Some("d"));
    assert_eq!(work.format, "JSON");
    assert_eq!(work.settings, [("max_threads".to_owned(), "2".to_owned())]);
    assert_eq!(work.parameters, [("a".to_owned(), "1".to_owned())]);
}

#[test]
fn an_inserts_data_comes_from_text_and_body() {
    let inserted = request("POST", "/?query=INSERT+INTO+t(a)+FORMAT+CSV", &[], b"1\n2\n").unwrap();
    assert!(inserted.insert);
    assert_eq!(data(&inserted), b"1\n2\n");
    assert!(sql(&inserted).starts_with("INSERT INTO t(a) \n FROM INFILE '/proc/self/fd/"));
    assert!(sql(&inserted).ends_with("FORMAT CSV"));
    let inserted = request("POST", "/", &[], b"INSERT INTO t FORMAT TSV\n1\n").unwrap();
    assert_eq!(data(&inserted), b"1\n");
    let inserted = request("POST", "/?query=INSERT+INTO+t", &[], b"VALUES (1)").unwrap();
    assert_eq!(data(&inserted), b" (1)");
    let inserted = request("POST", "/?query=INSERT+INTO+t", &[("x-clickhouse-format", "CSV")], b"7").unwrap();
    assert_eq!(data(&inserted), b"7");
    let inserted =
        request("POST", "/?query=INSERT+INTO+t+SELECT+a+FROM+input('a+UInt8')+FORMAT+CSV", &[], b"7").unwrap();
    assert_eq!(sql(&inserted), "INSERT INTO t SELECT a FROM format(CSV, 'a UInt8', unhex('37')) ");
}

#[test]
fn a_format_cannot_carry_sql() {
    let uri = "/?query=INSERT+INTO+t&default_format=CSV+SELECT+1";
    assert_eq!(request("POST", uri, &[], b"7").unwrap_err().code, UNKNOWN_FORMAT);
}

#[test]
fn bodies_are_unpacked() {
    let gzip = encoding::encode("gzip", b"SELECT 4").unwrap();
    assert_eq!(sql(&request("POST", "/", &[("content-encoding", "gzip")], &gzip).unwrap()), "SELECT 4");
    let blocks = encoding::encode_blocks(b"1\n");
    let inserted = request("POST", "/?query=INSERT+INTO+t+FORMAT+CSV&decompress=1", &[], &blocks).unwrap();
    assert_eq!(data(&inserted), b"1\n");
}

#[test]
fn a_form_carries_statement_and_parameters() {
    let body = b"--b\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT {a:UInt8}\r\n\
        --b\r\nContent-Disposition: form-data; name=\"param_a\"\r\n\r\n7\r\n--b--\r\n";
    let form = [("content-type", "multipart/form-data; boundary=b")];
    let parsed = request("POST", "/", &form, body).unwrap();
    assert_eq!(sql(&parsed), "SELECT {a:UInt8}");
    assert_eq!(parsed.work.parameters, [("a".to_owned(), "7".to_owned())]);
    for cut in 0..body.len() - 4 {
        assert!(request("POST", "/", &form, &body[..cut]).is_err(), "cut at {cut}");
    }
}

fn gate() -> Gate {
    Gate { user: "olly".into(), password: Some(Password::new("secret")), loopback: true }
}

fn admitted(gate: &Gate, uri: &str, headers: &[(&str, &str)]) -> Result<(), i32> {
    let head = head("POST", uri, headers);
    gate.admit(&head, &query_of(&head)).map_err(|refusal| refusal.code)
}

#[test]
fn the_password_is_taken_from_headers_basic_or_parameters() {
    let gate = gate();
    assert_eq!(admitted(&gate, "/", &[("x-clickhouse-user", "olly"), ("x-clickhouse-key", "secret")]), Ok(()));
    // olly:secret
    assert_eq!(admitted(&gate, "/", &[("authorization", "Basic b2xseTpzZWNyZXQ=")]), Ok(()));
    assert_eq!(admitted(&gate, "/?user=olly&password=secret", &[]), Ok(()));
    assert_eq!(admitted(&gate, "/?user=olly&password=wrong", &[]), Err(AUTHENTICATION_FAILED));
    assert_eq!(admitted(&gate, "/?password=secret", &[]), Err(AUTHENTICATION_FAILED));
    assert_eq!(admitted(&gate, "/", &[("authorization", "Bearer x")]), Err(AUTHENTICATION_FAILED));
    assert_eq!(admitted(&gate, "/", &[]), Err(REQUIRED_PASSWORD));
}

#[test]
fn a_web_page_is_not_served() {
    let open = Gate { user: "default".into(), password: None, loopback: true };
    assert_eq!(admitted(&open, "/", &[("host", "localhost:8123")]), Ok(()));
    assert_eq!(admitted(&open, "/", &[("host", "[::1]:8123")]), Ok(()));
    assert_eq!(admitted(&open, "/", &[("host", "127.0.0.1")]), Ok(()));
    assert_eq!(admitted(&open, "/", &[("host", "rebound.example:8123")]), Err(ACCESS_DENIED));
    assert_eq!(admitted(&open, "/", &[("host", "localhost"), ("origin", "https://example.com")]), Err(ACCESS_DENIED));
}
