//! A signed revocation reaches a real agent over its uplink, and one that was away, and closes there.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use jit_client::{
    revocation_order::{KEEP, RevocationOrder, Whose},
    signing::{Algorithm, SigningKey, seal},
};
use jit_controller::{
    clock::now_ms,
    fleet::HubSettings,
    model::State,
    store::{Closing, closings, closings::Heard},
};
use jit_proto::payload_type::REVOCATION_TYPE;
use jit_tests::programs::binary;
use prost::Message as _;
use rustix::process::Signal;

use crate::{
    desk::Controller,
    yard::{CONTROLLER, Yard},
};

const LONG: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const HUB: &str = "198.18.0.1:7600";

/// The host dials the hub, and trusts the key `revocations` to close.
fn dial_out(yard: &Yard, number: usize, key: &SigningKey) {
    let issue = ["pki", "issue", "--dir", "pki", "--name", "hub", "--ip", CONTROLLER];
    let mut jitctl = Command::new(binary("jitctl"));
    jitctl.args(issue).args(["--uri", "spiffe://example.org/jit-controller"]);
    jitctl.current_dir(yard.path("")).stdout(Stdio::null());
    assert!(jitctl.status().unwrap().success());
    fs::write(yard.path("revocations.pem"), key.public_pem()).unwrap();
    let shared = yard.path("");
    let shared = shared.display();
    let more = format!(
        r#"
[[signer]]
id = "revocations"
public_key = "{shared}/revocations.pem"
signs = ["revocation"]
[uplink]
hubs = ["{HUB}"]
certificate = "{shared}/pki/agent.pem"
key = "{shared}/pki/agent.key"
ca = "{shared}/pki/ca.pem"
"#
    );
    yard.configure(number, "web-1", "", &more);
}

/// Ends everything on every host, as the desk does.
fn close(controller: &Controller, key: &SigningKey) -> Closing {
    let order = RevocationOrder {
        hosts: None,
        whose: Whose::All,
        issued_before_ms: now_ms(),
        cut: false,
        author: "li@example.org".into(),
        reason: "stolen key".into(),
        keep: KEEP,
    };
    let message = order.message();
    let payload = message.encode_to_vec();
    let closing = Closing {
        id: ulid::Ulid::generate().to_string(),
        account: "li".into(),
        envelope: Some(seal(REVOCATION_TYPE, payload.clone(), std::slice::from_ref(key))),
        payload,
        message,
        signed_ms: now_ms(),
        trouble: String::new(),
        settled: false,
        complete_ms: 0,
    };
    controller.runtime.block_on(async {
        let mut tx = controller.desk.store().begin().await.unwrap();
        closings::insert(&mut tx, &closing).await.unwrap();
        tx.commit().await.unwrap();
        controller.desk.changed();
    });
    closing
}

fn delivered(controller: &Controller, closing: &Closing) -> bool {
    let counts = controller.desk.store().closing_counts(&closing.id);
    controller.runtime.block_on(counts).unwrap() == [(Heard::Delivered, 1)].into()
}

#[test]
fn a_signed_revocation_closes_over_an_uplink_and_when_the_host_comes_back() {
    let mut yard = Yard::new();
    let one = yard.add("web-1");
    let provider = rustls::crypto::ring::default_provider();
    let key = SigningKey::generate(Algorithm::Ed25519, provider.secure_random).unwrap();
    dial_out(&yard, one, &key);
    yard.serve(one);
    let mut controller = Controller::new(&yard, &[]);
    // It has no address: only the uplink leads to it.
    controller.put("web-1", "", &[]);
    let pki = yard.path("pki");
    yard.hub.run(|| {
        controller.restart(|settings| {
            let mut hub = HubSettings::new(HUB.parse().unwrap(), settings);
            (hub.certificate, hub.key) = (pki.join("hub.pem"), pki.join("hub.key"));
            settings.hub = Some(hub);
        });
    });
    yard.start(one);
    let id = controller.request(&yard, &["web-1"], HOUR);
    controller.until("it is open", LONG, |it| it.state(&id) == State::Open);
    assert!(yard.opens(one), "{}", yard.log(one));
    let first = close(&controller, &key);
    let took = controller.until("it is closed", LONG, |it| delivered(it, &first));
    println!("carried out and stored {took:?} after it was committed");
    assert!(!yard.opens(one), "{}", yard.log(one));
    controller.runtime.block_on(controller.desk.tick(now_ms())).unwrap();
    assert_eq!(controller.state(&id), State::Revoked);
    assert_eq!(controller.recorded("C002", &first.id), 1);
    // What is granted after it lives, until the next one, which the host gets when it is back.
    let id = controller.request(&yard, &["web-1"], HOUR);
    controller.until("it is open again", LONG, |it| it.state(&id) == State::Open);
    assert!(yard.opens(one), "{}", yard.log(one));
    yard.stop(one, Signal::KILL);
    let second = close(&controller, &key);
    std::thread::sleep(Duration::from_millis(500));
    assert!(!delivered(&controller, &second));
    yard.start(one);
    controller.until("it is closed again", LONG, |it| delivered(it, &second));
    assert!(!yard.opens(one), "{}", yard.log(one));
    assert!(delivered(&controller, &first));
}
