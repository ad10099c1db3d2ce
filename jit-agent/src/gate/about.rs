//! Facts about the agent that only `status` shows: its start, and whether controllers reach it.

use std::time::Duration;

use jit_proto::{WallTime, v1};

use crate::{config::Control, gate::Gate, kernel::datapath::Datapath, rules::clock::Now};

/// A certificate that ends within this time has to be renewed.
const RENEW_WITHIN: Duration = Duration::from_secs(14 * 86_400);

/// The agent's start, and its controllers.
#[derive(Debug)]
pub(super) struct About {
    started: WallTime,
    /// Time and cause of the start.
    last_push: Option<(WallTime, String)>,
    /// End of the certificate that controllers see.
    certificate_end: Option<WallTime>,
}

impl About {
    pub(super) const fn new(now: Now) -> Self {
        Self { started: now.wall, last_push: None, certificate_end: None }
    }

    pub(super) const fn started(&self) -> WallTime {
        self.started
    }

    pub(super) fn pushed(&mut self, by: &str, now: Now) {
        self.last_push = Some((now.wall, by.to_owned()));
    }

    pub(super) const fn set_certificate_end(&mut self, end: Option<WallTime>) {
        self.certificate_end = end;
    }

    /// `not_listening`: why no controller can connect. `problem`: what else is wrong with what
    /// controllers need.
    pub(super) fn control(
        &self,
        control: &Control,
        not_listening: Option<&String>,
        problem: Option<&String>,
    ) -> v1::Control {
        let (last_push_ms, last_controller) =
            self.last_push.as_ref().map_or((0, String::new()), |(time, by)| (time.0, by.clone()));
        v1::Control {
            listen: control.listen.to_string(),
            certificate_not_after_ms: self.certificate_end.map_or(0, |end| end.0),
            last_push_ms,
            last_controller,
            listening: not_listening.is_none(),
            problem: not_listening.or(problem).cloned().unwrap_or_default(),
            // The server adds its own numbers.
            ..v1::Control::default()
        }
    }

    /// What the gate knows of the connection to a hub.
    pub(super) fn uplink(&self) -> v1::Uplink {
        let (time, by) = self.last_push.clone().unwrap_or((WallTime(0), String::new()));
        v1::Uplink { last_push_ms: time.0, last_controller: by, ..v1::Uplink::default() }
    }

    pub(super) fn certificate_problem(&self, now: Now) -> Option<String> {
        let end = self.certificate_end.filter(|end| *end <= now.wall)?;
        Some(format!(
            "the agent's certificate ended at {end}: no controller can connect, so nothing new \
             opens and nothing is revoked from there; renew it, then `systemctl reload jit-agent`"
        ))
    }

    pub(super) fn certificate_soon(&self, now: Now) -> Option<String> {
        let end = self.certificate_end?;
        let left = end.since(now.wall).filter(|left| *left < RENEW_WITHIN)?;
        let left = jit_proto::words::duration_text(left);
        Some(format!("the agent's certificate ends in {left} ({end})"))
    }
}

impl<D: Datapath> Gate<D> {
    /// Sets the end of the certificate that controllers see. `None`: the agent does not listen for
    /// controllers.
    pub fn set_certificate_end(&mut self, end: Option<WallTime>, now: Now) {
        self.about.set_certificate_end(end);
        self.record_alarms(now);
    }
}
