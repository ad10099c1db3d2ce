//! Agents that dial in: how many there are, and who was refused lately.

use jit_proto::words::counted;

use super::finding::Findings;
use crate::{clock::moment, fleet::HubReport};

/// A connection that was refused before this time needs nobody any more, milliseconds.
const LATELY_MS: i64 = 3_600_000;
/// From this share on there is little room.
const FULL_PERCENT: usize = 90;

/// What the hub of this process has to say.
pub(crate) fn look(report: &HubReport, now_ms: i64, findings: &mut Findings) {
    let about = "uplinks";
    let held = counted(report.held as u64, "agent");
    if report.held.saturating_mul(100) >= report.most.saturating_mul(FULL_PERCENT) {
        let text = format!(
            "{held} connected, of at most {}: raise [hub] connections, or run a second hub",
            report.most
        );
        findings.warn(about, text);
    } else {
        findings.good(about, format!("{held} connected to this hub"));
    }
    for refused in report.refused.iter().rev() {
        if now_ms.saturating_sub(refused.at_ms) > LATELY_MS {
            continue;
        }
        let text = format!(
            "refused {} from {}, the last at {}: {}",
            counted(refused.count, "connection"),
            refused.peer.ip(),
            moment(refused.at_ms),
            refused.why
        );
        findings.warn(about, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fleet::Refused, health::Level};

    #[test]
    fn a_full_hub_and_a_refusal_of_the_last_hour_need_a_look() {
        let refused = |at_ms| Refused {
            peer: ([192, 0, 2, 1], 4000).into(),
            why: "it shows no certificate".into(),
            at_ms,
            count: 3,
        };
        let now_ms = 10_000_000;
        let mut report = HubReport { held: 1, most: 10, refused: vec![refused(1)] };
        let worst = |report: &HubReport| {
            let mut findings = Findings::default();
            look(report, now_ms, &mut findings);
            findings.worst()
        };
        assert_eq!(worst(&report), Level::Good);
        report.held = 9;
        assert_eq!(worst(&report), Level::Warning);
        report = HubReport { held: 1, most: 10, refused: vec![refused(now_ms - 1)] };
        assert_eq!(worst(&report), Level::Warning);
    }
}
