//! Annotations of a rule: `@require("1 of sre and 2 of dba")`, `@max("1h")`, `@escalate("15m to oncall")`.

use std::collections::BTreeMap;

use jiff::{Span, SpanRelativeTo};

use crate::model::{Escalation, Needs};

/// Names of all annotations.
pub(super) const NAMES: [&str; 5] = ["escalate", "id", "max", "reason", "require"];
/// The most people of one group that a rule can ask for.
const MAX_PEOPLE: u32 = 16;
/// The most groups that a rule can ask for.
const MAX_GROUPS: usize = 16;

/// `1 of sre`, `1 of sre and 2 of dba`.
pub(super) fn needs(text: &str) -> Result<Needs, String> {
    let bad = || format!("{text:?} is not such as \"1 of sre\" or \"1 of sre and 2 of dba\"");
    let mut groups = BTreeMap::new();
    for part in text.split(" and ") {
        let (count, group) = part.trim().split_once(" of ").ok_or_else(bad)?;
        let (count, group) = (count.trim().parse::<u32>().map_err(|_| bad())?, group.trim());
        if group.is_empty() || group.contains([',', ';']) || group.contains(" of ") {
            return Err(bad());
        }
        if !(1..=MAX_PEOPLE).contains(&count) {
            return Err(format!("{count} of {group}: 1 to {MAX_PEOPLE} are possible"));
        }
        if groups.insert(group.to_owned(), count).is_some() {
            return Err(format!("{group} is named twice"));
        }
    }
    if groups.len() > MAX_GROUPS {
        return Err(format!("{} groups; at most {MAX_GROUPS} are possible", groups.len()));
    }
    Ok(Needs(groups))
}

/// `1h`, `1h30m`, `2h 5min`, in milliseconds; a day is 24 hours.
pub(super) fn duration_ms(text: &str) -> Result<i64, String> {
    let bad = || format!("{text:?} is not a duration such as \"45s\", \"30m\" or \"1h30m\"");
    let span: Span = text.trim().parse().map_err(|_| bad())?;
    let signed = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| bad())?;
    match i64::try_from(signed.as_millis()) {
        Ok(milliseconds) if milliseconds >= 1000 => Ok(milliseconds),
        _ => Err(format!("{text:?} is shorter than a second")),
    }
}

/// `15m to oncall`.
pub(super) fn escalation(text: &str) -> Result<Escalation, String> {
    let bad = || format!("{text:?} is not such as \"15m to oncall\"");
    let (after, group) = text.split_once(" to ").ok_or_else(bad)?;
    let group = group.trim();
    if group.is_empty() || group.contains([',', ';']) {
        return Err(bad());
    }
    Ok(Escalation { after_ms: duration_ms(after)?, group: group.to_owned() })
}

/// Milliseconds for people: `1h 30m`.
pub(super) fn duration_text(milliseconds: i64) -> String {
    let milliseconds = u64::try_from(milliseconds).unwrap_or(0);
    jit_client::text::duration(std::time::Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_are_read_as_they_are_shown() {
        for text in ["1 of sre", "2 of dba and 1 of sre", "16 of ops"] {
            assert_eq!(needs(text).unwrap().text(), text);
        }
        for text in ["", "sre", "0 of sre", "17 of sre", "1 of ", "1 of sre, 2 of dba", "-1 of sre"]
        {
            assert!(needs(text).is_err(), "{text}");
        }
        assert_eq!(needs("1 of sre and 2 of sre").unwrap_err(), "sre is named twice");
    }

    #[test]
    fn an_escalation_has_a_time_and_a_group() {
        let escalation = |text| escalation(text).map(|one| (one.after_ms, one.group));
        assert_eq!(escalation("15m to oncall"), Ok((900_000, "oncall".to_owned())));
        for text in ["15m", "to oncall", "0s to oncall", "15m to a, b", "soon to oncall"] {
            assert!(escalation(text).is_err(), "{text}");
        }
    }
}
