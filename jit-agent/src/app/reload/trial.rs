//! Puts configurations on trial, and confirms them: first the disk, then the gate.
//!
//! The last good configuration on the disk stays that of before. It is replaced when the trial is
//! confirmed, and from then on the record of the trial counts no more (`disk::trial`).

use std::{net::SocketAddr, time::Duration};

use jit_common::{Address, Family, PortKey, Protocol};
use jit_proto::{WallTime, prefix::ip, v1};
use tokio::task::spawn_blocking;

use super::{Past, PastEnd, Reloader};
use crate::{
    config::{CONFIRM_WITHIN, Config, Loaded, TRIALS},
    disk::{
        audit::{self, EventCode, read::is_recorded},
        last_good::LastGood,
        trial::{self, Connection, StoredTrial},
    },
    gate::trial::{
        BEGUN, Confirmation, Session, Trial, TrialRefused, TrialRequest, closes, confirmed_record,
        lapsed_record, no_signer,
    },
    kernel::netlink::sock_diag::{SockDiag, Wanted},
    system::sys,
};

/// Who puts a file on trial.
const RELOAD: &str = "reload";
/// The most connections that are written down. On a host with more of them, those that are not
/// written down count as new.
const CONNECTIONS: usize = 65_536;

impl Reloader {
    pub(super) async fn serve_trial(&mut self, request: TrialRequest) {
        // Whoever asked may be gone.
        match request {
            TrialRequest::Enforce { asked, by, reply } => {
                drop(reply.send(self.enforce(&asked, &by).await));
            }
            TrialRequest::Confirm { asked, by, reply } => {
                drop(reply.send(self.confirm(&asked, &by).await));
            }
        }
    }

    async fn enforce(
        &mut self,
        asked: &v1::EnforceRequest,
        by: &str,
    ) -> Result<v1::EnforceResponse, TrialRefused> {
        self.notice_end_of_trial().await;
        let not_now = |why: &str| Err(TrialRefused::NotNow(why.to_owned()));
        if self.trial.is_some() {
            let left = self.gate.trial().await.map_err(failed)?;
            let left = left.map_or(0, |trial| trial.left_ms);
            return not_now(&format!(
                "a trial goes on, {} left: `jit-agent confirm` over a new SSH session keeps it",
                jit_proto::words::duration(left)
            ));
        }
        if self.refused || !self.is_on_disk(self.kept.text().to_owned()).await {
            return not_now(
                "the file on the disk is not the configuration in force: `jit-agent check`, then \
                 `systemctl reload jit-agent`",
            );
        }
        let good = self.kept.load().map_err(failed)?;
        if !good.config.observes() {
            return not_now("nothing is in observe mode: the gate enforces already");
        }
        if let Some(why) = no_signer(&good.config.enforcing(), sys::now().wall) {
            return Err(TrialRefused::NotNow(why));
        }
        let on_trial = trial::enforcing(&self.kept).map_err(TrialRefused::Failed)?;
        let sessions = list(on_trial.config.clone()).await?;
        let preview = self.gate.preview_trial(on_trial.config.clone(), sessions).await;
        let preview = preview.map_err(failed)?;
        if asked.dry_run {
            return Ok(preview);
        }
        let within = match asked.confirm_within_ms {
            0 => CONFIRM_WITHIN,
            millis => Duration::from_millis(millis),
        };
        let [shortest, longest] = TRIALS;
        if !(shortest..=longest).contains(&within) {
            return not_now("a trial lasts from 10s to 1h");
        }
        let state = self.put_on_trial(&on_trial, false, within, by).await?;
        Ok(v1::EnforceResponse { trial: Some(state), ..preview })
    }

    /// What a file would close that is in force, if it has to go on trial for that; and for how long.
    /// `None`: it does not.
    pub(super) fn needs_trial(&self, loaded: &Loaded) -> Option<Duration> {
        let within = loaded.config.gate.confirm_within?;
        let good = match self.kept.load() {
            Ok(good) => good.config,
            Err(error) => {
                tracing::error!("the last good configuration cannot be compared: {error}");
                return None;
            }
        };
        let closes = closes(&good, &loaded.config, sys::now().wall);
        (!closes.is_empty()).then_some(within)
    }

    /// Puts a file that was read on trial.
    pub(super) async fn try_file(&mut self, loaded: Loaded, within: Duration) {
        if self.trial.as_ref().is_some_and(|trial| trial.of_file && trial.is_of(&loaded.text)) {
            return tracing::warn!("reload: this file is on trial already, to the same end");
        }
        match self.put_on_trial(&loaded, true, within, RELOAD).await {
            Ok(_) => {
                self.refused = false;
                self.serve(&loaded).await;
                tracing::info!("reloaded, on trial");
            }
            // The gate has refused it.
            Err(TrialRefused::NotNow(_)) => self.refused = true,
            Err(error) => self.refuse(error.to_string()).await,
        }
    }

    /// The record of the trial is on the disk before it is in force.
    async fn put_on_trial(
        &mut self,
        on_trial: &Loaded,
        of_file: bool,
        within: Duration,
        by: &str,
    ) -> Result<v1::TrialState, TrialRefused> {
        let good = self.kept.load().map_err(failed)?;
        self.write_kept(self.kept.clone()).await?;
        let boot_id = sys::boot_id().map_err(failed)?;
        let before = self.trial.clone();
        let now = sys::now();
        let mut stored = StoredTrial::new(&self.kept, on_trial, of_file, (boot_id, within), now);
        stored.connections = connections(&list(on_trial.config.clone()).await?);
        self.write_trial(Some(stored.clone())).await?;
        let trial = Trial {
            config: on_trial.config.clone(),
            before: good.config,
            before_since: self.kept.since(),
            until: stored.until(),
            begun: now.wall,
            of_file,
            by: by.to_owned(),
        };
        let begun = self.gate.begin_trial(trial).await.map_err(failed)?;
        let state = match begun {
            Ok(state) => state,
            Err(why) => {
                self.write_trial(before).await?;
                return Err(TrialRefused::NotNow(why));
            }
        };
        // A connection that came in between was made before the trial.
        match list(on_trial.config.clone()).await {
            Ok(sessions) => stored.connections.extend(connections(&sessions)),
            Err(error) => tracing::error!("{error}"),
        }
        stored.connections.sort_unstable();
        stored.connections.dedup();
        stored.connections.truncate(CONNECTIONS);
        if let Err(error) = self.write_trial(Some(stored.clone())).await {
            tracing::error!("{error}");
        }
        self.trial = Some(stored);
        Ok(state)
    }

    async fn confirm(
        &mut self,
        asked: &v1::ConfirmRequest,
        by: &str,
    ) -> Result<v1::ConfirmResponse, TrialRefused> {
        self.notice_end_of_trial().await;
        let Some(trial) = self.trial.clone() else {
            let last = self.gate.trial().await.map_err(failed)?;
            let why = match last.map(|last| last.ended).as_deref() {
                Some("confirmed") => "the last one was confirmed",
                Some("lapsed") => {
                    "the last one ended without a confirmation: `jit-agent enforce` begins another, or \
                     `systemctl reload jit-agent` where a file was on trial"
                }
                Some("replaced") => "another configuration took its place",
                _ => "`jit-agent enforce` begins one",
            };
            return Err(TrialRefused::NothingPending(why.into()));
        };
        let loaded = trial.load().map_err(failed)?;
        check_session(asked, &trial, &loaded.config).await?;
        if asked.dry_run {
            let file = if trial.of_file { String::new() } else { trial.text().to_owned() };
            return Ok(v1::ConfirmResponse { file });
        }
        if !trial.of_file && !self.is_on_disk(trial.text().to_owned()).await {
            let why = format!(
                "{} does not say mode = \"enforce\" yet, or says more than that is other than when \
                 the trial began",
                self.path.display()
            );
            return Err(TrialRefused::NotNow(why));
        }
        let passed = || TrialRefused::NothingPending("its time has passed".into());
        if !self.gate.confirm_trial(Confirmation::Hold, by).await.map_err(failed)? {
            return Err(passed());
        }
        // The kernel took the later end after this one: it may have observed for a moment.
        if sys::now().boot >= trial.until() {
            self.release(by).await?;
            return Err(passed());
        }
        let good = LastGood::new(&self.path, &loaded, WallTime(trial.begun_ms));
        if let Err(error) = self.write_kept(good.clone()).await {
            self.release(by).await?;
            // The disk may have taken it even so: the good one must be there when the trial ends.
            self.unwritten = true;
            return Err(error);
        }
        // From here on a start takes it for the good one.
        if !self.gate.confirm_trial(Confirmation::Commit, by).await.map_err(failed)? {
            // The disk took longer than the gate waits: the one before is in force by now.
            if let Err(error) = self.write_kept(self.kept.clone()).await {
                tracing::error!("{error}");
                self.unwritten = true;
            }
            return Err(passed());
        }
        self.kept = good;
        self.trial = None;
        self.refused = false;
        self.tried = self.stamps(&[]);
        self.seen = self.tried.clone();
        if let Err(error) = self.write_trial(None).await {
            tracing::error!("{error}");
        }
        Ok(v1::ConfirmResponse::default())
    }

    async fn release(&self, by: &str) -> Result<(), TrialRefused> {
        self.gate.confirm_trial(Confirmation::Release, by).await.map(drop).map_err(failed)
    }

    /// Writes down how a trial of an earlier run ended: in the audit, unless that has it, and then in
    /// the state. Killed between the two, the next run finds the record.
    pub(super) async fn settle_past(&mut self) {
        let Some(Past { trial, end, refused }) = self.past.take() else { return };
        let (of_file, begun) = (trial.of_file, WallTime(trial.begun_ms));
        let record = match end {
            PastEnd::Confirmed => Some(confirmed_record(of_file, begun, "agent")),
            PastEnd::Lapsed if !trial.lapsed => Some(lapsed_record(of_file, begun)),
            PastEnd::Lapsed | PastEnd::Replaced => None,
        };
        if let Some(record) = record
            && !self.is_recorded(record.code(), begun).await
            && let Err(gone) = self.gate.record(record).await
        {
            return tracing::error!("the end of a trial cannot be recorded: {gone}");
        }
        if let Err(error) = self.write_trial(refused.then(|| trial.ended())).await {
            tracing::error!("{error}");
        }
    }

    /// Whether the audit has the end of a trial. If it cannot be read, it is recorded once more.
    async fn is_recorded(&self, code: EventCode, begun: WallTime) -> bool {
        let directory = audit::directory(&self.state);
        let look = move || is_recorded(&directory, code, (BEGUN, begun.0));
        let found = spawn_blocking(look).await.map_err(std::io::Error::other).flatten();
        found.unwrap_or_else(|error| {
            tracing::warn!("the audit cannot be read: {error}");
            false
        })
    }

    /// Notes that the trial has ended in the gate, and what follows from it around the gate.
    pub(super) async fn notice_end_of_trial(&mut self) {
        let Some(trial) = self.trial.clone() else { return };
        let Ok(Some(state)) = self.gate.trial().await else { return };
        if state.ended.is_empty() {
            return;
        }
        self.trial = None;
        let on_disk = self.is_on_disk(trial.text().to_owned()).await;
        // What is on the disk now is not tried again by itself.
        self.tried = self.stamps(&[]);
        self.seen = self.tried.clone();
        let (of_file, begun) = (trial.of_file, WallTime(trial.begun_ms));
        let kept = (of_file || on_disk).then(|| trial.ended());
        if let Err(error) = self.write_trial(kept).await {
            tracing::error!("{error}");
        }
        if of_file {
            self.refused = true;
            match self.kept.load() {
                Ok(loaded) => self.serve(&loaded).await,
                Err(error) => tracing::error!("{error}"),
            }
        } else if on_disk {
            self.refuse(crate::gate::trial::lapsed_text(true, begun)).await;
        }
    }

    /// Another configuration is the good one: the trial counts no more.
    pub(super) async fn forget_trial(&mut self) {
        self.trial = None;
        if let Err(error) = self.write_trial(None).await {
            tracing::error!("{error}");
        }
    }

    /// Writes the last good configuration, and waits for it.
    async fn write_kept(&mut self, kept: LastGood) -> Result<(), TrialRefused> {
        if let Some(writing) = self.writing.take() {
            drop(writing.await);
        }
        let state = self.state.clone();
        let written = spawn_blocking(move || kept.write(&state)).await.map_err(failed)?;
        written.map_err(failed)?;
        self.unwritten = false;
        Ok(())
    }

    async fn write_trial(&self, trial: Option<StoredTrial>) -> Result<(), TrialRefused> {
        let state = self.state.clone();
        let write = move || match trial {
            Some(trial) => trial.write(&state),
            None => StoredTrial::remove(&state),
        };
        spawn_blocking(write).await.map_err(failed)?.map_err(failed)
    }

    async fn is_on_disk(&self, text: String) -> bool {
        let path = self.path.clone();
        spawn_blocking(move || trial::holds(&path, &text)).await.unwrap_or(false)
    }
}

fn failed(error: impl std::fmt::Display) -> TrialRefused {
    TrialRefused::Failed(error.to_string())
}

/// Whether the session that a person confirms by shows that the closed ports let people in.
async fn check_session(
    asked: &v1::ConfirmRequest,
    trial: &StoredTrial,
    config: &Config,
) -> Result<(), TrialRefused> {
    let Some(session) = &asked.session else {
        if asked.from_console {
            return Ok(());
        }
        let why = "no SSH session was named: confirm in a new one, or with --from-console";
        return Err(TrialRefused::NotFresh(why.into()));
    };
    let connection = connection_of(session).ok_or_else(|| {
        TrialRefused::NotFresh("the session has no two addresses with ports".into())
    })?;
    let (peer, local) = connection;
    let port = PortKey { protocol: Protocol::Tcp, port: local.port() };
    if config.policy.port(port).is_none_or(|section| section.observe) {
        return Err(TrialRefused::NotFresh(format!(
            "your session is at port {}/tcp, which is not closed: it does not show that a closed port \
             lets you in; if this is your way in, use --from-console",
            port.port
        )));
    }
    if trial.connections.contains(&connection) {
        return Err(TrialRefused::NotFresh(format!(
            "your session from {peer} was open before the trial: it shows nothing; open a NEW SSH \
             session, and run `jit-agent confirm` there"
        )));
    }
    let open = connections(&list(config.clone()).await?);
    if !open.contains(&connection) {
        return Err(TrialRefused::NotFresh(format!(
            "no session from {peer} to {local} is open on this host"
        )));
    }
    Ok(())
}

/// The established TCP sessions at the protected ports of a configuration.
async fn list(config: Config) -> Result<Vec<Session>, TrialRefused> {
    let list = move || {
        let ports: Vec<u16> = config
            .policy
            .rules()
            .filter(|(port, _)| port.protocol == Protocol::Tcp)
            .map(|(port, _)| port.port)
            .collect();
        let (Some(first), Some(last)) = (ports.iter().min(), ports.iter().max()) else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        let mut kernel = SockDiag::open()?;
        kernel.list(*first..=*last, Wanted::Sessions, |socket| {
            if !socket.half_open && !socket.listens && ports.binary_search(&socket.port).is_ok() {
                found.push((socket.peer, socket.peer_port, socket.local, socket.port));
            }
        })?;
        Ok::<_, crate::kernel::netlink::sock_diag::DiagError>(found)
    };
    spawn_blocking(list).await.map_err(failed)?.map_err(failed)
}

fn connections(sessions: &[Session]) -> Vec<Connection> {
    let ends = |(peer, peer_port, local, port): &Session| {
        (SocketAddr::new(ip(*peer), *peer_port), SocketAddr::new(ip(*local), *port))
    };
    sessions.iter().map(ends).collect()
}

fn connection_of(session: &v1::Session) -> Option<Connection> {
    let v1::Session { peer, peer_port, local, port } = session;
    let address = |bytes: &[u8]| {
        let family = match bytes.len() {
            4 => Family::V4,
            16 => Family::V6,
            _ => return None,
        };
        let mut all = [0; 16];
        all.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(ip(Address::of(family, all)))
    };
    let end = |bytes, port: u32| Some(SocketAddr::new(address(bytes)?, u16::try_from(port).ok()?));
    Some((end(peer, *peer_port)?, end(local, *port)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_a_connection_of_two_ends_or_nothing() {
        let session = v1::Session {
            peer: vec![192, 0, 2, 7].into(),
            peer_port: 40_000,
            local: vec![198, 51, 100, 1].into(),
            port: 22,
        };
        let expected = ("192.0.2.7:40000".parse().unwrap(), "198.51.100.1:22".parse().unwrap());
        assert_eq!(connection_of(&session), Some(expected));
        let v6 = v1::Session { peer: vec![1; 16].into(), ..session.clone() };
        assert!(connection_of(&v6).is_some_and(|(peer, _)| peer.is_ipv6()));
        for bad in [
            v1::Session { peer: vec![1; 5].into(), ..session.clone() },
            v1::Session { peer_port: 65_536, ..session.clone() },
            v1::Session { local: Vec::new().into(), ..session },
        ] {
            assert_eq!(connection_of(&bad), None, "{bad:?}");
        }
    }
}
