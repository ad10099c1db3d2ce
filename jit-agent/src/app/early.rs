//! `jit-agent early`: puts the gate in force before the network, and ends. The pins stay.
//!
//! It is the daemon's start (`start`) without what follows it: no controller, no certificate, no
//! socket is looked at. A fault in the audit, in the database or in the file is a warning: the gate
//! is then in force from the last good configuration, or without stored grants. A gate that is in
//! force already is not touched: the daemon adopts and mends it.

use std::{path::Path, sync::mpsc, thread, time::Duration};

use crate::{
    app::{
        AppError,
        start::{Bound, Parts, build},
    },
    config::{Glimpse, Loaded},
    gate::faults::Faults,
    kernel::datapath::{DatapathError, pins::Pins},
    system::sys,
};

/// The longest wait until database and audit are closed. A disk that hangs must not hold up the boot.
const CLOSING: Duration = Duration::from_secs(3);

/// The audit's detail of the end.
const ENDED: &str = "the early start has ended; the gate stays in force in the kernel";

/// Puts the gate in force, unless it is.
///
/// # Errors
/// The gate is not in force: there is neither a file nor a last good configuration that can be used,
/// or the kernel refuses the programs.
pub fn early(path: &Path) -> Result<(), AppError> {
    sys::check_capabilities()?;
    let pins = Glimpse::of(path).paths.pins;
    if stands(&pins) {
        tracing::info!(
            "early: a gate is pinned in {} already: nothing to do, the agent adopts it",
            pins.display()
        );
        return Ok(());
    }
    let Bound { beginning, mut parts, faults: _, identity } =
        match build(path, false, Faults::default()) {
            Ok(bound) => bound,
            Err(AppError::Datapath(DatapathError::Locked(held))) => {
                tracing::info!("early: an agent holds {}: nothing to do", held.display());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
    let Loaded { config, faults, .. } = beginning.loaded;
    for fault in faults {
        tracing::warn!("{}", fault.text());
    }
    let observes = if config.gate.observe { ", in observe mode: it drops nothing" } else { "" };
    let host = identity.filter(|_| config.auto_host).map_or(config.host, |kept| kept.found.id);
    tracing::info!(host, "early: the gate is in force{observes}");
    parts.gate.stop(ENDED, sys::now());
    close(parts);
    Ok(())
}

/// Whether programs are pinned here, of this version or another one. What cannot be read is looked at
/// by the start, which names it.
fn stands(pins: &Path) -> bool {
    let pins = Pins::new(pins);
    let attached = |pins: &Pins| pins.all_links().is_ok_and(|links| !links.is_empty());
    attached(&pins) || pins.others().is_ok_and(|others| others.iter().any(attached))
}

/// Closes database and audit, so that the daemon does not have to mend them.
fn close(parts: Parts) {
    let (sender, closed) = mpsc::channel();
    thread::spawn(move || {
        drop(parts);
        let _late = sender.send(());
    });
    if closed.recv_timeout(CLOSING).is_err() {
        tracing::warn!("the disk does not answer within {CLOSING:?}: the database stays as it is");
    }
}
