//! At each tick: the datapath reads interfaces, guard and pins back and repairs them, and the loaded
//! programs are tried on frames. What was wrong is reported.

use std::collections::BTreeSet;

use jit_proto::v1::{self, event::What};

use crate::{
    gate::{Gate, links::LinkNews, self_test},
    kernel::datapath::{Datapath, LinkChange, Wanted},
    rules::clock::Now,
};

impl<D: Datapath> Gate<D> {
    /// Reads back what is on the interfaces and the socket guard, and restores what is missing. Looks
    /// at the audit's file, too.
    pub fn check_attachments(&mut self, now: Now) {
        self.recorder.check(now);
        self.check_in_kernel(now);
    }

    /// The same without the audit.
    pub(super) fn check_in_kernel(&mut self, now: Now) {
        self.attach_guard(now);
        self.keep_tables(now);
        self.retire(now);
        let _new_gaps = self.attach_links(now);
    }

    pub(super) fn attach_guard(&mut self, now: Now) {
        let guard = self.datapath.guard(self.config.gate.socket_guard);
        let news = self.links.set_guard(guard);
        self.report_links(news, now);
    }

    /// Pins tables again whose pins are gone.
    fn keep_tables(&mut self, now: Now) {
        let kept = self.datapath.keep_tables();
        let problem = kept.as_ref().err().map(ToString::to_string);
        self.alarms.pins.set("cannot look after the pins of the tables", problem);
        let restored = kept.unwrap_or_default().join(" ");
        if restored.is_empty() {
            return;
        }
        let news = [LinkChange::Lost, LinkChange::Restored].map(|change| LinkNews {
            change,
            name: "tables".to_owned(),
            hook: "pins",
            note: restored.clone(),
        });
        self.report_links(news.into(), now);
    }

    /// Removes the pins of another version of the agent, once its counts are known.
    pub(super) fn retire(&mut self, now: Now) {
        self.count_carried(now);
        let problem = self.datapath.retire().err().map(|error| error.to_string());
        self.alarms.retired.set("cannot remove the pins of another version", problem);
        self.count_carried(now);
    }

    /// Reads back the interfaces alone. Whether one has no gate that was not reported before.
    pub(crate) fn attach_links(&mut self, now: Now) -> bool {
        let before = self.links.ungated();
        let interfaces = self.datapath.attach(&self.wanted());
        let news = self.links.set_interfaces(interfaces);
        self.report_links(news, now);
        self.record_alarms(now);
        self.links.ungated().difference(&before).next().is_some()
    }

    /// Puts the gate on links that have just appeared, and on nothing else.
    pub(crate) fn attach_new_links(&mut self, indices: &BTreeSet<u32>, now: Now) {
        let wanted = self.wanted();
        for index in indices {
            match self.datapath.attach_new(*index, &wanted) {
                Ok(Some(state)) => {
                    let news = self.links.add(state);
                    self.report_links(news, now);
                }
                Ok(None) => {}
                // All links are looked at next: that look reports it.
                Err(error) => tracing::debug!(index, "a new link is not gated yet: {error}"),
            }
        }
    }

    /// Tries the loaded programs on a few frames. A wrong answer raises an alarm; what the tables
    /// should say is written to them again.
    pub(super) fn self_test(&mut self, now: Now) {
        if !self.self_test.take_turn(now) {
            return;
        }
        let probes = self_test::probes(&self.config, self.tables.installed());
        let mut wrong = self.datapath.self_test(&probes);
        wrong.extend(self.align_clock());
        self.self_test.found(&wrong);
        self.review_policy(now);
        if let Some(text) = self.self_test.problem() {
            tracing::error!("self-test: {text}");
            if let Err(error) = self.apply_policy() {
                tracing::error!("{error}");
            }
        }
        self.record_alarms(now);
    }

    /// The agent must read the clock that the programs compare deadlines with. When it has to be
    /// corrected, grants can only end sooner: to the gate it is as if the wall clock was set.
    fn align_clock(&mut self) -> Option<String> {
        match self.datapath.align_clock() {
            Ok(0) => None,
            Ok(off) => Some(format!(
                "the agent's boot clock was {} ms off that of the kernel programs: corrected; grants \
                 may end sooner than they said",
                off / 1_000_000
            )),
            Err(error) => Some(format!("{error}: grants may not end on time")),
        }
    }

    pub(super) fn wanted(&self) -> Wanted {
        Wanted { filter: self.config.gate.interfaces.clone(), hook: self.config.gate.hook }
    }

    pub(super) fn report_links(&mut self, news: Vec<LinkNews>, now: Now) {
        for news in news {
            self.recorder.link(&news, now);
            let LinkNews { change, name, hook, note } = news;
            match change {
                LinkChange::Restored => {
                    tracing::warn!(interface = name, hook, "the gate was missing: restored");
                }
                LinkChange::Lost => {
                    tracing::error!(interface = name, hook, note, "the gate is lost");
                }
                LinkChange::SteppedDown => {
                    tracing::warn!(interface = name, hook, note, "not by the best hook");
                }
                LinkChange::Adopted | LinkChange::Attached => {
                    tracing::info!(interface = name, hook, note, "gate {}", change.word());
                }
            }
            let event = v1::GateEvent {
                kind: change.word().into(),
                detail: format!("{hook} {note}").trim_end().to_owned(),
                interface: name,
            };
            self.journal.add(now.wall.0, What::Gate(event));
        }
    }
}
