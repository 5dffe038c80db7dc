//! A configuration with a key that does not exist is refused by both programs, naming the file and the key, before anything is
//! started; and neither prints a secret.

use anyhow::{Result, ensure};
use ollystack_tests::{Outcome, World};
use std::process::Command;

pub(crate) fn an_unknown_key_is_refused_by_name(world: &World) -> Result<Outcome> {
    let gateway = world.gateway()?.set("spill.bytes_maximum", "7");
    gateway.write()?;
    let agent = world.agent_to("http://127.0.0.1:1", "olly_secret")?.set("host.intervall_ms", "7");
    agent.write()?;
    for (key, mut command, file) in [
        ("spill.bytes_maximum", gateway.command(world.binaries(), &["run"])?, gateway.file()),
        ("spill.bytes_maximum", gateway.command(world.binaries(), &["config", "check"])?, gateway.file()),
        ("host.intervall_ms", agent.command(world.binaries(), &["run"])?, agent.file()),
        ("host.intervall_ms", agent.command(world.binaries(), &["config", "check"])?, agent.file()),
    ] {
        let said = refusal(&mut command)?;
        ensure!(said.contains(key), "{command:?} does not name {key}: {said}");
        ensure!(said.contains(&file.display().to_string()), "{command:?} does not name the file: {said}");
        ensure!(!said.contains("olly_secret"), "{command:?} prints the API key: {said}");
    }
    Ok(Outcome::Held)
}

/// What a command says that must end by itself, and not well.
fn refusal(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(!output.status.success(), "{command:?} ended well: {said}");
    Ok(said)
}
