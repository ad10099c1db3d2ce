//! Keeps the listening port for controllers, and the front that serves it. Certificates, the port and
//! the front fail by themselves: what fails is a fault on the board, is tried again, and ends by itself
//! when mended. The gate waits for none of it.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot, watch},
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use crate::{
    app::{CHECK, FIRST_TRY, RETRY, SELDOM, front_process::FrontProcess, reach::unreachable},
    config::{Config, Control, ControlLines, Controller},
    control::{
        server::{self, Service},
        tls::Material,
    },
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
    controllers: Vec<Controller>,
    lines: ControlLines,
    /// The keeper has taken it.
    taken: Notify,
}

impl Wanted {
    pub(super) fn of(config: &Config, lines: ControlLines) -> Self {
        let Config { control, controllers, .. } = config;
        let (control, controllers) = (control.clone(), controllers.clone());
        Self { control, controllers, lines, taken: Notify::new() }
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
    front: Option<FrontProcess>,
    /// When the front was started last.
    started: Instant,
    /// Why the last front ended.
    ended: Option<String>,
}

impl Listening {
    /// Notes that the front has ended by itself, if it has.
    async fn notice_end(&mut self) {
        let Some(front) = self.front.as_mut().filter(|front| front.is_over()) else { return };
        let why = front.ended().await;
        tracing::error!("the process that talks to the network {why}; it is started again");
        (self.front, self.ended) = (None, Some(why));
    }
}

/// The keeper of the listening port.
pub(super) struct Keeper {
    service: Service,
    gate: GateHandle,
    faults: Faults,
    /// The certificates in use.
    material: Option<Material>,
    /// Why the files on the disk are not in use.
    unusable: Option<String>,
    listening: Option<Listening>,
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
        let (material, unusable, listening, addresses) = (None, None, None, None);
        Self { service, gate, faults, material, unusable, listening, addresses }
    }

    /// Keeps the port for as long as the agent runs. `first` is sent when it was tried once.
    pub(super) async fn run(
        mut self,
        mut wanted: watch::Receiver<Arc<Wanted>>,
        first: oneshot::Sender<()>,
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
                () = self.something_changes(works) => {
                    reread = self.unusable.is_some();
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
        let Self { listening, addresses, .. } = self;
        // Without a port there is nothing to look at.
        let Some(Listening { front: Some(front), .. }) = listening else {
            return std::future::pending().await;
        };
        let changed = async {
            match addresses {
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
        let Wanted { control, controllers, lines, taken: _ } = wanted;
        let authorities =
            |material: &Option<Material>| material.as_ref().map(|used| used.authorities.clone());
        let Some(control) = control else {
            (self.material, self.unusable, self.listening) = (None, None, None);
            self.service.set_controllers(controllers, None);
            let _gone = self.gate.set_certificate_end(None).await;
            self.faults.set(ProblemKind::Control, None);
            self.faults.set(ProblemKind::ControlFiles, None);
            return true;
        };
        if reread {
            // Who is no controller any more must not wait for a slow disk.
            self.service.set_controllers(controllers, authorities(&self.material));
            self.read(control, *lines).await;
            self.service.set_controllers(controllers, authorities(&self.material));
        }
        let problem = self.listen(wanted, control).await.err();
        let in_use = self.material.is_some();
        let kept = self.unusable.as_ref().filter(|_| in_use);
        let kept =
            kept.map(|why| format!("{why}; certificate, key and authorities before stay in use"));
        self.faults.set(ProblemKind::ControlFiles, kept);
        let news = self.faults.set(ProblemKind::Control, problem.clone());
        match &problem {
            Some(problem) if news => tracing::error!("{problem}"),
            None if news => tracing::info!("listening for controllers on {}", control.listen),
            _ => {}
        }
        problem.is_none() && self.unusable.is_none()
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
                let _gone = self.gate.set_certificate_end(Some(fresh.not_after)).await;
                self.material = Some(fresh);
            }
            Err(why) => {
                let why = lines.locate(&why);
                if self.unusable.as_ref() != Some(&why) {
                    tracing::error!("{why}");
                }
                self.unusable = Some(why);
            }
        }
    }

    /// Listens, if it does not yet, with a front that serves by what is wanted. The error says why no
    /// controller can connect.
    async fn listen(&mut self, wanted: &Wanted, control: &Control) -> Result<(), String> {
        let Some(material) = &self.material else {
            return Err(format!("not listening: {}", self.unusable.as_deref().unwrap_or_default()));
        };
        let setup = material.setup(&wanted.controllers);
        let address = control.listen;
        let of_file = || wanted.lines.locate(&format!("[control] listen = \"{address}\""));
        let listening = match self.listening.take().filter(|held| held.address == address) {
            Some(held) => held,
            None => {
                let listener = bind(address).await;
                let listener =
                    listener.map_err(|error| format!("not listening: {}: {error}", of_file()))?;
                Listening { address, listener, front: None, started: Instant::now(), ended: None }
            }
        };
        let listening = self.listening.insert(listening);
        listening.notice_end().await;
        match &mut listening.front {
            Some(front) => front.set_up(setup).await,
            none => {
                let soon = listening.started.elapsed() < SHORT;
                if let Some(why) = listening.ended.take_if(|_| soon) {
                    return Err(format!(
                        "not listening: the process that talks to the network {why}"
                    ));
                }
                listening.started = Instant::now();
                let started = FrontProcess::start(&listening.listener, &self.service, setup).await;
                started.map(|front| *none = Some(front))
            }
        }
        .map_err(|why| format!("not listening: {why}"))?;
        // Before they are listed: every later change is then seen.
        if self.addresses.is_none() {
            self.addresses = AddressWatch::open().ok();
        }
        // The kernel lets a socket listen on an address that no interface has yet, and serves it
        // from the moment on that one has.
        let addresses = addresses().map_err(|error| {
            format!("not listening: the addresses of this host cannot be listed: {error}")
        })?;
        match unreachable(address.ip(), &addresses) {
            Some(why) => Err(format!("not listening: {why} ({})", of_file())),
            None => Ok(()),
        }
    }
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
