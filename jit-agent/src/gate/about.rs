//! Facts about the agent that only `status` shows: its start, and whether controllers reach it.

use std::time::Duration;

use jit_proto::{WallTime, v1};

use crate::{config::Control, gate::Gate, kernel::datapath::Datapath, rules::clock::Now};

/// The end of a certificate that controllers see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CertificateEnd {
    /// It counts until here.
    pub at: WallTime,
    /// In this time before, it has to be renewed.
    pub soon: Duration,
}

/// The agent's start, and its controllers.
#[derive(Debug)]
pub(super) struct About {
    started: WallTime,
    /// Time and cause of the start.
    last_push: Option<(WallTime, String)>,
    /// End of the certificate that controllers see.
    certificate_end: Option<CertificateEnd>,
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

    pub(super) const fn set_certificate_end(&mut self, end: Option<CertificateEnd>) {
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
            certificate_not_after_ms: self.certificate_end.map_or(0, |end| end.at.0),
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
        let end = self.certificate_end.filter(|end| end.at <= now.wall)?.at;
        Some(format!(
            "the agent's certificate ended at {end}: no controller can connect, so nothing new \
             opens and nothing is revoked from there; renew it, or enrol the host again with \
             `jit-agent enrol`, then `systemctl reload jit-agent`"
        ))
    }

    pub(super) fn certificate_soon(&self, now: Now) -> Option<String> {
        let CertificateEnd { at: end, soon } = self.certificate_end?;
        let left = end.since(now.wall).filter(|left| *left < soon)?;
        let left = jit_proto::words::duration_text(left);
        Some(format!("the agent's certificate ends in {left} ({end})"))
    }
}

impl<D: Datapath> Gate<D> {
    /// Sets the end of the certificate that controllers see. `None`: the agent does not listen for
    /// controllers.
    pub fn set_certificate_end(&mut self, end: Option<CertificateEnd>, now: Now) {
        self.about.set_certificate_end(end);
        self.record_alarms(now);
    }
}
