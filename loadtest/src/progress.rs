//! What is seen while a run is under way: one line that changes on a terminal, plain lines now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::report::{duration, number};
use crate::run::{Phase, Progress};
use crate::tally::Counts;

/// Into a log, as often; a soak of a day writes some thousand lines.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Where it goes.
enum Form {
    /// Nobody looks.
    Silent,
    /// A terminal: the line is written over.
    Line,
    /// A file or a pipe.
    Plain { last: Option<Instant> },
}

/// Shows progress on the standard error.
pub struct Shown {
    form: Form,
}

impl Shown {
    /// `quiet`: nothing at all.
    pub fn new(quiet: bool) -> Self {
        let form = match quiet {
            true => Form::Silent,
            false if std::io::stderr().is_terminal() => Form::Line,
            false => Form::Plain { last: None },
        };
        Self { form }
    }

    /// The state of things. What cannot be written is not missed.
    pub fn tell(&mut self, progress: &Progress<'_>) {
        let mut stderr = std::io::stderr();
        match &mut self.form {
            Form::Silent => {}
            Form::Line => {
                let _ = write!(stderr, "\r\x1b[2K{}", line(progress));
                let _ = stderr.flush();
            }
            Form::Plain { last } => {
                if last.is_none_or(|last| last.elapsed() >= PLAIN_EVERY) {
                    *last = Some(Instant::now());
                    let _ = writeln!(stderr, "{}", line(progress));
                }
            }
        }
    }

    /// Something to say that stays.
    pub fn say(&mut self, text: &str) {
        let mut stderr = std::io::stderr();
        let _ = match self.form {
            Form::Silent => Ok(()),
            Form::Line => writeln!(stderr, "\r\x1b[2K{text}"),
            Form::Plain { .. } => writeln!(stderr, "{text}"),
        };
    }

    /// Nothing follows.
    pub fn end(&mut self) {
        if matches!(self.form, Form::Line) {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }
}

fn line(progress: &Progress<'_>) -> String {
    let phase = match progress.phase {
        Phase::WarmUp => "warm-up",
        Phase::Measure => "measure",
    };
    let (at, of) = (progress.at.as_secs_f64(), progress.of.as_secs_f64());
    let Counts { latencies, .. } = progress.counts;
    // Counts are far below what a float holds exactly.
    #[allow(clippy::cast_precision_loss)]
    let (rate, us) =
        (latencies.len() as f64 / progress.length.as_secs_f64().max(f64::MIN_POSITIVE), |quantile: f64| {
            latencies.value_at_quantile(quantile) as f64 / 1000.0
        });
    if progress.phase == Phase::WarmUp {
        return format!("{phase} {at:.0}/{of:.0} s  errors {}", progress.errors);
    }
    let times = if latencies.is_empty() {
        "no right answers".to_owned()
    } else {
        format!("p50 {}  p99 {}", duration(us(0.5)), duration(us(0.99)))
    };
    format!("{phase} {at:.0}/{of:.0} s  {} /s  {times}  errors {}", number(rate), progress.errors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::Tally;

    #[track_caller]
    fn check(phase: Phase, latencies_ms: &[u64], expected: &str) {
        let mut tally = Tally::new(1);
        for ms in latencies_ms {
            tally.right(0, Duration::from_millis(*ms), 1);
        }
        let progress = Progress {
            phase,
            at: Duration::from_secs(3),
            of: Duration::from_secs(10),
            counts: &tally.all(),
            length: Duration::from_secs(2),
            errors: 4,
        };
        assert_eq!(line(&progress), expected);
    }

    #[test]
    fn a_line_has_rate_latency_and_errors() {
        check(Phase::Measure, &[10, 10, 10, 40], "measure 3/10 s  2 /s  p50 10.0 ms  p99 40.0 ms  errors 4");
        check(Phase::Measure, &[], "measure 3/10 s  0 /s  no right answers  errors 4");
        check(Phase::WarmUp, &[], "warm-up 3/10 s  errors 4");
    }
}
