//! The committed LogHub samples, mined in one pass with the defaults, and scored.
//!
//! Deterministic, so that a fixed bound is fair.

use crate::labelled::{Labelled, assign, committed, read, score};
use ollystack_patterns::{Config, Miner};

/// Mean GA and FGA of what `lines` takes from each system.
fn mean(lines: impl Fn(&Labelled) -> Vec<&str>) -> anyhow::Result<(f64, f64)> {
    let systems = read(&committed())?;
    assert_eq!(systems.len(), 8);
    let scores = systems.iter().map(|system| {
        let mut miner = Miner::new(Config::default());
        let score = score(&assign(&mut miner, lines(system).into_iter()), &system.events);
        eprintln!("{:10} {score}", system.system);
        (score.ga / 8.0, score.fga / 8.0)
    });
    Ok(scores.fold((0.0, 0.0), |sum, score| (sum.0 + score.0, sum.1 + score.1)))
}

#[test]
fn nine_of_ten_lines_and_patterns_of_the_samples_are_grouped_as_their_labels_say() {
    let (ga, fga) = mean(|system| system.content.iter().map(String::as_str).collect()).unwrap();
    assert!(ga >= 0.9 && fga >= 0.9, "GA {ga:.3}, FGA {fga:.3}");
}

#[test]
fn whole_lines_do_as_well_once_the_parser_took_their_head_off() {
    let (ga, fga) = mean(|system| system.raw.iter().map(|line| ollystack_logs::parse(line).message).collect()).unwrap();
    assert!(ga >= 0.9 && fga >= 0.9, "GA {ga:.3}, FGA {fga:.3}");
}
