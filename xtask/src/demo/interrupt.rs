//! Signals that end the demo, such as Ctrl-C. They are noted here, and the demo ends between two
//! steps, so that it can clean up.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on these signals are only noted.
pub(super) fn watch() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(flag)).context("watching for Ctrl-C")?;
    }
    Ok(())
}

/// Whether a signal has arrived.
pub(super) fn arrived() -> bool {
    INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Fails if a signal has arrived.
pub(super) fn check() -> Result<()> {
    if arrived() {
        bail!("interrupted");
    }
    Ok(())
}

/// Waits until this moment. Fails at once when a signal arrives.
pub(super) fn sleep_until(moment: Instant) -> Result<()> {
    const STEP: Duration = Duration::from_millis(50);
    loop {
        check()?;
        let left = moment.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(STEP));
    }
}
