//! A listener that asks for TLS, or a user and a password, or both; and the certificates and the user for it.

use crate::port::free_port;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whom a secured broker knows.
pub const USER: &str = "gateway";

/// The user's password; it is no secret.
pub const PASSWORD: &str = "correct-horse";

/// The name that the broker's certificate is for.
const HOST: &str = "localhost";

/// How a user shows who he is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// The password as it is.
    Plain,
    /// A proof that one has it, by SHA-512.
    ScramSha512,
}

/// What a broker asks for.
#[derive(Clone, Debug)]
pub struct Security {
    folder: PathBuf,
    mechanism: Mechanism,
    tls: bool,
    port: u16,
    /// Whether the broker asks what a user may do.
    acls: bool,
}

impl Mechanism {
    /// As it is called everywhere.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl Security {
    /// On a free port. For TLS it makes certificates in `folder`.
    pub fn new(folder: &Path, mechanism: Mechanism, tls: bool) -> Result<Security> {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let security = Security { folder: folder.to_owned(), mechanism, tls, port: free_port()?, acls: false };
        if tls {
            security.make_certificates()?;
        }
        Ok(security)
    }

    /// The same, for a user who may do nothing until he is given rights.
    pub fn without_rights(self) -> Security {
        Security { acls: true, ..self }
    }

    /// Where it listens, by the name that its certificate is for.
    pub fn address(&self) -> String {
        format!("{HOST}:{}", self.port)
    }

    /// The same place by a name that its certificate is not for.
    pub fn other_address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// How a user shows who he is.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Who signed the broker's certificate, if it has one.
    pub fn ca_file(&self) -> Option<PathBuf> {
        self.tls.then(|| self.folder.join("ca.pem"))
    }

    /// Who signed none.
    pub fn other_ca_file(&self) -> PathBuf {
        self.folder.join("other-ca.pem")
    }

    /// To be put behind a list of listeners.
    pub(super) fn listener(&self) -> String {
        format!(",{}://{}", self.protocol(), self.address())
    }

    fn protocol(&self) -> &'static str {
        if self.tls { "SASL_SSL" } else { "SASL_PLAINTEXT" }
    }

    /// The broker's own settings.
    pub(super) fn settings(&self) -> String {
        let protocol = self.protocol();
        let (mechanism, listener) = (self.mechanism.name(), format!("listener.name.{}", protocol.to_lowercase()));
        let module = match self.mechanism {
            Mechanism::Plain => {
                format!("org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";")
            }
            Mechanism::ScramSha512 => "org.apache.kafka.common.security.scram.ScramLoginModule required;".to_owned(),
        };
        let tls = match self.tls {
            true => {
                let file = self.folder.join("broker.pem");
                format!("ssl.keystore.type=PEM\nssl.keystore.location={}\n", file.display())
            }
            false => String::new(),
        };
        let acls = match self.acls {
            // Who comes by the listener that asks for nobody may do anything: the broker itself, and tests.
            true => {
                "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\nsuper.users=User:ANONYMOUS\n"
            }
            false => "",
        };
        format!(
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,{protocol}:{protocol}\n\
             sasl.enabled.mechanisms={mechanism}\n{listener}.{}.sasl.jaas.config={module}\n{tls}{acls}",
            mechanism.to_lowercase()
        )
    }

    /// Arguments of the formatting that make the user, where it is the cluster that knows him.
    pub(super) fn users(&self) -> Vec<String> {
        match self.mechanism {
            Mechanism::Plain => Vec::new(),
            mechanism => {
                let user = format!("{}=[name={USER},password={PASSWORD}]", mechanism.name());
                vec!["--add-scram".to_owned(), user]
            }
        }
    }

    /// Two who sign, and one certificate of the first.
    fn make_certificates(&self) -> Result<()> {
        const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        for name in ["ca", "other-ca"] {
            let subject = format!("/CN={name}");
            let (key, certificate) = (format!("{name}.key"), format!("{name}.pem"));
            let own = ["req", "-x509", "-days", "1", "-subj", &subject, "-keyout", &key, "-out", &certificate];
            self.openssl(&[own.as_slice(), &KEY].concat())?;
        }
        let (subject, names) = (format!("/CN={HOST}"), format!("subjectAltName=DNS:{HOST}"));
        let signed = ["-x509", "-days", "1", "-CA", "ca.pem", "-CAkey", "ca.key", "-addext", &names];
        let own = ["req", "-subj", &subject, "-keyout", "broker.key", "-out", "broker.crt"];
        self.openssl(&[own.as_slice(), &signed, &KEY].concat())?;
        let [key, certificate] = ["broker.key", "broker.crt"].map(|name| std::fs::read(self.folder.join(name)));
        std::fs::write(self.folder.join("broker.pem"), [key?, certificate?].concat())?;
        Ok(())
    }

    fn openssl(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("openssl");
        let output = command.args(arguments).current_dir(&self.folder).output();
        let output = output.context("openssl does not start: `apt-get install openssl`")?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}
