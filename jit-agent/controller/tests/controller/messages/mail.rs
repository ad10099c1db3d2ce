//! Mail: who gets which, once, over TLS, and no text of a person becomes a header.

use std::{net::SocketAddr, path::Path, time::Duration};

use jit_controller::{
    api::RawSettings,
    messages::{Courier, RawSettings as Messages, Retry, Settings, mail::Post},
    model::Account,
    store::accounts,
};
use serde_json::json;

use super::{
    said,
    smtp::{Kind, Server, acceptor},
    taken,
};
use crate::{api::Site, databases::Database};

on_each_database! {
    those_who_may_agree_and_who_asked_get_mail_once,
    one_recipient_holds_up_nobody_else,
    no_text_of_a_person_becomes_a_header,
    mail_goes_over_tls_or_not_at_all,
}

const PLAIN: &str = "tls = \"none\"\n";

async fn post(site: &Site, directory: &Path, server: SocketAddr, more: &str) -> Courier {
    let text = format!("[mail]\nserver = \"{server}\"\nfrom = \"JIT <jit@example.org>\"\n{more}");
    let raw: Messages = toml::from_str(&text).unwrap();
    let mail = Settings::of(raw, directory).unwrap().mail.unwrap();
    let (first, longest) = (Duration::from_millis(50), Duration::from_millis(200));
    let retry = Retry { first, longest, give_up: Duration::MAX };
    let link = Some("https://jit.example.org".into());
    let courier = Courier::start(site.desk.clone(), Post::new(&mail).unwrap(), link, retry);
    for _ in 0..200 {
        if site.store().audit_cursor("mail").await.unwrap() > 0 {
            return courier;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("it does not begin");
}

async fn addresses(site: &Site) {
    let root = site.caller("root").await;
    for name in ["ana", "li"] {
        let mail = json!({ "mail": format!("{name}@mail.example.org") });
        root.put(&format!("/api/v1/accounts/{name}/mail"), mail).await.ok(200);
    }
}

async fn those_who_may_agree_and_who_asked_get_mail_once(database: Database) {
    let site = Site::with(database, RawSettings::default(), |_| {}).await;
    addresses(&site).await;
    let (root, ana, li) =
        (site.caller("root").await, site.caller("ana").await, site.caller("li").await);
    // An address is the administrator's to say, and everybody's own to see.
    assert_eq!(ana.get("/api/v1/accounts/ana/mail").await.ok(200)["mail"], "ana@mail.example.org");
    assert_eq!(ana.get("/api/v1/accounts/li/mail").await.status, 403);
    assert_eq!(ana.put("/api/v1/accounts/ana/mail", json!({ "mail": "" })).await.status, 403);
    for wrong in ["x", "a@b.org\r\nBcc: c@d.org", "a@b.org, c@d.org"] {
        let refused = root.put("/api/v1/accounts/eve/mail", json!({ "mail": wrong })).await;
        assert_eq!(refused.problem(422, "invalid")["field"], "mail");
    }
    let (server, address) = Server::start(Kind::Plain).await;
    let courier = post(&site, site.directory(), address, PLAIN).await;
    // The first attempt is put off.
    server.answers.lock().unwrap().push("451 later");
    let asked = ana.ask("db-1").await;
    let id = asked["id"].as_str().unwrap();
    let got = server.until(1).await;
    assert_eq!(
        (&got[0].from[..], &got[0].to[..]),
        ("jit@example.org", &["li@mail.example.org".to_owned()][..])
    );
    let (names, body) = got[0].parts();
    for name in ["Subject", "From", "To", "Date", "Message-ID", "References", "Auto-Submitted"] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert!(got[0].text.contains("Subject: ana@example.org asks for access to db-1"), "{got:#?}");
    let link = format!("https://jit.example.org/requests/{id}");
    for part in ["disk full", "22/tcp", "203.0.113.7", "You may agree to it.", &link] {
        assert!(body.contains(part), "{part}: {body}");
    }
    // Started anew it says nothing twice. The mail was put off: that it is kept is not enough.
    taken(&site, "mail:li", id).await;
    drop(courier);
    let _courier = post(&site, site.directory(), address, PLAIN).await;
    let decision = json!({ "ruling": "deny", "reason": "not now", "hash": asked["hash"] });
    li.post(&format!("/api/v1/requests/{id}/decision"), decision).await.ok(200);
    let got = server.until(2).await;
    assert_eq!(got[1].to, ["ana@mail.example.org"]);
    let (_, body) = got[1].parts();
    for part in ["Denied", "li@example.org said no: not now", "You asked for it."] {
        assert!(body.contains(part), "{part}: {body}");
    }
    // An address that there is not holds up nobody.
    server.answers.lock().unwrap().push("550 no such user");
    ana.ask("db-1").await;
    ana.ask("db-1").await;
    let got = server.until(3).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server.got.lock().unwrap().len(), 3, "{got:#?}");
}

async fn one_recipient_holds_up_nobody_else(database: Database) {
    let site = Site::with(database, RawSettings::default(), |_| {}).await;
    addresses(&site).await;
    let (ana, li) = (site.caller("ana").await, site.caller("li").await);
    let (server, address) = Server::start(Kind::Plain).await;
    let always = |answer: &'static str| {
        server.always.lock().unwrap().insert("li@mail.example.org".into(), answer);
    };
    let deny = async |asked: &serde_json::Value| {
        let path = format!("/api/v1/requests/{}/decision", asked["id"].as_str().unwrap());
        let decision = json!({ "ruling": "deny", "reason": "not now", "hash": asked["hash"] });
        li.post(&path, decision).await.ok(200);
    };
    let courier = post(&site, site.directory(), address, PLAIN).await;
    // li's mailbox is full, for good or for a while: ana hears of it all the same.
    let answers = [
        "552 full",
        "554 no",
        "501 what",
        "450 later",
        "452 full",
        "421 busy",
        "550 5.4.5 daily limit",
    ];
    for (count, answer) in answers.into_iter().enumerate() {
        always(answer);
        let asked = ana.ask("db-1").await;
        said(&site, "mail:li", asked["id"].as_str().unwrap()).await;
        deny(&asked).await;
        let got = server.until(count + 1).await;
        assert_eq!(got[count].to, ["ana@mail.example.org"], "{answer}");
    }
    // What waits comes when it is taken, also after a restart; what is no news any more never
    // comes.
    always("450 later");
    let asked = ana.ask("db-1").await;
    said(&site, "mail:li", asked["id"].as_str().unwrap()).await;
    drop(courier);
    always("250 ok");
    let courier = post(&site, site.directory(), address, PLAIN).await;
    let got = server.until(answers.len() + 1).await;
    assert_eq!(got[answers.len()].to, ["li@mail.example.org"]);
    assert!(got[answers.len()].text.contains(asked["id"].as_str().unwrap()), "{got:#?}");
    drop(courier);
    // A login that is missing, or a sender that is refused, is nobody's address: all wait.
    let courier = post(&site, site.directory(), address, PLAIN).await;
    let mut count = answers.len() + 1;
    for (rcpt, mail) in [("530 login first", None), ("250 ok", Some("550 sender rejected"))] {
        always(rcpt);
        *server.mail.lock().unwrap() = mail;
        let asked = ana.ask("db-1").await;
        let id = asked["id"].as_str().unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let message = site.store().message("mail:li", id).await.unwrap();
        assert_eq!((message, server.got.lock().unwrap().len()), (None, count));
        always("250 ok");
        *server.mail.lock().unwrap() = None;
        count += 1;
        assert!(server.until(count).await[count - 1].text.contains(id));
    }
    drop(courier);
}

async fn no_text_of_a_person_becomes_a_header(database: Database) {
    let site = Site::with(database, RawSettings::default(), |_| {}).await;
    addresses(&site).await;
    let ana = site.caller("ana").await;
    ana.ask("web-1").await;
    let (server, address) = Server::start(Kind::Plain).await;
    let _courier = post(&site, site.directory(), address, PLAIN).await;
    let reason = "full\r\nBcc: eve@example.org\r\n\r\n.\r\nMAIL FROM:<eve@example.org>";
    let hostile = json!({
        "hosts": ["db-1"], "sources": ["203.0.113.7"], "ports": ["22"], "duration": "30m",
        "reason": reason, "ticket": "x\nBcc: eve@example.org",
    });
    ana.post("/api/v1/requests", hostile).await.ok(201);
    let got = server.until(1).await;
    let (names, body) = got[0].parts();
    assert!(!names.contains(&"Bcc"), "{names:?}");
    assert!(body.contains("full\\r\\nBcc: eve@example.org"), "{body}");
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].to, ["li@mail.example.org"]);

    // A name from a provider that goes on in the next line of the subject.
    let name = "x\r\nBcc: eve@example.org\r\n\r\n<b>";
    let account = site.store().account("ana").await.unwrap().unwrap();
    let mut tx = site.store().begin().await.unwrap();
    accounts::put(&mut tx, &Account { subject: name.into(), ..account }).await.unwrap();
    tx.commit().await.unwrap();
    ana.ask("db-1").await;
    let got = server.until(2).await;
    let (names, body) = got[1].parts();
    assert!(!names.contains(&"Bcc"), "{names:?}");
    assert!(names.contains(&"Subject") && body.contains("x\\r\\nBcc"), "{names:?} {body}");
    assert_eq!(got[1].to, ["li@mail.example.org"]);
}

async fn mail_goes_over_tls_or_not_at_all(database: Database) {
    let site = Site::with(database, RawSettings::default(), |_| {}).await;
    addresses(&site).await;
    let ana = site.caller("ana").await;
    let directory = site.directory();
    let tls = acceptor(&directory.join("mail-ca.pem"));
    std::fs::write(directory.join("password"), "secret\n").unwrap();
    let login = "user = \"jit\"\npassword_file = \"password\"\n";
    let with = |tls: &str| format!("ca = \"mail-ca.pem\"\ntls = \"{tls}\"\n{login}");

    // A server, or somebody on the way, that has no TLS gets no mail and no password.
    let (plain, address) = Server::start(Kind::Plain).await;
    let courier = post(&site, directory, address, &with("starttls")).await;
    ana.ask("db-1").await;
    for _ in 0..400 {
        if plain.seen_by_all.lock().unwrap().len() >= 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    drop(courier);
    let seen = plain.seen_by_all.lock().unwrap().clone();
    let is_harmless = |line: &String| line.starts_with("EHLO") || line == "QUIT";
    assert!(!seen.is_empty() && seen.iter().all(is_harmless), "{seen:?}");

    // What waited is said to the right one, after STARTTLS.
    let (starttls, address) = Server::start(Kind::Starttls(tls.clone())).await;
    let courier = post(&site, directory, address, &with("starttls")).await;
    assert_eq!(starttls.until(1).await[0].to, ["li@mail.example.org"]);
    // \0jit\0secret
    assert_eq!(*starttls.logins.lock().unwrap(), ["AUTH PLAIN AGppdABzZWNyZXQ="]);
    let seen = starttls.seen_by_all.lock().unwrap().clone();
    assert!(seen.iter().all(|line| line.starts_with("EHLO") || line == "STARTTLS"), "{seen:?}");
    for _ in 0..400 {
        let cursor = site.store().audit_cursor("mail").await.unwrap();
        if cursor == site.store().audit_tip().await.unwrap().0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    drop(courier);

    // TLS from the beginning.
    let (wrapped, address) = Server::start(Kind::Tls(tls)).await;
    let courier = post(&site, directory, address, &with("tls")).await;
    ana.ask("db-1").await;
    wrapped.until(1).await;
    drop(courier);

    // Another authority's certificate is not believed.
    let (foreign, address) =
        Server::start(Kind::Tls(acceptor(&directory.join("other-ca.pem")))).await;
    let _courier = post(&site, directory, address, &with("tls")).await;
    ana.ask("db-1").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(foreign.got.lock().unwrap().len() + foreign.logins.lock().unwrap().len(), 0);
}
