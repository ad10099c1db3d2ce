//! `cargo xtask demo --whole`: a controller and two hosts. One person asks, another one agrees, both hosts
//! open, a revocation closes them, and the audits of both sides say who did what. All with the commands
//! that `docs/controller.md` goes by hand.

mod controller;
mod hosts;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use self::{
    controller::{Controller, Person},
    hosts::{Hosts, NAMES, Places},
};
use super::{
    interrupt,
    net::{CLIENT, STRANGER},
    report::Report,
};
use crate::build::Programs;

/// Longest wait for what takes milliseconds.
const SOON: Duration = Duration::from_secs(20);

/// Shows it.
pub(super) fn show(report: &Report, programs: &Programs, controller: &Path) -> Result<()> {
    let scratch = tempfile::Builder::new().prefix("jit-demo-").tempdir()?;
    let places = Places::new()?;
    let mut hosts = report.step_with("two hosts, a client, a stranger and a controller", || {
        let hosts = Hosts::new(programs, &places, scratch.path())?;
        Ok((
            format!("{} with SSH; client {CLIENT}; stranger {STRANGER}", NAMES.join(" and ")),
            hosts,
        ))
    })?;
    let controller = report.step_with("jit-controller init", || {
        let controller =
            Controller::new(&places.controller, controller, &programs.jitctl, scratch.path())?;
        Ok(("keys, certificates, database, rules, a token for ana".to_owned(), controller))
    })?;
    let played = play(report, &mut hosts, controller);
    if played.is_err() && !interrupt::arrived() {
        report.say(&hosts.log_ends());
    }
    played
}

fn play(report: &Report, hosts: &mut Hosts<'_>, mut controller: Controller<'_>) -> Result<()> {
    report.step("jit-controller serve", || {
        Ok(format!("answers after {} ms", controller.start()?.as_millis()))
    })?;
    report.step("an agent on each host", || hosts.start(&controller))?;
    let (ana, li) = people(report, &controller)?;
    report.step("the controller follows both hosts", || add_hosts(&ana))?;
    report.step("closed to both", || hosts.observe(false))?;

    let request = report.step_with("ana asks for SSH on both hosts", || ask(&ana))?;
    let id = request.as_str();
    report.step("she cannot agree herself", || {
        ana.refused(&["approve", id, "--yes"], "self_approval")
    })?;
    report.step("still closed to both", || hosts.observe(false))?;
    report.step("li agrees", || {
        let began = Instant::now();
        li.says(&["approve", id, "--yes", "--reason", "seen INC-4211"])?;
        hosts.wait_until_open(SOON)?;
        Ok(format!("open on both hosts {} ms after his command began", began.elapsed().as_millis()))
    })?;
    report.step("open to the client only", || hosts.observe(true))?;
    report.step("every host answers for itself", || answers(&ana, id))?;
    report.step("ana gives it back", || {
        ana.says(&["revoke", "--request", id, "--reason", "the work is done"])?;
        hosts.wait_until_closed(SOON)?;
        Ok("closed on both hosts".to_owned())
    })?;
    report.step("closed to both", || hosts.observe(false))?;
    report.step("the controller's audit", || controller_audit(&ana, &controller, id))?;
    report.step("the hosts' audits", || hosts.audits(id))?;
    let screen = ana.says(&["requests", "show", id])?;
    report.say(&format!("\n$ jitctl requests show {id}\n{screen}"));
    Ok(())
}

/// Ana, who made the controller, and li, for whom she makes an account.
fn people<'a>(report: &Report, controller: &'a Controller<'_>) -> Result<(Person<'a>, Person<'a>)> {
    let ana = report.step_with("ana logs in", || {
        let ana = controller.person("ana", &controller.first_token()?)?;
        Ok((ana.who()?, ana))
    })?;
    let li = report.step_with("an account and a token for li", || {
        ana.says(&["accounts", "set", "ana", "--group", "sre"])?;
        ana.says(&["accounts", "set", "li", "--subject", "li@example.org", "--group", "sre"])?;
        let scopes = ["--scope", "approve", "--scope", "read", "--for", "1h"];
        let token = ana.says(&[&["tokens", "make", "--account", "li"][..], &scopes].concat())?;
        let li = controller.person("li", token.trim())?;
        Ok((li.who()?, li))
    })?;
    Ok((ana, li))
}

fn add_hosts(ana: &Person<'_>) -> Result<String> {
    for (name, address) in hosts::addresses() {
        ana.says(&["hosts", "add", name, "--address", &address, "--label", "env=stage"])?;
    }
    let began = Instant::now();
    loop {
        let said: Value = serde_json::from_str(&ana.says(&["hosts", "--json"])?)?;
        let seen = said.to_string().matches(r#""condition":"enforcing""#).count();
        if seen == NAMES.len() {
            return Ok(format!("{} are enforcing", NAMES.join(" and ")));
        }
        ensure!(began.elapsed() < SOON, "it sees {said}");
        interrupt::sleep_until(Instant::now() + Duration::from_millis(100))?;
    }
}

/// Returns the id of the request.
fn ask(ana: &Person<'_>) -> Result<(String, String)> {
    let source = CLIENT.sources();
    let mut arguments =
        vec!["request", NAMES[0], NAMES[1], "--port", "22", "--for", "10m", "--json"];
    arguments.extend(source.iter().flat_map(|source| ["--source", source]));
    arguments.extend(["--why", "disk full", "--ticket", "INC-4211"]);
    let said: Value = serde_json::from_str(&ana.says(&arguments)?).context("it printed no JSON")?;
    let text = |pointer: &str| said.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let id = text("/id").with_context(|| format!("no id in {said}"))?;
    let state = text("/state").context("no state in it")?;
    ensure!(state == "pending", "it is {state}, not pending");
    Ok((format!("{id}: needs another one of sre"), id))
}

fn answers(ana: &Person<'_>, id: &str) -> Result<String> {
    let said: Value = serde_json::from_str(&ana.says(&["requests", "show", id, "--json"])?)?;
    let text = said.to_string();
    ensure!(text.contains(r#""state":"open""#), "the request is not open: {text}");
    let open = text.matches(r#""answer":"open""#).count();
    ensure!(open == NAMES.len(), "{open} hosts have answered that it is open: {text}");
    Ok(format!("the request is open on {open} hosts"))
}

fn controller_audit(ana: &Person<'_>, controller: &Controller<'_>, id: &str) -> Result<String> {
    let said = ana.says(&["audit", "--json"])?;
    let of_request = said.lines().filter(|line| line.contains(id));
    let codes: Vec<_> = ["R001", "R002", "R004", "R008", "R010", "R011"]
        .into_iter()
        .filter(|code| of_request.clone().any(|line| line.contains(code)))
        .collect();
    ensure!(codes.len() == 6, "records are missing, there are {codes:?}:\n{said}");
    controller.verify()?;
    Ok("asked, agreed, approved, signed, answered, revoked; the chain is whole".to_owned())
}
