//! Pages over real HTTPS, as a browser calls them: with its cookie, the headers that browsers
//! write, and forms that were on a page.

mod asked;
mod audit;
mod closings;
mod enrolments;
mod forms;
mod health;
mod hosts;
mod many;
mod oidc;
mod passkeys;
mod policies;
mod routes;
mod rules;
mod sign_in;
mod streams;
mod times;
mod wire;

use std::sync::Mutex;

use jit_controller::{clock::now_ms, people::People};
use reqwest::{Certificate, Client, Method, RequestBuilder, Response, redirect::Policy};
use zeroize::Zeroizing;

use crate::api::Site;

/// The password of everybody in these tests.
const PASSWORD: &str = "several plain words";

/// A browser without a script.
pub(crate) struct Browser<'s> {
    site: &'s Site,
    client: Client,
    /// `__Host-jit=...`
    cookie: Mutex<String>,
}

/// What it shows.
pub(crate) struct Shown {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Shown {
    async fn of(response: Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, text: response.text().await.unwrap() }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// The value of the first field of this name.
    pub(crate) fn field(&self, name: &str) -> String {
        let (_, rest) = self
            .text
            .split_once(&format!("name=\"{name}\" value=\""))
            .unwrap_or_else(|| panic!("no field {name}: {}", self.text));
        rest.split('"').next().unwrap().to_owned()
    }

    /// The fields of the form with this action, as a browser sends them when somebody clicks its
    /// first button: hidden ones, what is typed, and what is chosen.
    pub(crate) fn form(&self, action: &str) -> Vec<(String, String)> {
        let (_, rest) = self
            .text
            .split_once(&format!("action=\"{action}\""))
            .unwrap_or_else(|| panic!("no form {action}: {}", self.text));
        let form = rest.split("</form>").next().unwrap();
        let (mut fields, mut select) = (Vec::new(), None::<String>);
        for tag in form.split('<').skip(1) {
            let (head, text) = tag.split_once('>').unwrap();
            let attribute = |name: &str| {
                let (_, rest) = head.split_once(&format!(" {name}=\""))?;
                Some(plain(rest.split('"').next().unwrap()))
            };
            let is = |word: &str| head.split(' ').any(|part| part == word);
            match head.split(' ').next().unwrap() {
                "input" => {
                    let kind = attribute("type").unwrap_or_default();
                    let choice = kind == "checkbox" || kind == "radio";
                    if let (Some(name), true) = (attribute("name"), !choice || is("checked")) {
                        fields.push((name, attribute("value").unwrap_or_default()));
                    }
                }
                "textarea" => fields.push((attribute("name").unwrap(), plain(text))),
                "select" => select = attribute("name"),
                "option" if is("selected") => {
                    fields.push((select.clone().unwrap(), plain(text)));
                }
                _ => {}
            }
        }
        fields
    }

    /// A page that is shown.
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.status, 200, "{}", self.text);
        self
    }

    /// Where the browser is sent.
    pub(crate) fn goes_to(&self) -> &str {
        assert_eq!(self.status, 303, "{}", self.text);
        self.header("location")
    }
}

impl<'s> Browser<'s> {
    pub(crate) fn new(site: &'s Site) -> Self {
        let ca = Certificate::from_pem(site.ca.as_bytes()).unwrap();
        let client = Client::builder().tls_certs_only([ca]).no_proxy().redirect(Policy::none());
        Self { site, client: client.build().unwrap(), cookie: Mutex::default() }
    }

    /// One that has signed in.
    pub(crate) async fn of(site: &'s Site, account: &str) -> Self {
        set_password(site, account).await;
        let browser = Self::new(site);
        assert_eq!(browser.sign_in(account, PASSWORD).await.goes_to(), "/");
        browser
    }

    pub(crate) fn cookie(&self) -> String {
        self.cookie.lock().unwrap().clone()
    }

    fn set_cookie(&self, cookie: &str) {
        cookie.clone_into(&mut self.cookie.lock().unwrap());
    }

    fn call(&self, method: Method, path: &str) -> RequestBuilder {
        let call = self.client.request(method, format!("{}{path}", self.site.base));
        match self.cookie() {
            cookie if cookie.is_empty() => call,
            cookie => call.header("cookie", cookie),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Shown {
        Shown::of(self.call(Method::GET, path).send().await.unwrap()).await
    }

    /// Sends a form with these headers, and nothing else.
    async fn send(&self, path: &str, headers: &[(&str, &str)], fields: &[(&str, &str)]) -> Shown {
        let mut call = self.call(Method::POST, path);
        for (name, value) in headers {
            call = call.header(*name, *value);
        }
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let call = call.header("content-type", "application/x-www-form-urlencoded").body(body);
        let shown = Shown::of(call.send().await.unwrap()).await;
        if let Some(cookie) = shown.headers.get("set-cookie") {
            let cookie = cookie.to_str().unwrap().split(';').next().unwrap();
            let is_gone = cookie.ends_with('=');
            self.set_cookie(if is_gone { "" } else { cookie });
        }
        shown
    }

    /// Sends a form as a browser does from a page of the site.
    async fn submit(&self, path: &str, fields: &[(&str, &str)]) -> Shown {
        let headers = [("origin", self.site.base.as_str()), ("sec-fetch-site", "same-origin")];
        self.send(path, &headers, fields).await
    }

    /// The same with the key of its session.
    pub(crate) async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Shown {
        let key = self.get("/me").await.field("form_key");
        let mut all = vec![("form_key", key.as_str())];
        all.extend(fields);
        self.submit(path, &all).await
    }

    async fn sign_in(&self, account: &str, password: &str) -> Shown {
        self.submit("/sign-in", &[("name", account), ("password", password)]).await
    }

    /// Whether it is signed in.
    async fn is_in(&self) -> bool {
        let shown = self.get("/me").await;
        if shown.status == 200 {
            return true;
        }
        assert_eq!(shown.goes_to(), "/sign-in?next=%2Fme");
        false
    }
}

/// A text as a browser reads it.
fn plain(text: &str) -> String {
    let pairs = [("&#38;", "&"), ("&#60;", "<"), ("&#62;", ">"), ("&#34;", "\""), ("&#39;", "'")];
    pairs.iter().rev().fold(text.to_owned(), |text, (code, letter)| text.replace(code, letter))
}

/// Gives an account the password of these tests.
pub(crate) async fn set_password(site: &Site, account: &str) {
    let account = site.store().account(account).await.unwrap().unwrap();
    let password = Zeroizing::new(PASSWORD.to_owned());
    let people = People::default();
    people.set_password(&site.desk, &account, password, "test", now_ms()).await.unwrap();
}
