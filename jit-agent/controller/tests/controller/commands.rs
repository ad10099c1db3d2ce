//! The real program: a controller is made, looked at, copied and put back, on either database.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use jit_controller::{
    audit::{self, Code, Record},
    config::Config,
    store::Store,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    databases::{Database, postgres, sqlite},
    filled::{by_hand, count, fill, record},
};

on_each_database! {
    a_new_controller_is_in_order,
    what_is_there_is_never_replaced,
    what_is_wrong_is_found_by_check,
    a_backup_comes_back_in_either_database,
    a_backup_that_was_changed_is_refused,
    the_audit_is_exported_from_where_it_ended,
    an_audit_that_was_changed_is_named,
}

/// A controller in a directory of its own.
pub(crate) struct Controller {
    pub(crate) root: TempDir,
    url: Option<String>,
}

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jit-controller"));
    command.args(arguments).env_remove("RUST_LOG").output().unwrap()
}

pub(crate) fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(both).unwrap()
}

pub(crate) fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{why}: {}", text(output)))
}

impl Controller {
    /// Made by `init`. `database`: a server, or a file in the directory.
    fn init(database: &Database, more: &[&str]) -> (Self, Output) {
        let root = tempfile::tempdir().unwrap();
        let url = database.url.starts_with("postgres").then(|| database.url.clone());
        let made = Self { root, url };
        let mut arguments = vec!["init", "--name", "jit.example.org", "--name", "192.0.2.1"];
        arguments.extend(["--admin", "ana", "--subject", "ana@example.org"]);
        if let Some(url) = &made.url {
            arguments.extend(["--database", url]);
        }
        arguments.extend(more);
        let output = made.run(&arguments);
        (made, output)
    }

    pub(crate) fn made(database: &Database) -> Self {
        let (made, output) = Self::init(database, &[]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        made
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("controller")
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let directory = self.dir().display().to_string();
        run(&[arguments, &["--dir", &directory]].concat())
    }

    pub(crate) async fn store(&self) -> Store {
        Store::open(&self.database()).await.unwrap()
    }

    fn database(&self) -> String {
        Config::read(&self.dir().join("controller.toml")).unwrap().store.url().unwrap()
    }
}

fn findings(output: &Output, level: &str) -> Vec<String> {
    let all = json_of(output)["findings"].as_array().unwrap().clone();
    let of_level = all.iter().filter(|one| one["level"] == level);
    of_level.map(|one| format!("{}: {}", one["about"], one["text"])).collect()
}

async fn a_new_controller_is_in_order(database: Database) {
    let (controller, output) = Controller::init(&database, &["--algorithm", "p256", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let report = json_of(&output);
    let token = report["token"].as_str().unwrap();
    assert_eq!(report["next"].as_array().unwrap().len(), 4);
    assert_eq!(report["signing_key"]["algorithm"], "ECDSA P-256");
    let host_config = report["host_config"].as_str().unwrap();
    for words in ["client_ca", "[[controller]]", "[[signer]]", "spiffe://jit.example.org/"] {
        assert!(host_config.contains(words), "{words}");
    }
    // Three keys, each for one purpose, and the lines that hosts need for them.
    let mut ids = BTreeSet::new();
    for (key, file, signs) in [
        ("signing_key", "signer.pub.pem", "grant"),
        ("revocation_key", "revocation.pub.pem", "revocation"),
        ("freshness_key", "freshness.pub.pem", "checkpoint"),
    ] {
        assert_eq!(report[key]["algorithm"], "ECDSA P-256");
        ids.insert(report[key]["id"].to_string());
        let file = fs::read_to_string(controller.dir().join(file)).unwrap();
        assert_eq!(report[key]["public_key"], file);
        assert!(host_config.contains(&format!("signs = [\"{signs}\"]")), "{host_config}");
    }
    assert_eq!(ids.len(), 3);
    let config = Config::read(&controller.dir().join("controller.toml")).unwrap();
    assert_eq!(config.signer.revocation_keys.len(), 1);
    assert!(config.signer.freshness.is_some());
    let store = controller.store().await;
    let hash = jit_controller::api::token::Secret::of_text(token).unwrap().hash();
    assert_eq!(store.token(&hash).await.unwrap().unwrap().account, "ana");
    assert_eq!(store.account("ana").await.unwrap().unwrap().subject, "ana@example.org");
    store.close().await;
    // Keys are for their owner, and the token is nowhere on the disk.
    let mut files = Vec::new();
    below(&controller.dir(), &mut files);
    for file in files {
        let mode = file.metadata().unwrap().mode() & 0o777;
        let public = file.extension().is_some_and(|end| end == "pem");
        assert_eq!(mode, if public { 0o644 } else { 0o600 }, "{}", file.display());
        let bytes = fs::read(&file).unwrap();
        assert!(!bytes.windows(token.len()).any(|part| part == token.as_bytes()));
    }
    let checked = controller.run(&["check", "--json"]);
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked));
    assert_eq!(findings(&checked, "error"), [""; 0]);
    assert_eq!(findings(&checked, "warning"), [""; 0]);
    let verified = controller.run(&["verify", "--json"]);
    assert_eq!(json_of(&verified)["signed_until"], 3, "{}", text(&verified));
    let access = controller.run(&["access"]);
    assert!(text(&access).contains("no grant let anybody in"), "{}", text(&access));
}

fn below(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => below(&path, files),
            path => files.push(path),
        }
    }
}

async fn what_is_there_is_never_replaced(database: Database) {
    let controller = Controller::made(&database);
    let before = fs::read(controller.dir().join("signer.key")).unwrap();
    let again = controller.run(&["init", "--name", "jit.example.org"]);
    assert_eq!(again.status.code(), Some(78), "{}", text(&again));
    assert!(text(&again).contains("is not replaced"), "{}", text(&again));
    assert_eq!(fs::read(controller.dir().join("signer.key")).unwrap(), before);
    // What fails leaves nothing, and the token goes into a file of its own.
    let other = Controller { root: tempfile::tempdir().unwrap(), url: None };
    let bad = other.run(&["init", "--name", "ü ö"]);
    assert_eq!(bad.status.code(), Some(64), "{}", text(&bad));
    assert_eq!(fs::read_dir(other.dir()).unwrap().count(), 0);
    let file = other.root.path().join("token");
    let good = other.run(&["init", "--name", "::1", "--token-file", file.to_str().unwrap()]);
    assert_eq!(good.status.code(), Some(0), "{}", text(&good));
    let token = fs::read_to_string(&file).unwrap();
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
    assert!(token.starts_with("jit_") && !text(&good).contains(token.trim()));
    assert!(text(&good).contains("https://[::1]:8443"), "{}", text(&good));
    if let Some(url) = &controller.url {
        let second = Controller { root: tempfile::tempdir().unwrap(), url: None };
        let taken = second.run(&["init", "--name", "a.example.org", "--database", url]);
        assert!(text(&taken).contains("belongs to a controller already"), "{}", text(&taken));
    }
}

async fn what_is_wrong_is_found_by_check(database: Database) {
    let controller = Controller::made(&database);
    let dir = controller.dir();
    let mode = |name: &str, mode: u32| {
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("signer.key", 0o644);
    mode("audit.key", 0o640);
    fs::rename(dir.join("api.key"), dir.join("x")).unwrap();
    fs::copy(dir.join("controller.key"), dir.join("api.key")).unwrap();
    let store = controller.store().await;
    let mut tx = store.begin().await.unwrap();
    let future = jit_controller::clock::now_ms() + 3_600_000;
    let started = Record::new(Code::Started, "", "controller", json!({}));
    audit::append(&mut tx, future, &started).await.unwrap();
    tx.commit().await.unwrap();
    store.close().await;
    by_hand(&controller.database(), "UPDATE token SET revoked_ms = 1").await;
    by_hand(&controller.database(), "UPDATE rules SET text = 'permit (principal'").await;
    let checked = controller.run(&["check", "--json"]);
    assert_eq!(checked.status.code(), Some(78), "{}", text(&checked));
    let (errors, warnings) = (findings(&checked, "error"), findings(&checked, "warning"));
    for words in ["signer.key", "does not belong to it", "line 1", "it went back"] {
        assert!(errors.iter().any(|one| one.contains(words)), "{words}: {errors:#?}");
    }
    for words in ["audit.key", "no administrator has a good token"] {
        assert!(warnings.iter().any(|one| one.contains(words)), "{words}: {warnings:#?}");
    }
    let config = dir.join("controller.toml");
    let broken = fs::read_to_string(&config).unwrap().replace("listen", "listn");
    fs::write(&config, broken.replace("[audit]", "[adit]")).unwrap();
    let checked = controller.run(&["check"]);
    let said = text(&checked);
    assert!(said.contains("did you mean `listen`?") && said.contains("`adit`"), "{said}");
    let other = controller.run(&["export"]);
    assert_eq!(other.status.code(), Some(78), "{}", text(&other));
}

/// Writes a file for its owner alone.
fn private(file: &Path, text: &str) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

async fn a_backup_comes_back_in_either_database(database: Database) {
    let controller = Controller::made(&database);
    let store = controller.store().await;
    record(&store, 0, 40).await;
    store.close().await;
    fs::write(controller.dir().join("signer.journal"), "journal").unwrap();
    // A secret that is no private key.
    let file = controller.dir().join("controller.toml");
    let bot = "[[messages.slack]]\nname = \"ops\"\nchannel = \"C1\"\ntoken_file = \"bot.txt\"\n";
    fs::write(&file, fs::read_to_string(&file).unwrap() + bot).unwrap();
    private(&controller.dir().join("bot.txt"), "xoxb-secret");
    for (number, with_keys) in [(0, false), (1, true)] {
        let to = controller.root.path().join(format!("backup-{number}"));
        let mut arguments = vec!["backup", "--json", "--to", to.to_str().unwrap()];
        arguments.extend(with_keys.then_some("--with-keys"));
        let made = controller.run(&arguments);
        assert_eq!(made.status.code(), Some(0), "{}", text(&made));
        let left_out = json_of(&made)["left_out"].to_string();
        assert_eq!(left_out.contains("signer.key"), !with_keys, "{left_out}");
        let mut files = Vec::new();
        below(&to, &mut files);
        for file in &files {
            assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600, "{}", file.display());
            let text = fs::read_to_string(file).unwrap();
            let secret = text.contains("PRIVATE KEY-") || text.contains("xoxb-secret");
            assert!(with_keys || !secret, "{}", file.display());
        }
        let targets = [sqlite().await, postgres().await];
        for (target, url) in targets.iter().zip([None, Some(&targets[1].url)]) {
            let back = Controller { root: tempfile::tempdir().unwrap(), url: None };
            let sqlite_url = "sqlite:other.db".to_owned();
            let url = url.unwrap_or(&sqlite_url);
            let restored =
                back.run(&["restore", to.to_str().unwrap(), "--json", "--database", url]);
            assert_eq!(restored.status.code(), Some(0), "{}", text(&restored));
            let report = json_of(&restored);
            assert_eq!(
                (&report["audit_signed"], &report["audit_head"]),
                (&json!(true), &json_of(&made)["audit_head"])
            );
            assert_eq!(report["missing"].as_array().unwrap().is_empty(), with_keys, "{report}");
            assert_eq!(fs::read(back.dir().join("signer.journal")).unwrap(), b"journal");
            assert_eq!(count(&back.database(), "audit").await, 44, "43, and that it was restored");
            if with_keys {
                let verified = back.run(&["verify"]);
                assert_eq!(verified.status.code(), Some(0), "{}", text(&verified));
                let checked = back.run(&["check", "--json"]);
                // The records of this test are of 2027.
                let errors = findings(&checked, "error");
                assert!(errors.iter().all(|one| one.contains("clock")), "{errors:#?}");
            }
            let again = back.run(&["restore", to.to_str().unwrap()]);
            assert!(text(&again).contains("is not empty"), "{}", text(&again));
            let _ = target;
        }
    }
}

async fn a_backup_that_was_changed_is_refused(database: Database) {
    let controller = Controller::made(&database);
    let store = controller.store().await;
    fill(&store).await;
    store.close().await;
    let to = controller.root.path().join("backup");
    let made = controller.run(&["backup", "--to", to.to_str().unwrap()]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made));
    let again = controller.run(&["backup", "--to", to.to_str().unwrap()]);
    assert!(text(&again).contains("is not replaced"), "{}", text(&again));
    let (manifest, rows) = (to.join("manifest.json"), to.join("database.jsonl"));
    let (good_manifest, good_rows) =
        (fs::read_to_string(&manifest).unwrap(), fs::read_to_string(&rows).unwrap());
    let attempt = |words: &str| {
        let back = Controller { root: tempfile::tempdir().unwrap(), url: None };
        let refused = back.run(&["restore", to.to_str().unwrap(), "--database", "sqlite:x.db"]);
        assert_eq!(refused.status.code(), Some(78), "{}", text(&refused));
        assert!(text(&refused).contains(words), "{words}: {}", text(&refused));
        let left = fs::read_dir(back.dir()).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{words}");
    };
    for (from, to, words) in [
        ("\"format_version\": 1", "\"format_version\": 2", "a later jit-controller made it"),
        ("\"format_version\": 1", "\"format_version\": 0", "an earlier jit-controller made it"),
        ("jit-controller-backup", "other", "no backup of a controller"),
        ("\"versions\": [\n", "\"versions\": [\n 999,\n", "version 999"),
        ("\"files/controller.toml\"", "\"../controller.toml\"", "no path in a backup"),
    ] {
        let changed = good_manifest.replace(from, to);
        assert_ne!(changed, good_manifest, "{from}");
        fs::write(&manifest, changed).unwrap();
        attempt(words);
    }
    fs::write(&manifest, &good_manifest).unwrap();
    fs::write(&rows, good_rows.replace("disk full", "disk fill")).unwrap();
    attempt("was changed since the backup was made");
    // Also with a manifest that fits: the chain shows it.
    fs::write(&rows, good_rows.replace("rules_saved", "rules_sawed")).unwrap();
    use sha2::Digest as _;
    let hash = |text: &str| hex::encode(sha2::Sha256::digest(text.as_bytes()));
    let changed = fs::read_to_string(&rows).unwrap();
    fs::write(&manifest, good_manifest.replace(&hash(&good_rows), &hash(&changed))).unwrap();
    attempt("the audit is broken");
}

async fn the_audit_is_exported_from_where_it_ended(database: Database) {
    let controller = Controller::made(&database);
    let cursor = controller.root.path().join("cursor");
    let export = |more: &[&str]| {
        let output = controller.run(&[&["export"], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let at_cursor = ["--cursor", cursor.to_str().unwrap()];
    let first = export(&[&at_cursor[..], &["--limit", "2"]].concat());
    let second = export(&at_cursor);
    assert_eq!((first.len(), second.len()), (2, 1));
    assert_eq!(export(&at_cursor), [""; 0]);
    assert_eq!(export(&["--after", "1"]).len(), 2);
    // The chain holds in what was exported.
    let hash = {
        use sha2::Digest as _;
        hex::encode(sha2::Sha256::digest(first[1].as_bytes()))
    };
    assert_eq!(serde_json::from_str::<Value>(&second[0]).unwrap()["prev"], hash);
    let ocsf = export(&["--format", "ocsf"]);
    assert_eq!(serde_json::from_str::<Value>(&ocsf[0]).unwrap()["class_uid"], 3001);
    assert!(export(&["--format", "syslog-lines"])[0].starts_with("<110>1 "));
    fs::write(&cursor, "x").unwrap();
    assert_eq!(controller.run(&[&["export"], &at_cursor[..]].concat()).status.code(), Some(78));
}

async fn an_audit_that_was_changed_is_named(database: Database) {
    let controller = Controller::made(&database);
    let head = json_of(&controller.run(&["verify", "--json"]))["head"].as_str().unwrap().to_owned();
    let good = controller.run(&["verify", "--against", &head]);
    assert_eq!(good.status.code(), Some(0), "{}", text(&good));
    by_hand(&controller.database(), "DELETE FROM audit WHERE seq = 3").await;
    let bad = controller.run(&["verify"]);
    assert_eq!(bad.status.code(), Some(1), "{}", text(&bad));
    assert!(text(&bad).contains("record 3: it is missing"), "{}", text(&bad));
    assert_eq!(controller.run(&["verify", "--against", "nonsense"]).status.code(), Some(64));
}
