//! The progress of a run on standard error: one line that is overwritten on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::counters::OperationCounters;
use crate::report::{format_count, format_duration};
use crate::run::{RunPhase, RunProgress};

/// The time between two plain lines. A soak test of a day writes some thousand lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// How progress is shown.
enum DisplayMode {
    Silent,
    /// On a terminal, by overwriting the line.
    Line,
    /// In a file or a pipe, by one line now and then.
    Plain {
        last: Option<Instant>,
    },
}

/// Shows progress on standard error.
pub struct ProgressDisplay {
    mode: DisplayMode,
}

impl ProgressDisplay {
    /// Chooses the display mode. `is_quiet` shows nothing.
    pub fn new(is_quiet: bool) -> Self {
        let mode = match is_quiet {
            true => DisplayMode::Silent,
            false if std::io::stderr().is_terminal() => DisplayMode::Line,
            false => DisplayMode::Plain { last: None },
        };
        Self { mode }
    }

    /// Shows the progress. Write errors are ignored.
    pub fn update(&mut self, progress: &RunProgress<'_>) {
        let mut stderr = std::io::stderr();
        match &mut self.mode {
            DisplayMode::Silent => {}
            DisplayMode::Line => {
                let _ = write!(stderr, "\r\x1b[2K{}", format_line(progress));
                let _ = stderr.flush();
            }
            DisplayMode::Plain { last } => {
                if last.is_none_or(|last| last.elapsed() >= PLAIN_INTERVAL) {
                    *last = Some(Instant::now());
                    let _ = writeln!(stderr, "{}", format_line(progress));
                }
            }
        }
    }

    pub fn clear(&mut self) {
        if matches!(self.mode, DisplayMode::Line) {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }
}

fn format_line(progress: &RunProgress<'_>) -> String {
    let phase = match progress.phase {
        RunPhase::WarmUp => "warm-up",
        RunPhase::Measure => "measure",
    };
    let (at, of) = (progress.at.as_secs_f64(), progress.of.as_secs_f64());
    let OperationCounters { latencies, .. } = progress.counters;
    // Counts are far below what a float holds exactly.
    #[allow(clippy::cast_precision_loss)]
    let (rate, us) =
        (latencies.len() as f64 / progress.length.as_secs_f64().max(f64::MIN_POSITIVE), |quantile: f64| {
            latencies.value_at_quantile(quantile) as f64 / 1000.0
        });
    if progress.phase == RunPhase::WarmUp {
        return format!("{phase} {at:.0}/{of:.0} s  errors {}", progress.errors);
    }
    let times = if latencies.is_empty() {
        "no correct responses".to_owned()
    } else {
        format!("p50 {}  p99 {}", format_duration(us(0.5)), format_duration(us(0.99)))
    };
    format!("{phase} {at:.0}/{of:.0} s  {} /s  {times}  errors {}", format_count(rate), progress.errors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::RunCounters;

    #[track_caller]
    fn check(phase: RunPhase, latencies_ms: &[u64], expected: &str) {
        let mut counters = RunCounters::new(1);
        for ms in latencies_ms {
            counters.record_success(0, Duration::from_millis(*ms), 1);
        }
        let progress = RunProgress {
            phase,
            at: Duration::from_secs(3),
            of: Duration::from_secs(10),
            counters: &counters.sum(),
            length: Duration::from_secs(2),
            errors: 4,
        };
        assert_eq!(format_line(&progress), expected);
    }

    #[test]
    fn the_line_has_rate_latency_and_errors() {
        check(
            RunPhase::Measure,
            &[10, 10, 10, 40],
            "measure 3/10 s  2 /s  p50 10.0 ms  p99 40.0 ms  errors 4",
        );
        check(RunPhase::Measure, &[], "measure 3/10 s  0 /s  no correct responses  errors 4");
        check(RunPhase::WarmUp, &[], "warm-up 3/10 s  errors 4");
    }
}
