//! How long a policy that closes what was open waits for its confirmation.

use std::time::Duration;

/// The wait for a confirmation when the push does not set one.
pub const DEFAULT_WINDOW: Duration = Duration::from_secs(120);
/// The longest wait that a push may ask for.
pub const MAX_WINDOW: Duration = Duration::from_secs(3600);
