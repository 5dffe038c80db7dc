//! What the log hears of the levels: each worsening once, then a line a minute with the time spent on each, and that it is over.
//!
//! A level may change several times a second for hours. Invariant: while it does, as many lines as there are levels and one a minute.

use ollystack_record::Level;
use std::time::Duration;

/// Between two lines that tell nothing worse; and how long memory must be calm for it to be over.
const MINUTE: Duration = Duration::from_secs(60);

/// What is to be said.
#[derive(Debug, PartialEq)]
pub(crate) enum Line {
    /// This level was not reached before since it began.
    Worse,
    /// It goes on. Time on each level since it began.
    Still(String),
    /// Calm for a minute, after so much time on each level.
    Over(String),
}

/// Who decides.
#[derive(Debug, Default)]
pub(crate) struct Speech {
    /// The highest level since it began; calm: it has not.
    worst: Level,
    spent: [Duration; Level::ALL.len()],
    said: Duration,
    pressed: Duration,
}

impl Speech {
    /// From the level `before`, which lasted `elapsed`, to `level` at `now`.
    pub(crate) fn hear(&mut self, before: Level, level: Level, elapsed: Duration, now: Duration) -> Option<Line> {
        if level > Level::Calm {
            self.pressed = now;
        }
        if self.worst == Level::Calm {
            self.spent = Default::default();
        } else {
            self.spent[before as usize] += elapsed;
        }
        if level > self.worst {
            (self.worst, self.said) = (level, now);
            return Some(Line::Worse);
        }
        if self.worst > Level::Calm && now.saturating_sub(self.pressed) >= MINUTE {
            self.worst = Level::Calm;
            return Some(Line::Over(self.spent()));
        }
        (level > Level::Calm && now.saturating_sub(self.said) >= MINUTE).then(|| {
            self.said = now;
            Line::Still(self.spent())
        })
    }

    fn spent(&self) -> String {
        let levels = Level::ALL.into_iter().skip(1).zip(&self.spent[1..]).filter(|(_, time)| !time.is_zero());
        let levels: Vec<String> =
            levels.map(|(level, time)| format!("{} for {:.1} s", level.name(), time.as_secs_f64())).collect();
        levels.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Level::*;

    #[test]
    fn a_level_that_flutters_for_an_hour_is_a_line_a_minute() {
        let (mut speech, mut before, mut lines) = (Speech::default(), Calm, Vec::new());
        for second in 0..3_600 {
            let level = [Slow, Shrink, Lean, Shrink, Calm][second % 5];
            let line = speech.hear(before, level, Duration::from_secs(1), Duration::from_secs(second as u64));
            lines.extend(line.map(|line| (second, line)));
            before = level;
        }
        let worse: Vec<usize> = lines.iter().filter(|(_, line)| *line == Line::Worse).map(|(at, _)| *at).collect();
        assert_eq!(worse, [0, 1, 2], "each level once");
        assert_eq!(lines.len() - worse.len(), 59, "{lines:?}");
        let first = "slow for 13.0 s, shrink for 25.0 s, lean for 12.0 s".to_owned();
        assert_eq!(lines[3], (62, Line::Still(first)));
    }

    #[test]
    fn what_is_over_is_said_after_a_calm_minute_and_may_begin_anew() {
        let mut speech = Speech::default();
        let mut hear =
            |before, level, second| speech.hear(before, level, Duration::from_secs(10), Duration::from_secs(second));
        assert_eq!(hear(Calm, Calm, 0), None);
        assert_eq!(hear(Calm, Slow, 10), Some(Line::Worse));
        assert_eq!(hear(Slow, Calm, 20), None);
        assert_eq!(hear(Calm, Calm, 69), None);
        assert_eq!(hear(Calm, Calm, 70), Some(Line::Over("slow for 10.0 s".to_owned())));
        assert_eq!(hear(Calm, Calm, 500), None, "once");
        assert_eq!(hear(Calm, Slow, 510), Some(Line::Worse));
        assert_eq!(hear(Slow, Slow, 570), Some(Line::Still("slow for 10.0 s".to_owned())));
    }
}
