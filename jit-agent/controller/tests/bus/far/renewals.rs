//! Certificates of hosts at hubs are renewed, and a hub gets none in a host's name.

use std::{collections::BTreeMap, time::Duration};

use jit_client::pem::{Holds, certificates};
use jit_controller::{
    clock::now_ms,
    enrol::{certify::issue_wanted, request::Request},
    signer::CertificateWish,
    store::{Enrolment, EnrolmentState, HostCertificate, enrolments},
};
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use x509_parser::parse_x509_certificate;

use super::{
    double::Double,
    world::{World, until},
};

const HOUR_MS: i64 = 3_600_000;

/// Enrols a host, two hours ago, with a certificate of three. Returns it (DER).
async fn enrol(world: &World, host: &str, key: &KeyPair) -> Vec<u8> {
    let (store, now_ms) = (world.desk.store(), now_ms());
    let csr = CertificateParams::default().serialize_request(key).unwrap().pem().unwrap();
    let csr_hash = Request::read(&csr).unwrap().sha256().to_owned();
    let wish = CertificateWish { csr: csr.clone(), host: host.into(), dns: Vec::new() };
    let issued = world.signer.certify(wish).await.unwrap();
    let enrolment = Enrolment {
        id: format!("E-{host}"),
        host: host.into(),
        method: "first_use".into(),
        machine: format!("host:{host}"),
        facts: BTreeMap::new(),
        token: String::new(),
        csr,
        csr_hash: csr_hash.clone(),
        state: EnrolmentState::Issued,
        why: String::new(),
        created_ms: now_ms - 2 * HOUR_MS,
        decided_by: String::new(),
        decided_ms: 0,
    };
    let certificate = HostCertificate {
        serial: issued.serial,
        host: host.into(),
        enrolment: enrolment.id.clone(),
        csr_hash,
        issued_ms: now_ms - 2 * HOUR_MS,
        not_after_ms: issued.not_after_ms,
        pem: issued.certificate,
    };
    let mut tx = store.begin().await.unwrap();
    enrolments::add(&mut tx, &enrolment).await.unwrap();
    assert!(enrolments::be_first(&mut tx, &enrolment).await.unwrap());
    enrolments::add_certificate(&mut tx, &certificate).await.unwrap();
    tx.commit().await.unwrap();
    certificates(&certificate.pem, Holds::One).unwrap()[0].to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_through_a_hub_which_gets_none_for_itself() {
    let world = World::new(&["db-1", "kept-1", "old-1", "web-1"]).await;
    let hub = world.hub("hub-a").await;
    let (store, signer) = (world.desk.store().clone(), world.signer.clone());
    tokio::spawn(async move {
        loop {
            issue_wanted(&store, &signer, now_ms()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut lines = Vec::new();
    let agents = ["db-1", "old-1", "web-1", "kept-1"].map(|host| Double::new(host, host));
    for agent in &agents {
        let key = KeyPair::generate().unwrap();
        let certificate = enrol(&world, &agent.host, &key).await;
        if agent.host != "old-1" {
            let mut renews = agent.renews.lock().unwrap();
            renews.used = Some((certificate, key));
            renews.swapped = agent.host == "db-1";
            renews.kept_back = agent.host == "kept-1";
        }
        lines.push(agent.dial(hub.address, world.client(&agent.host)).await.unwrap());
    }
    let [lied, _old, good, kept] = agents;
    until("renewed", async || good.renews.lock().unwrap().brought == 1).await;
    {
        let renews = good.renews.lock().unwrap();
        let (certificate, key) = renews.used.as_ref().unwrap();
        let (_, read) = parse_x509_certificate(certificate).unwrap();
        assert_eq!(read.public_key().raw, key.subject_public_key_info());
    }
    // That it was brought, a hub may say as it likes: only the host's next proof ends the attempts.
    until("brought again", async || kept.renews.lock().unwrap().brought >= 2).await;
    until("proven", async || good.renews.lock().unwrap().asked >= 2).await;
    // It is asked again after some seconds.
    until("refused", async || lied.renews.lock().unwrap().asked >= 2).await;
    assert_eq!(lied.renews.lock().unwrap().brought, 0);
    let count = async |host: &str| {
        world.desk.store().host_certificates(host, now_ms()).await.unwrap().len()
    };
    assert_eq!((count("db-1").await, count("old-1").await, count("web-1").await), (1, 1, 2));
    assert_eq!(good.renews.lock().unwrap().asked, 2, "what is proven is not tried again");
}
