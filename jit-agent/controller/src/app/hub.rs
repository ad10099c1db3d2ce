//! The running hub that has neither a database nor a key.

use super::{AppError, Signals, more_files};
use crate::{config::HubConfig, fleet::outpost::Outpost};

/// Runs the hub until it is asked to end. Its agents are then asked to go to another hub.
///
/// # Errors
/// It cannot start, or a part of it has ended.
pub async fn serve_hub(config: HubConfig) -> Result<(), AppError> {
    let mut signals = Signals::new()?;
    more_files();
    let mut outpost = Outpost::start(&config.hub, &config.bus)?;
    tracing::info!(hub = config.hub.name, address = %outpost.address(), "the hub is up");
    let ended = loop {
        tokio::select! {
            _ = signals.interrupt.recv() => break None,
            _ = signals.terminate.recv() => break None,
            _ = signals.hangup.recv() => match outpost.reload() {
                Ok(()) => tracing::info!("the certificates of [hub] were read again"),
                Err(why) => tracing::error!("the old certificates of [hub] stay: {why}"),
            },
            part = outpost.ended() => break Some(part),
        }
    };
    let report = outpost.report();
    tracing::info!(held = report.held, "the hub ends");
    outpost.drain().await;
    ended.map_or(Ok(()), |part| Err(AppError::Ended(part)))
}
