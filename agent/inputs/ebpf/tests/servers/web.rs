//! HTTP/1.1, HTTP/2 and gRPC: nginx, nghttpd, and gRPC of Python.

use crate::Need;
use crate::case::{Case, Expected, Running, command, failed, fine, free_address, refused, serve, took, untimed};
use libtest_mimic::Failed;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

const CURL: Need = Need("curl", "apt-get install curl");
pub(crate) const NGINX_NEEDS: &[Need] = &[Need("nginx", "apt-get install nginx"), CURL];
pub(crate) const NGHTTPD_NEEDS: &[Need] =
    &[Need("nghttpd", "apt-get install nghttp2-server"), Need("h2load", "apt-get install nghttp2-client")];
pub(crate) const UPGRADE_NEEDS: &[Need] =
    &[Need("python3 hypercorn", "pip install hypercorn"), Need("nghttp", "apt-get install nghttp2-client")];
pub(crate) const NGINX_HTTP2_NEEDS: &[Need] =
    &[Need("nginx", "apt-get install nginx"), Need("nghttp", "apt-get install nghttp2-client")];
pub(crate) const GRPC_NEEDS: &[Need] = &[Need("python3 grpc", "pip install grpcio")];

/// Requests to nginx: arguments of curl, path, and what is expected.
fn requests() -> Vec<(&'static str, String, Expected)> {
    let mut requests = vec![
        ("", "/".to_owned(), fine("GET /")),
        ("", "/missing?token=secret".to_owned(), refused("GET /missing", "404")),
        ("", "/broken".to_owned(), failed("GET /broken", "503")),
        // Sent by sendfile.
        ("", "/big".to_owned(), fine("GET /big")),
        ("head", "/orders/7".to_owned(), fine("HEAD /orders/{id}")),
        // Answered before all of it has come.
        ("data-binary = @upload", "/orders".to_owned(), fine("POST /orders")),
        ("request = DELETE", "/orders/7".to_owned(), fine("DELETE /orders/{id}")),
        ("header = @cookie", "/cookie".to_owned(), fine("GET /cookie")),
    ];
    requests.extend((0..20).map(|number| ("", format!("/orders/{number}"), fine("GET /orders/{id}"))));
    requests
}

/// Over connections that stay open.
pub(crate) fn nginx(folder: &Path) -> Result<Case, Failed> {
    let (server, address) = nginx_server(folder, "")?;
    let each = |(option, path, _): (&str, String, Expected)| {
        format!(
            "http1.1\n{option}\nurl = http://{address}{path}\noutput = /dev/null\nsilent\n\
             write-out = \"took %{{time_total}}\\n\"\n"
        )
    };
    let script: Vec<String> = requests().into_iter().map(each).collect();
    std::fs::write(folder.join("curl"), script.join("next\n"))?;
    std::fs::write(folder.join("cookie"), format!("Cookie: a={}", "c".repeat(3_000)))?;
    std::fs::write(folder.join("upload"), vec![b'u'; 300_000])?;
    let mut client = command("curl", ["--config", "curl"])?;
    client.current_dir(folder);
    let expected = requests().into_iter().map(|(.., expected)| expected).collect();
    Ok(Case { _server: server, address, client, expected, clock: took, is_ordered: true, service: "nginx" })
}

/// All at once over one connection, each with fields of 3 kB.
pub(crate) fn nginx_http2(folder: &Path) -> Result<Case, Failed> {
    let (server, address) = nginx_server(folder, "http2")?;
    let requests: Vec<_> = requests().into_iter().filter(|(option, ..)| option.is_empty()).collect();
    let cookie = format!("--header=cookie: a={}", "c".repeat(3_000));
    let mut client = command("nghttp", ["--null-out", "--no-dep", &cookie])?;
    client.args(requests.iter().map(|(_, path, _)| format!("http://{address}{path}")));
    let expected = requests.into_iter().map(|(.., expected)| expected).collect();
    Ok(Case { _server: server, address, client, expected, clock: untimed, is_ordered: false, service: "nginx" })
}

fn nginx_server(folder: &Path, listen: &str) -> Result<(Running, SocketAddr), Failed> {
    let address = free_address()?;
    let at = folder.display();
    let paths =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|name| format!("{name}_temp_path {at}/{name};"));
    let configuration = format!(
        "user root; worker_processes 1; daemon off; pid {at}/pid; error_log {at}/errors;
        events {{}}
        http {{
            {paths}
            access_log off; sendfile on; client_max_body_size 9m; large_client_header_buffers 4 16k;
            server {{
                listen {address} {listen};
                root {at};
                location / {{ return 200 ok; }}
                location = /missing {{ return 404; }}
                location = /broken {{ return 503; }}
                location = /big {{ }}
            }}
        }}",
        paths = paths.concat(),
    );
    std::fs::write(folder.join("nginx.conf"), configuration)?;
    std::fs::write(folder.join("big"), vec![b'b'; 1 << 20])?;
    let nginx = command("nginx", ["-p".as_ref(), folder, "-c".as_ref(), folder.join("nginx.conf").as_path()])?;
    Ok((serve(nginx, address)?, address))
}

/// Many streams at once over two connections.
pub(crate) fn nghttpd(folder: &Path) -> Result<Case, Failed> {
    let requests = 400;
    behind_nghttpd(folder, fine("GET /page"), requests, |address| {
        let arguments = ["-n", &requests.to_string(), "-c", "2", "-m", "10", &format!("http://{address}/page")];
        command("h2load", arguments.map(str::to_owned))
    })
}

/// The first request is of HTTP/1.1, the others are not.
pub(crate) fn upgrade(folder: &Path) -> Result<Case, Failed> {
    const SERVER: &str = include_str!("hypercorn_server.py");
    let address = free_address()?;
    let mut server = command("python3", ["-c", SERVER, &address.to_string()])?;
    server.current_dir(folder);
    let server = serve(server, address)?;
    let requests = 8;
    let url = format!("http://{address}/orders/7");
    let multiply = format!("--multiply={requests}");
    let client = command("nghttp", ["--upgrade", "--null-out", "--no-dep", &multiply, &url])?;
    let expected = vec![fine("GET /orders/{id}"); requests];
    Ok(Case { _server: server, address, client, expected, clock: untimed, is_ordered: false, service: "python3" })
}

fn behind_nghttpd(
    folder: &Path,
    each: Expected,
    requests: usize,
    client: impl Fn(SocketAddr) -> Result<Command, Failed>,
) -> Result<Case, Failed> {
    let address = free_address()?;
    std::fs::write(folder.join("page"), vec![b'p'; 20_000])?;
    let (at, port) = (folder.display().to_string(), address.port().to_string());
    let server = serve(command("nghttpd", ["--no-tls", "--address=127.0.0.1", "-d", &at, &port])?, address)?;
    let expected = vec![each; requests];
    let client = client(address)?;
    Ok(Case { _server: server, address, client, expected, clock: untimed, is_ordered: false, service: "nghttpd" })
}

/// Small calls after those that carry a megabyte.
pub(crate) fn grpc(_: &Path) -> Result<Case, Failed> {
    behind_grpc(1)
}

/// Small calls beside those that carry a megabyte, over one connection.
pub(crate) fn grpc_at_once(_: &Path) -> Result<Case, Failed> {
    behind_grpc(4)
}

fn behind_grpc(threads: usize) -> Result<Case, Failed> {
    const SERVER: &str = include_str!("grpc_server.py");
    const CLIENT: &str = include_str!("grpc_client.py");
    let address = free_address()?;
    let port = address.port().to_string();
    let server = serve(command("python3", ["-c", SERVER, &port])?, address)?;
    let client = command("python3", ["-c", CLIENT, &port, &threads.to_string()])?;
    let calls = [
        fine("shop.Orders/Get"),
        fine("shop.Orders/Slow").lasting(20),
        refused("shop.Orders/Missing", "NOT_FOUND"),
        failed("shop.Orders/Broken", "INTERNAL"),
        failed("shop.Orders/Nowhere", "UNIMPLEMENTED"),
        fine("shop.Orders/Big"),
        fine("shop.Orders/Stream"),
    ];
    let expected = calls.repeat(5 * threads);
    let is_ordered = threads == 1;
    // Of several at once it is not told which was first.
    let clock = if is_ordered { took } else { untimed };
    Ok(Case { _server: server, address, client, expected, clock, is_ordered, service: "python3" })
}
