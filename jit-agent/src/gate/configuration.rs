//! Takes other configurations, and knows whether the one in force is the file on the disk. What a
//! reload changes, and above all what it opens, is logged and recorded by value.

use std::path::{Path, PathBuf};

use jit_proto::{WallTime, v1};

use crate::{
    config::{AUTO, Config},
    disk::audit::{EventCode, Record},
    gate::{Gate, changes::Changes},
    kernel::datapath::Datapath,
    rules::{clock::Now, problem::ProblemKind},
};

/// Name of the fault: the file on the disk is not in force.
const FAULT: ProblemKind = ProblemKind::Configuration;
/// The most openings in one record of the audit; more of them make more records.
const OPENED: usize = 64;

/// Where the configuration in force comes from.
#[derive(Clone, Debug, Default)]
pub(super) struct Origin {
    path: PathBuf,
    /// When it was first put in force as it is.
    since: WallTime,
    /// It is the kept copy of the last good one.
    last_good: bool,
    /// Why the file on the disk is not in force, and when that was found.
    refused: Option<(String, WallTime)>,
}

impl Origin {
    pub(super) fn message(&self) -> v1::ConfigurationState {
        let Self { path, since, last_good, refused } = self;
        let (refused, refused_at) = refused.clone().unwrap_or_default();
        v1::ConfigurationState {
            path: path.display().to_string(),
            in_force_since_ms: since.0,
            last_good: *last_good,
            refused,
            refused_at_ms: refused_at.0,
        }
    }
}

/// Which configuration the next start would use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextStart {
    /// The file cannot be used: the last good one.
    LastGood,
    /// The file is good, but needs a restart.
    TheFile,
}

impl<D: Datapath> Gate<D> {
    /// Where the configuration that the gate started with comes from. `since`: when it was first put
    /// in force. `refused`: it is the last good one, because the file cannot be used for this reason.
    pub fn set_origin(&mut self, path: &Path, since: WallTime, refused: Option<&str>, now: Now) {
        let path = path.to_owned();
        self.configuration = Origin { path, since, last_good: refused.is_some(), refused: None };
        let Some(why) = refused else { return };
        self.note_refused(why, now);
        let text = format!(
            "the file on disk is not in force: {why}; the last good configuration, of {since}, is"
        );
        tracing::error!("{text}");
        self.faults.set(FAULT, Some(text.clone()));
        self.record(Record::new(EventCode::LastGoodUsed).by("agent").detail(&text), now);
        self.record_alarms(now);
    }

    /// Records what the file opened that the gate started with, against the one in force before.
    pub fn record_openings_since(&mut self, before: &Config, now: Now) {
        // A pushed policy is in force before and after.
        let file = Config { policy: self.policies.file_policy().clone(), ..self.config.clone() };
        let Changes { opened, .. } = Changes::between(before, &file, &[], now.wall);
        self.record_openings(&opened, now);
    }

    /// When the configuration in force was first put in force as it is.
    pub(super) const fn set_in_force_since(&mut self, since: WallTime) {
        self.configuration.since = since;
    }

    /// Takes another configuration: policy, keys, mode and interfaces. Live grants stay as they
    /// are; sizes, paths and the host's id need a restart. On an error the old one stays.
    pub fn reconfigure(&mut self, config: Config, now: Now) -> Result<(), String> {
        let old = self.config.clone();
        let gated = self.gated();
        self.replace_trial(now);
        match self.try_reconfigure(config, now) {
            Ok(()) => {
                self.took(&old, &gated, now);
                Ok(())
            }
            Err((why, next)) => {
                self.refuse_configuration(&why, next, now);
                Err(why)
            }
        }
    }

    /// Names of the interfaces that are to have a gate.
    pub(super) fn gated(&self) -> Vec<String> {
        self.links.to_gate().map(|one| one.name.clone()).collect()
    }

    /// Another configuration than `old` is in force.
    pub(super) fn took(&mut self, old: &Config, gated: &[String], now: Now) {
        self.configuration = Origin {
            path: std::mem::take(&mut self.configuration.path),
            since: now.wall,
            ..Origin::default()
        };
        self.faults.set(FAULT, None);
        let changes = Changes::between(old, &self.config, gated, now.wall);
        self.record_reload(&changes, now);
        self.restore_unsigned(now);
        self.expect_checkpoints(None, now);
        self.record_alarms(now);
    }

    /// The file on the disk is not taken: that is a fault until it is mended.
    pub fn refuse_configuration(&mut self, why: &str, next: NextStart, now: Now) {
        self.note_refused(why, now);
        let since = self.configuration.since;
        let next = match next {
            NextStart::LastGood => format!("the next start will use the one of {since}"),
            NextStart::TheFile => format!("the one of {since} is in force until a restart"),
        };
        let text = format!("configuration on disk refused at {}: {why}; {next}", now.wall);
        tracing::error!("reload: nothing changed: {text}");
        self.faults.set(FAULT, Some(text));
        self.record(Record::new(EventCode::ConfigurationRefused).by("agent").detail(why), now);
        self.record_alarms(now);
        self.settle_audit(now);
    }

    fn note_refused(&mut self, why: &str, now: Now) {
        self.configuration.refused = Some((why.to_owned(), now.wall));
    }

    pub(super) fn try_reconfigure(
        &mut self,
        config: Config,
        now: Now,
    ) -> Result<(), (String, NextStart)> {
        let restart = needs_restart(&self.config, &config);
        if !restart.is_empty() {
            let what = restart.join(", ");
            let why = format!("{what} cannot change without a restart: nothing changed");
            return Err((why, NextStart::TheFile));
        }
        let result = self.apply_config(config, now);
        self.check_attachments(now);
        result.map_err(|refused| (refused.to_string(), NextStart::LastGood))
    }

    /// Records a reload: all that it changed, and what it opened.
    fn record_reload(&mut self, changes: &Changes, now: Now) {
        let Changes { all, opened, closed: _ } = changes;
        if all.is_empty() {
            tracing::info!("reload: the file says the same as before");
        }
        for change in all {
            tracing::info!("reload: {change}");
        }
        self.recorder.reloaded(&self.config, all, now);
        self.record_openings(opened, now);
        self.settle_audit(now);
    }

    fn record_openings(&mut self, opened: &[String], now: Now) {
        for opened in opened.chunks(OPENED) {
            tracing::warn!("the new configuration opened: {}", opened.join("; "));
            let record = Record::new(EventCode::ConfigurationOpened).by("agent");
            self.record(record.with("opened", opened.to_vec()), now);
        }
    }
}

/// The settings that cannot change while the agent runs, with both values.
fn needs_restart(old: &Config, new: &Config) -> Vec<String> {
    let host = |config: &Config| {
        if config.auto_host { format!("{AUTO:?}") } else { format!("{:?}", config.host) }
    };
    let mut settings = vec![("[host] id", host(old), host(new))];
    let (was, is) = (old.limits, new.limits);
    settings.extend([
        ("[limits] hosts", was.hosts.to_string(), is.hosts.to_string()),
        ("[limits] prefixes", was.prefixes.to_string(), is.prefixes.to_string()),
    ]);
    let (was, is) = (&old.paths, &new.paths);
    let path = |path: &Path| path.display().to_string();
    settings.extend([
        ("[paths] state", path(&was.state), path(&is.state)),
        ("[paths] runtime", path(&was.runtime), path(&is.runtime)),
        ("[paths] pins", path(&was.pins), path(&is.pins)),
    ]);
    let changed = settings.into_iter().filter(|(_, was, is)| was != is);
    changed.map(|(key, was, is)| format!("{key} {was} -> {is}")).collect()
}
