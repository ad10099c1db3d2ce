//! How long a policy that shuts somebody out waits for its confirmation.

use std::time::Duration;

/// How long a policy waits for its confirmation when the push does not say.
pub const DEFAULT_WINDOW: Duration = Duration::from_secs(120);
/// The longest that a push may ask for.
pub const MAX_WINDOW: Duration = Duration::from_secs(3600);
