//! Servers and clients of TLS, each a process of its own.

use crate::go;
use libtest_mimic::Failed;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

const TALK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/talk.py");

/// What is asked for, before a number. Nobody else on the host asks for this.
pub(crate) const PATH: &str = "/through-tls/orders/";

/// Who answers.
#[derive(Clone, Copy)]
pub(crate) enum Server {
    /// `talk.py`, in one of its ways.
    Python(&'static str),
    Nginx,
    /// `tests/go`, built so, over this protocol.
    Go(Build, &'static str),
}

/// Who asks.
#[derive(Clone, Copy)]
pub(crate) enum Client {
    /// `talk.py`, in one of its ways.
    Python(&'static str),
    Curl,
    /// Has GnuTLS where Debian built it.
    Wget,
    /// As the server.
    Go(Build, &'static str),
}

/// How a Go program is built. What is stripped has no symbols but the table that it carries for itself.
#[derive(Clone, Copy)]
pub(crate) enum Build {
    Stripped,
    /// Wherever it is loaded, and stripped.
    Movable,
    /// By the system's linker, which puts other code before Go's; stripped.
    Linked,
}

impl Build {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Build::Stripped => &["-ldflags=-s -w"],
            Build::Movable => &["-buildmode=pie", "-ldflags=-s -w"],
            Build::Linked => &["-ldflags=-s -w -linkmode=external"],
        }
    }
}

impl Server {
    /// As what it is told of.
    pub(crate) fn service(self) -> &'static str {
        match self {
            Server::Python(_) => "tls-server",
            Server::Nginx => "nginx",
            Server::Go(..) => "go-server",
        }
    }

    pub(crate) fn missing(self) -> Option<String> {
        match self {
            Server::Python(_) => missing("python3", &["-c", "import ssl"]),
            Server::Nginx => missing("nginx", &["-v"]),
            Server::Go(..) => go::missing().or_else(|| missing("openssl", &["version"])),
        }
    }
}

impl Client {
    /// As what it is told of.
    pub(crate) fn service(self) -> &'static str {
        match self {
            Client::Python(_) => "tls-client",
            Client::Curl => "curl",
            Client::Wget => "wget",
            Client::Go(..) => "go-client",
        }
    }

    pub(crate) fn missing(self) -> Option<String> {
        match self {
            Client::Python(_) => missing("python3", &["-c", "import ssl"]),
            Client::Curl => missing("curl", &["--version"]),
            Client::Go(..) => go::missing().or_else(|| missing("openssl", &["version"])),
            Client::Wget => missing("wget", &["--version"]).or_else(|| {
                let told = Command::new("wget").arg("--version").output().ok()?.stdout;
                let has_gnutls = String::from_utf8_lossy(&told).contains("+ssl/gnutls");
                (!has_gnutls).then(|| "this wget was built without GnuTLS".to_owned())
            }),
        }
    }
}

/// The command that adds a program, if it does not run. Certificates are made by openssl.
fn missing(program: &str, arguments: &[&str]) -> Option<String> {
    let runs = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        let status = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let missing =
        [(program, arguments), ("openssl", &["version"])].into_iter().find(|(name, given)| !runs(name, given));
    missing.map(|(name, _)| format!("no {name}: apt-get install {name}"))
}

/// What runs; ended at the latest when this is dropped.
pub(crate) struct Children {
    folder: TempDir,
    certificate: PathBuf,
    port: u16,
    running: Vec<Child>,
    /// Programs that were built here.
    pub(crate) built: Vec<PathBuf>,
}

impl Children {
    /// A server that listens.
    pub(crate) fn start(server: Server) -> Result<Children, Failed> {
        let folder = tempfile::tempdir()?;
        let certificate = certificate(&folder)?;
        let mut children = Children { folder, certificate, port: 0, running: Vec::new(), built: Vec::new() };
        match server {
            Server::Python(way) => {
                let port = children.talk("tls-server", &["serve", way])?;
                children.port = port.trim().parse()?;
            }
            Server::Nginx => children.nginx()?,
            Server::Go(build, protocol) => {
                let port = children.go(build, server.service(), &["serve", protocol])?;
                children.port = port.trim().parse()?;
            }
        }
        Ok(children)
    }

    /// Start a client that waits to be told to ask, if it is one that runs a program of its own.
    pub(crate) fn prepare(&mut self, client: Client, requests: usize) -> Result<(), Failed> {
        if let Client::Go(build, protocol) = client {
            let (port, count) = (self.port.to_string(), requests.to_string());
            self.go(build, client.service(), &["ask", protocol, &port, PATH, &count, "2"])?;
        }
        Ok(())
    }

    /// Ask for each number.
    pub(crate) fn ask(&mut self, client: Client, requests: usize) -> Result<(), Failed> {
        let urls = (0..requests).map(|number| format!("https://127.0.0.1:{}{PATH}{number}", self.port));
        let mut command = match client {
            Client::Python(way) => {
                let (port, count) = (self.port.to_string(), requests.to_string());
                self.talk("tls-client", &["ask", way, &port, PATH, &count, "2"])?;
                return Ok(());
            }
            Client::Curl => {
                let mut command = Command::new("curl");
                command.args(["--silent", "--http1.1", "--cacert"]).arg(&self.certificate).args(urls);
                command
            }
            Client::Wget => {
                let mut command = Command::new("wget");
                command.args(["--quiet", "--tries=1", "--output-document=-", "--no-check-certificate"]).args(urls);
                command
            }
            Client::Go(..) => {
                let client = self.running.last_mut().and_then(|child| child.stdin.as_mut()).ok_or("no client")?;
                client.write_all(b"ask\n")?;
                return Ok(());
            }
        };
        // Some are answered by errors, which these two tell of by their status.
        command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        Ok(())
    }

    /// Let all go.
    pub(crate) fn end(mut self) -> Result<(), Failed> {
        for mut child in self.running.drain(..) {
            drop(child.stdin.take());
            if !child.wait()?.success() {
                return Err("a child failed".into());
            }
        }
        Ok(())
    }

    /// Start `talk.py`; what it says first.
    fn talk(&mut self, service: &str, arguments: &[&str]) -> Result<String, Failed> {
        let mut command = Command::new("python3");
        command.arg(TALK);
        self.run(command, service, arguments)
    }

    /// Build and start `tests/go`; what it says first.
    fn go(&mut self, build: Build, service: &str, arguments: &[&str]) -> Result<String, Failed> {
        let program = self.folder.path().join(service);
        go::build(&program, build.arguments())?;
        self.built.push(program.clone());
        self.run(Command::new(program), service, arguments)
    }

    /// Start a program, with the certificate behind its first two arguments; what it says first.
    fn run(&mut self, mut command: Command, service: &str, arguments: &[&str]) -> Result<String, Failed> {
        let (first, rest) = arguments.split_at(2);
        command.args(first).arg(&self.certificate).args(rest).env("OTEL_SERVICE_NAME", service);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        self.running.push(child);
        let mut line = String::new();
        if BufReader::new(output).read_line(&mut line)? == 0 {
            return Err(format!("{command:?} said nothing").into());
        }
        Ok(line)
    }

    fn nginx(&mut self) -> Result<(), Failed> {
        self.port = ollystack_tests::free_port()?;
        let (folder, certificate) = (self.folder.path().display(), self.certificate.display());
        let configuration = format!(
            "daemon on; worker_processes 1; pid {folder}/pid; error_log {folder}/errors;
             events {{ worker_connections 64; }}
             http {{ access_log off; client_body_temp_path {folder}/1; proxy_temp_path {folder}/2;
               fastcgi_temp_path {folder}/3; uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
               server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate};
                 location ~ [38]$ {{ return 404; }} location ~ [49]$ {{ return 503; }} location / {{ return 200 ok; }} }} }}",
            port = self.port
        );
        let file = self.folder.path().join("nginx.conf");
        std::fs::write(&file, configuration)?;
        // It returns when its child listens.
        let started = Command::new("nginx").arg("-c").arg(&file).status()?;
        if started.success() { Ok(()) } else { Err("nginx did not start".into()) }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.running {
            // What has ended cannot be ended again, which is as well.
            let _ = child.kill().and_then(|()| child.wait());
        }
        if let Ok(pid) = std::fs::read_to_string(self.folder.path().join("pid")) {
            let _ = Command::new("kill").arg(pid.trim()).status();
        }
    }
}

/// A key and its certificate for 127.0.0.1, in one file.
fn certificate(folder: &TempDir) -> Result<PathBuf, Failed> {
    let file = folder.path().join("certificate.pem");
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout"])
        .arg(&file)
        .arg("-out")
        .arg(folder.path().join("public.pem"))
        .stderr(Stdio::null())
        .status()?;
    if !made.success() {
        return Err("openssl made no certificate".into());
    }
    let both = [std::fs::read(&file)?, std::fs::read(folder.path().join("public.pem"))?].concat();
    std::fs::write(&file, both)?;
    Ok(file)
}
