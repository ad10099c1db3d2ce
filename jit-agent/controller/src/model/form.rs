//! In which form somebody gets what happens.

use serde::{Deserialize, Serialize};

use super::state::words;

words! {
    /// In which form a webhook gets what happens.
    #[derive(Default)]
    Form {
        /// Each record, as JSON with a signature.
        #[default]
        Generic = "generic",
        /// Messages for an incoming webhook of Slack.
        Slack = "slack",
        /// Messages for a workflow of Microsoft Teams.
        Teams = "teams",
    }
}
