//! `ollystack-agent patterns` as a user meets it: files, packed files and streams give the same, every line has a pattern, and a
//! reader that goes away ends it quietly.

use crate::otlp::gzip;
use anyhow::{Context, Result, ensure};
use ollystack_tests::{Outcome, World};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

const LINES: usize = 40_000;

pub(crate) fn of_files_and_streams_are_the_same_and_every_line_has_one(world: &World) -> Result<Outcome> {
    let line = |n: usize| match n % 4 {
        0 => format!("2026-11-20T12:00:00Z INFO request {n} took {} ms in all\r\n", n % 977),
        1 => format!("2026-11-20T12:00:01Z ERROR cannot reach 10.0.{}.{} in time\n", n % 7, n % 251),
        2 => "\n".to_owned(),
        _ => "2026-11-20T12:00:02Z WARN the queue is full\n".to_owned(),
    };
    let text: String = (0..LINES).map(line).collect();
    let (plain, packed) = (world.folder().join("plain"), world.folder().join("packed"));
    std::fs::write(&plain, &text)?;
    std::fs::write(&packed, gzip(text.as_bytes())?)?;
    let config = world.agent_to("http://127.0.0.1:1", "")?;
    config.write()?;
    let run = |arguments: &[&str], input: Stdio| -> Result<String> {
        let mut command: Command = config.command(world.binaries(), arguments)?;
        let output = command.stdin(input).output()?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let path = |path: &std::path::Path| path.display().to_string();
    let assigned = run(&["patterns", "--assignments", &path(&plain)], Stdio::null())?;
    let pairs: Vec<(usize, &str)> = assigned
        .lines()
        .map(|line| line.split_once('\t').and_then(|(number, id)| Some((number.parse().ok()?, id))))
        .collect::<Option<_>>()
        .context("a line of --assignments is not `number <tab> id`")?;
    ensure!(pairs.iter().map(|(number, _)| *number).eq(1..=LINES), "not every line has one pattern");
    ensure!(pairs.iter().enumerate().all(|(at, (_, id))| *id == pairs[at % 4].1), "lines of a kind fall apart");

    ensure!(run(&["patterns", "--assignments", &path(&packed)], Stdio::null())? == assigned, "packed it is otherwise");
    ensure!(
        run(&["patterns", "--assignments"], File::open(&plain)?.into())? == assigned,
        "as a stream it is otherwise"
    );
    let table = run(&["patterns", &path(&plain)], Stdio::null())?;
    ensure!(table.contains("25.0%  error") && table.contains("request <*> took"), "{table}");

    // As `| head -1`: more is left to write than a pipe holds.
    let mut command = config.command(world.binaries(), &["patterns", "--assignments", &path(&plain)])?;
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut first = String::new();
    BufReader::new(child.stdout.take().context("no stdout")?).read_line(&mut first)?;
    let output = child.wait_with_output()?;
    ensure!(first.starts_with("1\t"), "{first}");
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && complaint.is_empty(), "{}: {complaint}", output.status);
    Ok(Outcome::Held)
}
