//! Waits for a condition, never for a time: asks again until it holds or the deadline passes, then says what it saw last.

use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(40);

/// The deadline of everything that should take a moment. Generous: it is reached only when something is broken.
const DEADLINE: Duration = Duration::from_secs(120);

/// Asks `look` until it gives something, for two minutes at most. An error of `look` ends the wait at once.
pub fn until<T>(what: &str, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    within(DEADLINE, what, look)
}

/// Asks `look` until it gives something, or `deadline` has passed.
pub fn within<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look().with_context(|| format!("while waiting until {what}"))? {
            return Ok(found);
        }
        if start.elapsed() > deadline {
            bail!("waited {deadline:?} until {what}, in vain");
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_what_was_found() {
        let mut looks = 0;
        let found = until("third look", || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(found.unwrap(), 3);
    }

    #[test]
    fn a_wait_in_vain_says_for_what() {
        let error = within(Duration::ZERO, "pigs fly", || Ok(None::<()>)).unwrap_err();
        assert_eq!(error.to_string(), "waited 0ns until pigs fly, in vain");
    }
}
