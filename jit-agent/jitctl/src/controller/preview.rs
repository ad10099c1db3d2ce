//! What would become of a request, as text: shown before it is submitted.

use jit_client::{controller::types::Preview, status::Page};

use super::show;
use crate::table::line;

/// All of it. `source`: where the address comes from, if it was found.
pub(super) fn text(preview: &Preview, source: Option<&str>, page: Page) -> String {
    let sources = preview.sources.join(", ");
    let sources = source.map_or_else(|| sources.clone(), |found| format!("{sources} ({found})"));
    let window = format!("{}: {} to {}", preview.duration, preview.begins, preview.ends);
    let mut out = [
        line(page, "hosts", &preview.hosts.join(", ")),
        line(page, "ports", &preview.ports.join(", ")),
        line(page, "lets in", &sources),
        line(page, "for", &window),
        show::verdict(&preview.verdict, page),
    ]
    .concat();
    if preview.verdict.outcome == "manual" {
        out += &line(page, "may agree", &show::eligible(&preview.eligible));
    }
    for warning in &preview.warnings {
        out += &line(page, "warning", warning);
    }
    out
}

/// Why it cannot be submitted; `None`: it can.
pub(super) fn refused(preview: &Preview) -> Option<String> {
    if preview.verdict.outcome != "denied" {
        return None;
    }
    let why = preview.verdict.denied.join("; ");
    Some(format!("denied_by_rules: {}", if why.is_empty() { "no rule permits it" } else { &why }))
}

#[cfg(test)]
mod tests {
    use jit_client::{
        controller::types::{EligibleView, VerdictView},
        status::Style,
    };

    use super::*;

    fn manual() -> Preview {
        Preview {
            hosts: vec!["web-1".into()],
            sources: vec!["203.0.113.7".into()],
            ports: vec!["22/tcp".into()],
            duration: "1h".into(),
            begins: "2027-03-01T10:00:00Z".into(),
            ends: "2027-03-01T11:00:00Z".into(),
            verdict: VerdictView {
                outcome: "manual".into(),
                needs_text: "1 of sre".into(),
                rules_version: 1,
                ..VerdictView::default()
            },
            eligible: vec![EligibleView {
                subject: "li@example.org".into(),
                groups: vec!["sre".into()],
                ..EligibleView::default()
            }],
            warnings: vec!["web-1 does not answer".into()],
            ..Preview::default()
        }
    }

    #[test]
    fn who_may_approve_and_which_address_is_shown_before() {
        let shown = text(&manual(), Some("as web-1 sees it"), Page::endless(Style::Plain));
        for part in [
            "lets in    203.0.113.7 (as web-1 sees it)\n",
            "for        1h: 2027-03-01T10:00:00Z to 2027-03-01T11:00:00Z\n",
            "may agree  li@example.org (sre)\n",
            "warning    web-1 does not answer\n",
        ] {
            assert!(shown.contains(part), "{part:?} in\n{shown}");
        }
        assert_eq!(refused(&manual()), None);
    }

    #[test]
    fn what_the_rules_deny_is_not_submitted() {
        let mut denied = manual();
        denied.verdict.outcome = "denied".into();
        denied.verdict.denied = vec!["port 22 is frozen".into()];
        assert_eq!(refused(&denied).unwrap(), "denied_by_rules: port 22 is frozen");
    }
}
