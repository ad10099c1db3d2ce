//! People who use the controller's API, each with an account and a token.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use jit_client::{
    CallError,
    controller::{
        call::Call,
        http::{Access, Controller, Token},
        types::{
            AccountInput, AuditView, DecisionInput, HostView, NewRequest, Page, ReasonInput,
            RequestView, TokenInput, TokenMade,
        },
    },
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use super::{API_PORT, CONTROLLER, START};
use crate::netns::Namespace;

/// Longest wait of one call.
const PATIENCE: Duration = Duration::from_secs(30);

/// A person with an account and a token.
pub struct Person {
    /// The account.
    pub account: String,
    /// The token.
    pub token: String,
    /// Id of the token; empty: that of `init`.
    pub token_id: String,
    ca: String,
    namespace: Arc<Namespace>,
    http: Controller,
    runtime: Runtime,
}

impl Person {
    /// A person with this token, who calls from this namespace.
    pub fn new(account: &str, token: &str, ca: &str, namespace: &Arc<Namespace>) -> Self {
        let access = Access {
            url: format!("https://{CONTROLLER}:{API_PORT}"),
            ca: Some(ca.to_owned()),
            token: Some(Token::parse(token).expect("a token")),
            timeout: PATIENCE,
        };
        // Its thread inherits the namespace, and also answers the controller's PINGs between two calls.
        let runtime =
            namespace.run(|| Builder::new_multi_thread().worker_threads(1).enable_all().build());
        Self {
            account: account.to_owned(),
            token: token.trim().to_owned(),
            token_id: String::new(),
            ca: ca.to_owned(),
            namespace: Arc::clone(namespace),
            http: Controller::new(&access).expect("a client"),
            runtime: runtime.expect("a runtime"),
        }
    }

    /// The same person calling from another namespace, over a connection of its own.
    #[must_use]
    pub fn at(&self, namespace: &Arc<Namespace>) -> Self {
        let there = Self::new(&self.account, &self.token, &self.ca, namespace);
        Self { token_id: self.token_id.clone(), ..there }
    }

    /// Many calls in a row, without the cost of a thread for each.
    pub fn calls<T: Send>(&self, body: impl AsyncFnOnce(&Controller) -> T + Send) -> T {
        self.namespace.run(|| self.runtime.block_on(body(&self.http)))
    }

    /// A call.
    ///
    /// # Errors
    /// A refusal with its word, or no answer.
    pub fn call<T: DeserializeOwned + Send>(&self, call: &Call) -> Result<T, CallError> {
        self.namespace.run(|| self.runtime.block_on(self.http.fetch(call)))
    }

    /// A call that must succeed.
    #[track_caller]
    pub fn get<T: DeserializeOwned + Send>(&self, call: &Call) -> T {
        self.call(call).unwrap_or_else(|error| panic!("{}: {call:?}: {error}", self.account))
    }

    /// A call that must succeed, whatever it answers.
    #[track_caller]
    pub fn done(&self, call: &Call) {
        let answer = self.namespace.run(|| self.runtime.block_on(self.http.send(call)));
        drop(answer.unwrap_or_else(|error| panic!("{}: {call:?}: {error}", self.account)));
    }

    /// A call that must be refused. Returns the word.
    #[track_caller]
    pub fn refused(&self, call: &Call) -> String {
        match self.call::<Value>(call) {
            Err(CallError::Refused { word, .. }) => word,
            other => panic!("{}: {call:?}: not refused: {other:?}", self.account),
        }
    }

    /// Makes or changes an account.
    pub fn put_account(&self, account: &str, subject: &str, groups: &[&str], disabled: bool) {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        let input = AccountInput { subject: subject.into(), groups, disabled };
        self.done(&Call::put(["accounts", account]).json(&input));
    }

    /// Makes a token for an account.
    pub fn make_token(&self, account: &str, scopes: &[&str]) -> Self {
        let input = TokenInput {
            account: Some(account.into()),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            label: "test".into(),
            duration: Some("24h".into()),
            duration_ms: None,
        };
        let made: TokenMade = self.get(&Call::post(["tokens"]).json(&input));
        let person = Self::new(account, &made.token, &self.ca, &self.namespace);
        Self { token_id: made.view.id, ..person }
    }

    /// What the controller knows of a host.
    #[track_caller]
    pub fn host(&self, id: &str) -> HostView {
        self.get(&Call::get(["hosts", id]))
    }

    /// Asks for access.
    #[track_caller]
    pub fn ask(&self, new: &NewRequest) -> RequestView {
        self.get(&Call::post(["requests"]).json(new))
    }

    /// A request as it is now.
    #[track_caller]
    pub fn request(&self, id: &str) -> RequestView {
        self.get(&Call::get(["requests", id]))
    }

    /// A request when it waits for nobody but people: every host has answered, or it has ended. The call
    /// that waits is no help here: it also returns while a host is in trouble, as one that was too slow
    /// for a moment is.
    #[track_caller]
    pub fn settled(&self, id: &str) -> RequestView {
        let began = Instant::now();
        loop {
            let view = self.request(id);
            let moves = ["approved", "delivering", "partly"].contains(&view.state.as_str());
            if !moves && !view.answers.iter().any(|one| one.pending) {
                return view;
            }
            assert!(began.elapsed() < START, "it does not come to rest: {view:#?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Agrees to what a request asks for now.
    #[track_caller]
    pub fn approve(&self, id: &str) -> RequestView {
        let hash = self.request(id).hash;
        self.get(&decision(id, "approve", &hash))
    }

    /// Ends a request.
    #[track_caller]
    pub fn revoke(&self, id: &str) -> RequestView {
        self.get(&revocation(id))
    }

    /// All records of the controller's audit.
    #[track_caller]
    pub fn audit(&self) -> Vec<AuditView> {
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let page: Page<AuditView> =
                self.get(&Call::get(["audit"]).query("after", after).query("limit", 500));
            let Some(last) = page.items.last() else { return all };
            after = last.seq;
            all.extend(page.items);
        }
    }
}

/// The call of a decision on a request.
pub fn decision(id: &str, ruling: &str, hash: &str) -> Call {
    let input = DecisionInput { ruling: ruling.into(), reason: "seen".into(), hash: hash.into() };
    Call::post(["requests", id, "decision"]).json(&input)
}

/// The call that ends a request.
pub fn revocation(id: &str) -> Call {
    Call::post(["requests", id, "revoke"]).json(&ReasonInput { reason: "done".into() })
}

/// A request for hosts, a source and port 22.
pub fn access(hosts: &[&str], source: &str, duration: &str) -> NewRequest {
    NewRequest {
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        sources: vec![source.into()],
        ports: vec!["22".into()],
        duration: Some(duration.into()),
        reason: "disk full".into(),
        ..NewRequest::default()
    }
}
