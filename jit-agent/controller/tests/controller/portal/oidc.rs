//! Sign-in at a provider: at a real one, and at one that lies.

mod bound;
mod forged;
mod node;
mod programs;
mod real;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use jit_controller::people::{
    People,
    oidc::{Oidc, RawSettings, Settings},
};
use reqwest::{Certificate, Client, Method, Url, redirect::Policy};

use super::Shown;
use crate::{
    api::{self, Site},
    databases::Database,
};

/// Longest wait for an answer: the machine may be busy.
const LONGEST: Duration = Duration::from_secs(60);

/// Who has no group gets an account too, if it is Zoe.
const CREATE: &str = "create = true\nrequire = { sub = \"zoe\" }\n";

/// A site whose people sign in at this provider. `more`: further lines of the section `[oidc]`.
async fn site(database: Database, issuer: &str, more: &str) -> Site {
    let section = format!(
        "issuer = \"{issuer}\"\nclient_id = \"jit\"\nclient_secret_file = \"secret\"\n\
         name = \"Test SSO\"\nca = \"ca.pem\"\n{more}"
    );
    Site::with_people(database, |directory, base| people(&section, directory, base)).await
}

fn people(section: &str, directory: &Path, base: &str) -> People {
    std::fs::write(directory.join("secret"), "the secret of jit\n").unwrap();
    let raw: RawSettings = toml::from_str(section).unwrap();
    let settings = Settings::of(raw, Some(base), directory).unwrap();
    People::new(Some(Oidc::new(settings).unwrap()))
}

/// A browser that goes where it is sent, also to the provider.
struct Visitor<'s> {
    site: &'s Site,
    client: Client,
    /// Cookies of each host and port, by name.
    jar: Mutex<BTreeMap<String, BTreeMap<String, String>>>,
}

impl<'s> Visitor<'s> {
    fn new(site: &'s Site) -> Self {
        let ca = Certificate::from_pem(site.ca.as_bytes()).unwrap();
        let client = Client::builder().tls_certs_only([ca]).no_proxy().redirect(Policy::none());
        Self { site, client: client.timeout(LONGEST).build().unwrap(), jar: Mutex::default() }
    }

    fn jar(&self) -> MutexGuard<'_, BTreeMap<String, BTreeMap<String, String>>> {
        self.jar.lock().unwrap()
    }

    /// The site's cookie of this name; empty: there is none.
    fn cookie(&self, name: &str) -> String {
        let url = Url::parse(&self.site.base).unwrap();
        let jar = self.jar();
        let found = jar.get(url.authority()).and_then(|cookies| cookies.get(name));
        found.cloned().unwrap_or_default()
    }

    fn set_cookie(&self, name: &str, value: &str) {
        let url = Url::parse(&self.site.base).unwrap();
        let mut jar = self.jar();
        let cookies = jar.entry(url.authority().to_owned()).or_default();
        cookies.insert(name.to_owned(), value.to_owned());
    }

    async fn call(&self, method: Method, url: &Url, fields: &[(&str, &str)]) -> Shown {
        let cookies: Vec<_> = match self.jar().get(url.authority()) {
            Some(cookies) => cookies.iter().map(|(name, text)| format!("{name}={text}")).collect(),
            None => Vec::new(),
        };
        let mut call = self.client.request(method.clone(), url.clone());
        if !cookies.is_empty() {
            call = call.header("cookie", cookies.join("; "));
        }
        if method == Method::POST {
            let body =
                form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
            call = call
                .header("origin", url.origin().ascii_serialization())
                .header("content-type", "application/x-www-form-urlencoded")
                .body(body);
        }
        let shown = Shown::of(call.send().await.unwrap()).await;
        let mut jar = self.jar();
        let cookies = jar.entry(url.authority().to_owned()).or_default();
        for line in shown.headers.get_all("set-cookie") {
            let pair = line.to_str().unwrap().split(';').next().unwrap();
            let (name, text) = pair.split_once('=').unwrap();
            match text {
                "" => cookies.remove(name),
                text => cookies.insert(name.to_owned(), text.to_owned()),
            };
        }
        drop(jar);
        shown
    }

    /// A page of the site.
    async fn get(&self, path: &str) -> Shown {
        let url = Url::parse(&format!("{}{path}", self.site.base)).unwrap();
        self.call(Method::GET, &url, &[]).await
    }

    /// Sends a form of the site.
    async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Shown {
        let url = Url::parse(&format!("{}{path}", self.site.base)).unwrap();
        self.call(Method::POST, &url, fields).await
    }

    /// Where a sign-in begins at the provider, and what it is given.
    async fn begin(&self, next: &str) -> (Url, BTreeMap<String, String>) {
        let shown = self.get(&format!("/sign-in/oidc?next={next}")).await;
        let url = Url::parse(shown.goes_to()).unwrap();
        let given = url.query_pairs().into_owned().collect();
        (url, given)
    }

    /// Comes back from the provider with these parameters.
    async fn come_back(&self, parameters: &[(&str, &str)]) -> Shown {
        let query =
            form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        self.get(&format!("/sign-in/oidc/back?{query}")).await
    }

    /// The name of who is signed in.
    async fn who(&self) -> Option<String> {
        let shown = self.get("/me").await;
        if shown.status != 200 {
            return None;
        }
        let (_, rest) = shown.text.split_once("aria-current=\"page\">").unwrap();
        Some(rest.split('<').next().unwrap().to_owned())
    }
}

/// The groups of an account.
async fn groups(site: &Site, account: &str) -> Vec<String> {
    let account = site.store().account(account).await.unwrap();
    account.map_or(Vec::new(), |account| account.groups.into_iter().collect())
}

/// What the audit has of this event, the newest first.
async fn audited(site: &Site, event: &str) -> Vec<serde_json::Value> {
    let root: api::Caller<'_> = site.caller("root").await;
    let audit = root.get("/api/v1/audit?limit=200").await.ok(200);
    let all = audit["items"].as_array().unwrap();
    let found = all.iter().filter(|one| one["event"] == event);
    let mut found: Vec<_> = found.map(|one| one["record"].clone()).collect();
    found.sort_by_key(|one| std::cmp::Reverse(one["seq"].as_u64()));
    found
}
