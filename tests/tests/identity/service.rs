//! Metadata services in the host's namespace, and a host whose configuration leaves the id to them.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use jit_proto::v1;
use jit_tests::agent::{CLIENT, HOST, Site};
use rustix::{process::Uid, thread::set_thread_res_uid};
use serde_json::Value;

pub(crate) const LINK_LOCAL: &str = "169.254.169.254:80";
pub(crate) const EC2_V6: &str = "[fd00:ec2::254]:80";
pub(crate) const ARC: &str = "127.0.0.1:40342";
/// The time that `jit-agent identity` may take: 3 s, and the start of a process on a busy machine.
const LONGEST: Duration = Duration::from_millis(3_600);
/// The longest wait for the agent's next try.
const NEXT: Duration = Duration::from_secs(40);
const LONG: Duration = Duration::from_secs(600);

/// What a service does with a request: the bytes that it sends; `None`: it says nothing, and keeps the
/// connection.
pub(crate) type Answers = fn(&str) -> Option<Vec<u8>>;

/// A service. It plays its part until the test ends.
#[derive(Clone)]
pub(crate) struct Service {
    answers: Arc<Mutex<Answers>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Service {
    /// At this address of the host's namespace.
    pub(crate) fn at(site: &Site, address: &str, answers: Answers) -> Self {
        Self::of_user(site, address, answers, 0)
    }

    /// The same with a socket of this user.
    pub(crate) fn of_user(site: &Site, address: &str, answers: Answers, uid: u32) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let ip = address.ip();
        if !ip.is_loopback() {
            let (bits, family) = if ip.is_ipv4() { (32, "-4") } else { (128, "-6") };
            let own = format!("{ip}/{bits}");
            let nodad: &[&str] = if ip.is_ipv4() { &[] } else { &["nodad"] };
            let add = [&[family, "address", "add", &own, "dev", "lo"], nodad].concat();
            site.host.ip(&add);
        }
        let service = Self { answers: Arc::new(Mutex::new(answers)), asked: Arc::default() };
        let (ready, is_ready) = mpsc::channel();
        let own = service.clone();
        site.host.spawn(move || {
            if uid != 0 {
                let uid = Uid::from_raw(uid);
                set_thread_res_uid(uid, uid, uid).unwrap();
            }
            let listener = TcpListener::bind(address).unwrap();
            ready.send(()).unwrap();
            for peer in listener.incoming().flatten() {
                let own = own.clone();
                thread::spawn(move || own.serve(peer));
            }
        });
        is_ready.recv().unwrap();
        service
    }

    /// From now on it answers so.
    pub(crate) fn becomes(&self, answers: Answers) {
        *self.answers.lock().unwrap() = answers;
    }

    /// The requests that it got.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn serve(&self, mut peer: TcpStream) {
        let mut request = Vec::new();
        let mut part = [0; 4096];
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            match peer.read(&mut part) {
                Ok(read @ 1..) => request.extend_from_slice(&part[..read]),
                _ => return,
            }
        }
        let request = String::from_utf8(request).unwrap();
        self.asked.lock().unwrap().push(request.clone());
        let answers = *self.answers.lock().unwrap();
        match answers(&request) {
            Some(answer) => {
                // It may be cut off, or be no HTTP.
                let _cut = peer.write_all(&answer);
            }
            None => {
                let _closed = peer.read(&mut part);
            }
        }
    }
}

/// An answer with this status and body.
pub(crate) fn http(status: &str, more: &str, body: &str) -> Option<Vec<u8>> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{more}\r\n");
    Some(format!("{head}{body}").into())
}

fn not_found() -> Option<Vec<u8>> {
    http("404 Not Found", "", "")
}

fn has(request: &str, header: &str) -> bool {
    request.lines().any(|line| line.eq_ignore_ascii_case(header))
}

/// As Azure documents it: without `Metadata: true` the request is bad.
pub(crate) fn azure(request: &str) -> Option<Vec<u8>> {
    if !request.starts_with("GET /metadata/instance?api-version=2021-02-01 ") {
        return not_found();
    }
    if !has(request, "metadata: true") {
        return http(
            "400 Bad Request",
            "",
            "{\"error\":\"Required metadata header not specified\"}",
        );
    }
    let body = format!(
        "{{\"compute\":{{\"resourceId\":\"{AZURE_ID}\",\"vmId\":\"x\"}},\"network\":{{}}}}"
    );
    http("200 OK", "content-type: application/json\r\n", &body)
}

pub(crate) const AZURE_ID: &str = "/subscriptions/8d10da13/resourceGroups/Prod/providers/\
                                   Microsoft.Compute/virtualMachines/web-1";
pub(crate) const ARC_ID: &str = "/subscriptions/8d10da13/resourceGroups/onprem/providers/\
                                 Microsoft.HybridCompute/machines/web-1";
pub(crate) const EC2_ID: &str =
    "arn:aws:ec2:eu-central-1:123456789012:instance/i-0a1b2c3d4e5f60718";
pub(crate) const OTHER_EC2_ID: &str =
    "arn:aws:ec2:eu-central-1:123456789012:instance/i-0fffffffffffffff0";
pub(crate) const GCP_ID: &str =
    "//compute.googleapis.com/projects/prod-1/zones/europe-west3-a/instances/4520031799277581759";

/// Azure Arc's service.
pub(crate) fn arc(request: &str) -> Option<Vec<u8>> {
    let path = "GET /metadata/instance/compute?api-version=2020-06-01 ";
    if !request.starts_with(path) || !has(request, "metadata: true") {
        return not_found();
    }
    let body = format!("{{\"resourceId\":\"{ARC_ID}\",\"name\":\"web-1\",\"tagsList\":[]}}");
    http("200 OK", "", &body)
}

/// IMDSv2: without a token there is nothing.
pub(crate) fn ec2(request: &str) -> Option<Vec<u8>> {
    imds(request, "i-0a1b2c3d4e5f60718")
}

/// The same on another instance.
pub(crate) fn other_ec2(request: &str) -> Option<Vec<u8>> {
    imds(request, "i-0fffffffffffffff0")
}

fn imds(request: &str, instance: &str) -> Option<Vec<u8>> {
    const TOKEN: &str = "AQAEAHs4b8Vh==";
    if request.starts_with("PUT /latest/api/token ") {
        let ttl = "x-aws-ec2-metadata-token-ttl-seconds:";
        if !request.to_ascii_lowercase().contains(ttl) {
            return http("400 Bad Request", "", "");
        }
        return http("200 OK", "", TOKEN);
    }
    if !has(request, &format!("x-aws-ec2-metadata-token: {TOKEN}")) {
        return http("401 Unauthorized", "", "");
    }
    if !request.starts_with("GET /latest/dynamic/instance-identity/document ") {
        return not_found();
    }
    let body = format!(
        "{{\"accountId\":\"123456789012\",\"region\":\"eu-central-1\",\"instanceId\":\"{instance}\",\
         \"pendingTime\":\"2026-09-25T08:42:17Z\",\"billingProducts\":null}}"
    );
    http("200 OK", "", &body)
}

/// GCP: the header comes back.
pub(crate) fn gcp(request: &str) -> Option<Vec<u8>> {
    if !has(request, "metadata-flavor: Google") {
        return http("403 Forbidden", "", "");
    }
    let values = [
        ("project/project-id", "prod-1"),
        ("instance/zone", "projects/123456/zones/europe-west3-a"),
        ("instance/id", "4520031799277581759"),
    ];
    let asked =
        |path: &&(&str, &str)| request.starts_with(&format!("GET /computeMetadata/v1/{} ", path.0));
    match values.iter().find(asked) {
        Some((_, value)) => http("200 OK", "Metadata-Flavor: Google\r\n", value),
        None => not_found(),
    }
}

/// A host whose configuration leaves its id to a metadata service. No agent runs yet.
pub(crate) fn auto() -> Site {
    let site = Site::new();
    let given = format!("id = \"{HOST}\"");
    let base = site.base("[\"*\"]", "auto");
    assert!(base.contains(&given));
    site.write_config(&base.replacen(&given, "id = \"auto\"", 1));
    site
}

/// Waits until the agent has this id in force; returns its status.
#[track_caller]
pub(crate) fn wait_for_id(site: &Site, id: &str) -> Value {
    let end = Instant::now() + NEXT;
    loop {
        let (status, _) = site.status();
        if status["host"] == id {
            return status;
        }
        assert!(Instant::now() < end, "{status:#}\n{}", site.log());
        thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until the id is kept for the next start: it is written after it is in force.
#[track_caller]
pub(crate) fn wait_until_kept(site: &Site) {
    let end = Instant::now() + NEXT;
    while !site.path("state/host-id").exists() {
        assert!(Instant::now() < end, "{}", site.log());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Pushes a grant for the client that names this host.
pub(crate) fn grant(site: &Site, id: &str) -> Result<v1::Outcome, tonic::Status> {
    let grant = v1::Grant { hosts: vec![id.to_owned()], ..site.grant(&CLIENT, LONG) };
    site.push(site.sign(&grant))
}

/// What `jit-agent identity --json` says, within its time, and its exit code.
#[track_caller]
pub(crate) fn identity(site: &Site, environment: &[(&str, &str)]) -> (Value, i32) {
    let mut command = site.command(&["identity", "--json"]);
    command.envs(environment.iter().copied());
    let began = Instant::now();
    let output = site.host.run(|| command.output().unwrap());
    let took = began.elapsed();
    assert!(took < LONGEST, "{took:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    (serde_json::from_str(&text).unwrap(), output.status.code().unwrap())
}

/// The fault of a source.
pub(crate) fn fault<'a>(said: &'a Value, source: &str) -> &'a str {
    let sources = said["sources"].as_array().unwrap();
    let own = sources.iter().find(|one| one["source"] == source).unwrap();
    own["fault"].as_str().unwrap()
}
