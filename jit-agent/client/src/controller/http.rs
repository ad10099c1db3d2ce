//! The controller's API over HTTPS: one call and its answer. Refusals come back as data, as an
//! agent's do; nothing is printed.
//!
//! Only what may be done twice is tried again. No redirect is followed: the token belongs to one
//! address. No certificate check can be turned off.

use std::{fmt, sync::Arc, time::Duration};

use reqwest::{
    Client, Response, StatusCode, Url,
    header::{
        ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_MATCH, RETRY_AFTER,
    },
    redirect::Policy,
};
use rustls::{ClientConfig, RootCertStore};
use serde::de::DeserializeOwned;

use super::call::{Body, Call};
use crate::{
    CallError,
    controller::trouble,
    pem::{self, Holds},
};

/// Where the API begins.
const ROOT: [&str; 2] = ["api", "v1"];
/// The largest answer that is read, bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// Waits before a call is tried again.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(1)];
/// The longest wait that a controller may ask for before a call is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A bearer token. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token as the controller gave it; spaces around it go.
    ///
    /// # Errors
    /// It is empty, or has letters that no token has.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if text.is_empty() {
            return Err("the token is empty");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the token has a space or another letter that no token has");
        }
        Ok(Self(text.to_owned()))
    }

    /// Its text, for the file of tokens.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(not shown)")
    }
}

/// Which controller, and as whom.
#[derive(Clone, Debug)]
pub struct Access {
    /// `https://controller.example.org`, perhaps with a path before `/api/v1`.
    pub url: String,
    /// PEM of the CAs that may have issued its certificate; `None`: those of this machine.
    pub ca: Option<String>,
    /// `None`: calls without an account.
    pub token: Option<Token>,
    /// The longest wait for a connection, and for an answer.
    pub timeout: Duration,
}

/// The controller as calls.
#[derive(Clone, Debug)]
pub struct Controller {
    client: Client,
    url: Url,
    timeout: Duration,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The version of what was read, for a later change of it.
    pub etag: Option<String>,
    /// The answer's bytes.
    pub bytes: Vec<u8>,
}

/// The address of a controller.
///
/// # Errors
/// It is no https address of a host: a sentence.
pub fn parse_url(text: &str) -> Result<Url, String> {
    let text = text.trim();
    let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let bad = |why: &str| format!("`{text}` is not the address of a controller: {why}");
    let mut url = Url::parse(&whole).map_err(|error| bad(&error.to_string()))?;
    if url.scheme() != "https" {
        return Err(bad("it must begin with https://, so that the token is not sent in the open"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad(
            "a name or password does not belong into it; the token comes from a login",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("it has a ? or #"));
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

impl Controller {
    /// Prepares calls; nothing is sent.
    ///
    /// # Errors
    /// The address or the CA's certificates are wrong.
    pub fn new(access: &Access) -> Result<Self, CallError> {
        let url = parse_url(&access.url).map_err(CallError::Files)?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(token) = &access.token {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.0))
                .map_err(|_| CallError::Files("the token has letters that no token has".into()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let builder = Client::builder()
            .user_agent(concat!("jitctl/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .redirect(Policy::none())
            .https_only(true)
            .connect_timeout(access.timeout);
        let builder = match &access.ca {
            Some(pem) => builder.tls_backend_preconfigured(trusting(pem)?),
            None => {
                // A second installation is refused, and means the same.
                let _installed = rustls::crypto::ring::default_provider().install_default();
                builder
            }
        };
        let client = builder
            .build()
            .map_err(|error| CallError::Files(format!("cannot prepare calls: {error}")))?;
        Ok(Self { client, url, timeout: access.timeout })
    }

    /// The controller's address, for people.
    pub fn name(&self) -> &str {
        self.url.as_str().trim_end_matches('/')
    }

    /// The host that it calls: a name or an address.
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// A call whose answer is JSON.
    ///
    /// # Errors
    /// A refusal with its word, or no answer.
    pub async fn fetch<T: DeserializeOwned>(&self, call: &Call) -> Result<T, CallError> {
        let answer = self.send(call).await?;
        self.read(&answer)
    }

    /// The answer as JSON.
    ///
    /// # Errors
    /// It is not what this version knows.
    pub fn read<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T, CallError> {
        serde_json::from_slice(&answer.bytes).map_err(|error| {
            CallError::Unavailable(format!(
                "the controller at {} answered something that this version does not understand \
                 ({error}); compare the versions of both, and whether it is a controller",
                self.name()
            ))
        })
    }

    /// A call and its answer, as it came.
    ///
    /// # Errors
    /// A refusal with its word, or no answer.
    pub async fn send(&self, call: &Call) -> Result<Answer, CallError> {
        let mut pauses = PAUSES.iter();
        loop {
            let failed = match self.once(call).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            match pauses.next() {
                Some(pause) if failed.passes && call.may_repeat() => {
                    let pause = failed.wait.unwrap_or(*pause).min(LONGEST_PAUSE);
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(failed.error),
            }
        }
    }

    async fn once(&self, call: &Call) -> Result<Answer, Failed> {
        let patience = call.patience.unwrap_or(self.timeout);
        let lasting = |error| Failed { error, passes: false, wait: None };
        let url = self.address(call).map_err(lasting)?;
        let mut request = self.client.request(call.method.clone(), url).timeout(patience);
        if let Some(Body { kind, bytes }) = &call.body {
            request = request.header(CONTENT_TYPE, *kind).body(bytes.clone());
        }
        if let Some(key) = &call.key {
            request = request.header("Idempotency-Key", key);
        }
        if let Some(version) = &call.if_match {
            request = request.header(IF_MATCH, version);
        }
        let broken = |error: reqwest::Error| Failed {
            passes: true,
            error: trouble::explain(self.name(), &error, patience, call.may_repeat()),
            wait: None,
        };
        let response = request.send().await.map_err(broken)?;
        let status = response.status();
        let header = |name| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let (etag, wait) = (header(ETAG), header(RETRY_AFTER));
        let bytes = match body(response).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                return Err(lasting(CallError::Unavailable(format!(
                    "the answer of {} is larger than {MAX_ANSWER_BYTES} bytes; ask for less",
                    self.name()
                ))));
            }
            Err(error) => return Err(broken(error)),
        };
        if status.is_success() {
            return Ok(Answer { etag, bytes });
        }
        Err(Failed {
            error: trouble::refused(self.name(), status, &bytes),
            passes: matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS
                    | StatusCode::BAD_GATEWAY
                    | StatusCode::SERVICE_UNAVAILABLE
                    | StatusCode::GATEWAY_TIMEOUT
            ),
            wait: wait.and_then(|wait| wait.parse().ok()).map(Duration::from_secs),
        })
    }

    /// The call's address. A part of a path is one part, whatever its letters.
    fn address(&self, call: &Call) -> Result<Url, CallError> {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty();
            if !call.at_root {
                path.extend(ROOT);
            }
            for part in &call.path {
                if matches!(part.as_str(), "" | "." | "..") {
                    let detail = format!("`{part}` is no id or name");
                    return Err(CallError::refused("invalid", &detail));
                }
                path.push(part);
            }
        }
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        Ok(url)
    }
}

/// An attempt that failed.
struct Failed {
    error: CallError,
    /// Another attempt may succeed.
    passes: bool,
    /// The controller asked for this wait.
    wait: Option<Duration>,
}

/// The whole body; `None`: it is too large.
async fn body(mut response: Response) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if bytes.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

/// TLS that trusts these CAs and no others.
fn trusting(pem: &str) -> Result<ClientConfig, CallError> {
    let wrong = |why: String| CallError::Files(format!("the controller's CA certificate: {why}"));
    let mut roots = RootCertStore::empty();
    for certificate in
        pem::certificates(pem, Holds::One).map_err(|error| wrong(error.to_string()))?
    {
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| wrong(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controller(url: &str) -> Controller {
        let access =
            Access { url: url.into(), ca: None, token: None, timeout: Duration::from_secs(1) };
        Controller::new(&access).unwrap()
    }

    #[test]
    fn only_https_addresses_without_a_password_are_taken() {
        for (text, url) in [
            ("https://controller.example.org", "https://controller.example.org/"),
            ("controller.example.org:8443", "https://controller.example.org:8443/"),
            ("https://example.org/jit/", "https://example.org/jit"),
            ("https://[2001:db8::1]:1", "https://[2001:db8::1]:1/"),
        ] {
            assert_eq!(parse_url(text).unwrap().as_str(), url, "{text}");
        }
        for bad in [
            "",
            "http://controller.example.org",
            "http://127.0.0.1",
            "ftp://x",
            "https://ana:secret@example.org",
            "https://example.org/?x",
            "https://example.org/#x",
        ] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_part_of_a_path_cannot_lead_elsewhere() {
        let controller = controller("https://example.org/jit/");
        let address = |call: &Call| controller.address(call).map(String::from);
        let call = Call::get(["hosts", "a/b ?#%é"]).query("label", "a=b&c");
        let url = "https://example.org/jit/api/v1/hosts/a%2Fb%20%3F%23%25%C3%A9?label=a%3Db%26c";
        assert_eq!(address(&call).unwrap(), url);
        let call = Call::get(["subscriptions", "x"]).at_root().query("api-version", "2020-01-01");
        let url = "https://example.org/jit/subscriptions/x?api-version=2020-01-01";
        assert_eq!(address(&call).unwrap(), url);
        for bad in ["", ".", ".."] {
            assert!(address(&Call::delete(["hosts", bad])).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_token_is_never_shown() {
        let token = Token::parse(" jit_abc\n").unwrap();
        assert_eq!(token.expose(), "jit_abc");
        let access = Access {
            url: "https://example.org".into(),
            ca: None,
            token: Some(token),
            timeout: Duration::from_secs(1),
        };
        assert!(!format!("{access:?}").contains("abc"));
        assert!(!format!("{:?}", Controller::new(&access).unwrap()).contains("abc"));
        assert!(Token::parse("").is_err() && Token::parse("a b").is_err());
        assert!(Token::parse("a\u{7f}").is_err());
    }

    #[test]
    fn a_wrong_ca_is_named() {
        let access = Access {
            url: "https://example.org".into(),
            ca: Some("x".into()),
            token: None,
            timeout: Duration::from_secs(1),
        };
        let error = Controller::new(&access).unwrap_err();
        assert!(matches!(&error, CallError::Files(why) if why.contains("CA")), "{error}");
    }
}
