//! Messages to the service manager (sd_notify), from a thread of their own: a manager that takes
//! nothing holds up nobody.

use std::{
    sync::{
        OnceLock,
        mpsc::{self, SyncSender},
    },
    thread,
};

use sd_notify::NotifyState;

/// The most messages that wait; later ones are dropped.
const QUEUE: usize = 8;

/// Sends these states, in the order of the calls. Does nothing without a service manager.
pub fn notify(states: &[NotifyState<'_>]) {
    static MESSAGES: OnceLock<Option<SyncSender<String>>> = OnceLock::new();
    let Some(messages) = MESSAGES.get_or_init(start) else { return };
    let lines: Vec<_> = states.iter().map(ToString::to_string).collect();
    if messages.try_send(lines.join("\n")).is_err() {
        tracing::debug!("the service manager takes no messages");
    }
}

/// The queue of a new thread; `None`: there is no service manager.
fn start() -> Option<SyncSender<String>> {
    std::env::var_os("NOTIFY_SOCKET")?;
    let (messages, received) = mpsc::sync_channel::<String>(QUEUE);
    let send = move || {
        for message in received {
            if let Err(error) = sd_notify::notify(&[NotifyState::Custom(&message)]) {
                tracing::debug!("cannot notify the service manager: {error}");
            }
        }
    };
    thread::Builder::new().name("notify".into()).spawn(send).ok()?;
    Some(messages)
}
