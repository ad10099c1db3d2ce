//! Defender's API: policies, requests and errors as Azure's clients send and read them. There is no
//! host with an agent here: what is put stays `Updating`.

mod clients;

use std::collections::BTreeSet;

use jit_client::controller::defender::{Port, RESOURCE_LABEL};
use jit_controller::{api::RawSettings, clock::now_ms, model::Host, store::hosts};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Answer, Caller, HOUR_MS, Site};
use crate::databases::Database;

on_each_database! {
    a_policy_is_put_listed_and_removed,
    a_patch_changes_the_machines_that_it_names,
    errors_are_azures,
    initiate_becomes_a_request_of_the_desk,
    initiate_becomes_fifty_requests_at_most,
    what_is_outside_the_policy_is_refused_with_azures_sentence,
    nobody_else_sees_or_changes_it,
    a_change_of_an_old_version_is_refused,
    a_machine_is_the_host_of_its_label_or_name,
}

/// A subscription.
pub(crate) const SUBSCRIPTION: &str = "20ff7fc3-e762-44dd-bd96-b71116dcdc23";

/// The path of a policy in westeurope, with the version of the API.
pub(crate) fn path(group: &str, name: &str) -> String {
    format!("{}?api-version=2020-01-01", id(group, name))
}

fn id(group: &str, name: &str) -> String {
    format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/Microsoft.Security/\
         locations/westeurope/jitNetworkAccessPolicies/{name}"
    )
}

/// The id of a machine in Azure.
fn machine(name: &str) -> String {
    format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/rg1/providers/Microsoft.Compute/\
         virtualMachines/{name}"
    )
}

/// SSH for an hour, for a network.
pub(crate) fn ssh_policy(names: &[&str]) -> Value {
    let ports = json!([{
        "number": 22, "protocol": "TCP", "allowedSourceAddressPrefix": "203.0.113.0/24",
        "maxRequestAccessDuration": "PT1H",
    }]);
    let machine = |name: &&str| json!({ "id": machine(name), "ports": ports });
    let machines: Vec<_> = names.iter().map(machine).collect();
    json!({ "kind": "Basic", "properties": { "virtualMachines": machines } })
}

/// When a request ends that is made now.
fn in_minutes(minutes: i64) -> String {
    let at = jiff::Timestamp::from_millisecond(now_ms() + minutes * 60_000).unwrap();
    format!("{at:.7}")
}

pub(crate) fn initiate_path(group: &str, name: &str) -> String {
    format!("{}/initiate?api-version=2020-01-01", id(group, name))
}

/// SSH on a machine from an address, or from the caller's.
pub(crate) fn wish(name: &str, source: Option<&str>, minutes: i64) -> Value {
    let mut port = json!({ "number": 22, "endTimeUtc": in_minutes(minutes) });
    if let Some(source) = source {
        port["allowedSourceAddressPrefix"] = json!(source);
    }
    json!({
        "virtualMachines": [{ "id": machine(name), "ports": [port] }],
        "justification": "disk full",
    })
}

/// The ports that a host should protect.
async fn wanted(site: &Site, host: &str) -> Option<Vec<Port>> {
    let mut found = site.store().defender_hosts(&[host.to_owned()]).await.unwrap();
    found.remove(host).map(|(host, _)| host.wanted)
}

impl Answer {
    /// An error with all that Azure's have.
    pub(crate) fn azure(self, status: u16, code: &str) -> Value {
        let error = &self.body["error"];
        assert_eq!(
            (self.status.as_u16(), error["code"].as_str()),
            (status, Some(code)),
            "{}",
            self.body
        );
        assert_eq!(self.header("content-type"), "application/json");
        assert!(!self.header("x-request-id").is_empty());
        assert!(!error["message"].as_str().unwrap().is_empty(), "{error}");
        let own = &error["details"][0];
        assert!(!own["code"].as_str().unwrap().is_empty(), "{error}");
        assert!(!own["message"].as_str().unwrap().is_empty(), "{error}");
        error.clone()
    }
}

async fn a_policy_is_put_listed_and_removed(database: Database) {
    let site = Site::new(database).await;
    let root = site.caller("root").await;
    let put = root.put(&path("rg1", "default"), ssh_policy(&["web-1", "db-1"])).await;
    assert_eq!(put.header("etag"), "\"1\"");
    let put = put.ok(200);
    let expected = json!({
        "id": id("rg1", "default"), "name": "default", "kind": "Basic", "location": "westeurope",
        "type": "Microsoft.Security/locations/jitNetworkAccessPolicies",
        "properties": {
            // No agent has answered.
            "provisioningState": "Updating", "requests": [],
            "virtualMachines": ssh_policy(&["web-1", "db-1"])["properties"]["virtualMachines"],
        },
    });
    assert_eq!(put, expected);
    // Names in any case are the same names, and the answer has those of the first time.
    let shouted = path("RG1", "DEFAULT").replace("locations/westeurope", "Locations/West%20Europe");
    assert_eq!(root.get(&shouted).await.ok(200), expected);
    assert_eq!(root.get(&path("rg1", "default").to_lowercase()).await.ok(200), expected);
    root.put(&path("rg2", "other"), json!({ "properties": { "virtualMachines": [] } }))
        .await
        .ok(200);

    let list = async |within: &str| {
        let path = format!(
            "/subscriptions/{within}/jitNetworkAccessPolicies?api-version=2015-06-01-preview"
        );
        let list = root.get(&path).await.ok(200);
        let names = list["value"].as_array().unwrap().iter();
        names.map(|one| one["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let security = "providers/Microsoft.Security";
    assert_eq!(list(&format!("{SUBSCRIPTION}/{security}")).await, ["default", "other"]);
    let region = format!("{SUBSCRIPTION}/{security}/locations");
    assert_eq!(list(&format!("{region}/westeurope")).await.len(), 2);
    assert!(list(&format!("{region}/eastus")).await.is_empty());
    let group = format!("{SUBSCRIPTION}/resourcegroups/RG1/{security}");
    assert_eq!(list(&group).await, ["default"]);
    assert_eq!(list(&format!("{group}/locations/WestEurope")).await, ["default"]);
    assert!(list(&format!("{}/{security}", SUBSCRIPTION.replace('2', "3"))).await.is_empty());
    let subscriptions = root.get("/subscriptions?api-version=2022-12-01").await.ok(200);
    assert_eq!(subscriptions["value"][0]["subscriptionId"], SUBSCRIPTION);
    assert_eq!(subscriptions["value"].as_array().unwrap().len(), 1);

    // PUT replaces all machines of the name.
    let put = root.put(&path("rg1", "default"), ssh_policy(&["web-1"])).await;
    assert_eq!(put.header("etag"), "\"2\"");
    assert_eq!(put.ok(200)["properties"]["virtualMachines"].as_array().unwrap().len(), 1);
    assert!(wanted(&site, "db-1").await.unwrap().is_empty());

    root.delete(&path("rg1", "default")).await.ok(200);
    root.get(&path("rg1", "default")).await.azure(404, "ResourceNotFound");
    root.delete(&path("rg1", "default")).await.ok(204);
    let audit = root.get("/api/v1/audit?limit=200").await.ok(200);
    let lines = audit["items"].as_array().unwrap().iter();
    let lines: Vec<_> = lines.filter(|one| one["code"] == "P004").collect();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert_eq!(lines[3]["record"]["action"], "delete");
    assert_eq!(lines[0]["record"]["machines"][1]["host"], "db-1");
}

async fn a_patch_changes_the_machines_that_it_names(database: Database) {
    let site = Site::new(database).await;
    let (root, eve) = (site.caller("root").await, site.caller("eve").await);
    let patch = async |who: &Caller<'_>, body: Value| {
        let call = who.request(Method::PATCH, &path("rg1", "default")).json(&body);
        Answer::of(call.send().await.unwrap()).await
    };
    patch(&root, ssh_policy(&["web-1"])).await.azure(404, "ResourceNotFound");
    root.put(&path("rg1", "default"), ssh_policy(&["web-1"])).await.ok(200);
    let mut longer = ssh_policy(&["WEB-1"]);
    longer["properties"]["virtualMachines"][0]["ports"][0]["maxRequestAccessDuration"] =
        json!("PT2H");
    patch(&root, longer).await.ok(200);
    let added = patch(&root, ssh_policy(&["db-1"])).await;
    assert_eq!(added.header("etag"), "\"3\"");
    let added = added.ok(200);
    let of = |policy: &Value, number: usize| {
        let machine = &policy["properties"]["virtualMachines"][number];
        let longest = machine["ports"][0]["maxRequestAccessDuration"].as_str().unwrap();
        (machine["id"].as_str().unwrap().to_owned(), longest.to_owned())
    };
    assert_eq!(of(&added, 0), (machine("WEB-1"), "PT2H".to_owned()));
    assert_eq!(of(&added, 1), (machine("db-1"), "PT1H".to_owned()));
    patch(&eve, ssh_policy(&["web-1"])).await.azure(403, "AuthorizationFailed");
    let mut gone = ssh_policy(&["web-1"]);
    gone["properties"]["virtualMachines"][0]["ports"] = json!([]);
    let left = patch(&root, gone).await.ok(200);
    assert_eq!(left["properties"]["virtualMachines"].as_array().unwrap().len(), 1);
    assert!(wanted(&site, "web-1").await.unwrap().is_empty());
    assert_eq!(wanted(&site, "db-1").await.unwrap().len(), 1);
}

async fn errors_are_azures(database: Database) {
    let site = Site::new(database).await;
    let root = site.caller("root").await;
    let good = ssh_policy(&["web-1"]);
    let plain = id("rg1", "default");
    let error = root.get(&plain).await.azure(400, "MissingApiVersionParameter");
    assert_eq!(
        error["message"],
        "The api-version query parameter (?api-version=) is required for all requests."
    );
    let old = root.get(&format!("{plain}?api-version=2010-01-01")).await;
    let error = old.azure(400, "InvalidApiVersionParameter");
    assert!(error["message"].as_str().unwrap().contains("2020-01-01"), "{error}");
    root.get(&path("rg1", "default")).await.azure(404, "ResourceNotFound");
    root.get("/subscriptions/x/alerts?api-version=2020-01-01").await.azure(404, "ResourceNotFound");
    root.post(&path("rg1", "default"), good.clone()).await.azure(405, "MethodNotAllowed");
    root.get(&initiate_path("rg1", "default")).await.azure(405, "MethodNotAllowed");
    root.post("/subscriptions", json!({})).await.azure(405, "MethodNotAllowed");
    root.post(&initiate_path("rg1", "default"), wish("web-1", None, 9))
        .await
        .azure(404, "ResourceNotFound");
    let broken = root.request(Method::PUT, &path("rg1", "default")).body("{").send().await.unwrap();
    Answer::of(broken).await.azure(400, "InvalidRequestContent");
    // Nor what is a NUL once it is decoded.
    let nul = json!({ "kind": "a\0b" });
    root.put(&path("rg1", "default"), nul).await.azure(400, "InvalidRequestContent");
    let mut asked = wish("web-1", None, 9);
    asked["justification"] = json!("a\0b");
    let initiate = root.post(&initiate_path("rg1", "default"), asked).await;
    initiate.azure(400, "InvalidRequestContent");
    let list = format!(
        "/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Security/jitNetworkAccessPolicies\
         ?api-version=2020-01-01&$skipToken=AA"
    );
    root.get(&list).await.azure(400, "InvalidRequestContent");
    let large = "x".repeat(3 << 20);
    let large = root.request(Method::PUT, &path("rg1", "default")).body(large).send().await;
    Answer::of(large.unwrap()).await.azure(413, "RequestContentTooLarge");

    let port = "/properties/virtualMachines/0/ports/0";
    for (pointer, value, target) in [
        (port, json!({}), "properties.virtualMachines[0].ports[0]"),
        ("/properties", json!([]), "properties"),
        ("/properties/virtualMachines/0/ports", json!("x"), "properties.virtualMachines[0].ports"),
        ("/kind", json!("Advanced"), "kind"),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value;
        let error = root.put(&path("rg1", "default"), bad).await;
        assert_eq!(error.azure(400, "InvalidRequestContent")["target"], target);
    }
    for (field, value) in [("location", "eastus"), ("name", "other")] {
        let mut bad = good.clone();
        bad[field] = json!(value);
        let error = root.put(&path("rg1", "default"), bad).await;
        assert_eq!(error.azure(400, "InvalidRequestContent")["target"], field);
    }
    let unknown = root.put(&path("rg1", "default"), ssh_policy(&["web-1", "web-9"])).await;
    let error = unknown.azure(400, "VirtualMachineNotFound");
    assert_eq!(error["target"], "properties.virtualMachines[1].id");
    // Nothing of it was done.
    root.get(&path("rg1", "default")).await.azure(404, "ResourceNotFound");
    assert!(wanted(&site, "web-1").await.is_none());

    // One port of a host is in one policy only: otherwise nobody could say which duration holds.
    root.put(&path("rg1", "default"), good.clone()).await.ok(200);
    let error = root.put(&path("rg2", "other"), good.clone()).await.azure(409, "Conflict");
    assert!(error["message"].as_str().unwrap().contains("port 22 of web-1"), "{error}");

    let nobody = Caller { site: &site, token: "jit_unknown".into() };
    nobody.get(&path("rg1", "default")).await.azure(401, "AuthenticationFailed");
}

async fn initiate_becomes_a_request_of_the_desk(database: Database) {
    let raw = RawSettings { trusted_proxies: vec!["127.0.0.0/8".into()], ..RawSettings::default() };
    let site = Site::with(database, raw, |_| {}).await;
    let (root, ana, bo) =
        (site.caller("root").await, site.caller("ana").await, site.caller("bo").await);
    root.put(&path("rg1", "default"), ssh_policy(&["web-1", "db-1"])).await.ok(200);
    // The address is left out: the caller's, here as a trusted proxy names it.
    let call = ana.request(Method::POST, &initiate_path("rg1", "default"));
    let call = call.header("x-forwarded-for", "203.0.113.9").json(&wish("web-1", None, 30));
    let answer = Answer::of(call.send().await.unwrap()).await.ok(202);
    let port = &answer["virtualMachines"][0]["ports"][0];
    assert_eq!(answer["virtualMachines"][0]["id"], machine("web-1"));
    assert_eq!(
        (&port["number"], &port["allowedSourceAddressPrefix"], &port["status"]),
        (&json!(22), &json!("203.0.113.9"), &json!("Initiating"))
    );
    assert_eq!(port["statusReason"], "UserRequested");
    assert_eq!(
        (&answer["requestor"], &answer["justification"]),
        (&json!("ana@example.org"), &json!("disk full"))
    );
    assert!(answer["startTimeUtc"].as_str().unwrap().ends_with('Z'), "{answer}");

    // It is a request as any other: people agree to it where they agree to all.
    let page = bo.get("/api/v1/requests?state=pending").await.ok(200);
    let one = page["items"].as_array().unwrap()[0].clone();
    assert_eq!((&one["hosts"], &one["requester"]), (&json!(["web-1"]), &json!("ana@example.org")));
    let whole = format!("/api/v1/requests/{}", one["id"].as_str().unwrap());
    let request = bo.get(&whole).await.ok(200);
    assert_eq!((&request["ports"], &request["reason"]), (&json!(["22/tcp"]), &json!("disk full")));
    assert_eq!(request["sources"], json!(["203.0.113.9"]));
    let ends = request["start_ms"].as_i64().unwrap() + request["duration_ms"].as_i64().unwrap();
    let wanted: jiff::Timestamp = port["endTimeUtc"].as_str().unwrap().parse().unwrap();
    assert_eq!(ends, wanted.as_millisecond(), "{request:#}");

    let listed = async |who: &Caller<'_>| {
        let policy = who.get(&path("rg1", "default")).await.ok(200);
        let requests = policy["properties"]["requests"].as_array().unwrap().clone();
        let word = |one: &Value| {
            let port = &one["virtualMachines"][0]["ports"][0];
            [&port["status"], &port["statusReason"]].map(|word| word.as_str().unwrap().to_owned())
        };
        requests.iter().map(word).collect::<Vec<_>>()
    };
    assert_eq!(listed(&ana).await, [["Initiating", "UserRequested"]]);
    let no = json!({ "ruling": "deny", "hash": request["hash"], "reason": "not now" });
    bo.post(&format!("{whole}/decision"), no).await.ok(200);
    assert_eq!(listed(&ana).await, [["Revoked", "UserRequested"]]);
    // Another one, withdrawn by its requester; and several machines at once.
    let mut both = wish("web-1", Some("203.0.113.7"), 20);
    let second = wish("db-1", Some("203.0.113.7"), 20)["virtualMachines"][0].clone();
    let ends = both["virtualMachines"][0]["ports"][0]["endTimeUtc"].clone();
    both["virtualMachines"].as_array_mut().unwrap().push(second);
    both["virtualMachines"][1]["ports"][0]["endTimeUtc"] = ends;
    let answer = ana.post(&initiate_path("rg1", "default"), both).await.ok(202);
    assert_eq!(answer["virtualMachines"].as_array().unwrap().len(), 2);
    let page = ana.get("/api/v1/requests?state=pending").await.ok(200);
    assert_eq!(page["items"].as_array().unwrap().len(), 1, "the same for all is one request");
    assert_eq!(listed(&ana).await.len(), 2);
    // A policy that is put again as it was answered keeps its list.
    let answered = root.get(&path("rg1", "default")).await.ok(200);
    let again = root.put(&path("rg1", "default"), answered).await.ok(200);
    assert_eq!(again["properties"]["requests"].as_array().unwrap().len(), 2);
}

async fn initiate_becomes_fifty_requests_at_most(database: Database) {
    let site = Site::new(database).await;
    let (root, ana) = (site.caller("root").await, site.caller("ana").await);
    root.put(&path("rg1", "default"), ssh_policy(&["web-1"])).await.ok(200);
    // Each source is a request of its own.
    let wishes = |count: u8| {
        let ends = in_minutes(30);
        let port = |last: u8| {
            json!({ "number": 22, "endTimeUtc": ends,
                "allowedSourceAddressPrefix": format!("203.0.113.{last}") })
        };
        let ports: Vec<_> = (0..count).map(port).collect();
        json!({ "virtualMachines": [{ "id": machine("web-1"), "ports": ports }] })
    };
    let refused = ana.post(&initiate_path("rg1", "default"), wishes(51)).await;
    let error = refused.azure(400, "InvalidRequestContent");
    assert_eq!(error["target"], "virtualMachines");
    assert!(error["message"].as_str().unwrap().contains("51 requests"), "{error}");
    let pending = ana.get("/api/v1/requests?state=pending").await.ok(200);
    assert_eq!(pending["items"], json!([]), "nothing of it was done");
    ana.post(&initiate_path("rg1", "default"), wishes(3)).await.ok(202);
}

async fn what_is_outside_the_policy_is_refused_with_azures_sentence(database: Database) {
    let site = Site::new(database).await;
    let (root, ana) = (site.caller("root").await, site.caller("ana").await);
    root.put(&path("rg1", "default"), ssh_policy(&["web-1"])).await.ok(200);
    let from = |source: &str| wish("web-1", Some(source), 30);
    let mut other_port = from("203.0.113.7");
    other_port["virtualMachines"][0]["ports"][0]["number"] = json!(23);
    let mut one_too_much = from("203.0.113.7");
    let second = other_port["virtualMachines"][0]["ports"][0].clone();
    one_too_much["virtualMachines"][0]["ports"].as_array_mut().unwrap().push(second);
    for outside in [
        other_port,
        one_too_much,
        from("198.51.100.1"),
        from("203.0.112.0/23"),
        from("*"),
        wish("web-1", Some("203.0.113.7"), 61),
        wish("web-1", Some("203.0.113.7"), -1),
        wish("db-1", Some("203.0.113.7"), 30),
        // The caller's own address is not within it.
        wish("web-1", None, 30),
    ] {
        let refused = ana.post(&initiate_path("rg1", "default"), outside).await;
        let error = refused.azure(400, "BadRequest");
        assert_eq!(
            error["message"],
            "The given access request is not a subset of policy 'default'. Please make sure that \
             the access request is within the allowed policy properties."
        );
    }
    let tag = ana.post(&initiate_path("rg1", "default"), from("Internet")).await;
    tag.azure(400, "InvalidRequestContent");
    let page = ana.get("/api/v1/requests").await.ok(200);
    assert_eq!(page["items"], json!([]), "nothing was asked for");
    // Within the policy, and denied by the rules: nobody of no group may ask.
    let eve = site.caller("eve").await;
    let refused = eve.post(&initiate_path("rg1", "default"), from("203.0.113.7")).await;
    refused.azure(403, "AuthorizationFailed");
}

async fn nobody_else_sees_or_changes_it(database: Database) {
    let site = Site::new(database).await;
    let root = site.caller("root").await;
    let rules = "@id(\"admins\") permit (principal in Group::\"admins\", action in \
                 [Action::\"configure\", Action::\"read\"], resource);\n\
                 @id(\"reads\") permit (principal in Group::\"sre\", action == Action::\"read\", \
                 resource) when { resource.hasTag(\"env\") && resource.getTag(\"env\") == \
                 \"test\" };\n\
                 @id(\"asks\") @require(\"1 of sre\") permit (principal in Group::\"sre\", action \
                 == Action::\"initiate\", resource) when { resource.hasTag(\"env\") && \
                 resource.getTag(\"env\") == \"test\" };\n\
                 @id(\"root-asks\") @require(\"1 of sre\") permit (principal in \
                 Group::\"admins\", action == Action::\"initiate\", resource);\n";
    let version = root.get("/api/v1/rules").await;
    let call =
        root.request(Method::PUT, "/api/v1/rules").header("if-match", version.header("etag"));
    let call = call.json(&json!({ "text": rules, "note": "test" }));
    Answer::of(call.send().await.unwrap()).await.ok(200);
    root.put(&path("rg1", "default"), ssh_policy(&["web-1", "db-1"])).await.ok(200);
    root.put(&path("rg1", "hidden"), {
        let mut hidden = ssh_policy(&["db-1"]);
        hidden["properties"]["virtualMachines"][0]["ports"][0]["number"] = json!(443);
        hidden
    })
    .await
    .ok(200);
    let (bo, eve) = (site.caller("bo").await, site.caller("eve").await);
    // Who sees one of its hosts sees that one.
    let seen = bo.get(&path("rg1", "default")).await.ok(200);
    let machines = seen["properties"]["virtualMachines"].as_array().unwrap().clone();
    assert_eq!(machines.len(), 1);
    assert_eq!(machines[0]["id"], machine("web-1"));
    for who in [&bo, &eve] {
        who.get(&path("rg1", "hidden")).await.azure(404, "ResourceNotFound");
        who.put(&path("rg1", "hidden"), ssh_policy(&[])).await.azure(403, "AuthorizationFailed");
        who.put(&path("rg1", "default"), ssh_policy(&["web-1"]))
            .await
            .azure(403, "AuthorizationFailed");
        who.put(&path("rg9", "new"), ssh_policy(&[])).await.azure(403, "AuthorizationFailed");
        // What he does not see is not there for him.
        assert_eq!(who.delete(&path("rg1", "hidden")).await.status, 204);
    }
    bo.delete(&path("rg1", "default")).await.azure(403, "AuthorizationFailed");
    eve.get(&path("rg1", "default")).await.azure(404, "ResourceNotFound");
    assert_eq!(
        eve.get("/subscriptions?api-version=2020-01-01").await.ok(200),
        json!({"value": []})
    );
    let hidden = wish("db-1", Some("203.0.113.7"), 30);
    bo.post(&initiate_path("rg1", "default"), hidden.clone()).await.azure(400, "BadRequest");
    bo.post(&initiate_path("rg1", "hidden"), hidden).await.azure(404, "ResourceNotFound");
    root.get(&path("rg1", "hidden")).await.ok(200);
    // A request for a host that he does not see is in no list of his.
    let hers = wish("db-1", Some("203.0.113.7"), 30);
    let answer = root.post(&initiate_path("rg1", "default"), hers).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    let seen = bo.get(&path("rg1", "default")).await.ok(200);
    assert_eq!(seen["properties"]["requests"], json!([]));
    // A token does what its scopes say, and no more.
    for (scope, method, path, body) in [
        ("request", Method::GET, path("rg1", "default"), Value::Null),
        ("read", Method::PUT, path("rg1", "default"), ssh_policy(&["web-1"])),
        ("request", Method::DELETE, path("rg1", "default"), Value::Null),
        ("policy", Method::POST, initiate_path("rg1", "default"), wish("web-1", None, 9)),
    ] {
        let caller = Caller { site: &site, token: site.token("root", &[scope]).await };
        let call = caller.request(method, &path).json(&body).send().await.unwrap();
        let error = Answer::of(call).await.azure(403, "AuthorizationFailed");
        assert_eq!(error["details"][0]["code"], "scope_missing");
    }
    let ended = site.token_until("root", &["read"], now_ms() - HOUR_MS).await.0;
    let ended = Caller { site: &site, token: ended };
    let error = ended.get(&path("rg1", "default")).await.azure(401, "AuthenticationFailed");
    assert_eq!(error["details"][0]["code"], "token_ended");
}

async fn a_change_of_an_old_version_is_refused(database: Database) {
    let site = Site::new(database).await;
    let root = site.caller("root").await;
    let send = async |header: &'static str, tag: &str, names: &[&str]| {
        let call = root.request(Method::PUT, &path("rg1", "default")).header(header, tag);
        Answer::of(call.json(&ssh_policy(names)).send().await.unwrap()).await
    };
    send("if-match", "*", &["web-1"]).await.azure(412, "PreconditionFailed");
    send("if-none-match", "*", &["web-1"]).await.ok(200);
    send("if-none-match", "*", &["web-1"]).await.azure(412, "PreconditionFailed");
    send("if-match", "\"1\"", &["web-1", "db-1"]).await.ok(200);
    send("if-match", "W/\"2\"", &["web-1"]).await.ok(200);
    let error = send("if-match", "\"1\"", &["db-1"]).await.azure(412, "PreconditionFailed");
    assert!(error["message"].as_str().unwrap().contains("\"3\""), "{error}");
    let call = root.request(Method::DELETE, &path("rg1", "default")).header("if-match", "\"2\"");
    Answer::of(call.send().await.unwrap()).await.azure(412, "PreconditionFailed");
    // Of many at once that read the same, one wins.
    let all = (0..8).map(|_| send("if-match", "\"3\"", &["web-1"]));
    let all = futures_util::future::join_all(all).await;
    let won = all.iter().filter(|answer| answer.status == 200).count();
    let words: BTreeSet<_> = all.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(won, 1, "{words:?}");
    assert!(words.is_subset(&[200, 409, 412].into()), "{words:?}");
}

async fn a_machine_is_the_host_of_its_label_or_name(database: Database) {
    let site = Site::new(database).await;
    let root = site.caller("root").await;
    let arc = format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/rg1/providers/Microsoft.HybridCompute/\
         machines/SRV-0815"
    );
    let mut tx = site.store().begin().await.unwrap();
    let host = Host {
        id: "files.example.org".into(),
        address: "192.0.2.10:7443".into(),
        labels: [(RESOURCE_LABEL.to_owned(), arc.to_uppercase())].into(),
        ..Host::default()
    };
    hosts::put(&mut tx, &host).await.unwrap();
    // Its name is another machine's, and its label says that it is not that one.
    let moved = Host {
        id: "vm1".into(),
        labels: [(RESOURCE_LABEL.to_owned(), machine("elsewhere"))].into(),
        ..host
    };
    hosts::put(&mut tx, &moved).await.unwrap();
    tx.commit().await.unwrap();
    let policy = |id: &str| {
        let mut policy = ssh_policy(&["x"]);
        policy["properties"]["virtualMachines"][0]["id"] = json!(id);
        policy
    };
    let host_of = async |name: &str, id: &str| {
        root.put(&path("rg1", name), policy(id)).await.ok(200);
        let key = format!("{SUBSCRIPTION}/rg1/westeurope/{name}");
        let stored = site.store().defender_policy(&key).await.unwrap().unwrap();
        stored.machines[0].host.clone()
    };
    assert_eq!(host_of("a", &arc).await, "files.example.org");
    assert_eq!(host_of("b", &machine("WEB-1")).await, "web-1");
    assert_eq!(host_of("c", &machine("elsewhere")).await, "vm1");
    let refused = root.put(&path("rg1", "d"), policy(&machine("vm1"))).await;
    refused.azure(400, "VirtualMachineNotFound");
    let mut twice = policy(&machine("web-1"));
    let again = twice["properties"]["virtualMachines"][0].clone();
    twice["properties"]["virtualMachines"].as_array_mut().unwrap().push(again);
    root.put(&path("rg1", "b"), twice).await.azure(400, "VirtualMachineNotFound");
}
