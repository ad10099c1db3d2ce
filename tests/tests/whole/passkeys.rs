//! A person's passkey as the second key that a host asks for: registered and used at the
//! controller's pages, and checked by a real agent, whose configuration has the section that the
//! controller prints.

use std::{fs, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jit_client::{
    authenticator::Authenticator,
    controller::{
        call::Call,
        types::{GrantView, Page, PasskeyView, PasswordInput},
    },
    signing::{Algorithm, SigningKey},
};
use jit_proto::{dsse::pre_authentication_encoding, payload_type::GRANT_TYPE, v1};
use jit_tests::{
    controller::{
        API_PORT, CLIENT, CONTROLLER, Stage,
        people::{Person, access},
        said,
    },
    netns::Namespace,
};
use reqwest::{Certificate, Client, redirect::Policy};
use rustix::process::Signal;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{
    asked::{SCOPES, until},
    stolen::push,
};

const RP_ID: &str = "jit.example.org";
const ORIGIN: &str = "https://jit.example.org:8443";
const PASSWORD: &str = "several plain words";

/// A browser that has signed in, with a passkey.
struct Browser {
    hub: Arc<Namespace>,
    runtime: Runtime,
    client: Client,
    cookie: String,
    passkey: Authenticator,
}

impl Browser {
    /// One of this person, who registers a passkey there.
    fn of(stage: &Stage, person: &Person) -> Self {
        let name = person.account.as_str();
        let input = PasswordInput { password: PASSWORD.into(), current: None };
        stage.admin.done(&Call::put(["accounts", name, "password"]).json(&input));
        // Of several in one process the first is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let ca = Certificate::from_pem(&fs::read(stage.own("pki/ca.pem")).unwrap()).unwrap();
        let client = Client::builder().tls_certs_only([ca]).no_proxy().redirect(Policy::none());
        let random = rustls::crypto::ring::default_provider().secure_random;
        let key = SigningKey::generate(Algorithm::P256, random).unwrap();
        let mut browser = Self {
            hub: Arc::clone(&stage.hub),
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
            client: client.build().unwrap(),
            cookie: String::new(),
            passkey: Authenticator::new(key, RP_ID, ORIGIN),
        };
        let fields = [("name", name), ("password", PASSWORD)];
        let (status, headers, _) = browser.send("/sign-in", &fields);
        assert_eq!(status, 303);
        let cookie = headers.get("set-cookie").unwrap().to_str().unwrap();
        cookie.split(';').next().unwrap().clone_into(&mut browser.cookie);
        let fields = [("name", "phone"), ("current", PASSWORD)];
        let steps = browser.steps("/me/passkeys/options", &fields);
        let credential = browser.passkey.create(&steps[0]["create"]);
        let (status, _, text) = browser
            .post("/me/passkeys", &[fields[0], fields[1], ("credential", credential.as_str())]);
        assert_eq!(status, 303, "{text}");
        browser
    }

    /// Signs all grants of a request at its page.
    fn sign(&mut self, request: &str) {
        let page = format!("/requests/{request}/sign");
        let steps = self.steps(&format!("{page}/options"), &[]);
        let [step] = &steps[..] else { panic!("one grant: {steps:?}") };
        let answer = self.passkey.get(&step["get"]);
        let (status, _, text) = self.post(&page, &[(step["field"].as_str().unwrap(), &answer)]);
        assert_eq!(status, 303, "{text}");
    }

    fn steps(&self, path: &str, fields: &[(&str, &str)]) -> Vec<Value> {
        let (status, _, text) = self.post(path, fields);
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// A form of its session.
    fn post(
        &self,
        path: &str,
        fields: &[(&str, &str)],
    ) -> (u16, reqwest::header::HeaderMap, String) {
        let call = self.client.get(self.url("/me")).header("cookie", &self.cookie);
        let (_, _, page) = self.call(call);
        let (_, key) = page.split_once("name=\"form_key\" value=\"").expect("a form");
        let key = key.split('"').next().unwrap();
        self.send(path, &[&[("form_key", key)], fields].concat())
    }

    fn send(
        &self,
        path: &str,
        fields: &[(&str, &str)],
    ) -> (u16, reqwest::header::HeaderMap, String) {
        let encoded =
            |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)))
            .collect();
        let call = self.client.post(self.url(path)).body(fields.join("&"));
        let call = call.header("origin", self.url("")).header("cookie", &self.cookie);
        self.call(call.header("content-type", "application/x-www-form-urlencoded"))
    }

    fn call(&self, call: reqwest::RequestBuilder) -> (u16, reqwest::header::HeaderMap, String) {
        let done = async {
            let answer = call.send().await.unwrap();
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            (status, headers, answer.text().await.unwrap())
        };
        self.hub.run(|| self.runtime.block_on(done))
    }

    fn url(&self, path: &str) -> String {
        format!("https://{CONTROLLER}:{API_PORT}{path}")
    }
}

/// A controller that people reach by its name, as passkeys need it.
pub(crate) fn named() -> Stage {
    let mut stage = Stage::new(None);
    stage.set_public_url(ORIGIN);
    stage.end_controller(Signal::TERM);
    stage.start_controller(&[]);
    stage
}

/// Starts a host that wants two approvals at port 22, and lists this passkey by what the controller
/// prints.
pub(crate) fn list(stage: &mut Stage, number: usize, account: &str, key_id: &str) {
    let print = |more: &[&str]| {
        // It calls the controller by its address, and people come by its name.
        let arguments = ["accounts", "passkeys", "approver", account, key_id, "--origin", ORIGIN];
        let arguments = [&arguments[..], more].concat();
        let output = stage.jitctl(&stage.hub, &stage.admin, &arguments);
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let host = stage.host(number);
    fs::write(host.path(&format!("{key_id}.pem")), print(&["--public-key"])).unwrap();
    let config = host.path("config.toml");
    let asks = fs::read_to_string(&config).unwrap();
    let asks = asks.replacen("port = 22\n", "port = 22\napprovals = 2\n", 1);
    fs::write(&config, format!("{asks}\n{}", print(&[]))).unwrap();
    stage.host_mut(number).start();
    stage.wait_until_enforcing("web-1");
}

#[test]
fn a_host_opens_by_the_controllers_key_and_the_passkey_it_lists_and_by_neither_alone() {
    let mut stage = named();
    let number = stage.add_host("web-1", &[("env", "stage")]);
    let ana = stage.person("ana", "ana@example.org", &["developers", "sre"], &SCOPES);
    let [li, bo] = ["li", "bo"]
        .map(|name| stage.person(name, &format!("{name}@example.org"), &["sre"], &SCOPES));
    // Both have a passkey; the host lists that of Li, with what the controller prints.
    stage.login(&stage.hub, &stage.admin);
    let (mut of_bo, mut of_li) = (Browser::of(&stage, &bo), Browser::of(&stage, &li));
    let key_id = of_li.passkey.key.key_id();
    let views: Page<PasskeyView> = stage.admin.get(&Call::get(["accounts", "li", "passkeys"]));
    assert_eq!(views.items[0].key_id, key_id);
    list(&mut stage, number, "li", &key_id);
    let ask = || {
        let asked = ana.ask(&access(&["web-1"], CLIENT, "30m"));
        li.approve(&asked.id);
        until(&ana, &asked.id, |view| view.state == "awaiting_signatures");
        asked.id
    };
    // A passkey that the host does not list is refused there, though the controller has counted it.
    let unlisted = ask();
    of_bo.sign(&unlisted);
    let view = until(&ana, &unlisted, |view| view.counts.refused == 1);
    assert_eq!(view.answers[0].word, "approvals_missing", "{view:#?}");

    let asked = ask();
    assert!(!stage.client_opens(number, 22), "the controller's key alone");
    of_li.sign(&asked);
    let open = ana.settled(&asked);
    assert_eq!(open.state, "open", "{open:#?}");
    assert!(stage.client_gets_in(number, 22), "{}", stage.host(number).log());
    assert!(!stage.stranger_opens(number, 22));
    let audit = stage.host(number).audit();
    let of_grant = |one: &&Value| one["grant"] == *open.grants[0].id && !one["signers"].is_null();
    let opened = audit.iter().find(of_grant);
    let signers = &opened.unwrap_or_else(|| panic!("{audit:#?}"))["signers"];
    assert_eq!(*signers, serde_json::json!(["controller", format!("li-{key_id}")]));

    // Who has the controller's certificate and one of the two signatures opens nothing.
    ana.revoke(&asked);
    until(&ana, &asked, |view| view.counts.closed == 1);
    let last = ask();
    let grant = ana.request(&last).grants[0].id.clone();
    let grant: GrantView = li.get(&Call::get(["grants", grant.as_str()]));
    let payload = BASE64_STANDARD.decode(grant.payload.unwrap()).unwrap();
    let message = pre_authentication_encoding(GRANT_TYPE, &payload);
    let controllers = &grant.signatures.unwrap()[0];
    let controllers = v1::Signature {
        key_id: controllers.key_id.clone(),
        signature: BASE64_STANDARD.decode(&controllers.signature).unwrap().into(),
        assertion: None,
    };
    let approval = of_li.passkey.approve(&message);
    let envelope = |signatures: &[&v1::Signature]| v1::Envelope {
        payload_type: GRANT_TYPE.into(),
        payload: payload.clone().into(),
        signatures: signatures.iter().map(|one| (*one).clone()).collect(),
    };
    let elsewhere = of_li.passkey.approve(b"another payload");
    for alone in [&[&controllers][..], &[&approval], &[&controllers, &elsewhere]] {
        let word = push(&stage, number, envelope(alone)).unwrap_err();
        assert_eq!(word, "approvals_missing", "{alone:?}");
    }
    assert!(!stage.client_opens(number, 22));
    push(&stage, number, envelope(&[&controllers, &approval])).unwrap();
    assert!(stage.client_gets_in(number, 22));
}
