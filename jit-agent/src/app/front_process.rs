//! Starts the front as a process of its own, and ends it. The same program runs, also when its file
//! was replaced meanwhile: the two always fit.

use std::{
    io,
    net::TcpListener,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{net::UnixStream, process::CommandExt as _, process::ExitStatusExt as _},
    },
    process::{Child, Command, ExitStatus, Stdio},
};

use crate::{
    app::front,
    control::{
        link::{
            Handed, Setup,
            hand::{self, Giver},
        },
        server::{Fate, Fronted, Service},
    },
    system::sys,
};

/// This program.
const PROGRAM: &str = "/proc/self/exe";

/// A front that runs. Dropped: it is ended.
pub(super) struct FrontProcess {
    child: Child,
    fronted: Fronted,
    service: Service,
    /// What it serves by; `None`: nothing was said yet.
    setup: Option<Setup>,
    giver: Giver,
    /// Why it ended by itself, if that is known.
    why: Option<String>,
}

impl FrontProcess {
    /// Starts a front that serves this port, if there is one. The error says why there is none.
    pub(super) async fn start(
        listener: Option<&TcpListener>,
        service: &Service,
        setup: Setup,
    ) -> Result<Self, String> {
        let (child, near, giver) = spawn(listener)
            .map_err(|error| format!("the process that talks to the network: {error}"))?;
        let pid = child.id();
        let fronted = Fronted::new(near, service);
        let mut child = Some(child);
        let fronted = fronted.map_err(|error| {
            end(child.as_mut());
            format!("the socket to the process that talks to the network: {error}")
        })?;
        service.front().started(pid, sys::now().wall);
        let child = child.expect("it was not ended");
        let mut front =
            Self { child, fronted, service: service.clone(), setup: None, giver, why: None };
        front.set_up(setup).await?;
        Ok(front)
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives it connections to hubs.
    pub(super) const fn giver(&self) -> &Giver {
        &self.giver
    }

    /// Says what becomes of an uplink of it.
    pub(super) fn uplink_orders(&self) -> impl Fn(u64, Fate) + Send + Sync + 'static {
        self.fronted.uplink_orders()
    }

    /// From now on it serves by this. The error says why it does not.
    pub(super) async fn set_up(&mut self, setup: Setup) -> Result<(), String> {
        if self.setup.as_ref() == Some(&setup) {
            return Ok(());
        }
        let done = self.fronted.set_up(setup.clone()).await;
        done.map_err(|why| {
            let why = format!("the process that talks to the network cannot serve: {why}");
            self.why = Some(why.clone());
            why
        })?;
        self.setup = Some(setup);
        Ok(())
    }

    /// Waits until it has ended by itself; returns why.
    pub(super) async fn ended(&mut self) -> String {
        let seen = self.fronted.ended().await;
        let status = self.child.try_wait().ok().flatten().or_else(|| end(Some(&mut self.child)));
        let why = match status.map(exited) {
            Some(how) => format!("{how} ({seen})"),
            None => seen,
        };
        self.why = Some(why.clone());
        why
    }

    pub(super) fn is_over(&self) -> bool {
        self.fronted.is_over()
    }
}

impl Drop for FrontProcess {
    fn drop(&mut self) {
        end(Some(&mut self.child));
        self.service.uplinks().all_ended();
        self.service.front().ended(self.why.take(), sys::now().wall);
    }
}

/// Ends the process, and returns how it ended. It holds nothing that has to be kept.
fn end(child: Option<&mut Child>) -> Option<ExitStatus> {
    let child = child?;
    // It may have ended already.
    let _gone = child.kill();
    child.wait().ok()
}

fn exited(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("ended by signal {signal}"),
        (None, Some(code)) => format!("ended with exit code {code}"),
        (None, None) => "ended".into(),
    }
}

/// The process, and the gate's ends of the sockets between. It inherits two sockets, and nothing else:
/// every other descriptor is closed by exec, and its environment is empty.
fn spawn(listener: Option<&TcpListener>) -> io::Result<(Child, UnixStream, Giver)> {
    let (near, far) = UnixStream::pair()?;
    let (giver, taker) = hand::pair()?;
    if let Some(listener) = listener {
        listener.set_nonblocking(true)?;
        giver.give(&Handed::default(), listener.as_fd())?;
    }
    let child = Command::new(PROGRAM)
        .arg0("jit-agent")
        .arg(front::COMMAND)
        .env_clear()
        .stdin(OwnedFd::from(far))
        .stdout(taker)
        .stderr(Stdio::null())
        .current_dir("/")
        .spawn()?;
    Ok((child, near, giver))
}
