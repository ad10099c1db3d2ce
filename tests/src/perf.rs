//! Counts events of the processor by `perf stat`, while the calling thread works.

use std::process::{Command, Stdio};

/// Seconds of a measurement.
const SECONDS: &str = "0.3";

/// Counts these events while `work` runs again and again. Returns the count of each for a unit of
/// work; `work` returns the number of units that it did.
///
/// # Errors
///
/// Why perf does not count them: it is not installed, or the processor does not offer it.
pub fn counted(events: &[&str], work: impl Fn() -> f64) -> Result<Vec<f64>, String> {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut perf = Command::new("perf")
        .args(["stat", "-x", ",", "-e", &events.join(","), "-t", &thread, "--", "sleep", SECONDS])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("perf cannot be started: {error}"))?;
    let mut done = 0.0;
    while perf.try_wait().map_err(|error| error.to_string())?.is_none() {
        done += work();
    }
    let output = perf.wait_with_output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    let each = |event: &&str| {
        let count = count(&said, event).ok_or_else(|| format!("{event}: {}", said.trim()))?;
        Ok(count / done)
    };
    events.iter().map(each).collect()
}

/// The count of an event in the output of `perf stat -x ,`: value, unit, event.
fn count(output: &str, event: &str) -> Option<f64> {
    output.lines().find_map(|line| {
        let mut fields = line.split(',');
        let value = fields.next()?.parse().ok()?;
        let named = fields.nth(1)?;
        (named.split(':').next() == Some(event)).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_perf_counted_is_read() {
        let output = "1234,,cycles,500000,100.00,,\n\
                      5.50,msec,task-clock:u,5500000,100.00,0.0,CPUs utilized\n\
                      <not supported>,,cache-misses,0,100.00,,\n";
        assert_eq!(count(output, "cycles"), Some(1234.0));
        assert_eq!(count(output, "task-clock"), Some(5.5));
        assert_eq!(count(output, "cache-misses"), None);
        assert_eq!(count(output, "instructions"), None);
        assert_eq!(count("", "cycles"), None);
    }
}
