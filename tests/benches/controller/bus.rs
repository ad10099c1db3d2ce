//! A fleet whose agents dial two hubs of a bus with three servers: how soon a committed grant is
//! answered by its agent, and how soon while any one of the servers or hubs is killed. Controller, hubs and
//! servers are the real programs; the agents are simulated as in `fleet`. `JIT_BENCH_AGENTS` is
//! another number of them.

#[expect(dead_code, clippy::indexing_slicing, reason = "it is that of the tests of the bus")]
#[path = "../../../jit-agent/controller/tests/bus/cluster.rs"]
mod cluster;
mod servers;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use jit_client::ca::Authority;
use jit_tests::{controller::Stage, figures::size, netns::Namespace, programs::binary};

use self::{cluster::Who, servers::Servers};
use crate::fleet::{
    PATIENCE, as_shipped, more_files, pushes, report_pushes,
    site::{Site, certify_hub},
    wanted,
};

/// Where the hubs listen.
const HUBS: [(&str, &str); 2] = [("hub-a", "127.0.0.1:7444"), ("hub-b", "127.0.0.1:7445")];
const ROLES: [&str; 2] = ["api", "signer"];

/// From a grant to the answer, undisturbed, and while each server and each hub is killed.
pub(crate) fn measure() {
    let count = wanted().unwrap_or_else(|| size(1_000, 30));
    let table = format!("bus, {count} agents");
    more_files(count);
    let stage = Stage::new(None);
    as_shipped(&stage);
    let ana = stage.person("ana", "ana@example.org", &["developers"], &["read", "request"]);
    let servers = Servers::start(&stage.hub);
    let mut hubs = Vec::new();
    let site = Site::with(stage, count, &ROLES, |stage, authority| {
        hubs.extend(
            HUBS.map(|(name, listen)| Hub::start(stage, authority, name, listen, &servers)),
        );
        servers.section(Who::Controller)
    });
    site.swarm.dial(&HUBS.map(|(_, listen)| listen.parse::<SocketAddr>().unwrap()));
    let began = Instant::now();
    while site.enforcing() < count {
        let seen = hubs.iter().map(Hub::said).collect::<String>();
        assert!(began.elapsed() < PATIENCE, "{} are enforcing\n{seen}", site.enforcing());
        thread::sleep(Duration::from_millis(50));
    }
    thread::sleep(size(Duration::from_secs(10), Duration::from_millis(100)));
    let wanted = size(400, 10);
    let (times, again) = pushes(&site, &ana, wanted, || {});
    println!("grants that came once more: {again}");
    report_pushes(&table, &format!("of {wanted}"), times);
    let mut all = Vec::new();
    for number in 0..servers::COUNT {
        let (times, again) = pushes(&site, &ana, wanted, || servers.kill(number));
        println!("server {} killed: grants that came once more: {again}", number + 1);
        all.extend(times);
        servers.restart(number);
        // The servers have chosen who leads, and each has all.
        thread::sleep(size(Duration::from_secs(20), Duration::from_secs(10)));
    }
    let more = format!("of {}, a server is killed in the middle", all.len());
    report_pushes(&table, &more, all);
    let mut all = Vec::new();
    for (number, hub) in hubs.iter_mut().enumerate() {
        site.board
            .until("with a spare connection", PATIENCE, |board| board.count_spares() == count);
        let killed = Mutex::new(&mut *hub);
        let (times, again) = pushes(&site, &ana, wanted, || killed.lock().unwrap().kill());
        println!("hub {} killed: grants that came once more: {again}", number + 1);
        all.extend(times);
        hub.restart(&site.stage.hub);
    }
    let more = format!("of {}, a hub is killed in the middle", all.len());
    report_pushes(&table, &more, all);
}

/// A hub of the bus. It ends with this.
struct Hub {
    child: Child,
    directory: PathBuf,
    log: PathBuf,
}

impl Hub {
    fn start(
        stage: &Stage,
        authority: &Authority,
        name: &str,
        listen: &str,
        servers: &Servers,
    ) -> Self {
        let (directory, log) = (stage.path(name), stage.path(&format!("{name}.log")));
        fs::create_dir(&directory).unwrap();
        certify_hub(authority, &directory);
        let ca = stage.own("pki/ca.pem");
        let text = format!(
            "{}\n[hub]\nname = {name:?}\nlisten = {listen:?}\ncertificate = \"hub.pem\"\nkey = \"hub.key\"\n\
             client_ca = {ca:?}\n",
            servers.section(Who::Hub)
        );
        fs::write(directory.join("controller.toml"), text).unwrap();
        let child = serve(&directory, &log, &stage.hub);
        Self { child, directory, log }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self, namespace: &Namespace) {
        self.child = serve(&self.directory, &self.log, namespace);
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

fn serve(directory: &Path, log: &Path, namespace: &Namespace) -> Child {
    let mut command = Command::new(binary("jit-controller"));
    command.args(["serve", "--roles", "hub", "--dir"]).arg(directory);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(log).unwrap());
    namespace.start(&mut command)
}

impl Drop for Hub {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
