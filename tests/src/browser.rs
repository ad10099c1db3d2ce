//! A real Chromium in a network namespace, driven over WebDriver (W3C) and, for what WebDriver
//! cannot, over the DevTools protocol. Each session is a browser of its own: cookies are not
//! shared.
//!
//! What is typed and pressed is found as a person finds it: by the label of a field, by the words
//! on a button. So a page without labels fails.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fantoccini::{
    Client, ClientBuilder, Locator,
    elements::Element,
    error::CmdError,
    wd::{Capabilities, WebDriverCompatibleCommand},
};
use http::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use rustix::process::{Pid, Signal, kill_process, pidfd_send_signal};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use url::{ParseError, Url};
use x509_parser::pem::parse_x509_pem;

use crate::{
    controller::{API_PORT, CONTROLLER, Stage},
    netns::Namespace,
    process::children,
};

/// Name of the controller in the browser's address line.
pub const NAME: &str = "jit.example.org";
/// The driver's port; its namespace is its own.
const PORT: u16 = 9515;
/// The tab key, as WebDriver writes it (section 17.4.2).
pub const TAB: &str = "\u{e004}";
/// The enter key.
pub const ENTER: &str = "\u{e007}";
/// The most presses of the tab key to come somewhere.
const MOST_TABS: usize = 60;
/// Longest wait for something on a page, or for the browser to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// A driver that starts browsers.
pub struct Driver {
    child: Child,
    namespace: Arc<Namespace>,
    directory: TempDir,
    arguments: Vec<String>,
    base: String,
}

impl Driver {
    /// Starts a driver on a machine of this stage. Its browsers find the controller as [`NAME`] and
    /// trust its certificate, as if its authority were the company's.
    pub fn start(stage: &Stage, on: &Arc<Namespace>) -> Self {
        on.wait_until_settled();
        let directory = tempfile::tempdir().expect("a scratch directory");
        let log = fs::File::create(directory.path().join("driver.log")).expect("a log");
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={PORT}")).env("HOME", directory.path());
        command.env("XDG_RUNTIME_DIR", directory.path()).env("TMPDIR", directory.path());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        let child = on.start(&mut command);
        let arguments = [
            "--headless=new".to_owned(),
            // The tests run as root; the sandbox refuses that.
            "--no-sandbox".into(),
            "--disable-dev-shm-usage".into(),
            "--disable-gpu".into(),
            "--disable-background-networking".into(),
            "--disable-component-update".into(),
            "--hide-scrollbars".into(),
            format!("--host-resolver-rules=MAP {NAME} {CONTROLLER}"),
            format!("--ignore-certificate-errors-spki-list={}", pin(&stage.own("api.pem"))),
        ];
        let driver = Self {
            child,
            namespace: Arc::clone(on),
            directory,
            arguments: arguments.into(),
            base: format!("https://{NAME}:{API_PORT}"),
        };
        driver.wait();
        driver
    }

    /// A new browser without cookies.
    pub fn browser(&self) -> Browser {
        let profile = tempfile::tempdir_in(self.directory.path()).expect("a profile").keep();
        let mut arguments = self.arguments.clone();
        arguments.push(format!("--user-data-dir={}", profile.display()));
        let mut capabilities = Capabilities::new();
        capabilities.insert("goog:chromeOptions".into(), json!({ "args": arguments }));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let url = format!("http://127.0.0.1:{PORT}");
        let client = self.namespace.run(|| {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            let connect = builder.capabilities(capabilities).connect(&url);
            runtime.block_on(connect).map_err(|error| error.to_string())
        });
        let client = client.unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
        let namespace = Arc::clone(&self.namespace);
        Browser { client, runtime, namespace, base: self.base.clone() }
    }

    fn wait(&self) {
        let end = Instant::now() + PATIENCE;
        let answers = || std::net::TcpStream::connect(("127.0.0.1", PORT)).is_ok();
        while !self.namespace.run(answers) {
            assert!(Instant::now() < end, "chromedriver does not answer:\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("driver.log")).unwrap_or_default()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let browsers = children(self.child.id());
        let _ended = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _reaped = self.child.wait();
        // Those that nobody has closed.
        for browser in browsers {
            let _gone = pidfd_send_signal(&browser, Signal::KILL);
        }
    }
}

/// A browser that shows one page.
pub struct Browser {
    client: Client,
    runtime: Runtime,
    namespace: Arc<Namespace>,
    base: String,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let closed = self.client.clone().close();
        // The driver ends what is left.
        let _left = self.namespace.run(|| self.runtime.block_on(closed).is_err());
    }
}

/// How a page is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Dark letters on a light page.
    Light,
    /// Light letters on a dark page.
    Dark,
}

impl Browser {
    /// Opens a page by its path.
    #[track_caller]
    pub fn open(&self, path: &str) {
        let url = format!("{}{path}", self.base);
        self.done(async |client| client.goto(&url).await);
    }

    /// The path of the page, with what follows the `?`.
    #[track_caller]
    pub fn path(&self) -> String {
        let url = self.done(async |client| client.current_url().await);
        let url = url.to_string();
        url.strip_prefix(&self.base).unwrap_or(&url).to_owned()
    }

    /// The text of the page as a person sees it.
    #[track_caller]
    pub fn text(&self) -> String {
        self.done(async |client| client.find(Locator::Css("body")).await?.text().await)
    }

    /// Waits until the page shows a text. Returns how long that took.
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> Duration {
        let began = Instant::now();
        loop {
            // While a page comes, there is none.
            let shown =
                self.run(async |client| client.find(Locator::Css("body")).await?.text().await);
            if shown.as_ref().is_ok_and(|shown| shown.contains(text)) {
                return began.elapsed();
            }
            let shown = shown.unwrap_or_else(|error| error);
            assert!(began.elapsed() < PATIENCE, "no {text:?} at {}:\n{shown}", self.path());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Types a text into the field with this label, in the place of what was there.
    #[track_caller]
    pub fn fill(&self, label: &str, text: &str) {
        self.act(&field(label), async |field| {
            field.clear().await?;
            field.send_keys(text).await
        });
    }

    /// Chooses an entry, by its words, of the list with this label.
    #[track_caller]
    pub fn choose(&self, label: &str, entry: &str) {
        self.act(&field(label), async |list| list.select_by_label(entry).await);
    }

    /// Ticks the box, or takes the one of several, with this label.
    #[track_caller]
    pub fn tick(&self, label: &str) {
        let path = field(label);
        self.act(&path, async |it| if it.is_selected().await? { Ok(()) } else { it.click().await });
    }

    /// Presses the button with these words.
    #[track_caller]
    pub fn press(&self, words: &str) {
        let path = format!("//button[normalize-space()={}]", quoted(words));
        self.act(&path, async |button| button.click().await);
    }

    /// Follows the link with these words.
    #[track_caller]
    pub fn follow(&self, words: &str) {
        let path = format!("//a[normalize-space()={}]", quoted(words));
        self.act(&path, async |link| link.click().await);
    }

    /// Types on the keyboard: what has the focus gets it.
    #[track_caller]
    pub fn keys(&self, text: &str) {
        self.done(async |client| client.active_element().await?.send_keys(text).await);
    }

    /// Goes on by the tab key until the field with this label, or the button or link with these
    /// words, has the focus.
    #[track_caller]
    pub fn tab_to(&self, words: &str) {
        let script = "const one = document.activeElement; \
             return [...(one.labels || [])].map(label => label.innerText).concat(one.innerText || '');";
        let mut passed = Vec::new();
        while passed.len() < MOST_TABS {
            self.keys(TAB);
            let names = self.script(script);
            let names: Vec<_> = names.as_array().into_iter().flatten().collect();
            if names
                .iter()
                .any(|name| name.as_str().is_some_and(|name| name.trim().starts_with(words)))
            {
                return;
            }
            passed.push(format!("{names:?}"));
        }
        panic!("the tab key does not come to {words:?}, but to {}", passed.join(" "));
    }

    /// Runs a script on the page. Returns what it returns.
    #[track_caller]
    pub fn script(&self, script: &str) -> Value {
        self.done(async |client| client.execute(script, Vec::new()).await)
    }

    /// Runs a script on the page that gives its result to its last argument, a function.
    #[track_caller]
    pub fn script_with_answer(&self, script: &str) -> Value {
        self.done(async |client| client.execute_async(script, Vec::new()).await)
    }

    /// A command of the DevTools protocol.
    #[track_caller]
    pub fn devtools(&self, command: &str, parameters: Value) -> Value {
        let command = DevTools(json!({ "cmd": command, "params": parameters }));
        self.done(async |client| client.issue_cmd(command.clone()).await)
    }

    /// From now on pages run no script.
    #[track_caller]
    pub fn without_scripts(&self) {
        self.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": true }));
    }

    /// The number of pixels a page is wide and high, and its colours.
    #[track_caller]
    pub fn look(&self, width: u32, height: u32, scheme: Scheme) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics);
        let scheme = if scheme == Scheme::Dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// The whole page as a picture, PNG.
    #[track_caller]
    pub fn picture(&self) -> Vec<u8> {
        let parameters = json!({ "format": "png", "captureBeyondViewport": true });
        let answer = self.devtools("Page.captureScreenshot", parameters);
        let data = answer.get("data").and_then(Value::as_str).expect("a picture");
        STANDARD.decode(data).expect("base64")
    }

    /// Calls the browser, inside of its namespace.
    ///
    /// An element can be replaced after it was found, by a script of its page or by the next page.
    /// A call that meets this has done nothing with it, and begins again.
    fn run<T: Send>(
        &self,
        body: impl AsyncFn(&Client) -> Result<T, CmdError> + Sync,
    ) -> Result<T, String> {
        let end = Instant::now() + PATIENCE;
        let answer = async || loop {
            match body(&self.client).await {
                Err(error) if error.is_stale_element_reference() && Instant::now() < end => {}
                answer => break answer,
            }
        };
        self.namespace.run(|| self.runtime.block_on(answer()).map_err(|error| error.to_string()))
    }

    #[track_caller]
    fn done<T: Send>(&self, body: impl AsyncFn(&Client) -> Result<T, CmdError> + Sync) -> T {
        self.run(body).unwrap_or_else(|error| panic!("the browser: {error}"))
    }

    /// Does something with the element at a path. It may come a moment later.
    #[track_caller]
    fn act(&self, path: &str, act: impl AsyncFn(Element) -> Result<(), CmdError> + Sync) {
        let done = self.run(async |client| {
            let wait = client.wait().at_most(PATIENCE);
            act(wait.for_element(Locator::XPath(path)).await?).await
        });
        done.unwrap_or_else(|error| panic!("{path} at {}: {error}\n{}", self.path(), self.text()));
    }
}

/// The path of the field whose label begins with this.
fn field(label: &str) -> String {
    format!(
        "//*[self::input or self::select or self::textarea]\
         [@id=//label[starts-with(normalize-space(), {0})]/@for \
         or ancestor::label[starts-with(normalize-space(), {0})] \
         or @aria-label={0}]",
        quoted(label)
    )
}

/// A text in XPath, which has no escapes.
fn quoted(text: &str) -> String {
    assert!(!text.contains('"'), "{text}");
    format!("\"{text}\"")
}

/// A command of the DevTools protocol over WebDriver, as chromedriver has it.
#[derive(Clone, Debug)]
struct DevTools(Value);

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.0.to_string()))
    }
}

/// What Chromium compares a certificate's key with: the SHA-256 of its SubjectPublicKeyInfo,
/// base64.
fn pin(certificate: &Path) -> String {
    let text = fs::read(certificate).expect("read a certificate");
    let (_, pem) = parse_x509_pem(&text).expect("a PEM block");
    let certificate = pem.parse_x509().expect("a certificate");
    STANDARD.encode(Sha256::digest(certificate.public_key().raw))
}
