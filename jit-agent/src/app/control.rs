//! Keeps the listening port for controllers, what uplinks are made by, and the front that serves both.
//! Certificates, the port and the front fail by themselves: what fails is a fault on the board, is tried
//! again, and ends by itself when mended. The gate waits for none of it.

mod renewal;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use rcgen::KeyPair;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use crate::{
    app::{
        CHECK, FIRST_TRY, RETRY, SELDOM,
        front_process::FrontProcess,
        reach::unreachable,
        uplink::{self, Dialling},
    },
    config::{Config, Control, ControlLines, Controller, Uplink},
    control::{
        link::{Proofs, Setup},
        server::{self, Renewing, Service, Trusted},
        tls::{self, HubMaterial, Material},
    },
    disk::renewed,
    gate::{GateHandle, faults::Faults},
    kernel::netlink::watch::AddressWatch,
    rules::problem::ProblemKind,
    system::{addresses::addresses, sys},
};

/// How often, and for how long, a port is asked for that is taken: the front of an agent that was
/// killed may be about to end.
const LET_GO: Duration = Duration::from_millis(50);
const TAKEN: Duration = Duration::from_millis(500);
/// A front that ends before this time is not started again at once.
const SHORT: Duration = Duration::from_secs(10);

/// What the configuration says about controllers.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    control: Option<Control>,
    uplink: Option<Uplink>,
    controllers: Vec<Controller>,
    lines: ControlLines,
    /// The state directory.
    state: PathBuf,
    /// The keeper has taken it.
    taken: Notify,
}

impl Wanted {
    pub(super) fn of(config: &Config, lines: ControlLines) -> Self {
        let Config { control, controllers, uplink, paths, .. } = config;
        let (control, controllers) = (control.clone(), controllers.clone());
        let (uplink, state) = (uplink.clone(), paths.state.clone());
        Self { control, uplink, controllers, lines, state, taken: Notify::new() }
    }

    /// Waits until the keeper has taken it, if that does not take long.
    pub(super) async fn taken(&self) {
        let _late = timeout(FIRST_TRY, self.taken.notified()).await;
    }
}

/// The port that is listened on. It stays open while the front is started again: who connects
/// meanwhile waits.
struct Listening {
    address: SocketAddr,
    listener: TcpListener,
}

/// The process that serves, and the port that it was given.
struct Serving {
    front: FrontProcess,
    port: Option<SocketAddr>,
}

/// The keeper of the listening port and of the front.
pub(super) struct Keeper {
    service: Service,
    gate: GateHandle,
    faults: Faults,
    /// The certificates in use.
    material: Option<Material>,
    /// Why the files on the disk are not in use.
    unusable: Option<String>,
    /// The same of `[uplink]`.
    hub_material: Option<HubMaterial>,
    hub_unusable: Option<String>,
    /// The key for which a certificate is awaited.
    next_key: Option<KeyPair>,
    /// Why a certificate was refused last.
    not_renewed: Option<&'static str>,
    listening: Option<Listening>,
    serving: Option<Serving>,
    /// When the front was started last.
    started: Option<Instant>,
    /// Why the last front ended.
    ended: Option<String>,
    dialling: watch::Sender<Option<Arc<Dialling>>>,
    /// What uplinks are made by now: the front's setup and process.
    dialled: Option<(Proofs, u32)>,
    /// `None`: not opened yet, or it cannot be read any more.
    addresses: Option<AddressWatch>,
}

impl Keeper {
    pub(super) fn new(service: Service, gate: GateHandle, faults: Faults) -> Self {
        // Until the first try has ended.
        faults.set(
            ProblemKind::Control,
            Some("not listening: the agent is only just starting".into()),
        );
        Self {
            service,
            gate,
            faults,
            material: None,
            unusable: None,
            hub_material: None,
            hub_unusable: None,
            next_key: None,
            not_renewed: None,
            listening: None,
            serving: None,
            started: None,
            ended: None,
            dialling: watch::Sender::new(None),
            dialled: None,
            addresses: None,
        }
    }

    /// What uplinks are made by.
    pub(super) fn dialling(&self) -> uplink::Wanted {
        self.dialling.subscribe()
    }

    /// Keeps the port for as long as the agent runs. `first` is sent when it was tried once.
    pub(super) async fn run(
        mut self,
        mut wanted: watch::Receiver<Arc<Wanted>>,
        first: oneshot::Sender<()>,
        mut renewing: mpsc::Receiver<Renewing>,
    ) {
        let mut first = Some(first);
        let mut reread = true;
        loop {
            let now = Arc::clone(&wanted.borrow_and_update());
            let works = self.step(&now, reread).await;
            now.taken.notify_one();
            if let Some(first) = first.take() {
                let _gone = first.send(());
            }
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    reread = true;
                }
                Some(asked) = renewing.recv() => {
                    self.renew(asked, &now.state).await;
                    reread = false;
                }
                () = self.something_changes(works) => {
                    reread = self.unusable.is_some() || self.hub_unusable.is_some();
                }
            }
        }
    }

    /// Waits until the port has to be looked at again: soon if something is missing, else when the
    /// addresses of this host change or the server ends.
    async fn something_changes(&mut self, works: bool) {
        if !works {
            return sleep(RETRY).await;
        }
        let Self { serving, listening, addresses, .. } = self;
        // Without a front there is nothing to look at.
        let Some(Serving { front, .. }) = serving else {
            return std::future::pending().await;
        };
        let changed = async {
            match addresses {
                _ if listening.is_none() => std::future::pending().await,
                Some(watch) => timeout(SELDOM, watch.changed()).await.unwrap_or(Ok(())),
                None => {
                    sleep(CHECK).await;
                    Ok(())
                }
            }
        };
        tokio::select! {
            read = changed => {
                if read.is_err() {
                    *addresses = None;
                    sleep(RETRY).await;
                }
            }
            _ = front.ended() => {}
        }
    }

    /// Tries what is missing. `reread`: reads the certificates again. Returns whether all works.
    async fn step(&mut self, wanted: &Wanted, reread: bool) -> bool {
        let Wanted { control, uplink, controllers, lines, state, taken: _ } = wanted;
        if control.is_none() {
            (self.material, self.unusable, self.listening) = (None, None, None);
        }
        if uplink.is_none() {
            (self.hub_material, self.hub_unusable) = (None, None);
        }
        self.service.uplinks().set_wanted(uplink.is_some());
        // Who is no controller any more must not wait for a slow disk.
        self.service.set_controllers(controllers, self.trusted());
        if reread {
            if let Some(control) = control {
                self.read(control, *lines).await;
            }
            if let Some(uplink) = uplink {
                self.read_of_uplink(uplink, renewed::path(state)).await;
            }
            self.service.set_controllers(controllers, self.trusted());
            self.set_certificate_ends().await;
        }
        let served = self.serve(wanted).await;
        let problem = match (control, served) {
            (None, _) => None,
            (Some(_), Err(why)) => Some(format!("not listening: {why}")),
            (Some(control), Ok(())) => self.reach(wanted, control).err(),
        };
        let in_use = self.material.is_some();
        let kept = self.unusable.as_ref().filter(|_| in_use);
        let kept =
            kept.map(|why| format!("{why}; certificate, key and authorities before stay in use"));
        self.faults.set(ProblemKind::ControlFiles, kept);
        let of_uplink = self.hub_unusable.as_ref().map(|why| match self.hub_material {
            Some(_) => format!("{why}; certificate, key and authorities before stay in use"),
            None => format!("{why}; no uplink can be made"),
        });
        self.faults.set(ProblemKind::UplinkFiles, of_uplink);
        let news = self.faults.set(ProblemKind::Control, problem.clone());
        match (&problem, control) {
            (Some(problem), _) if news => tracing::error!("{problem}"),
            (None, Some(control)) if news => {
                tracing::info!("listening for controllers on {}", control.listen);
            }
            _ => {}
        }
        let uplinked = uplink.is_none() || self.dialled.is_some();
        problem.is_none() && uplinked && self.unusable.is_none() && self.hub_unusable.is_none()
    }

    fn trusted(&self) -> Trusted {
        Trusted {
            authorities: self.material.as_ref().map(|used| used.authorities.clone()),
            hubs: self.hub_material.as_ref().map(|used| used.hubs.clone()),
        }
    }

    /// Of both certificates the one that ends first has to be renewed.
    async fn set_certificate_ends(&self) {
        let of_uplink = self.hub_material.as_ref().map(|used| used.end);
        self.service.uplinks().set_certificate_end(of_uplink.map(|end| end.at));
        let ends = [self.material.as_ref().map(|used| used.end), of_uplink];
        let _gone = self.gate.set_certificate_end(ends.into_iter().flatten().min()).await;
    }

    /// Reads the files. Those in use stay in use if they cannot be read.
    async fn read(&mut self, control: &Control, lines: ControlLines) {
        let of = control.clone();
        let read = spawn_blocking(move || Material::read(&of)).await;
        let read = read.map_err(|error| error.to_string());
        let now = sys::now().wall;
        let used = self.material.as_ref();
        let in_place = |fresh: Material| fresh.in_place_of(used, now);
        match read.and_then(|read| read.and_then(in_place).map_err(|error| error.to_string())) {
            Ok(fresh) => {
                self.unusable = None;
                for doubt in fresh.doubts(now) {
                    tracing::warn!("{doubt}");
                }
                self.material = Some(fresh);
            }
            Err(why) => note(&mut self.unusable, lines.locate(&why)),
        }
    }

    /// The same of `[uplink]`.
    async fn read_of_uplink(&mut self, uplink: &Uplink, renewed: PathBuf) {
        let of = uplink.clone();
        let read = spawn_blocking(move || HubMaterial::in_use(&of, &renewed)).await;
        let read = read.map_err(|error| error.to_string());
        let now = sys::now().wall;
        let used = self.hub_material.as_ref();
        let in_place = |fresh: HubMaterial| fresh.in_place_of(used, now);
        match read.and_then(|read| read.and_then(in_place).map_err(|error| error.to_string())) {
            Ok(fresh) => (self.hub_unusable, self.hub_material) = (None, Some(fresh)),
            Err(why) => note(&mut self.hub_unusable, why),
        }
    }

    /// Has a front that serves by what is wanted, if there is anything to serve. The error says why the
    /// port is not served.
    async fn serve(&mut self, wanted: &Wanted) -> Result<(), String> {
        let Wanted { control, uplink, controllers, lines, .. } = wanted;
        let listens = match control {
            Some(control) => self.listen(control, *lines).await,
            None => Ok(()),
        };
        let proofs = self.hub_material.as_ref().map(HubMaterial::proofs);
        let port = self.listening.as_ref().map(|listening| listening.address);
        let setup = Setup { uplink: proofs.clone(), ..self.setup(controllers) };
        if self.serving.as_ref().is_some_and(|serving| serving.port != port) {
            self.serving = None;
        }
        let served = if port.is_none() && proofs.is_none() {
            self.serving = None;
            Ok(())
        } else {
            self.have_front(port, setup).await
        };
        if let (Some(_), Err(why)) = (uplink, &served) {
            let why = format!("no connection to a hub can be made: {why}");
            self.faults.set(ProblemKind::Uplink, Some(why));
        }
        self.dial(uplink.as_ref(), proofs.filter(|_| served.is_ok()));
        listens.and(served)
    }

    fn setup(&self, controllers: &[Controller]) -> Setup {
        match self.material.as_ref().filter(|_| self.listening.is_some()) {
            Some(material) => material.setup(controllers),
            None => Setup { controllers: tls::listed(controllers), ..Setup::default() },
        }
    }

    /// Says what uplinks are made by, if that is news.
    fn dial(&mut self, uplink: Option<&Uplink>, proofs: Option<Proofs>) {
        let (Some(uplink), Some(proofs), Some(serving), Some(material)) =
            (uplink, proofs, &self.serving, &self.hub_material)
        else {
            if self.dialled.take().is_some() {
                self.dialling.send_replace(None);
            }
            return;
        };
        let by = (proofs, serving.front.pid());
        let same =
            self.dialling.borrow().as_ref().is_some_and(|now| {
                now.uplink == *uplink && now.credentials == material.credentials()
            });
        if same && self.dialled.as_ref() == Some(&by) {
            return;
        }
        self.dialled = Some(by);
        self.dialling.send_replace(Some(Arc::new(Dialling {
            uplink: uplink.clone(),
            credentials: material.credentials().to_owned(),
            giver: serving.front.giver().clone(),
            order: Box::new(serving.front.uplink_orders()),
        })));
    }

    /// Listens, if it does not yet.
    async fn listen(&mut self, control: &Control, lines: ControlLines) -> Result<(), String> {
        if self.material.is_none() {
            self.listening = None;
            return Err(self.unusable.clone().unwrap_or_default());
        }
        let address = control.listen;
        if self.listening.take_if(|held| held.address != address).is_some() {
            // It has the port, too.
            self.serving = None;
        }
        if self.listening.is_none() {
            let listener = bind(address).await;
            let listener = listener.map_err(|error| {
                format!("{}: {error}", lines.locate(&format!("[control] listen = \"{address}\"")))
            })?;
            self.listening = Some(Listening { address, listener });
        }
        Ok(())
    }

    /// Has a front with this setup.
    async fn have_front(&mut self, port: Option<SocketAddr>, setup: Setup) -> Result<(), String> {
        if let Some(serving) = self.serving.as_mut().filter(|serving| serving.front.is_over()) {
            let why = serving.front.ended().await;
            tracing::error!("the process that talks to the network {why}; it is started again");
            (self.serving, self.ended) = (None, Some(why));
        }
        if let Some(serving) = &mut self.serving {
            return serving.front.set_up(setup).await;
        }
        let soon = self.started.is_some_and(|started| started.elapsed() < SHORT);
        if let Some(why) = self.ended.take_if(|_| soon) {
            return Err(format!("the process that talks to the network {why}"));
        }
        self.started = Some(Instant::now());
        let listener = self.listening.as_ref().map(|listening| &listening.listener);
        let front = FrontProcess::start(listener, &self.service, setup).await?;
        self.serving = Some(Serving { front, port });
        Ok(())
    }

    /// The error says why nobody can reach the port that is listened on.
    fn reach(&mut self, wanted: &Wanted, control: &Control) -> Result<(), String> {
        // Before they are listed: every later change is then seen.
        if self.addresses.is_none() {
            self.addresses = AddressWatch::open().ok();
        }
        // The kernel lets a socket listen on an address that no interface has yet, and serves it
        // from the moment on that one has.
        let addresses = addresses().map_err(|error| {
            format!("not listening: the addresses of this host cannot be listed: {error}")
        })?;
        match unreachable(control.listen.ip(), &addresses) {
            Some(why) => {
                let of_file = format!("[control] listen = \"{}\"", control.listen);
                Err(format!("not listening: {why} ({})", wanted.lines.locate(&of_file)))
            }
            None => Ok(()),
        }
    }
}

/// Notes why files cannot be used.
fn note(unusable: &mut Option<String>, why: String) {
    if unusable.as_ref() != Some(&why) {
        tracing::error!("{why}");
    }
    *unusable = Some(why);
}

/// Opens the port. The front of an agent that was killed holds it for a moment.
async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let began = Instant::now();
    loop {
        match server::bind_tcp(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && began.elapsed() < TAKEN => {
                sleep(LET_GO).await;
            }
            bound => return bound?.into_std(),
        }
    }
}
