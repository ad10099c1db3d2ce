//! One section of a policy as JSON.

use jit_client::status;
use jit_proto::{
    v1,
    words::{mode_word, ranges_text, sessions_word, source_text, terminates_word},
};
use serde_json::{Value, json};

/// A section as JSON.
pub(super) fn json(port: &v1::PolicyPort) -> Value {
    json!({
        "port": ranges_text(port.range.as_slice()),
        "mode": mode_word(port.mode()),
        "sources": port.sources.iter().map(source_text).collect::<Vec<_>>(),
        "widest_v4": port.widest_v4(),
        "widest_v6": port.widest_v6(),
        "max_duration_s": port.max_duration_ms / 1000,
        "approvals": port.approvals,
        "sessions": sessions_word(port.sessions()),
        "terminates": terminates_word(port.terminates()),
        "exemptions": port.exemptions.iter().map(status::exemption_json).collect::<Vec<_>>(),
    })
}
