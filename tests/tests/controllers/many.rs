//! `jitctl --agents`: one command for many real agents.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use jit_tests::{
    agent::{CLIENT, HOST, TO_CLIENT},
    programs::binary,
};
use serde_json::Value;

use crate::controlled::{Controlled, PORT};

/// Where the second site's agent is reached from the first site's client.
const RELAY: u16 = 7444;

/// Two sites with an agent each; both trust the signer of the first.
struct Two {
    near: Controlled,
    far: Controlled,
}

impl Two {
    fn new() -> Self {
        let near = Controlled::new();
        let key = near.site.path("signer.pub.pem");
        let far = Controlled::with_signers(|_| vec![key]);
        let two = Self { near, far };
        two.relay();
        let [address, _] = TO_CLIENT;
        let [here, _] = CLIENT;
        let of_far = |name: &str| two.far.site.path(&format!("pki/{name}"));
        let text = format!(
            "[defaults]\nca = \"pki/ca.pem\"\ncert = \"pki/controller.pem\"\n\
             key = \"pki/controller.key\"\n\
             [[agent]]\naddress = \"{address}:{PORT}\"\nlabels = {{ site = \"near\" }}\n\
             [[agent]]\naddress = \"{here}:{RELAY}\"\nserver_name = \"web-1.example.org\"\n\
             labels = {{ site = \"far\" }}\nca = {:?}\ncert = {:?}\nkey = {:?}\n",
            of_far("ca.pem"),
            of_far("controller.pem"),
            of_far("controller.key"),
        );
        fs::write(two.near.site.path("agents.toml"), text).unwrap();
        two
    }

    /// Carries connections of the first site's client to the second site's agent. Its threads end with
    /// the test program.
    fn relay(&self) {
        let [here, _] = CLIENT;
        let listener = self.near.site.client.run(|| TcpListener::bind((here, RELAY)).unwrap());
        let (wanted, wants) = mpsc::channel::<mpsc::Sender<TcpStream>>();
        let [address, _] = TO_CLIENT;
        self.far.site.client.spawn(move || {
            for answer in wants {
                let _gone = answer.send(TcpStream::connect((address, PORT)).unwrap());
            }
        });
        thread::spawn(move || {
            for near in listener.incoming() {
                let (answer, stream) = mpsc::channel();
                wanted.send(answer).unwrap();
                let (near, far) = (near.unwrap(), stream.recv().unwrap());
                for (mut from, mut to) in
                    [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)]
                {
                    thread::spawn(move || {
                        let _broken = std::io::copy(&mut from, &mut to);
                        let _gone = to.shutdown(std::net::Shutdown::Both);
                    });
                }
            }
        });
    }

    fn jitctl(&self, arguments: &str) -> crate::controlled::Said {
        self.near.bare_jitctl(&format!("--agents agents.toml {arguments}"))
    }

    /// A line of JSON for each agent.
    fn json(&self, arguments: &str) -> Vec<Value> {
        let said = self.jitctl(&format!("{arguments} --json")).good();
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn one_command_opens_and_closes_on_all_agents_or_on_those_with_a_label() {
    let two = Two::new();
    let (near, far) = (&two.near.site, &two.far.site);
    let said = two.jitctl("status").good();
    assert_eq!(said.matches("enforcing").count(), 2, "{said}");
    let [v4, v6] = CLIENT;
    let grant = format!(
        "grant --signing-key signer.key --for 60s --host {HOST} --source {v4} {v6} --port 22 --why w"
    );
    let said = two.jitctl(&grant).good();
    assert_eq!(said.matches("  ok ").count(), 2, "{said}");
    near.assert_open_to_the_client_alone();
    far.assert_open_to_the_client_alone();

    let listed = two.json("list");
    assert_eq!(listed.len(), 2);
    assert_eq!((&listed[0]["labels"]["site"], &listed[1]["exit"]), (&"near".into(), &0.into()));
    assert_eq!(listed[0]["grants"][0]["id"], listed[1]["grants"][0]["id"]);

    let said = two.jitctl("--select site=far revoke --all --yes --reason over").good();
    assert_eq!(said.lines().count(), 2, "{said}");
    far.assert_closed_to_all();
    near.assert_open_to_the_client_alone();
    // One of two finds something: that is enough.
    let ended = two.json("revoke --all --yes --reason over");
    assert_eq!((&ended[0]["revoked"], &ended[1]["revoked"]), (&1.into(), &0.into()));
    near.assert_closed_to_all();
    assert_eq!(two.jitctl("revoke --all --yes --reason over").exit, Some(1));
}

#[test]
fn the_worst_agent_decides_and_the_others_are_served() {
    let two = Two::new();
    let path = two.near.site.path("agents.toml");
    let text = fs::read_to_string(&path).unwrap();
    let [address, _] = TO_CLIENT;
    let third =
        format!("{text}[[agent]]\naddress = \"{address}:7999\"\nlabels = {{ site = \"none\" }}\n");
    fs::write(&path, third).unwrap();
    let said = two.jitctl("status --timeout 2s");
    assert_eq!(said.exit, Some(69), "{said:?}");
    assert_eq!(said.out.matches("enforcing").count(), 2, "{said:?}");
    assert!(said.out.contains("failed") && said.out.contains("nobody listens"), "{said:?}");
    // The second agent trusts no key of the third pair: it refuses, the first one accepts.
    two.near.bare_jitctl("keygen --algorithm p256 --out other").good();
    let grant = format!(
        "--select site=far grant --signing-key other.key --for 60s --host {HOST} --source {} --port 22 \
         --why w --json",
        CLIENT[0]
    );
    let said = two.jitctl(&grant);
    assert_eq!(said.exit, Some(77), "{said:?}");
    let line: Value = serde_json::from_str(said.out.trim()).unwrap();
    assert_eq!(line["outcomes"][0]["reason"], "unknown_key");
    two.jitctl("policy show").fails(64, "jitctl: this command talks to one agent at a time");
}

#[test]
fn events_of_all_agents_come_with_their_names() {
    let two = Two::new();
    let mut command = Command::new(binary("jitctl"));
    command.args(["--agents", "agents.toml", "watch", "--json"]);
    command.current_dir(two.near.site.path("")).stdout(Stdio::piped());
    let mut child = two.near.site.client.run(|| command.spawn().unwrap());
    let (sender, lines) = mpsc::channel();
    let out = BufReader::new(child.stdout.take().unwrap());
    thread::spawn(move || {
        for line in out.lines() {
            let value: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if sender.send(value).is_err() {
                return;
            }
        }
    });
    // The streams begin some time after the start: events are made until both have come.
    let mut seen = std::collections::BTreeSet::new();
    let source = CLIENT[0];
    let grant = format!(
        "grant --signing-key signer.key --for 60s --host {HOST} --source {source} --port 22 --why w"
    );
    for _ in 0..40 {
        two.jitctl(&grant).good();
        while let Ok(event) = lines.recv_timeout(Duration::from_millis(200)) {
            seen.insert(event["agent"].as_str().unwrap().to_owned());
        }
        if seen.len() == 2 {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(seen.len(), 2, "{seen:?}");
}
