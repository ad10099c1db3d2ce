//! `jit-agent check`: everything that is wrong at once, each with its place; what a good file says; in CI
//! without keys, and in the image of a host.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::{Command, Output},
};

use jit_agent::oncall::doctor::CHECKS;
use jit_tests::{agent::Site, programs::binary};
use serde_json::Value;

/// A uid without a user.
const NOBODY: &str = "64999";

/// Runs `check` in the host's namespace.
fn check(site: &Site, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("jit-agent"));
    command.arg("check").args(arguments);
    site.host.run(|| command.output().unwrap())
}

/// The same with the site's configuration: its exit code, standard output, standard error.
fn said(site: &Site, arguments: &[&str]) -> (i32, String, String) {
    let config = site.config();
    let mut all = arguments.to_vec();
    all.extend(["--config", config.to_str().unwrap()]);
    texts(&check(site, &all))
}

fn texts(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(!errors.contains("panicked"), "{errors}");
    (output.status.code().unwrap(), out, errors)
}

#[track_caller]
fn has(text: &str, says: &[&str]) {
    for word in says {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

/// `[control]` with files from `jitctl`, and one controller.
fn control(site: &Site) -> String {
    for line in ["pki init --dir pki", "pki issue --dir pki --name agent --dns web-1.example.org"] {
        let mut command = Command::new(binary("jitctl"));
        command.args(line.split(' ')).current_dir(site.path(""));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
    }
    "[control]\nlisten = \"0.0.0.0:7443\"\ncertificate = \"pki/agent.pem\"\nkey = \"pki/agent.key\"\n\
     client_ca = \"pki/ca.pem\"\n[[controller]]\nidentity = \"spiffe://example.org/c\"\n\
     may = [\"grant\"]\n"
        .into()
}

#[test]
fn everything_that_is_wrong_is_said_at_once_with_its_place() {
    let site = Site::new();
    let wrong =
        site.base("[\"*\"]", "auto").replace("\"0.0.0.0/0\", \"::/0\"", "\"0/0\", \"10/8\"");
    let more = "[audit]\nkeep = 0\n[[port]]\nport = \"23-\"\nprotocol = \"TCP\"\nsources = [\"::/0\"]\n\
                max_duration = \"P1D\"\n";
    site.write_config(&(wrong + more));
    let (code, out, errors) = said(&site, &[]);
    assert_eq!((code, out.as_str()), (78, ""), "{errors}");
    let text = fs::read_to_string(site.config()).unwrap();
    let line = |part: &str| 1 + text.lines().position(|line| line.contains(part)).unwrap();
    let file = site.config().display().to_string();
    for (part, says) in [
        ("\"0/0\"", "[[port]] 22/tcp: sources: `0/0`"),
        ("\"10/8\"", "write \"10.0.0.0/8\""),
        ("keep = 0", "[audit] keep: 0 is not from 1"),
        ("\"23-\"", "write 23 for this port alone"),
        ("\"TCP\"", "did you mean `tcp`?"),
        ("\"P1D\"", "write \"24h\""),
    ] {
        let at = format!("{file}:{}:", line(part));
        let found = errors.lines().any(|line| line.contains(&at) && line.contains(says));
        assert!(found, "{at} {says}: {errors}");
    }
    assert!(errors.starts_with(&format!("jit-agent: {file} is refused: 6 errors\n")), "{errors}");
    // The daemon says the same.
    let run = site.run(&["run"]);
    let log = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(78), "{log}");
    has(&log, &["6 mistakes", "write \"24h\"", "did you mean `tcp`?"]);
}

#[test]
fn every_file_that_cannot_be_used_is_named_at_once() {
    let site = Site::new();
    site.configure(&control(&site));
    for name in ["pki/agent.pem", "pki/ca.pem", "signer.pem"] {
        fs::remove_file(site.path(name)).unwrap();
    }
    fs::set_permissions(site.path("pki/agent.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let (code, _, errors) = said(&site, &[]);
    assert_eq!(code, 78, "{errors}");
    has(
        &errors,
        &[
            "4 errors",
            "[control] certificate: cannot read",
            "[control] client_ca: cannot read",
            "[control] key: ",
            "others can read it",
            "do: chmod o= ",
            "[[signer]] \"test\": public_key: cannot read",
        ],
    );
    let text = fs::read_to_string(site.config()).unwrap();
    for key in ["certificate = ", "key = \"pki", "client_ca = ", "public_key = "] {
        let line = 1 + text.lines().position(|line| line.contains(key)).unwrap();
        has(&errors, &[&format!("config.toml:{line}:")]);
    }
}

#[test]
fn a_good_file_shows_what_it_lets_in_and_the_certificate_as_peers_see_it() {
    let site = Site::new();
    site.configure(&control(&site));
    let (code, out, errors) = said(&site, &[]);
    assert_eq!((code, errors.as_str()), (0, ""), "{out}");
    has(
        &out,
        &[
            "config.toml is good",
            "1 signature may open it to 0.0.0.0/0, ::/0 for 3h",
            "spiffe://example.org/c may grant",
            " for web-1.example.org, issued by ",
            "ECDSA P-256",
            "\"test\", key id ",
            "c0, s0: gated",
        ],
    );
    // A gate without a trial is a warning, which is an error if one says so.
    has(&out, &["warning: [gate] confirm_within is \"off\"", "    do: remove the line"]);
    let (code, _, errors) = said(&site, &["--strict"]);
    assert_eq!(code, 78, "{errors}");
    has(&errors, &["error: [gate] confirm_within"]);
    // A certificate from elsewhere is one, too: controllers may trust it all the same.
    fs::rename(site.path("pki/ca.pem"), site.path("own.pem")).unwrap();
    let line = "pki init --dir other --name other";
    let mut command = Command::new(binary("jitctl"));
    assert!(command.args(line.split(' ')).current_dir(site.path("")).status().unwrap().success());
    fs::copy(site.path("other/ca.pem"), site.path("pki/ca.pem")).unwrap();
    let (code, out, _) = said(&site, &[]);
    assert_eq!(code, 0, "{out}");
    has(&out, &["warning: certificate: no certificate of", "CN=other", "so this is no error"]);
}

/// Every property that a schema names, by its path.
fn properties(schema: &Value, root: &Value, path: &str, all: &mut BTreeSet<String>) {
    let schema = match schema["$ref"].as_str().and_then(|name| name.strip_prefix('#')) {
        Some(name) => root.pointer(name).unwrap(),
        None => schema,
    };
    for one in schema["anyOf"].as_array().into_iter().flatten() {
        properties(one, root, path, all);
    }
    if schema["items"].is_object() {
        properties(&schema["items"], root, path, all);
    }
    for (name, below) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}/{name}");
        all.insert(path.clone());
        properties(below, root, &path, all);
    }
}

/// Every key of an answer, by its path.
fn keys(value: &Value, path: &str, all: &mut BTreeSet<String>) {
    match value {
        Value::Array(list) => list.iter().for_each(|one| keys(one, path, all)),
        Value::Object(map) => {
            for (name, below) in map {
                let path = format!("{path}/{name}");
                all.insert(path.clone());
                keys(below, &path, all);
            }
        }
        _ => {}
    }
}

#[test]
fn the_json_is_as_its_schema_says_and_the_schema_names_nothing_else() {
    let site = Site::new();
    let schema = include_str!("../../../jit-agent/docs/check.schema.json");
    let schema: Value = serde_json::from_str(schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let mut seen = BTreeSet::new();
    let mut json = |arguments: &[&str]| {
        let (code, out, errors) = said(&site, arguments);
        assert_eq!(errors, "");
        let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}"));
        validator.validate(&report).unwrap_or_else(|error| panic!("{error}: {report:#}"));
        keys(&report, "", &mut seen);
        for finding in report["findings"].as_array().unwrap() {
            let check = finding["check"].as_str().unwrap();
            let known = CHECKS.iter().any(|(_, checks)| checks.contains(&check));
            assert!(known, "the runbook has no heading for {check}");
        }
        (code, report)
    };
    let exempt = "[[port]]\nport = 23\nprotocol = \"tcp\"\nsources = [\"::/0\"]\nexempt = [{ source = \
                  \"192.0.2.1\", reason = \"r\", owner = \"o\", until = \"2020-01-01T00:00:00Z\" }]\n";
    let good = control(&site) + exempt;
    site.configure(&good);
    let (code, report) = json(&["--json"]);
    assert_eq!((code, &report["verdict"]), (0, &"warning".into()));
    assert_eq!(report["summary"]["ports"][1]["exemptions"][0]["source"], "192.0.2.1");
    let findings = report["findings"].as_array().unwrap();
    let ended = findings.iter().find(|one| one["check"] == "exemptions").unwrap();
    let text = fs::read_to_string(site.config()).unwrap();
    let line = 1 + text.lines().position(|line| line.contains("exempt")).unwrap();
    assert_eq!((&ended["severity"], &ended["line"]), (&"warning".into(), &line.into()));
    assert!(findings.iter().any(|one| one["check"] == "no-listener" && one["about"] == "23/tcp"));
    let (code, report) = json(&["--json", "--syntax-only", "--strict"]);
    assert_eq!((code, &report["verdict"]), (78, &"error".into()));
    site.configure("[gaet]\n");
    let (code, report) = json(&["--json"]);
    assert_eq!((code, &report["summary"]), (78, &Value::Null));
    assert_eq!((&report["errors"], report["findings"].as_array().unwrap().len()), (&1.into(), 1));
    let mut named = BTreeSet::new();
    properties(&schema, &schema, "", &mut named);
    assert_eq!(seen, named);
}

#[test]
fn the_file_alone_is_checked_without_root_keys_or_a_host() {
    let site = Site::new();
    site.configure(
        "[control]\nlisten = \"0.0.0.0:7443\"\ncertificate = \"none.pem\"\nkey = \"none.key\"\n\
         client_ca = \"none.pem\"\n[[controller]]\nidentity = \"c\"\nmay = []\n",
    );
    fs::remove_file(site.path("signer.pem")).unwrap();
    // As a checkout has it: readable, and the group may write.
    fs::set_permissions(site.path(""), fs::Permissions::from_mode(0o775)).unwrap();
    fs::set_permissions(site.config(), fs::Permissions::from_mode(0o664)).unwrap();
    let as_nobody = |options: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--inh-caps=-all"]);
        command.arg(binary("jit-agent")).arg("check").args(options);
        command.arg("--config").arg(site.config());
        texts(&command.output().unwrap())
    };
    let (code, out, errors) = as_nobody(&["--syntax-only"]);
    assert_eq!((code, errors.as_str()), (0, ""), "{out}");
    has(&out, &["config.toml is good", "22/tcp"]);
    assert!(!out.contains("interfaces") && !out.contains("pins"), "{out}");
    // Otherwise it is refused, for more than one reason.
    let (code, _, errors) = as_nobody(&[]);
    assert_eq!(code, 78, "{errors}");
    site.configure("[gaet]\n");
    fs::set_permissions(site.config(), fs::Permissions::from_mode(0o664)).unwrap();
    let (code, _, errors) = as_nobody(&["--syntax-only"]);
    assert_eq!(code, 78, "{errors}");
    has(&errors, &["did you mean `gate`?"]);
}

#[test]
fn an_image_of_a_host_is_checked_with_the_files_in_it_alone() {
    let site = Site::new();
    let with_control = control(&site).replace("pki/", "/etc/jit-agent/tls/");
    let image = site.path("image");
    let etc = image.join("etc/jit-agent");
    fs::create_dir_all(etc.join("tls")).unwrap();
    for (from, to) in [
        ("signer.pem", "signer.pem"),
        ("pki/agent.pem", "tls/agent.pem"),
        ("pki/agent.key", "tls/agent.key"),
    ] {
        fs::copy(site.path(from), etc.join(to)).unwrap();
    }
    fs::create_dir_all(image.join("usr/share/ca")).unwrap();
    fs::copy(site.path("pki/ca.pem"), image.join("usr/share/ca/ours.pem")).unwrap();
    // A link that leads to the right place in the image alone.
    symlink("/usr/share/ca/ours.pem", etc.join("tls/ca.pem")).unwrap();
    let text = site.base("[\"no-such0\"]", "auto") + &with_control;
    fs::write(etc.join("config.toml"), text).unwrap();
    // Owners and modes are those of whoever makes the image.
    fs::set_permissions(etc.join("config.toml"), fs::Permissions::from_mode(0o666)).unwrap();
    let root = |image: &Path| texts(&check(&site, &["--root", image.to_str().unwrap()]));
    let (code, out, errors) = root(&image);
    assert_eq!((code, errors.as_str()), (0, ""), "{out}");
    has(&out, &["image/etc/jit-agent/config.toml is good", "client_ca ", "web-1.example.org"]);
    assert!(!out.contains("no-such0"), "nothing is said of this host: {out}");
    let key = etc.join("tls/agent.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(etc.join("signer.pem")).unwrap();
    let (code, _, errors) = root(&image);
    assert_eq!(code, 78, "{errors}");
    has(&errors, &["2 errors", "image/etc/jit-agent/signer.pem", "tls/agent.key is a secret"]);
    let (code, ..) = texts(&check(&site, &["--root", "/", "--syntax-only"]));
    assert_eq!(code, 64, "one or the other");
}

/// `jitctl` reads a policy's sections with the same reader.
#[test]
fn a_policys_file_is_refused_with_all_that_is_wrong_too() {
    let site = Site::new();
    let policy = site.path("policy.toml");
    fs::write(
        &policy,
        "[[port]]\nport = \"22-\"\nprotocol = \"tcp\"\nsources = [\"10/8\"]\nmax_duration = \"1d\"\n",
    )
    .unwrap();
    let mut command = Command::new(binary("jitctl"));
    command.arg("--socket").arg(site.path("run/agent.sock")).args(["policy", "diff"]).arg(&policy);
    let (code, _, errors) = texts(&command.output().unwrap());
    assert_ne!(code, 0, "{errors}");
    has(&errors, &["line 2: ", "line 4: ", "write \"10.0.0.0/8\"", "line 5: ", "write \"24h\""]);
}
